"""The pure host, asked by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from sandbox_proto.host.app import Host
from sandbox_proto.host.effects import (
    AwaitChange,
    BuildSandbox,
    HostDone,
    HostEffect,
    HostFlow,
    Launch,
    Record,
    Save,
)
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse
from sandbox_proto.host.state import HostSettings

KEY = "host-key"
BOXES = "/v2/sandboxes/boxes"
WALL = 1_767_225_600.0  # 2026-01-01T00:00:00Z


class House:
    """A host whose driver does at once what it is asked, and writes it down.

    :ivar effects: what the host asked for, in order.
    :ivar on_launch: what happens to a flow that is to run beside; by default it runs at once.
    :ivar on_boot: what happens to a sandbox that is to be built; by default it stands at once.
    """

    def __init__(self, *, keys: tuple[str, ...] = (KEY,), documents: Any = ()) -> None:
        settings = HostSettings(api_keys=keys, secret=b"s" * 32, wall_offset=WALL)
        records = [Record("box", document["id"], document) for document in documents]
        self.host = Host(settings, entropy=random.Random(5).randbytes, records=records)
        self.now = 0.0
        self.effects: list[HostEffect] = []
        self.on_launch: Callable[[HostFlow[None]], None] = self.run
        self.on_boot: Callable[[str], None] | None = self.boot
        self.answers: dict[type[HostEffect], HostDone] = {}
        self._building: dict[str, HostFlow[None]] = {}

    def boot(self, box_id: str) -> None:
        self._end_build(box_id, None)

    def fail(self, box_id: str, reason: str = "no disk") -> None:
        self._end_build(box_id, reason)

    def _end_build(self, box_id: str, failure: str | None) -> None:
        flow = self._building.pop(box_id)
        self._go_on(flow, HostDone(self.now, failure))

    def run(self, flow: HostFlow[Any]) -> Any:
        """Carry a flow out; whoever waits for a change waits to its deadline.

        What it launches is carried out at once, but a sandbox is built when `on_boot` says so.
        """
        return self._go_on(flow, None)

    def _go_on(self, flow: HostFlow[Any], outcome: HostDone | None) -> Any:
        try:
            while True:
                effect = next(flow) if outcome is None else flow.send(outcome)
                self.effects.append(effect)
                match effect:
                    case Launch(launched):
                        self.on_launch(launched)
                    case BuildSandbox(box_id):
                        self._building[box_id] = flow
                        if self.on_boot is not None:
                            self.on_boot(box_id)
                        return None
                    case AwaitChange(deadline=deadline):
                        self.now = max(self.now, deadline)
                    case _:
                        pass
                outcome = self.answers.get(type(effect), HostDone(self.now))
        except StopIteration as stop:
            return stop.value

    def saved(self) -> list[Record]:
        """The records that were stored, in order."""
        return [
            record
            for effect in self.effects
            if isinstance(effect, Save)
            for record in effect.records
        ]

    def pass_time(self, seconds: float) -> None:
        """Let time go by, and carry out what that brings."""
        self.now += seconds
        for flow in self.host.handle_timeout(now=self.now):
            self.run(flow)

    def ask(
        self, method: str, path: str, body: object = None, *, query: str = "", **headers: str
    ) -> HostResponse:
        """One request and its answer."""
        fields = {"x-api-key": KEY} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if isinstance(body, bytes):
            content = body
        else:
            content = b"" if body is None else json.dumps(body).encode()
        request = HostRequest(method, path, query, fields, content, "http://host.test")
        answer: HostResponse = self.run(self.host.respond(request, now=self.now))
        return answer

    def create(self, **body: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/v2/sandboxes/boxes", body)
        assert answer.status == 201, answer.payload
        payload: dict[str, Any] = answer.payload
        return payload

    def kinds(self) -> list[str]:
        return [type(effect).__name__ for effect in self.effects if not isinstance(effect, Launch)]


def refusal_of(call: Callable[[], object]) -> HostError:
    """The error a call is refused with."""
    try:
        call()
    except HostError as error:
        return error
    raise AssertionError("it was not refused")
