"""The network on whichever loop runs: asyncio and trio alike, through anyio."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from sandbox_proto.plans.route import Route
from sandbox_proto.wire.urls import Origin

from .anyio_waiting import AnyioWaiting, deadline_of
from .dialing import Dial, Dialer, too_late
from .network import ByteStream, ConnectFailed
from .socket_stream import socket_stream
from .sockets import (
    Address,
    families_in_turn,
    literal_address,
    new_socket,
)

if TYPE_CHECKING:
    import ssl

# Happy eyeballs (RFC 8305): how long one address may take before the next is tried too.
_STAGGER = 0.25


class AnyioNetwork(AnyioWaiting):
    """Real sockets, the loop's clock, the system's entropy.

    :param verify: see `Dialer`.
    :param dial: opens plain connections; by default by name or address, as usual.
    """

    def __init__(self, *, verify: bool | ssl.SSLContext = True, dial: Dial | None = None) -> None:
        self._dialer = Dialer(dial or _dial, self.now, verify)

    def now(self) -> float:
        return anyio.current_time()

    def wall_clock(self) -> float:
        return time.time()

    def entropy(self, count: int) -> bytes:
        return os.urandom(count)

    async def sleep_until(self, when: float) -> None:
        await anyio.sleep_until(when)

    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        with anyio.CancelScope(deadline=deadline_of(until)):
            return await self._dialer.connect(route, until)
        raise ConnectFailed(too_late(_first_stop(route)))


def _first_stop(route: Route) -> Origin:
    return route.origin if route.proxy is None else route.proxy.origin


async def _dial(host: str, port: int, until: float | None) -> ByteStream:
    """Connect to a host by name or address, trying its addresses as RFC 8305 says.

    The deadline is the caller's cancel scope, here.
    """
    addresses = await _resolve(host, port)
    if len(addresses) == 1:
        return socket_stream(await _connect(addresses[0]))
    return socket_stream(await _connect_first(addresses))


async def _resolve(host: str, port: int) -> Sequence[Address]:
    if (literal := literal_address(host, port)) is not None:
        return [literal]
    if host.endswith(".localhost"):
        # Always this machine (RFC 6761 section 6.3), which not every resolver knows.
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return families_in_turn([(family, address) for family, _, _, _, address in found])


async def _connect(address: Address) -> socket.socket:
    family, sockaddr = address
    return await connect_socket(new_socket(family), sockaddr)


async def connect_socket(
    sock: socket.socket, sockaddr: tuple[str, int] | tuple[str, int, int, int]
) -> socket.socket:
    """Connect a non-blocking socket; it is closed if that fails.

    :raises OSError: it cannot be connected.
    """
    try:
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
            sock = await _connect(address)
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
