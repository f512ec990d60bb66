"""A driver on plain sockets and `selectors`: one thread, no framework."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sandbox_proto.embedding import SEND_EOF, Carrier, Conversation, Origin, Output, earliest

READ_BYTES = 256 * 1024
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SocketCarrier(Carrier[Any]):
    """One conversation, and the socket that it has at present."""

    def __init__(self, driver: Driver, *parts: Any) -> None:
        super().__init__(*parts)
        self._driver = driver
        self.socket: socket.socket | None = None
        self._unsent: deque[memoryview | None] = deque()  # None is the end of sending
        self._reads, self.until = False, None

    def now(self) -> float:
        return time.monotonic()

    def dial(self, origin: Origin) -> None:
        due = self.conversation.next_deadline()
        patience = None if due is None else max(due - self.now(), 0.001)
        try:  # waits, and lets the others wait: a driver in earnest uses `connect_ex`
            self.socket = socket.create_connection((origin.host, origin.port), patience)
            if origin.secure:
                tls = ssl.create_default_context()
                self.socket = tls.wrap_socket(self.socket, server_hostname=origin.host)
        except OSError as error:
            self.hang_up()
            self.unreachable(origin, error)
            return
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.connected()

    def send(self, data: Output) -> None:
        self._unsent.append(None if data is SEND_EOF else memoryview(data))
        self.write_now()

    def hang_up(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        self._unsent.clear()

    def attend(self, *, reads: bool, until: float | None) -> None:
        self._reads, self.until = reads, until

    def ended(self) -> None:
        self._driver.carriers.remove(self)

    # --- what the selector calls ------------------------------------------------------

    @property
    def interest(self) -> int:
        reads = selectors.EVENT_READ if self._reads else 0
        return reads | (selectors.EVENT_WRITE if self._unsent else 0)

    def write_now(self) -> None:
        try:
            while self._unsent and self.socket is not None:
                view = self._unsent.popleft()
                if view is None:
                    self.socket.shutdown(socket.SHUT_WR)
                elif view:
                    self._unsent.appendleft(view)
                    count = self.socket.send(view)
                    self._unsent[0] = view[count:]
                    self.sent(count)
        except NOT_NOW:
            pass
        except OSError:
            self._unsent.clear()  # reading tells what became of it

    def read_now(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except NOT_NOW:
            return
        except OSError as error:
            self.lost(error)
        else:
            self.received(data)


class Driver:
    """Carries any number of conversations; `run` returns when all are over."""

    def __init__(self) -> None:
        self.carriers: list[SocketCarrier] = []

    def now(self) -> float:
        return time.monotonic()

    def start(self, conversation: Conversation[Any], tell: Callable[[Any], None]) -> SocketCarrier:
        carrier = SocketCarrier(self, conversation, tell)
        self.carriers.append(carrier)  # `run` begins it
        return carrier

    def run(self, begin: Callable[[], None]) -> None:
        begin()
        while self.carriers:
            for carrier in list(self.carriers):
                carrier.time_passed()
            with selectors.DefaultSelector() as selector:
                for carrier in self.carriers:
                    if carrier.socket is not None and carrier.interest:
                        selector.register(carrier.socket, carrier.interest, carrier)
                due = earliest(*(carrier.until for carrier in self.carriers))
                patience = None if due is None else max(due - self.now(), 0)
                ready = selector.select(patience) if selector.get_map() or patience else []
            for key, mask in ready:
                if mask & selectors.EVENT_WRITE:
                    key.data.write_now()
                if mask & selectors.EVENT_READ and key.data.socket is not None:
                    key.data.read_now()
