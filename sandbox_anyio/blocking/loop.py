"""The thread in which the asynchronous client runs for callers who block.

There is one for the process, shared by all synchronous clients: it begins with the first call
and ends with the last client. It is a daemon, so that it never holds back the end of Python;
what still runs then is cancelled, which kills commands and undoes creations, for a short while.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import inspect
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

Deed = Callable[[TaskGroup], object]

# How long the end of Python may be held back for what still runs, in seconds.
EXIT_PATIENCE = 3.0
_BELL_BYTES = 4096


class LoopEnded(Exception):
    """The loop takes nothing more."""


def _nothing() -> None:
    pass


class LoopThread:
    """An event loop in a thread of its own, and a way in for all other threads.

    :ivar leases: how many clients use it.
    """

    def __init__(self) -> None:
        # Reentrant, and nothing waits while it is held: finalizers post, too, at any moment.
        self._lock = threading.RLock()
        self._inbox: deque[tuple[Deed, Callable[[], None]]] = deque()
        self._stopping = self._ended = False
        self._bell, self._bell_pull = socket.socketpair()
        for end in (self._bell, self._bell_pull):
            end.setblocking(False)
        self.leases = 0
        self._closers: list[weakref.ref[Callable[[], Awaitable[None]]]] = []
        # Its context is empty: what the caller's loop left in the caller's is not for this one.
        self._thread = threading.Thread(
            target=contextvars.Context().run,
            args=(self._run,),
            name="sandbox client",
            daemon=True,
        )
        self._thread.start()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the loop's."""
        return threading.get_ident() == self._thread.ident

    def post(self, deed: Deed, otherwise: Callable[[], None] = _nothing) -> None:
        """Have something done in the loop. Waits for nothing.

        :param deed: must neither wait nor raise.
        :param otherwise: is done instead, in any thread, if the loop ends before.
        :raises LoopEnded: it has ended already.
        """
        with self._lock:
            if self._ended:
                raise LoopEnded
            self._inbox.append((deed, otherwise))
            with contextlib.suppress(BlockingIOError):  # it rings already
                self._bell_pull.send(b"!")

    def close_at_end(self, aclose: Callable[[], Awaitable[None]]) -> None:
        """Await this at the end, if it (or the object whose method it is) is still there."""
        self._closers = [known for known in self._closers if known() is not None]
        refer = weakref.WeakMethod if inspect.ismethod(aclose) else weakref.ref
        self._closers.append(refer(aclose))

    def stop(self) -> None:
        """Cancel what runs, and end. Waits for nothing."""
        with contextlib.suppress(LoopEnded):
            self.post(lambda _: self._stop())

    def join(self, seconds: float) -> None:
        """Wait for its end, no longer than that."""
        self._thread.join(seconds)

    def let_go(self) -> None:
        """One client less; called in the loop. The last one ends it."""
        with _shared.lock:
            self.leases -= 1
            if self.leases:
                return
            if _shared.loop is self:
                _shared.loop = None
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(BlockingIOError):
            self._bell_pull.send(b"!")  # the loop may be waiting already

    # --- in the thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend="asyncio")
        finally:
            with self._lock:
                self._ended = True
                self._bell.close()
                self._bell_pull.close()
            for _, otherwise in self._inbox:
                otherwise()
            _shared.alive.discard(self)

    async def _serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            while not self._stopping:
                await anyio.wait_readable(self._bell)
                with contextlib.suppress(BlockingIOError):
                    while len(self._bell.recv(_BELL_BYTES)) == _BELL_BYTES:
                        pass
                while self._inbox:
                    deed, _ = self._inbox.popleft()
                    deed(tasks)
                    del deed, _  # what they hold is nobody's any more
            tasks.cancel_scope.cancel()
        for closer in self._closers:
            if (aclose := closer()) is not None:
                await aclose()


class _Shared:
    """The loop of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: LoopThread | None = None
        self.alive: set[LoopThread] = set()

    def lease(self) -> LoopThread:
        """The loop; its new user gives it back with `LoopThread.let_go`. Takes the lock."""
        if self.loop is None:
            self.loop = LoopThread()
            self.alive.add(self.loop)
        self.loop.leases += 1
        return self.loop


_shared = _Shared()
# What a forked process inherited: the memory of threads that it does not have.
_forsaken: list[_Shared] = []


def shared() -> _Shared:
    """What this process shares."""
    return _shared


def _end_all() -> None:
    """Python ends: nothing goes on, as far as that can be had in time."""
    alive = list(_shared.alive)
    for loop in alive:
        loop.stop()
    for loop in alive:
        loop.join(EXIT_PATIENCE)


def _forget_all() -> None:
    """This process was forked off: its threads stayed behind, and a lock may be held for ever."""
    global _shared
    _forsaken.append(_shared)
    _shared = _Shared()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
