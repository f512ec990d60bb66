"""Everything that talks to the service in one shape, for whoever brings a loop of their own.

A `Conversation` is a machine (`machines.base`) that says itself when it wants a connection.
There are three kinds, and a driver that carries one carries them all:

    FlowSession(creation.run(), now=...)     any flow of `sandbox_proto.flows`, to its result
    commands.start_command(...)              a command, over as many connections as it takes
    TunnelSession(...)                       connections to ports in a sandbox

A `Carrier` is the half of a driver that is the same on every loop: what is done in which
order after something happened. The other half is five verbs, which a subclass does with its
own sockets. Nothing here does I/O. The guide, with drivers for five loops, is
``tests/embedding/README.md``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
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
    "Carrier",
    "Conversation",
    "FlowContext",
    "FlowFailed",
    "FlowReturned",
    "FlowSession",
    "Origin",
    "Output",
    "earliest",
]

T = TypeVar("T")
EventT = TypeVar("EventT")


class Conversation(Machine[EventT_co], Protocol[EventT_co]):
    """What a driver carries: a machine that has one connection at a time, and says when.

    While a connection is wanted it is `finished`, and has nothing to send.
    """

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


class Carrier(ABC, Generic[EventT]):
    """Carries one conversation: subclass it, and give it the verbs of your loop.

    It has one connection at a time. What comes of a connection after `hang_up` must not be
    reported any more. All calls are for one thread, or under one lock.

    :ivar conversation: may be given commands at any time; call `drain` afterwards.
    """

    def __init__(self, conversation: Conversation[EventT], tell: Callable[[EventT], None]) -> None:
        """
        :param tell: called for each thing that happens; may give commands, and call `drain`.
        """
        self.conversation, self._tell = conversation, tell
        self._draining = self._dialing = self._connected = self._ended = False

    # --- the driver's verbs; none of them may wait --------------------------------------

    @abstractmethod
    def now(self) -> float:
        """The loop's monotonic clock, in seconds."""

    @abstractmethod
    def dial(self, origin: Origin) -> None:
        """Begin to connect, with TLS if `origin.secure`; then `connected` or `unreachable`."""

    @abstractmethod
    def send(self, data: Output) -> None:
        """Queue for the connection: bytes, or `SEND_EOF` to shut its sending side down."""

    @abstractmethod
    def hang_up(self) -> None:
        """Close the connection, or give up dialling. What is queued goes out if it can."""

    @abstractmethod
    def attend(self, *, reads: bool, until: float | None) -> None:
        """Until the next call: whether to read, and when to call `time_passed`; None: never."""

    @abstractmethod
    def ended(self) -> None:
        """The conversation is over, and told; there is no connection. The last call."""

    # --- what the driver reports --------------------------------------------------------

    def connected(self) -> None:
        """What was dialled stands."""
        self._dialing, self._connected = False, True
        self.conversation.connected(now=self.now())
        self.drain()

    def unreachable(self, origin: Origin, reason: object, *, untrusted: bool = False) -> None:
        """What was dialled cannot be had.

        :param reason: in the transport's own words.
        :param untrusted: because its certificate is not trusted: then it is not tried again.
        """
        self._dialing = False
        kind = FaultKind.TLS if untrusted else FaultKind.UNREACHABLE
        fault = Fault(kind, f"cannot connect to {origin}: {reason}")
        self.conversation.connect_failed(fault, now=self.now())
        self.drain()

    def received(self, data: Buffer) -> None:
        """Bytes arrived; none: the peer shut its sending side down."""
        if len(data):
            self.conversation.receive_data(data, now=self.now())
        else:
            self.conversation.receive_eof(now=self.now())
        self.drain()

    def sent(self, count: int) -> None:
        """The transport took so many bytes of what was queued."""
        self.conversation.data_sent(count, now=self.now())
        self.drain()

    def lost(self, reason: object) -> None:
        """The connection broke.

        :param reason: in the transport's own words.
        """
        fault = Fault(FaultKind.DISCONNECTED, f"the connection was lost: {reason}")
        self.conversation.connection_lost(fault, now=self.now())
        self.drain()

    def time_passed(self) -> None:
        """It is later. Harmless when early."""
        self.conversation.handle_timeout(now=self.now())
        self.drain()

    def drain(self) -> None:
        """Do what the conversation wants now. Call it once in the beginning, too."""
        if self._draining or self._ended:
            return  # whoever is at it sees to what is new
        self._draining = True
        try:
            while self._drain_once():
                pass
        finally:
            self._draining = False
        if self._ended:
            return
        if self.conversation.over:
            self._ended = True
            self.ended()
        else:
            conversation = self.conversation
            self.attend(reads=conversation.wants_read, until=conversation.next_deadline())

    def abandon(self) -> None:
        """Carry it no further: hang up, tell nothing more. Harmless when it has ended.

        What has been begun goes on at the server; see the guide for how to undo it.
        """
        if self._ended:
            return
        self._ended = True
        if self._connected or self._dialing:
            self._connected = self._dialing = False
            self.hang_up()
        self.ended()

    def _drain_once(self) -> bool:
        """Whether anything was done, so that there may be more to do."""
        conversation, busy = self.conversation, False
        while (event := conversation.next_event()) is not None:
            self._tell(event)
            busy = True
            if self._ended:
                return False  # abandoned by whoever was told
        for piece in conversation.data_to_send():
            self.send(piece)
            busy = True
        wanted = None if conversation.over else conversation.connection_wanted
        gone = conversation.finished or conversation.over
        if (self._connected and gone) or (self._dialing and wanted is None):
            self._connected = self._dialing = False
            self.hang_up()
        if wanted is not None and not self._dialing:
            self._dialing = busy = True
            self.dial(wanted)
        return busy
