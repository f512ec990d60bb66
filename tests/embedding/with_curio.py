"""A driver on curio, a loop that anyio does not know: tasks that read, write and keep time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import curio
from curio import UniversalEvent, UniversalQueue, socket, ssl

from sandbox_proto.embedding import SEND_EOF, Carrier, Conversation, Origin, Output

READ_BYTES = 256 * 1024


class Wire:
    """One connection: reports to its carrier for as long as it is the present one."""

    def __init__(self, carrier: CurioCarrier, connection: curio.io.Socket) -> None:
        self._carrier, self._socket = carrier, connection
        self.queue, self.reads = UniversalQueue(), UniversalEvent()  # None in the queue: close

    async def read(self) -> None:
        try:
            while self._carrier.wire is self:
                await self.reads.wait()
                data = await self._socket.recv(READ_BYTES)
                if self._carrier.wire is self:
                    self._carrier.received(data)
                if not data:
                    return
        except OSError as error:
            if self._carrier.wire is self:
                self._carrier.lost(error)

    async def write(self) -> None:
        reader = await curio.spawn(self.read, daemon=True)
        while (data := await self.queue.get()) is not None:
            try:
                await self._write_out(data)
            except OSError:
                pass  # reading tells what became of it
        await reader.cancel()
        await self._socket.close()

    async def _write_out(self, data: Output) -> None:
        if data is SEND_EOF:
            await self._socket.shutdown(socket.SHUT_WR)
            return
        view = memoryview(data)
        while view:
            count = await self._socket.send(view)
            view = view[count:]
            if self._carrier.wire is self:
                self._carrier.sent(count)


class CurioCarrier(Carrier[Any]):
    """One conversation, its present connection and its timer."""

    def __init__(self, driver: Driver, *parts: Any) -> None:
        super().__init__(*parts)
        self._driver = driver
        self.wire: Wire | None = None
        self._dialled, self._over = 0, False
        self._until, self._changed = None, UniversalEvent()

    def now(self) -> float:
        return time.monotonic()

    def dial(self, origin: Origin) -> None:
        self._driver.jobs.put((self._dial, origin, self._dialled))

    async def _dial(self, origin: Origin, number: int) -> None:
        connection = None
        try:
            connection = await curio.open_connection(origin.host, origin.port)
            if origin.secure:
                tls = ssl.create_default_context()
                connection = await tls.wrap_socket(
                    connection, server_hostname=origin.host, do_handshake_on_connect=False
                )
                await connection.do_handshake()
        except OSError as error:
            if connection is not None:
                await connection.close()
            if self._dialled == number:
                self.unreachable(origin, error)
            return
        if self._dialled != number:  # given up meanwhile
            await connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wire = Wire(self, connection)
        await self._driver.jobs.put((self.wire.write,))
        self.connected()

    def send(self, data: Output) -> None:
        self.wire.queue.put(data)

    def hang_up(self) -> None:
        self._dialled += 1
        if self.wire is not None:
            self.wire.queue.put(None)
            self.wire = None

    def attend(self, *, reads: bool, until: float | None) -> None:
        self._until = until
        self._changed.set()
        if self.wire is not None:
            self.wire.reads.set() if reads else self.wire.reads.clear()

    async def keep_time(self) -> None:
        self.drain()
        while not self._over:
            due = self._until
            self._changed.clear()
            async with curio.ignore_after(None if due is None else max(due - self.now(), 0)):
                await self._changed.wait()
            if due is not None and self.now() >= due:
                self.time_passed()

    def ended(self) -> None:
        self._over = True
        self._changed.set()
        self._driver.leave()


class Driver:
    """Carries any number of conversations; `run` returns when all are over."""

    def __init__(self) -> None:
        self._open, self.jobs = 0, UniversalQueue()  # what is to be a task; None: enough

    def now(self) -> float:
        return time.monotonic()

    def start(self, conversation: Conversation[Any], tell: Callable[[Any], None]) -> CurioCarrier:
        carrier = CurioCarrier(self, conversation, tell)
        self._open += 1
        self.jobs.put((carrier.keep_time,))
        return carrier

    def leave(self) -> None:
        self._open -= 1
        if not self._open:
            self.jobs.put(None)

    def run(self, begin: Callable[[], None]) -> None:
        curio.run(self._run, begin)

    async def _run(self, begin: Callable[[], None]) -> None:
        begin()
        while (job := await self.jobs.get()) is not None:
            await curio.spawn(*job, daemon=True)
