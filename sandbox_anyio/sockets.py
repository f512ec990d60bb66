"""TCP by non-blocking sockets and the loop's readiness: alike on asyncio and trio.

Plain sockets rather than anyio's streams, because they tell exactly how many bytes
were taken (nothing is torn by a cancelled send), write into the caller's buffer, and
cost half as much.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel

from sandbox_proto.machines.base import Buffer

from .network import READ_BYTES

# Happy eyeballs (RFC 8305): how long one address may take before the next is tried too.
_STAGGER = 0.25

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


class SocketStream:
    """A connected TCP or Unix socket as a `ByteStream`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    unflushed = False

    def try_send(self, data: Buffer) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def wait_sendable(self) -> None:
        await _waiting(anyio.wait_writable, self._socket)

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

    async def wait_receivable(self) -> None:
        await _waiting(anyio.wait_readable, self._socket)

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


async def _waiting(wait: Callable[[socket.socket], Awaitable[None]], sock: socket.socket) -> None:
    """Wait for readiness, with closing by another task turned into the OSError it means."""
    try:
        await wait(sock)
    except (anyio.ClosedResourceError, ValueError):
        raise OSError(errno.EBADF, "the connection was closed on this side") from None


async def connect_tcp(host: str, port: int) -> SocketStream:
    """Connect to a host by name or address, trying its addresses as RFC 8305 says.

    :raises OSError: no address could be reached; the text says why.
    """
    addresses = await _resolve(host, port)
    if len(addresses) == 1:
        return SocketStream(await _connect_one(addresses[0]))
    return SocketStream(await _connect_first(addresses))


async def _resolve(host: str, port: int) -> Sequence[Address]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if address.version == 4:
            return [(socket.AF_INET, (host, port))]
        return [(socket.AF_INET6, (host, port, 0, 0))]
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family: dict[socket.AddressFamily, list[Address]] = {}
    for family, _, _, _, sockaddr in found:
        by_family.setdefault(family, []).append((family, sockaddr))
    # The families in turn, beginning with the one the resolver prefers.
    queues, mixed = list(by_family.values()), []
    while any(queues):
        mixed += [queue.pop(0) for queue in queues if queue]
    return mixed


async def _connect_one(address: Address) -> socket.socket:
    family, sockaddr = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        else:
            await anyio.lowlevel.checkpoint()
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_first(addresses: Sequence[Address]) -> socket.socket:
    winner: socket.socket | None = None
    errors: list[OSError] = []

    async def attempt(address: Address, failed: anyio.Event) -> None:
        nonlocal winner
        try:
            sock = await _connect_one(address)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if winner is None:
            winner = sock
            attempts.cancel_scope.cancel()
        else:
            sock.close()

    async with anyio.create_task_group() as attempts:
        for address in addresses:
            failed = anyio.Event()
            attempts.start_soon(attempt, address, failed)
            with anyio.move_on_after(_STAGGER):
                await failed.wait()
    if winner is None:
        raise errors[0]
    return winner
