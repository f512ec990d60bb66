"""Non-blocking sockets as byte streams: everything but the waiting, which is the loop's.

Plain sockets rather than anyio's streams, because they tell exactly how many bytes were
taken, write into the caller's buffer, and cost half as much.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache

from sandbox_proto.machines.base import Buffer

from .network import READ_BYTES

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


class NonBlockingSocket:
    """The part of a `ByteStream` that does not wait."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def try_send(self, data: Buffer) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def try_flush(self) -> bool:
        return True

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        try:
            return self._socket.recv(max_bytes)
        except (BlockingIOError, InterruptedError):
            return None

    def try_receive_into(self, buffer: memoryview) -> int | None:
        try:
            return self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return None

    def send_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)


def new_socket(family: socket.AddressFamily) -> socket.socket:
    """A TCP socket that neither blocks nor delays small writes."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


@lru_cache(maxsize=64)
def literal_address(host: str, port: int) -> Address | None:
    """The address of a host that is given as one, else None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return socket.AF_INET, (host, port)
    return socket.AF_INET6, (host, port, 0, 0)


def families_in_turn(addresses: list[Address]) -> list[Address]:
    """Addresses with their families in turn, beginning with the resolver's first (RFC 8305)."""
    by_family: dict[socket.AddressFamily, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    queues, mixed = list(by_family.values()), []
    while any(queues):
        mixed += [queue.pop(0) for queue in queues if queue]
    return mixed
