"""What can be uploaded: paths, file objects, bytes, and whatever comes piece by piece."""

from __future__ import annotations

import inspect
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, BinaryIO, Protocol

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.wire.http import Buffer

CHUNK_BYTES = 256 * 1024

Progress = Callable[[int, int | None], Awaitable[None] | None]
"""Told how many bytes have gone by, and how many there are in all (None: nobody knows)."""


class Readable(Protocol):
    """A file object, open for reading bytes: an ordinary one, or one of anyio or trio."""

    def read(self, size: int, /) -> Any:
        """The next bytes, or an awaitable of them; empty at the end."""


async def report(progress: Progress | None, done: int, total: int | None) -> None:
    """Tell how far it is, if somebody wants to know."""
    if progress is not None:
        told = progress(done, total)
        if inspect.isawaitable(told):
            await told


class UploadContent:
    """A source, as an upload reads it.

    :ivar length: see `UploadSource`.
    :ivar repeatable: see `UploadSource`.
    :ivar sent: bytes of the content that the present attempt has given away.
    """

    def __init__(
        self,
        begin: Callable[[], AsyncIterator[Buffer]],
        *,
        length: int | None,
        repeatable: bool,
        progress: Progress | None = None,
    ) -> None:
        self._begin = begin
        self.length = length
        self.repeatable = repeatable
        self.sent = 0
        self._progress = progress
        self._begun = False

    def told(self, progress: Progress | None, length: int | None) -> UploadContent:
        """The same, telling somebody of its progress.

        :param length: its length, if it is not known here.
        """
        known = length if self.length is None else self.length
        return UploadContent(
            self._begin, length=known, repeatable=self.repeatable, progress=progress
        )

    def framed(self, head: bytes, tail: bytes) -> AsyncIterable[Buffer]:
        """The body of one upload, as often as it is asked for."""
        return _Body(self, head, tail)

    def start(self) -> AsyncIterator[Buffer]:
        """From the beginning.

        :raises SandboxClientError: it cannot be read again.
        """
        if self._begun and not self.repeatable:
            raise SandboxClientError(
                "the connection was lost during an upload whose source cannot be read again"
            )
        self.sent = 0
        return self._begin()

    async def took(self, count: int) -> None:
        """Bytes have been read.

        :raises SandboxClientError: more than there should be.
        """
        self._begun = True
        self.sent += count
        if self.length is not None and self.sent > self.length:
            raise SandboxClientError(f"the source has more than {self.length} bytes")
        await report(self._progress, self.sent, self.length)

    def check_end(self) -> None:
        """There is no more.

        :raises SandboxClientError: there should be.
        """
        self._begun = True
        if self.length is not None and self.sent < self.length:
            raise SandboxClientError(
                f"the source ended after {self.sent} of {self.length} bytes; "
                "perhaps it was changed while it was uploaded"
            )


class _Body:
    """No generator: an attempt that ends early would leave one behind, unfinished."""

    def __init__(self, content: UploadContent, head: bytes, tail: bytes) -> None:
        self._content, self._head, self._tail = content, head, tail
        self._pieces: AsyncIterator[Buffer] | None = None
        self._before: list[bytes] = []
        self._after: list[bytes] = []

    def __aiter__(self) -> _Body:
        self._pieces = self._content.start()
        self._before, self._after = [self._head], [self._tail]
        return self

    async def __anext__(self) -> Buffer:
        if self._before:
            return self._before.pop()
        if self._pieces is not None:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                self._content.check_end()
                self._pieces = None
            else:
                await self._content.took(len(memoryview(piece).cast("B")))
                return piece
        if self._after:
            return self._after.pop()
        raise StopAsyncIteration


class _FileReader:
    """A file object from one place on, and no further than it was long at the beginning."""

    def __init__(self, file: Readable, limit: int | None) -> None:
        self._file = file
        self._left = limit

    def __aiter__(self) -> _FileReader:
        return self

    async def __anext__(self) -> bytes:
        size = CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left)
        data = self._file.read(size) if size else b""
        if inspect.isawaitable(data):
            data = await data
        if not data:
            raise StopAsyncIteration
        if not isinstance(data, bytes):
            raise TypeError("the file object must give bytes: open it in binary mode")
        if self._left is not None:
            self._left -= len(data)
        return data


class _Stepper:
    """An ordinary iterator as an asynchronous one."""

    def __init__(self, pieces: Iterator[Buffer]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> _Stepper:
        return self

    async def __anext__(self) -> Buffer:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


Source = (
    str
    | os.PathLike[str]
    | Buffer
    | Readable
    | AsyncIterable[Buffer]
    | Iterable[Buffer]
    | UploadContent
)


def content_of(
    source: Source, progress: Progress | None = None, *, length: int | None = None
) -> tuple[UploadContent, BinaryIO | None]:
    """A source as content, and the file to close afterwards, if one was opened.

    :param length: the size of what comes piece by piece, if it is known.
    :raises OSError: the path cannot be opened.
    :raises TypeError: this is nothing that can be uploaded.
    """
    match source:
        case str() | os.PathLike():
            file = open(source, "rb", buffering=0)  # noqa: PTH123, SIM115
            return _content_of_file(file, progress, length), file
        case bytes() | bytearray() | memoryview():
            return _content_of_bytes(source, progress), None
        case UploadContent():
            return source.told(progress, length), None
        case _ if hasattr(source, "read"):
            return _content_of_file(source, progress, length), None
        case AsyncIterable():
            begin = source.__aiter__
        case Iterable():

            def begin() -> AsyncIterator[Buffer]:
                return _Stepper(iter(source))
        case _:
            raise TypeError(f"cannot upload from {source!r}")
    return UploadContent(begin, length=length, repeatable=False, progress=progress), None


def _content_of_bytes(data: Buffer, progress: Progress | None) -> UploadContent:
    view = memoryview(data).cast("B")

    def begin() -> AsyncIterator[Buffer]:
        return _Stepper(
            view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)
        )

    return UploadContent(begin, length=len(view), repeatable=True, progress=progress)


def _content_of_file(file: Any, progress: Progress | None, length: int | None) -> UploadContent:
    start = _place_in(file)
    if start is None:
        return UploadContent(
            lambda: _FileReader(file, None), length=length, repeatable=False, progress=progress
        )
    status = _status_of(file)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{file.name!r} is a directory: upload_dir() uploads those")
    end: int = file.seek(0, os.SEEK_END)
    file.seek(start)
    size = max(end - start, 0)

    def begin() -> AsyncIterator[Buffer]:
        file.seek(start)
        return _FileReader(file, size)

    return UploadContent(begin, length=size, repeatable=True, progress=progress)


def _place_in(file: Any) -> int | None:
    """Where a file object stands, if it can be sent back there; asynchronous ones cannot."""
    try:
        if inspect.iscoroutinefunction(file.read) or not file.seekable():
            return None
        place: int = file.tell()
    except (AttributeError, OSError):
        return None
    return place


def _status_of(file: Any) -> os.stat_result | None:
    try:
        return os.fstat(file.fileno())
    except (AttributeError, OSError):
        return None
