"""Work for the loop that a thread waits for, and what of it is done in that thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from sandbox_proto.errors import SandboxConnectionError

from .loop import LoopEnded, LoopThread

T = TypeVar("T")

# How long a call that was interrupted may take to undo what it has done, in seconds. All
# that is undone has limits of its own, which are shorter.
UNDO_PATIENCE = 20.0

_CLOSED = "the call was ended: its client was closed meanwhile, or Python ends"


class CallerGone(Exception):
    """Whoever waited for this work has left."""


class Desk:
    """Where the loop leaves what is to be done in the thread that waits."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.turn = threading.RLock()

    def put(self, job: Callable[[], None] | None) -> None:
        """Something to do; None: something to look at."""
        self._jobs.put(job)

    def serve(self, done: Callable[[], bool], patience: float | None = None) -> None:
        """Do what comes until `done`, or for so many seconds.

        Jobs call the user's code, which may call the client, and so this.
        """
        until = None if patience is None else monotonic() + patience
        while not done():
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return
            try:
                job = self._jobs.get(timeout=left)
            except Empty:
                return
            if job is not None:
                job()


class Work:
    """Something that runs in the loop while a thread waits for it.

    :ivar done: nothing more comes of it.
    :ivar cancelled: its caller wants it no more.
    """

    def __init__(self, loop: LoopThread, desk: Desk | None = None) -> None:
        self.loop = loop
        self.desk = desk or Desk()
        self.done = self.cancelled = False
        self.error: Exception | None = None
        self._scope: anyio.CancelScope | None = None

    # --- in the caller's thread -------------------------------------------------------

    def begin(self) -> None:
        """Hand it to the loop.

        :raises LoopEnded: it takes nothing more.
        """
        self.loop.post(self._start, self._finish)

    def wait(self, until: Callable[[], bool]) -> None:
        """Do what the loop wants done here, until that is so.

        Whatever is raised here, Ctrl-C above all, cancels the work, and waits for that.
        """
        try:
            self.desk.serve(until)
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Cancel it, and wait until what it has done is undone; not for ever."""
        self.cancelled = True
        try:
            self.loop.post(lambda _: self.cancel())
        except LoopEnded:
            return
        self.desk.serve(lambda: self.done, UNDO_PATIENCE)

    # --- in the loop ------------------------------------------------------------------

    def _start(self, tasks: TaskGroup) -> None:
        # It can be cancelled before its first step, too.
        self._scope = anyio.CancelScope()
        tasks.start_soon(self._run, self._scope)

    async def _run(self, scope: anyio.CancelScope) -> None:
        _work.set(self)
        try:
            with scope:
                try:
                    await self.carry_out()
                except Exception as error:
                    self.error = error
        finally:
            self._finish()

    async def carry_out(self) -> None:
        """What is to be done."""
        raise NotImplementedError

    def cancel(self) -> None:
        """It is wanted no more."""
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._finish()  # it never reached the loop

    def _finish(self) -> None:
        self.done = True
        self.desk.put(None)


_work: ContextVar[Work] = ContextVar("work")


class Call(Work, Generic[T]):
    """One call: a coroutine function in the loop, and its caller waits for what it returns."""

    def __init__(
        self, loop: LoopThread, function: Callable[[], Awaitable[T]], desk: Desk | None = None
    ) -> None:
        super().__init__(loop, desk)
        self._function = function
        self._values: list[T] = []

    def run(self) -> T:
        """Have it done, and wait.

        :raises LoopEnded: the loop takes nothing more.
        :raises SandboxConnectionError: the client was closed meanwhile.
        """
        with self.desk.turn:
            try:
                self.begin()
                self.wait(self.is_done)
            except LoopEnded:
                raise SandboxConnectionError(_CLOSED) from None
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose traceback leads here
        if not self._values:
            raise SandboxConnectionError(_CLOSED)
        return self._values[0]

    def is_done(self) -> bool:
        """See `done`."""
        return self.done

    async def carry_out(self) -> None:
        self._values.append(await self._function())


class _Job(Generic[T]):
    """A call of the user's code, on its way from the loop to the thread that waits."""

    def __init__(self, work: Work, function: Callable[[], T]) -> None:
        self._work, self._function = work, function
        self._values: list[T] = []
        self._error: Exception = CallerGone()
        self._answered = anyio.Event()
        self._withdrawn = False

    async def result(self) -> T:
        """Have it done in the other thread."""
        self._work.desk.put(self)
        try:
            await self._answered.wait()
        except BaseException:
            self._withdrawn = True
            raise
        if not self._values:
            raise self._error
        return self._values[0]

    def __call__(self) -> None:
        if self._withdrawn:
            return
        try:
            if not self._work.cancelled:
                self._values.append(self._function())
        except Exception as error:
            self._error = error
        finally:
            with contextlib.suppress(LoopEnded):
                self._work.loop.post(lambda _: self._answered.set())


async def in_caller(function: Callable[..., T], *args: Any) -> T:
    """Call the user's code in the thread that waits for this work, and wait for it.

    :raises CallerGone: nobody waits there any more.
    """
    work = _work.get()
    if work.cancelled:
        await anyio.lowlevel.checkpoint()
        raise CallerGone
    return await _Job(work, lambda: function(*args)).result()
