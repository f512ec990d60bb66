"""Files of a sandbox as streams: reading that survives lost connections, and writing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import anyio

from sandbox_proto.errors import SandboxClientError, SandboxConnectionError
from sandbox_proto.flows.file_ranges import open_range
from sandbox_proto.flows.uploads import upload_file
from sandbox_proto.plans.ranged_read import RangedRead
from sandbox_proto.wire.http import Buffer, Response

from .background import background_tasks
from .http import ResponseStream
from .sources import Progress, UploadContent

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from .base import ClientBase


class RangeReader:
    """Carries out a `RangedRead`: one answer after the other, as long as it takes."""

    def __init__(
        self,
        client: ClientBase,
        base: str,
        path: str,
        read: RangedRead,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.read = read
        self._client = client
        self._base, self._path = base, path
        self._timeout, self._headers = timeout, headers
        self._stream: ResponseStream | None = None

    async def open(self) -> None:
        """Ask for what is missing; the head of the answer is read, its body is not.

        :raises ResourceNotFoundError: there is no such file.
        :raises FileChangedError: it is not the same file any more.
        :raises SandboxConnectionError: no answer could be had.
        """
        asked = self.read.question()
        response: Response = await self._client.drive(
            lambda context: open_range(
                context,
                self._base,
                self._path,
                first=asked.first,
                last=asked.last,
                if_range=asked.if_range,
                timeout=self._timeout,
                headers=self._headers,
            )
        )
        stream = response.stream
        self._stream = stream if isinstance(stream, ResponseStream) else None
        try:
            self.read.answered(response)
        except BaseException:
            self.close()
            raise

    async def next_chunk(self) -> bytes | None:
        """The next bytes, or None at the end.

        :raises FileChangedError: the file was changed meanwhile.
        :raises SandboxConnectionError: the connection was lost, and again, and again.
        """
        while not self.read.complete:
            if self._stream is None:
                await self.open()
                continue
            try:
                data = await self._stream.next_chunk()
            except SandboxConnectionError as error:
                self.close()
                network = self._client.network
                when = self.read.failed(error, now=network.now())
                if when is None:
                    raise
                await network.sleep_until(when)
                continue
            if data is None:
                self._stream = None
                self.read.body_ended()
            elif data := self.read.received(data):
                if self.read.complete:
                    await self._finish()
                return data
        self.close()
        return None

    async def _finish(self) -> None:
        """Read the end of the body, which is empty: so that the connection can be used again."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            await stream.next_chunk()
        except SandboxConnectionError:
            pass  # nothing of it was missing
        finally:
            stream.close()

    def close(self) -> None:
        """Stop reading."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class AsyncFileReader:
    """A file of a sandbox, being read. Obtained from `AsyncSandbox.open_read`.

    Iterate it, or `read` from it. A lost connection is made again, and reading goes on where it
    was; if the file was changed meanwhile, `FileChangedError` is raised.
    """

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self._rest = b""

    @property
    def size(self) -> int | None:
        """The size of the file in bytes; None if the server did not tell."""
        version = self._reader.read.version
        return None if version is None else version.total

    @property
    def etag(self) -> str | None:
        """The validator of the file that is read."""
        version = self._reader.read.version
        return None if version is None else version.etag

    @property
    def position(self) -> int:
        """Offset of the next byte in the file."""
        return self._reader.read.position - len(self._rest)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if data := await self._next():
            return data
        raise StopAsyncIteration

    async def read(self, size: int = -1) -> bytes:
        """Read bytes; empty at the end.

        :param size: how many at most; what has come is not waited for to become more. Negative:
            all that is left, into memory.
        """
        if size == 0:
            return b""
        if size < 0:
            return b"".join([chunk async for chunk in self])
        data = await self._next()
        self._rest = data[size:]
        return data[:size]

    async def _next(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self._reader.next_chunk() or b""


class AsyncFileWriter:
    """A file of a sandbox, being written. Obtained from `AsyncSandbox.open_write`.

    :ivar written: bytes so far.
    """

    def __init__(self, pieces: MemoryObjectSendStream[Buffer]) -> None:
        self._pieces = pieces
        self._ended = anyio.Event()
        self._error: Exception | None = None
        self.written = 0

    async def write(self, data: str | Buffer) -> None:
        """Append; waits while the connection takes no more. Text is encoded as UTF-8.

        :raises SandboxOperationError: the file cannot be written.
        :raises SandboxConnectionError: the connection was lost.
        """
        piece = data.encode() if isinstance(data, str) else data
        try:
            await self._pieces.send(piece)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._ended.wait()
            raise self._error or SandboxClientError("the file was closed") from None
        self.written += len(memoryview(piece).cast("B"))

    async def finish(self) -> None:
        """The content is complete; wait until the file is in its place."""
        self._pieces.close()
        await self._ended.wait()
        if self._error is not None:
            raise self._error


@asynccontextmanager
async def open_writer(
    client: ClientBase,
    base: str,
    path: str,
    *,
    length: int | None,
    progress: Progress | None,
    timeout: float,
    headers: Mapping[str, str] | None,
) -> AsyncIterator[AsyncFileWriter]:
    """See `AsyncSandbox.open_write`."""
    pieces: tuple[MemoryObjectSendStream[Buffer], MemoryObjectReceiveStream[Buffer]]
    pieces = anyio.create_memory_object_stream(0)
    writer = AsyncFileWriter(pieces[0])
    content = UploadContent(pieces[1].__aiter__, length=length, repeatable=False, progress=progress)

    async def send() -> None:
        try:
            await client.drive(
                lambda context: upload_file(
                    context, base, path, content, timeout=timeout, headers=headers
                )
            )
        except Exception as error:
            writer._error = error
        finally:
            pieces[1].close()
            writer._ended.set()

    with pieces[0], pieces[1]:
        async with background_tasks() as tasks:
            tasks.start_soon(send)
            yield writer
            await writer.finish()
