"""Everything that talks to the service in one shape, for whoever brings a loop of their own.

A `Conversation` is a machine (`machines.base`) that says itself when it wants a connection.
There are three kinds, and a driver that carries one carries them all:

    FlowSession(creation.run(), now=...)     any flow of `sandbox_proto.flows`, to its result
    commands.start_command(...)              a command, over as many connections as it takes
    TunnelSession(...)                       connections to ports in a sandbox

A conversation has one connection at a time. After each feed the driver drains, in this order:

1. `next_event` until it is None; whoever is told may give commands at once.
2. `data_to_send` goes to the present connection.
3. If it is `over` or `finished`, that connection is closed, once all is sent.
4. If it is `over`, this is the end. Else a `connection_wanted` is made, and answered with
   `connected` or `connect_failed`; if it is not wanted any more by then, it is closed.
5. `handle_timeout` is called at `next_deadline`, and bytes are read while `wants_read`.

What comes of a connection that was closed is not fed. Nothing here does I/O. The guide,
with drivers for several loops, is ``tests/embedding/README.md``.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

import attrs

from .errors import LocalProtocolError
from .faults import Fault, FaultKind, Phase
from .flows.effects import (
    Answered,
    Broke,
    Effect,
    Flow,
    FlowContext,
    Outcome,
    Perform,
    WaitUntil,
    Woke,
)
from .machines.base import SEND_EOF, Buffer, EventT_co, Machine, Output, earliest
from .machines.http1 import (
    ExchangeDone,
    ExchangeFailed,
    ExchangeLimits,
    Http1Client,
    ResponseHead,
)
from .wire.http import StreamedBody
from .wire.urls import Origin

__all__ = [
    "SEND_EOF",
    "Conversation",
    "FlowContext",
    "FlowFailed",
    "FlowReturned",
    "FlowSession",
    "cannot_connect",
    "earliest",
    "lost",
]

T = TypeVar("T")


class Conversation(Machine[EventT_co], Protocol[EventT_co]):
    """What a driver carries; see the module's text for the order of calls."""

    @property
    def connection_wanted(self) -> Origin | None:
        """Where to connect to, when a connection is needed now."""

    def connected(self, *, now: float) -> None:
        """The driver has a fresh connection to `connection_wanted`."""

    def connect_failed(self, fault: Fault, *, now: float) -> None:
        """No connection could be made."""

    @property
    def over(self) -> bool:
        """No more events will come, except those not yet taken."""


def cannot_connect(origin: Origin, reason: object) -> Fault:
    """What to say to `connect_failed` when the transport could not be had.

    :param reason: in the transport's own words.
    """
    return Fault(FaultKind.UNREACHABLE, f"cannot connect to {origin}: {reason}")


def lost(reason: object) -> Fault:
    """What to say to `connection_lost` when the transport broke.

    :param reason: in the transport's own words.
    """
    return Fault(FaultKind.DISCONNECTED, f"the connection was lost: {reason}")


@attrs.frozen
class FlowReturned(Generic[T]):
    """The flow came to its result. Nothing follows."""

    value: T


@attrs.frozen
class FlowFailed:
    """The flow raised. Nothing follows."""

    error: Exception


