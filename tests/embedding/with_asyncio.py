"""A driver on asyncio's transports and protocols: callbacks, and a task for connecting."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from sandbox_proto.embedding import SEND_EOF, Carrier, Conversation, Origin, Output


class Wire(asyncio.Protocol):
    """One connection: reports to its carrier for as long as it is the present one."""

    def __init__(self, driver: Driver, carrier: LoopCarrier) -> None:
        self._driver, self._carrier = driver, carrier
        self._full, self._unsent = False, 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._driver.enter()
        transport.set_write_buffer_limits(high=0)  # to be told when all is sent

    def data_received(self, data: bytes) -> None:
        if self._carrier.wire is self:
            self._carrier.received(data)

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, error: Exception | None) -> None:
        if self._carrier.wire is self:
            self._carrier.lost(error)
        self._driver.leave()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        count, self._unsent = self._unsent, 0
        if self._carrier.wire is self:
            self._carrier.sent(count)

    def write(self, data: bytes) -> None:
        self.transport.write(data)
        if self._full:
            self._unsent += len(data)
        else:
            self._carrier.sent(len(data))


class LoopCarrier(Carrier[Any]):
    """One conversation, its present connection and its timer."""

    def __init__(self, driver: Driver, *parts: Any) -> None:
        super().__init__(*parts)
        self._driver, self._loop = driver, driver.loop
        self.wire: Wire | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> float:
        return self._loop.time()

    def dial(self, origin: Origin) -> None:
        self._dialling = self._loop.create_task(self._dial(origin))

    async def _dial(self, origin: Origin) -> None:
        wire = Wire(self._driver, self)
        tls = ssl.create_default_context() if origin.secure else None
        try:
            await self._loop.create_connection(lambda: wire, origin.host, origin.port, ssl=tls)
        except OSError as error:
            self.unreachable(origin, error)
        else:
            self.wire = wire
            self.connected()

    def send(self, data: Output) -> None:
        if data is SEND_EOF:
            self.wire.transport.write_eof()
        else:
            self.wire.write(data)

    def hang_up(self) -> None:
        if self.wire is not None:
            self.wire.transport.close()
            self.wire = None
        else:
            self._dialling.cancel()

    def attend(self, *, reads: bool, until: float | None) -> None:
        self._stop_timer()
        if until is not None:
            self._timer = self._loop.call_at(until, self.time_passed)
        if self.wire is not None and reads:
            self.wire.transport.resume_reading()
        elif self.wire is not None:
            self.wire.transport.pause_reading()

    def ended(self) -> None:
        self._stop_timer()
        self._driver.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Driver:
    """Carries any number of conversations; `run` returns when all are over."""

    def __init__(self) -> None:
        self._open = 0

    def now(self) -> float:
        return self.loop.time()

    def start(self, conversation: Conversation[Any], tell: Callable[[Any], None]) -> LoopCarrier:
        carrier = LoopCarrier(self, conversation, tell)
        self.enter()
        self.loop.call_soon(carrier.drain)
        return carrier

    def enter(self) -> None:
        self._open += 1  # a conversation, or a connection that takes its time to close

    def leave(self) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()

    def run(self, begin: Callable[[], None]) -> None:
        asyncio.run(self._run(begin))

    async def _run(self, begin: Callable[[], None]) -> None:
        self.loop, self._idle = asyncio.get_running_loop(), asyncio.Event()
        begin()
        await self._idle.wait()
