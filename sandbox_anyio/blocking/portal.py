"""A client's way into the loop's thread, and blocks that live there."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from sandbox_proto.errors import SandboxClientError, SandboxConnectionError

from ..log import client_log
from .loop import LoopEnded, LoopThread, shared
from .work import Call, Desk, Work

T = TypeVar("T")

_CLOSED = "the client is closed: make a new one"
_FORKED = (
    "this client was in use before the process forked, and its connections belong to the "
    "parent process: make a new client in the child"
)
_IN_LOOP = (
    "the synchronous client was called from its own thread, by a finalizer as it seems, where "
    "it cannot wait"
)


class Portal:
    """What a synchronous client calls the asynchronous one through, from any thread.

    It takes its share in the loop with the first call, and gives it back when it is closed, or
    when nobody has it any more.

    :param aclose: closes the asynchronous client.
    :param serve: what it has to have running meanwhile, if anything; ends when it is closed.
    """

    def __init__(
        self,
        aclose: Callable[[], Awaitable[None]],
        serve: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._aclose, self._serve = aclose, serve
        self._loop: LoopThread | None = None
        self._pid = 0
        self._finalizer: weakref.finalize[[LoopThread, int, Callable[..., Awaitable[None]]], Portal]
        self._closed = False

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that used it first."""
        return self._loop is not None and self._pid != os.getpid()

    def call(self, ask: Callable[[], Awaitable[T]], desk: Desk | None = None) -> T:
        """Await something in the loop, and wait for it here.

        :raises SandboxConnectionError: the client is closed.
        :raises SandboxClientError: this process was forked off.
        """
        return Call(self.loop(), ask, desk).run()

    def do(self, deed: Callable[[], T]) -> T:
        """Do something that does not wait, where all else is done."""

        async def ask() -> T:
            return deed()

        return self.call(ask)

    def iterate(self, begin: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """An asynchronous iterator as an ordinary one."""
        pieces = self.do(begin)
        try:
            while True:
                try:
                    piece = self.call(lambda: _next_of(pieces))
                except StopAsyncIteration:
                    return
                yield piece
        finally:
            aclose = getattr(pieces, "aclose", None)
            if aclose is not None and not self._closed and not self.forked:
                with contextlib.suppress(SandboxClientError):
                    self.call(aclose)

    def loop(self) -> LoopThread:
        """The loop, for one call."""
        if self._closed:
            raise SandboxConnectionError(_CLOSED)
        if self._loop is None:
            with shared().lock:
                if self._loop is None:
                    loop = shared().lease()
                    loop.close_at_end(self._aclose)
                    self._pid = os.getpid()
                    self._finalizer = weakref.finalize(
                        self, _abandon, loop, self._pid, self._aclose
                    )
                    self._finalizer.atexit = False
                    if (serve := self._serve) is not None:
                        loop.post(lambda tasks: tasks.start_soon(serve))
                    self._loop = loop
        if self._pid != os.getpid():
            raise SandboxClientError(_FORKED)
        if self._loop.is_mine:
            raise SandboxClientError(_IN_LOOP)
        return self._loop

    def close(self) -> None:
        """Close the client, wherever its calls are; they fail. Idempotent."""
        if self._closed:
            return
        self._closed = True
        loop = self._loop
        if loop is None:
            return
        self._finalizer.detach()
        if self._pid != os.getpid():
            return  # all of it is the parent's
        if loop.is_mine:
            _abandon(loop, self._pid, self._aclose)
            return
        try:
            Call(loop, self._aclose).run()
        except SandboxConnectionError:
            pass  # the loop has ended, and all with it
        finally:
            with contextlib.suppress(LoopEnded):
                loop.post(lambda _: loop.let_go())


async def _next_of(pieces: AsyncIterator[T]) -> T:
    return await anext(pieces)


def _abandon(loop: LoopThread, pid: int, aclose: Callable[[], Awaitable[None]]) -> None:
    """Nobody has the client any more: close it without waiting for it."""

    async def close() -> None:
        try:
            await aclose()
        except Exception as error:
            client_log.warning("a client that nobody closed was not closed in order: %s", error)
        finally:
            loop.let_go()

    if pid == os.getpid():
        with contextlib.suppress(LoopEnded):
            loop.post(lambda tasks: tasks.start_soon(close))


class _Hold(Work, Generic[T]):
    """The asynchronous block, in the loop."""

    def __init__(
        self, loop: LoopThread, make: Callable[[], AbstractAsyncContextManager[T]]
    ) -> None:
        super().__init__(loop)
        self._make = make
        self._leaving: anyio.Event | None = None
        self.values: list[T] = []
        self.body_error: Exception | None = None

    def _start(self, tasks: TaskGroup) -> None:
        self._leaving = anyio.Event()
        super()._start(tasks)

    async def carry_out(self) -> None:
        assert self._leaving is not None
        async with self._make() as value:
            self.values.append(value)
            self.desk.put(None)
            await self._leaving.wait()
            if self.body_error is not None:
                raise self.body_error

    def leave(self) -> None:
        """The block ends; called in the loop."""
        if self._leaving is not None:
            self._leaving.set()


class Block(Generic[T]):
    """An asynchronous context manager whose block is in another thread.

    It lives in one task of the loop, from its beginning to its end.

    :ivar desk: for calls of what the block gives, so that they serve the block's callbacks.
    """

    def __init__(self, portal: Portal, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._portal = portal
        self._hold: _Hold[T] = _Hold(portal.loop(), make)
        self._finalizer = weakref.finalize(self, _let_go_of, self._hold, os.getpid())
        self._finalizer.atexit = False
        self.desk = self._hold.desk

    def enter(self) -> T:
        """Begin it. Raises what that raises."""
        hold = self._hold
        with hold.desk.turn:
            try:
                hold.begin()
                hold.wait(lambda: hold.done or bool(hold.values))
            except LoopEnded:
                raise SandboxConnectionError(_CLOSED) from None
        if hold.done:
            self._finalizer.detach()
            raise hold.error or SandboxConnectionError(_CLOSED)
        return hold.values[0]

    def exit(self, error: BaseException | None = None) -> bool:
        """End it. Raises what that raises; returns whether it swallowed the error.

        :param error: that of the block's body.
        """
        hold = self._hold
        if self._finalizer.detach() is None or self._portal.forked:
            return False
        traceback = None if error is None else error.__traceback__
        if isinstance(error, Exception):
            hold.body_error = error
        with hold.desk.turn:
            if error is not None and hold.body_error is None:
                hold.give_up()  # Ctrl-C, and what is like it
                return False
            try:
                hold.loop.post(lambda _: hold.leave())
                hold.wait(lambda: hold.done)
            except LoopEnded:
                pass  # and the block with it
        if error is not None:
            error.__traceback__ = traceback  # without what the loop has added
        if hold.error is not None and hold.error is not error:
            raise hold.error
        return error is not None and hold.error is None


def _let_go_of(hold: _Hold[T], pid: int) -> None:
    """Nobody has the block any more."""
    if pid == os.getpid():
        with contextlib.suppress(LoopEnded):
            hold.loop.post(lambda _: hold.leave())