class FlowSession(Generic[T]):
    """One flow as a conversation; a connection is kept from one request to the next.

    Flows that stream bodies are beyond it: their pieces are the driver's business, who
    answers `Perform` with `machines.http1` himself.

    :ivar phase: how far the request in flight has got: what an undoing flow wants to know.
    """

    def __init__(self, flow: Flow[T], *, now: float) -> None:
        self._flow, self._now = flow, now
        self._http: Http1Client | None = None
        self._origin: Origin | None = None
        self._used = False
        self._asked: Perform | None = None
        self._began = now
        self._head: ResponseHead | None = None
        self._connecting: Origin | None = None
        self._deadline: float | None = None  # of connecting, or of a wait
        self._waiting = False
        self._events: deque[FlowReturned[T] | FlowFailed] = deque()
        self._over = False
        self._resume(None)

    # --- the application's commands ---------------------------------------------------

    def close(self) -> None:
        """Give the flow up, without a further event; what it began may want to be undone."""
        self._flow.close()
        self._over, self._connecting, self._deadline = True, None, None

    @property
    def phase(self) -> Phase:
        """See the class."""
        if self._http is None or self._connecting is not None:
            return Phase.NOTHING_SENT
        return self._http.phase

    # --- the flow ---------------------------------------------------------------------

    def _resume(self, outcome: Outcome | None) -> None:
        self._asked, self._waiting, self._deadline = None, False, None
        try:
            effect = self._flow.send(outcome)
            self._begin(effect)
        except StopIteration as stop:
            self._end(FlowReturned(stop.value))
        except Exception as error:
            self._end(FlowFailed(error))

    def _end(self, event: FlowReturned[T] | FlowFailed) -> None:
        self._over, self._connecting = True, None
        self._events.append(event)

    def _begin(self, effect: Effect) -> None:
        match effect:
            case WaitUntil(when):
                self._waiting, self._deadline = True, when
            case Perform(request, timeouts):
                if effect.stream or isinstance(request.body, StreamedBody):
                    self._flow.close()
                    raise LocalProtocolError(
                        "this flow streams a body; answer its effects with Http1Client yourself"
                    )
                self._asked, self._began = effect, self._now
                kept = self._http if self._origin == request.url.origin else None
                if kept is not None and kept.reusable:
                    self._send_request(kept, effect)
                    return
                self._connecting = request.url.origin
                if timeouts.connect is not None:
                    self._deadline = self._now + timeouts.connect

    def _send_request(self, http: Http1Client, asked: Perform) -> None:
        limits = ExchangeLimits.of(asked.timeouts, asked.max_body_bytes)
        http.send_request(asked.request, limits, now=self._now)

    def _broke(self, fault: Fault) -> None:
        self._resume(Broke(fault, self._now, self._began))

    # --- the transport ----------------------------------------------------------------

    @property
    def connection_wanted(self) -> Origin | None:
        """Where to connect to, when a connection is needed now."""
        return self._connecting

    def connected(self, *, now: float) -> None:
        """The driver has a fresh connection to `connection_wanted`."""
        if self._connecting is None or self._asked is None:
            raise LocalProtocolError("no connection is wanted")
        self._now = now
        self._http, self._origin, self._used = Http1Client(), self._connecting, False
        self._connecting = self._deadline = None
        self._send_request(self._http, self._asked)

    def connect_failed(self, fault: Fault, *, now: float) -> None:
        """No connection could be made."""
        self._now = now
        if self._connecting is not None:
            self._connecting = self._http = None
            self._broke(fault)

    def receive_data(self, data: Buffer, *, now: float) -> None:
        self._now = now
        if self._http is not None:
            self._http.receive_data(data, now=now)

    def receive_eof(self, *, now: float) -> None:
        self._now = now
        if self._http is not None:
            self._http.receive_eof(now=now)

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        self._now = now
        if self._http is not None:
            self._http.connection_lost(fault, now=now)

    def data_to_send(self) -> list[Output]:
        return [] if self._http is None else self._http.data_to_send()

    def data_sent(self, count: int, *, now: float) -> None:
        self._now = now
        if self._http is not None:
            self._http.data_sent(count, now=now)

    def receive_buffer(self) -> memoryview | None:
        return None if self._http is None else self._http.receive_buffer()

    def buffer_filled(self, count: int, *, now: float) -> None:
        assert self._http is not None
        self._now = now
        self._http.buffer_filled(count, now=now)

    # --- what the driver reads --------------------------------------------------------

    @property
    def wants_read(self) -> bool:
        return self._http is not None and self._http.wants_read

    @property
    def finished(self) -> bool:
        """The present connection is of no further use (another one may be wanted)."""
        gone = self._http is None or self._http.finished
        return gone or self._over or self._connecting is not None

    @property
    def over(self) -> bool:
        """No more events will come, except those not yet taken."""
        return self._over

    def next_event(self) -> FlowReturned[T] | FlowFailed | None:
        while not self._events and self._asked is not None and self._http is not None:
            match self._http.next_event():
                case ResponseHead() as head:
                    self._head = head
                case ExchangeDone(body):
                    assert self._head is not None
                    self._used = True
                    response = self._head.response(body)
                    self._resume(Answered(response, self._now, self._began))
                case ExchangeFailed(fault):
                    self._broke(fault.judged_stale() if self._used else fault)
                case _:
                    return None
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        if self._over:
            return None
        http = None if self._http is None else self._http.next_deadline()
        return earliest(self._deadline, http)

    def handle_timeout(self, *, now: float) -> None:
        self._now = now
        if self._http is not None and not self._over:
            self._http.handle_timeout(now=now)
        if self._deadline is None or now < self._deadline:
            return
        if self._waiting:
            self._resume(Woke(now))
        elif self._connecting is not None and self._asked is not None:
            limit = self._asked.timeouts.connect
            text = f"cannot connect to {self._connecting}: no answer within {limit:g} s"
            self.connect_failed(Fault(FaultKind.CONNECT_TIMEOUT, text, seconds=limit), now=now)
