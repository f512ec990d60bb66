"""Sockets as byte streams, waiting as anyio does."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .anyio_waiting import deadline_of
from .sockets import NonBlockingSocket

if TYPE_CHECKING:
    from .asyncio_socket import AsyncioSocketStream


def socket_stream(sock: socket.socket) -> SocketStream | AsyncioSocketStream:
    """A connected, non-blocking socket as a `ByteStream` on the loop that runs."""
    # Windows' usual loop watches no sockets; anyio has a thread for it.
    if anyio.get_cancelled_exc_class().__module__.startswith("asyncio") and os.name == "posix":
        from .asyncio_socket import AsyncioSocketStream

        return AsyncioSocketStream(sock)
    return SocketStream(sock)


class SocketStream(NonBlockingSocket):
    """A connected socket as a `ByteStream`, waiting as anyio does."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._waiting: anyio.CancelScope | None = None

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        if self._socket.fileno() < 0:  # which trio would remember as one that is being waited on
            await anyio.lowlevel.checkpoint()
            raise OSError(errno.EBADF, "the connection was closed on this side")
        with anyio.CancelScope(deadline=deadline_of(until)) as self._waiting:
            try:
                if readable and writable:
                    await self._wait_for_either()
                elif writable:
                    await anyio.wait_writable(self._socket)
                elif readable:
                    await anyio.wait_readable(self._socket)
                else:
                    await anyio.sleep_forever()
            except (anyio.ClosedResourceError, ValueError):
                raise OSError(errno.EBADF, "the connection was closed on this side") from None
            finally:
                self._waiting = None

    async def _wait_for_either(self) -> None:
        async with anyio.create_task_group() as either:

            async def wait_readable() -> None:
                with contextlib.suppress(anyio.ClosedResourceError, ValueError):
                    await anyio.wait_readable(self._socket)
                either.cancel_scope.cancel()

            either.start_soon(wait_readable)
            with contextlib.suppress(anyio.ClosedResourceError, ValueError):
                await anyio.wait_writable(self._socket)
            either.cancel_scope.cancel()

    def interrupt(self) -> None:
        if self._waiting is not None:
            self._waiting.deadline = -math.inf

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()
