"""A driver on gevent: a greenlet that reads and one that writes, for each connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket, ssl
from gevent.event import Event
from gevent.queue import Queue

from sandbox_proto.embedding import SEND_EOF, Carrier, Conversation, Origin, Output

READ_BYTES = 256 * 1024


class Wire:
    """One connection: reports to its carrier for as long as it is the present one."""

    def __init__(self, carrier: GreenCarrier, connection: socket.socket) -> None:
        self._carrier, self._socket = carrier, connection
        self.queue: Queue[Output | None] = Queue()  # None: close
        self.reads = Event()
        self._reader = gevent.spawn(self._read)
        gevent.spawn(self._write)

    def _read(self) -> None:
        try:
            while self.reads.wait() and self._carrier.wire is self:
                data = self._socket.recv(READ_BYTES)
                if self._carrier.wire is self:
                    self._carrier.received(data)
                if not data:
                    return
        except OSError as error:
            if self._carrier.wire is self:
                self._carrier.lost(error)

    def _write(self) -> None:
        while (data := self.queue.get()) is not None:
            try:
                self._write_out(data)
            except OSError:
                pass  # reading tells what became of it
        self._reader.kill()
        self._socket.close()

    def _write_out(self, data: Output) -> None:
        if data is SEND_EOF:
            self._socket.shutdown(socket.SHUT_WR)
            return
        view = memoryview(data)
        while view:
            count = self._socket.send(view)
            view = view[count:]
            if self._carrier.wire is self:
                self._carrier.sent(count)


class GreenCarrier(Carrier[Any]):
    """One conversation, its present connection and its timer."""

    def __init__(self, driver: Driver, *parts: Any) -> None:
        super().__init__(*parts)
        self._driver = driver
        self.wire: Wire | None = None
        self._timer = self._dialling = gevent.Greenlet()

    def now(self) -> float:
        return time.monotonic()

    def dial(self, origin: Origin) -> None:
        self._dialling = gevent.spawn(self._dial, origin)

    def _dial(self, origin: Origin) -> None:
        try:
            connection = socket.create_connection((origin.host, origin.port))
            if origin.secure:
                tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # gevent's own, which does not block
                tls.load_default_certs()
                connection = tls.wrap_socket(connection, server_hostname=origin.host)
        except OSError as error:
            self.unreachable(origin, error)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.wire = Wire(self, connection)
            self.connected()

    def send(self, data: Output) -> None:
        self.wire.queue.put(data)

    def hang_up(self) -> None:
        if self.wire is not None:
            self.wire.queue.put(None)
            self.wire = None
        else:
            self._dialling.kill(block=False)

    def attend(self, *, reads: bool, until: float | None) -> None:
        if self._timer is not gevent.getcurrent():
            self._timer.kill(block=False)
        if until is not None:
            self._timer = gevent.spawn_later(max(until - self.now(), 0), self.time_passed)
        if self.wire is not None:
            self.wire.reads.set() if reads else self.wire.reads.clear()

    def ended(self) -> None:
        if self._timer is not gevent.getcurrent():
            self._timer.kill(block=False)
        self._driver.leave()


class Driver:
    """Carries any number of conversations; `run` returns when all are over."""

    def __init__(self) -> None:
        self._open = 0
        self._idle = Event()

    def now(self) -> float:
        return time.monotonic()

    def start(self, conversation: Conversation[Any], tell: Callable[[Any], None]) -> GreenCarrier:
        carrier = GreenCarrier(self, conversation, tell)
        self._open += 1
        gevent.spawn(carrier.drain)
        return carrier

    def leave(self) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()

    def run(self, begin: Callable[[], None]) -> None:
        gevent.spawn(begin)
        self._idle.wait()
