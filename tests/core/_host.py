"""The pure host, asked by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from sandbox_proto.host.app import (
    AwaitChange,
    Boot,
    Host,
    HostDone,
    HostEffect,
    HostFlow,
    HostSettings,
)
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse

KEY = "host-key"
BOXES = "/v2/sandboxes/boxes"
WALL = 1_767_225_600.0  # 2026-01-01T00:00:00Z


class House:
    """A host whose driver does at once what it is asked, and writes it down.

    :ivar effects: what the host asked for, in order.
    :ivar on_boot: what happens to a sandbox that is to be built; by default it stands at once.
    """

    def __init__(self, *, keys: tuple[str, ...] = (KEY,), documents: Any = ()) -> None:
        settings = HostSettings(api_keys=keys, wall_offset=WALL)
        self.host = Host(settings, entropy=random.Random(5).randbytes, documents=documents)
        self.now = 0.0
        self.effects: list[HostEffect] = []
        self.on_boot: Callable[[str], None] | None = self.boot

    def boot(self, box_id: str) -> None:
        self.run(self.host.booted(box_id, now=self.now))

    def fail(self, box_id: str, reason: str = "no disk") -> None:
        self.run(self.host.boot_failed(box_id, reason, now=self.now))

    def run(self, flow: HostFlow[Any]) -> Any:
        """Carry a flow out; whoever waits for a change waits to its deadline."""
        try:
            effect = next(flow)
            while True:
                self.effects.append(effect)
                match effect:
                    case Boot(box_id) if self.on_boot is not None:
                        self.on_boot(box_id)
                    case AwaitChange(deadline=deadline):
                        self.now = max(self.now, deadline)
                    case _:
                        pass
                effect = flow.send(HostDone(self.now))
        except StopIteration as stop:
            return stop.value

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
        return [type(effect).__name__ for effect in self.effects]


def refusal_of(call: Callable[[], object]) -> HostError:
    """The error a call is refused with."""
    try:
        call()
    except HostError as error:
        return error
    raise AssertionError("it was not refused")
