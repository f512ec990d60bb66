"""What users hand to the synchronous client, so that it runs in their thread."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from typing import Any, ParamSpec, TypeVar, cast

from sandbox_proto.wire.http import Buffer

from ..sources import Readable, Source, UploadContent, content_of
from .work import CallerGone, in_caller

P = ParamSpec("P")
T = TypeVar("T")

BlockingSource = str | os.PathLike[str] | Buffer | Readable | Iterable[Buffer]


def _check_blocking(function: Callable[..., object]) -> None:
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{function!r} is a coroutine function, which the synchronous client cannot call: "
            "pass an ordinary function, or use the asynchronous client"
        )


def callback_in_caller(
    callback: Callable[P, object] | None,
) -> Callable[P, Awaitable[None]] | None:
    """A callback that is called in the thread that waits for the call it was given to.

    :raises TypeError: it is a coroutine function.
    """
    if callback is None:
        return None
    _check_blocking(callback)

    async def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await in_caller(callback, *args)
        except CallerGone:
            pass  # who was interrupted wants to hear no more

    return told


def callback_in_thread(callback: Callable[[T], object] | None) -> Callable[[T], None] | None:
    """A callback for what happens while nobody waits: it is called in a thread of its own.

    :raises TypeError: it is a coroutine function.
    """
    if callback is None:
        return None
    _check_blocking(callback)

    def told(value: T) -> None:
        threading.Thread(target=callback, args=(value,), daemon=True).start()

    return told


def source_in_caller(source: BlockingSource) -> Source:
    """A source of an upload, read in the thread that waits for the upload.

    :raises TypeError: it cannot be read without an event loop, or not at all.
    """
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        return source
    read = getattr(source, "read", None)
    if isinstance(source, AsyncIterable) or inspect.iscoroutinefunction(read):
        raise TypeError(
            f"the synchronous client cannot read {source!r}, which is asynchronous: "
            "open it as an ordinary file, or use the asynchronous client"
        )
    content, _ = content_of(source)
    return UploadContent(
        lambda: _Pieces(content.start),
        length=content.length,
        repeatable=content.repeatable,
    )


def pieces_in_caller(
    content: str | bytes | Iterable[bytes] | None,
) -> str | bytes | AsyncIterable[bytes] | None:
    """The body of a request, made in the thread that waits for its answer."""
    if content is None or isinstance(content, str | bytes):
        return content
    return _Stepped(content)


class _Pieces:
    """What reads an ordinary source, a step at a time, each in the caller's thread."""

    def __init__(self, begin: Callable[[], AsyncIterator[Buffer]]) -> None:
        self._begin = begin
        self._pieces: AsyncIterator[Buffer] | None = None

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> Buffer:
        piece = await in_caller(self._step)
        if piece is None:
            raise StopAsyncIteration
        return piece

    def _step(self) -> Buffer | None:
        if self._pieces is None:
            self._pieces = self._begin()
        # Of the kind that never waits, for what it reads from is not asynchronous.
        step = cast("Coroutine[Any, Any, Buffer]", self._pieces.__anext__())
        try:
            step.send(None)
        except StopIteration as ended:
            return cast(Buffer, ended.value)
        except StopAsyncIteration:
            return None
        step.close()
        raise TypeError("the source is asynchronous: use the asynchronous client for it")


class _Stepped:
    """An ordinary iterable as an asynchronous one, a step at a time in the caller's thread."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._steps: Iterator[bytes] | None = None

    def __aiter__(self) -> _Stepped:
        self._steps = None
        return self

    async def __anext__(self) -> bytes:
        piece = await in_caller(self._step)
        if piece is None:
            raise StopAsyncIteration
        return piece

    def _step(self) -> bytes | None:
        if self._steps is None:
            self._steps = iter(self._pieces)
        return next(self._steps, None)
