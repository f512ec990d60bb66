"""Answering `Perform`: a pooled connection, one exchange, one outcome."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import cast

import attrs

from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.flows.effects import Answered, Broke, Perform
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.http1 import (
    BodyData,
    ExchangeDone,
    ExchangeFailed,
    ExchangeLimits,
    Http1Client,
    Http1Event,
    ResponseHead,
)
from sandbox_proto.plans.pool import PoolLimits, PoolPlan, Slot, SlotState, Ticket
from sandbox_proto.plans.route import RoutePlan
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.http import Response, StreamedBody
from sandbox_proto.wire.urls import Origin

from .network import ByteStream, ConnectFailed, Event, Network, is_silent
from .pump import Pump


@attrs.define(eq=False)
class _Connection:
    machine: Http1Client
    pump: Pump[Http1Event]
    used: bool = False
    unfinished: Http1Client | None = None
    """Waits for the end of an answer whose end nobody waited for."""


@attrs.define
class Progress:
    """How far the request in flight has got."""

    phase: Phase = Phase.NOTHING_SENT


class ResponseStream:
    """The body of a successful response, read as it comes; close it when done.

    It holds its connection until it is read to the end or closed.
    """

    def __init__(self, pool: HttpPool, slot: Slot, connection: _Connection) -> None:
        self._pool, self._slot, self._connection = pool, slot, connection
        self._done = False

    async def next_chunk(self) -> bytes | None:
        """The next piece, or None at the end.

        :raises SandboxConnectionError: the connection failed before the end.
        """
        if self._done:
            return None
        machine = self._connection.machine
        machine.resume(now=self._pool.network.now())
        try:
            event = await self._connection.pump.next_event()
        except BaseException:
            self.close()
            raise
        match event:
            case BodyData(data):
                return data
            case ExchangeFailed(fault):
                self.close()
                raise fault.to_error()
            case _:
                self._done = True
                self._pool.give_back(self._slot, self._connection)
                return None

    def close(self) -> None:
        """Stop reading. An unfinished body costs its connection."""
        if not self._done:
            self._done = True
            self._pool.give_back(self._slot, self._connection)


class HttpPool:
    """Connections by the core's plan, and exchanges on them.

    :ivar network: where connections come from.
    """

    def __init__(
        self,
        network: Network,
        routes: RoutePlan,
        limits: PoolLimits,
        new_machine: Callable[[], Http1Client] = Http1Client,
    ) -> None:
        self.network = network
        self._new_machine = new_machine
        self._routes = routes
        self._plan = PoolPlan(limits)
        self._connections: dict[int, _Connection] = {}
        self._granted: dict[Ticket, Event] = {}
        self._mutex = network.mutex()
        self.closed = False

    async def perform(self, effect: Perform, progress: Progress) -> Answered | Broke:
        """One exchange; trouble is an outcome, only cancellation is raised.

        :param progress: told how far the request got, for whoever has to undo it.
        """
        began = self.network.now()
        result = await self._perform(effect, progress)
        now = self.network.now()
        if isinstance(result, Fault):
            return Broke(result, now, began)
        return Answered(result, now, began)

    async def _perform(self, effect: Perform, progress: Progress) -> Response | Fault:
        if self.closed:
            return Fault(FaultKind.ABANDONED, "the client is closed")
        progress.phase = Phase.NOTHING_SENT
        try:
            slot, connection = await self._lease(effect.request.url.origin, effect.timeouts)
        except ConnectFailed as failure:
            return failure.fault
        try:
            return await self._exchange(slot, connection, effect)
        except BaseException:
            self.give_back(slot, connection)
            raise
        finally:
            progress.phase = connection.machine.phase

    # --- one exchange -----------------------------------------------------------------

    async def _exchange(
        self, slot: Slot, connection: _Connection, effect: Perform
    ) -> Response | Fault:
        machine, pump = connection.machine, connection.pump
        limits = ExchangeLimits.of(effect.timeouts, effect.max_body_bytes)
        machine.send_request(
            effect.request,
            limits,
            now=self.network.now(),
            stream=effect.stream,
            stream_errors=effect.stream_errors,
        )
        used_before, connection.used = connection.used, True
        if isinstance(effect.request.body, StreamedBody):
            await self._send_body(connection, effect.request.body)
        head: ResponseHead | None = None
        while True:
            match await pump.next_event():
                case ResponseHead() as head:
                    if machine.streaming:
                        stream = ResponseStream(self, slot, connection)
                        return head.response(b"", stream)
                case ExchangeDone(body):
                    assert head is not None
                    self.give_back(slot, connection)
                    return head.response(body)
                case ExchangeFailed(fault):
                    self.give_back(slot, connection)
                    return self._judge_stale(fault, slot, used_before)
                case _:
                    self.give_back(slot, connection)
                    return Fault(FaultKind.DISCONNECTED, "the connection is gone")

    def _judge_stale(self, fault: Fault, slot: Slot, used_before: bool) -> Fault:
        """A kept connection that ends without any answer was dead already, and so are its kin."""
        if used_before:
            fault = fault.judged_stale()
        if fault.stale:
            self.distrust(slot.origin)
        return fault

    async def _send_body(self, connection: _Connection, body: StreamedBody) -> None:
        """Feed a streamed body; stops when the answer comes early."""
        machine, pump = connection.machine, connection.pump
        async for chunk in cast("AsyncIterable[Buffer]", body.source):
            if not len(chunk):
                continue
            machine.send_body(chunk, now=self.network.now())
            while machine.wants_body and not pump.send_now():
                await pump.step(sending=True)
            if not machine.wants_body:
                return
        machine.end_request(now=self.network.now())

    # --- leases -----------------------------------------------------------------------

    async def _lease(self, origin: Origin, timeouts: Timeouts) -> tuple[Slot, _Connection]:
        """A connection nobody else uses.

        :raises ConnectFailed: none could be had.
        """
        while True:
            slot = await self._wait_for_slot(origin, timeouts.pool)
            if slot.state is SlotState.CONNECTING:
                return slot, await self._connect(slot, timeouts.connect)
            with self._mutex:
                connection = self._connections[slot.number]
                if not _is_stale(connection):
                    return slot, connection
                self._plan.discard(slot)
                self._apply()

    async def _wait_for_slot(self, origin: Origin, patience: float | None) -> Slot:
        now = self.network.now()
        with self._mutex:
            if self.closed:  # perhaps since it was looked at last: while we waited, or connected
                raise ConnectFailed(Fault(FaultKind.ABANDONED, "the client was closed"))
            ticket = self._plan.request(origin, now=now)
            if ticket.slot is None:
                event = self._granted[ticket] = self.network.event()
            self._apply()
            if ticket.slot is not None:
                return ticket.slot
        try:
            await event.wait(None if patience is None else now + patience)
        except BaseException:
            self._withdraw(ticket)
            raise
        if ticket.slot is not None:
            with self._mutex:
                del self._granted[ticket]
            return ticket.slot
        self._withdraw(ticket)
        if self.closed:
            raise ConnectFailed(Fault(FaultKind.ABANDONED, "the client was closed"))
        message = f"no connection became free within {patience:g} s"
        raise ConnectFailed(Fault(FaultKind.POOL_TIMEOUT, message, seconds=patience))

    def _withdraw(self, ticket: Ticket) -> None:
        with self._mutex:
            del self._granted[ticket]
            self._plan.withdraw(ticket)
            self._apply()

    async def _connect(self, slot: Slot, patience: float | None) -> _Connection:
        until = None if patience is None else self.network.now() + patience
        try:
            stream = await self.network.connect(self._routes.route_to(slot.origin), until=until)
        except BaseException as error:
            with self._mutex:
                self._plan.discard(slot)
                self._apply()
            if isinstance(error, ConnectFailed) and error.fault.kind is FaultKind.CONNECT_TIMEOUT:
                error.fault = attrs.evolve(error.fault, seconds=patience)
            raise
        machine = self._new_machine()
        connection = _Connection(machine, Pump(machine, stream, self.network))
        with self._mutex:
            self._connections[slot.number] = connection
            self._plan.connected(slot)
        return connection

    def give_back(self, slot: Slot, connection: _Connection) -> None:
        """The exchange is over, well or badly."""
        with self._mutex:
            if slot.state is not SlotState.HELD:
                return
            if connection.machine.reusable:
                self._plan.release(slot, now=self.network.now())
            else:
                self._plan.discard(slot)
            self._apply()

    def take_kept(self, origin: Origin) -> ByteStream | None:
        """A connection that stands unused, for something else than a request; else None."""
        with self._mutex:
            while (slot := self._plan.take_out(origin, now=self.network.now())) is not None:
                connection = self._connections.pop(slot.number)
                if not _is_stale(connection):
                    break
                connection.pump.stream.close()
            self._apply()
            return None if slot is None else connection.pump.stream

    def keep(self, origin: Origin, stream: ByteStream, unfinished: Http1Client) -> None:
        """A connection that served elsewhere may serve for requests, if there is room for it.

        :param unfinished: sees the end of the answer that was read last, should it still come.
        """
        with self._mutex:
            slot = None if self.closed else self._plan.adopt(origin, now=self.network.now())
            if slot is None:
                stream.close()
                return
            machine = self._new_machine()
            pump: Pump[Http1Event] = Pump(machine, stream, self.network)
            self._connections[slot.number] = _Connection(machine, pump, True, unfinished)
            self._apply()

    def distrust(self, origin: Origin | None) -> None:
        """Close what is idle to an origin that broke the protocol."""
        if origin is not None:
            with self._mutex:
                self._plan.drop_idle(origin)
                self._apply()

    def _apply(self) -> None:
        """Do what the plan decided."""
        for ticket in self._plan.take_granted():
            if event := self._granted.get(ticket):
                event.set()
        for slot in self._plan.take_closing():
            if connection := self._connections.pop(slot.number, None):
                connection.pump.stream.close()

    @property
    def open_connections(self) -> int:
        """How many connections exist or are being made."""
        return self._plan.open_slots

    @property
    def busy_streams(self) -> list[ByteStream]:
        """The connections that somebody holds."""
        held = [self._connections.get(number) for number in self._plan.held_slots]
        return [connection.pump.stream for connection in held if connection is not None]

    def close(self) -> None:
        """Close every connection at once; whoever still waits on one gets an error."""
        with self._mutex:
            self.closed = True
            self._plan.shut()
            for event in self._granted.values():
                event.set()
            self._apply()
            for connection in list(self._connections.values()):
                connection.pump.stream.close()


def _is_stale(connection: _Connection) -> bool:
    """Whether anything is there to read on an unused connection: its end, or what nobody asked."""
    try:
        if connection.unfinished is not None and not _finish(connection):
            return True
    except OSError:
        return True
    return not is_silent(connection.pump.stream)


def _finish(connection: _Connection) -> bool:
    """Read the end of an answer, if it has come meanwhile. Returns whether it has."""
    machine = connection.unfinished
    assert machine is not None
    while not machine.reusable:
        data = None if machine.finished else connection.pump.stream.try_receive()
        if not data:
            return False
        machine.receive_data(data, now=0.0)
        while machine.next_event() is not None:
            pass
    connection.unfinished = None
    return True
