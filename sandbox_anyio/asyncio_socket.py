"""Waiting on a socket in asyncio, without leaving the loop's selector in between.

anyio's `wait_readable` enters the selector and leaves it each time, and a deadline around it
is a cancel scope: together a sixth of what a small request costs. Here the socket stays, and
a deadline is a timer of the loop. `SocketStream` does the same on any loop, and also here
when a connection that was made in asyncio is used in trio.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import weakref
from collections.abc import Callable

import anyio
import anyio.lowlevel

from .socket_stream import SocketStream

Waiter = asyncio.Future[None]


class AsyncioSocketStream(SocketStream):
    """A connected socket as a `ByteStream`, on an asyncio loop that watches sockets."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._watch = _Watch(sock)
        self._watch.owner = weakref.ref(self, self._watch.orphaned)

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        if self._socket.fileno() < 0 or not _in_asyncio():
            self._watch.stop()
            await super().wait(readable=readable, writable=writable, until=until)
            return
        # Else what is ready at once would let a task that is cancelled already go on.
        await anyio.lowlevel.checkpoint_if_cancelled()
        loop = asyncio.get_running_loop()
        waiter = self._watch.begin(loop, readable, writable)
        timer = None if until is None else loop.call_at(until, _wake, waiter)
        try:
            await waiter
        finally:
            self._watch.end(waiter)
            if timer is not None:
                timer.cancel()
        if self._socket.fileno() < 0:
            raise OSError(errno.EBADF, "the connection was closed on this side")

    def interrupt(self) -> None:
        self._watch.wake_all()
        super().interrupt()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._watch.stop()
            super().close()
            self._watch.wake_all()


def _in_asyncio() -> bool:
    """Whether this is a task of asyncio's; trio may be its guest."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop of its runs
        return False


class _Watch:
    """What the loop holds: the socket, and who waits on it.

    It is the loop that holds it, and not the stream: a stream that nobody has any more takes
    the socket out of the loop before its number can be another's. The loop is given the number
    only, because asyncio describes a socket object, at length, whenever it does not know it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.owner: weakref.ref[AsyncioSocketStream] | None = None
        self._socket = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading = False
        self._seen = False
        self._reader: Waiter | None = None
        self._writer: Waiter | None = None
        self._waiters: list[Waiter] = []

    def begin(self, loop: asyncio.AbstractEventLoop, readable: bool, writable: bool) -> Waiter:
        """Somebody waits, for one or both, or only for the time or an interruption.

        :raises anyio.BusyResourceError: somebody else waits for the same already.
        """
        if (readable and self._reader is not None) or (writable and self._writer is not None):
            raise anyio.BusyResourceError("waiting on")
        if loop is not self._loop:
            self.stop()
            self._loop = loop
        waiter = loop.create_future()
        self._waiters.append(waiter)
        if readable:
            self._reader = waiter
            if not self._reading:
                loop.add_reader(self._socket.fileno(), self._on_readable)
                self._reading = True
        if writable:
            self._writer = waiter
            loop.add_writer(self._socket.fileno(), _wake, waiter)
        return waiter

    def end(self, waiter: Waiter) -> None:
        """Who waited goes on."""
        self._waiters.remove(waiter)
        if waiter is self._reader:
            self._reader = None
        if waiter is self._writer:
            self._writer = None
            if self._loop is not None and self._socket.fileno() >= 0:
                self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        waiter = self._reader
        if self._seen or waiter is None:
            # The loop looked once more before the one who was woken had read: mostly old news.
            self._seen = False
            if not self._is_readable():
                return
        if waiter is None or waiter.done():
            self._stop_reading()  # what nobody waits for must not keep the loop awake
        else:
            self._seen = True
            waiter.set_result(None)

    def _is_readable(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True  # whoever reads will learn it
        return True

    def wake_all(self) -> None:
        """Whoever waits goes on."""
        for waiter in self._waiters:
            _wake(waiter)

    def stop(self) -> None:
        """Take the socket out of the loop, which may be another thread's, or over."""
        loop, number = self._loop, self._socket.fileno()
        if loop is None or loop.is_closed() or number < 0:
            self._reading = False
        elif loop.is_running() and not _runs_here(loop):
            if self._reading:
                self._reading = False
                _post(loop, loop.remove_reader, number)
        else:
            self._stop_reading()
            if self._writer is not None:
                loop.remove_writer(number)

    def _stop_reading(self) -> None:
        if self._reading and self._loop is not None:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def orphaned(self, _: object) -> None:
        """The stream is gone without having been closed; perhaps in another thread."""
        if self._reading and self._loop is not None:
            _post(self._loop, self.stop)


def _post(loop: asyncio.AbstractEventLoop, deed: Callable[..., object], *arguments: int) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(deed, *arguments)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _wake(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
