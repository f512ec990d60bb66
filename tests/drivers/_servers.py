"""Servers for driver tests: plain threads and blocking sockets, so they fit either loop.

Each serves one script per connection, byte for byte; nothing in them knows our code.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

Script = Callable[[socket.socket], None]


class ScriptedServer:
    """Listens on loopback and plays `script` on every connection, one thread each.

    :ivar requests: the heads of the requests that `read_request` read, in order.
    :ivar connections: how many connections were accepted.
    """

    def __init__(self, script: Script, *, family: socket.AddressFamily = socket.AF_INET) -> None:
        address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._script = script
        self._listener = socket.create_server((address, 0), family=family)
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.connections = 0
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._script(connection)

    def __enter__(self) -> ScriptedServer:
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        for thread in self._threads:
            thread.join()


def read_request(connection: socket.socket) -> tuple[str, bytes]:
    """Read one request: its head as text, and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise OSError("the client closed")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    text = head.decode("latin-1")
    length = next(
        (
            int(line.partition(":")[2])
            for line in text.splitlines()
            if line.lower().startswith("content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return text, body


def http_answer(
    status: int, payload: Any = None, *headers: str, body: bytes | None = None
) -> bytes:
    """One response with a JSON payload, or with `body` as it is."""
    content = body if body is not None else b"" if payload is None else json.dumps(payload).encode()
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def answering(*answers: bytes) -> Script:
    """A script that reads requests and gives the answers in turn, then closes."""
    remaining = list(answers)

    def script(connection: socket.socket) -> None:
        while remaining:
            read_request(connection)
            connection.sendall(remaining.pop(0))

    return script


def silent(connection: socket.socket) -> None:
    """A script that reads for ever and never says a word."""
    while connection.recv(65536):
        pass


class Relay:
    """Carries bytes to `target`; cuts, swallows or replaces the answers it is told to.

    :param cut: close the connection when the answer to a request that matches would begin.
    :param swallow: let that answer never arrive, but keep the connection.
    :param replace: what to answer instead, or None.
    :ivar cuts: how many answers were cut.
    :ivar swallowed: how many answers were swallowed.
    """

    def __init__(
        self,
        target: str,
        cut: Callable[[bytes], bool] = lambda asked: False,
        *,
        swallow: Callable[[bytes], bool] = lambda asked: False,
        replace: Callable[[bytes], bytes | None] = lambda asked: None,
    ) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self._cut, self._swallow, self._replace = cut, swallow, replace
        self.cuts = self.swallowed = self.replaced = 0
        self._server = ScriptedServer(self._carry)
        self.url = self._server.url

    def __enter__(self) -> Relay:
        self._server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.__exit__(*exc)

    def _carry(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as upstream:
            asked = b""
            while True:
                readable, _, _ = select.select([client, upstream], [], [], 30)
                if client in readable:
                    data = client.recv(65536)
                    if not data:
                        return
                    asked += data
                    upstream.sendall(data)
                if upstream in readable:
                    data = upstream.recv(65536)
                    if not data:
                        return
                    if self._cut(asked):
                        self.cuts += 1
                        return
                    if self._swallow(asked):
                        self.swallowed += 1
                        silent(client)
                        return
                    if (instead := self._replace(asked)) is not None:
                        self.replaced += 1
                        data = instead
                    asked = b""
                    client.sendall(data)


@contextlib.contextmanager
def serving(script: Script) -> Iterator[ScriptedServer]:
    """A scripted server for the length of a block."""
    with ScriptedServer(script) as server:
        yield server
