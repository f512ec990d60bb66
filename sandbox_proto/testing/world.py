"""Client and model host in one process, on a virtual clock, byte by byte if need be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from ..config import ClientConfig
from ..errors import LocalProtocolError
from ..faults import Fault, FaultKind
from ..flows.effects import (
    Answered,
    Broke,
    Flow,
    FlowContext,
    Outcome,
    Perform,
    WaitUntil,
    Woke,
)
from ..machines.base import SEND_EOF, Output, earliest
from ..machines.exec_events import SessionEvent
from ..machines.exec_session import ExecSession
from ..machines.http1 import ExchangeDone, ExchangeFailed, ExchangeLimits, Http1Client, ResponseHead
from .model_connection import ModelConnection
from .model_host import ModelHost

T = TypeVar("T")

# A conversation that has not ended after so many rounds never will.
_MAX_ROUNDS = 1_000_000


class World:
    """See the module's text.

    :ivar now: the virtual clock; it moves only when everybody waits.
    :ivar split: how many bytes at most travel at once; None is all there are.
    """

    def __init__(self, model: ModelHost, *, seed: int = 0, split: int | None = None) -> None:
        self.model = model
        self.now = 0.0
        self.split = split
        self._random = random.Random(seed)
        self._attached: dict[ExecSession, ModelConnection] = {}
        self.config = ClientConfig(api_endpoint=model.origin, api_key=model.api_key)

    def context(self) -> FlowContext:
        """What a flow that begins now is given."""
        return FlowContext(
            config=self.config,
            random=self._random,
            entropy=self._random.randbytes,
            now=self.now,
        )

    def drive(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        outcome: Outcome | None = None
        try:
            while True:
                effect = flow.send(outcome)
                match effect:
                    case Perform():
                        outcome = self.exchange(effect)
                    case WaitUntil(when):
                        self._sleep_until(when)
                        outcome = Woke(self.now)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def exchange(self, effect: Perform) -> Answered | Broke:
        """One request on a connection of its own."""
        client, server, began = Http1Client(), self.model.connect(), self.now
        limits = ExchangeLimits.of(effect.timeouts, effect.max_body_bytes)
        client.send_request(effect.request, limits, now=self.now)
        head: ResponseHead | None = None
        for _ in range(_MAX_ROUNDS):
            match client.next_event():
                case ResponseHead() as head:
                    continue
                case ExchangeDone(body):
                    assert head is not None
                    return Answered(head.response(body), self.now, began)
                case ExchangeFailed(fault):
                    return Broke(fault, self.now, began)
            if not self._carry(client, server):
                self._let_time_pass(client.next_deadline())
                client.handle_timeout(now=self.now)
        raise LocalProtocolError("the exchange does not end")

    def run(
        self,
        session: ExecSession,
        *,
        until: Callable[[SessionEvent], bool] = lambda event: False,
    ) -> list[SessionEvent]:
        """Drive a command's session to its end (or until an event); returns its events.

        May be called again to go on from there.
        """
        events: list[SessionEvent] = []
        server = self._attached.get(session)
        for _ in range(_MAX_ROUNDS):
            while (event := session.next_event()) is not None:
                events.append(event)
                if until(event):
                    return events
            if session.over:
                return events
            if session.connection_wanted is not None:
                server = self._attached[session] = self.model.connect()
                session.connected(now=self.now)
            elif server is None or session.finished or not self._carry(session, server):
                self._let_time_pass(session.next_deadline())
                session.handle_timeout(now=self.now)
        raise LocalProtocolError("the session does not end")

    # --- bytes and time ---------------------------------------------------------------

    def _carry(self, client: Http1Client | ExecSession, server: ModelConnection) -> bool:
        """Carry what both sides have to say. Returns whether that was anything."""
        moved = False
        for piece in self._pieces(client.data_to_send()):
            moved = True
            client.data_sent(len(piece), now=self.now)
            server.receive_data(piece, now=self.now)
        for piece in self._pieces(server.data_to_send(now=self.now)):
            moved = True
            client.receive_data(piece, now=self.now)
        if not moved and server.finished:
            client.connection_lost(Fault(FaultKind.DISCONNECTED, "the host closed"), now=self.now)
            return True
        return moved

    def _pieces(self, output: list[Output]) -> list[bytes]:
        data = b"".join(bytes(chunk) for chunk in output if chunk is not SEND_EOF)
        step = self.split or len(data) or 1
        return [data[start : start + step] for start in range(0, len(data), step)]

    def _let_time_pass(self, deadline: float | None) -> None:
        when = earliest(deadline, self.model.next_deadline())
        if when is None:
            raise LocalProtocolError("everybody waits for ever")
        self._sleep_until(when)

    def _sleep_until(self, when: float) -> None:
        while (due := self.model.next_deadline()) is not None and due <= when:
            self.now = max(self.now, due)
            self.model.handle_timeout(now=self.now)
        self.now = max(self.now, when)
