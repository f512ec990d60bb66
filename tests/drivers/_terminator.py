"""TLS before a host that speaks none, for tests."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator

from sandbox_anyio.local.launch import LocalHost

from ._servers import ScriptedServer


def carry(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways, until either side ends."""
    ends = [one, other]
    while True:
        pending = [end for end in ends if isinstance(end, ssl.SSLSocket) and end.pending()]
        readable = pending or select.select(ends, [], [], 30)[0]
        for end in readable:
            data = end.recv(65536)
            if not data:
                return
            (other if end is one else one).sendall(data)


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


@contextlib.contextmanager
def tls_in_front_of(host: LocalHost, context: ssl.SSLContext) -> Iterator[int]:
    """A TLS terminator before the host. Yields its port."""

    def serve(connection: socket.socket) -> None:
        with (
            context.wrap_socket(connection, server_side=True) as secure,
            socket.create_connection(address_of(host.endpoint)) as upstream,
        ):
            carry(secure, upstream)

    with ScriptedServer(serve) as server:
        yield server.port
