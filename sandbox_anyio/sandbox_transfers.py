"""Files of any size, in and out of a sandbox, in little memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from os import PathLike
from pathlib import Path

import attrs

from sandbox_proto.flows.file_ranges import await_file
from sandbox_proto.flows.uploads import upload_file
from sandbox_proto.plans.ranged_read import RangedRead
from sandbox_proto.wire.file_models import FileStat

from .downloading import Download
from .file_streams import AsyncFileReader, AsyncFileWriter, RangeReader, open_writer
from .sandbox_base import SandboxBase
from .sources import Progress, Source, content_of


@attrs.define
class TransferMethods(SandboxBase):
    """See `AsyncSandbox`."""

    async def upload(
        self,
        source: Source,
        path: str,
        progress: Progress | None = None,
        *,
        length: int | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Write a file from a stream, replacing what was there. Returns its size.

        The file appears when it is complete. What can be read twice (a path, bytes, a file
        object that can seek) is sent again after a lost connection.

        :param source: a path, a file object open for reading bytes (an asynchronous one, too),
            bytes, or an iterator of bytes of either kind.
        :param path: POSIX, absolute, or relative to the sandbox's home; its missing parents
            are made.
        :param progress: called with the bytes sent and the bytes in all (None if nobody
            knows); may be a coroutine function.
        :param length: the size in bytes of what comes from an iterator, if it is known.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises OSError: the source cannot be read.
        :raises SandboxOperationError: the file cannot be written (``operation`` is ``write``).
        :raises SandboxConnectionError: the connection was lost, and the source can be read
            only once.
        """
        base = self._dataplane()
        content, opened = content_of(source, progress, length=length)
        try:
            await self._client.drive(
                lambda context: upload_file(
                    context, base, path, content, timeout=timeout, headers=headers
                )
            )
        finally:
            if opened is not None:
                opened.close()
        return content.sent

    async def download(
        self,
        path: str,
        to: str | PathLike[str],
        progress: Progress | None = None,
        resume: bool = True,
        *,
        parallel: int = 4,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Fetch a file of any size. Returns its size.

        A lost connection is made again, and fetching goes on where it was. If the file was
        changed meanwhile, all begins again: parts of two versions never come together. What is
        at `to` is replaced in one step, at the end.

        :param path: POSIX, absolute, or relative to the sandbox's home.
        :param to: the file to write, on this machine.
        :param progress: called with the bytes fetched and the bytes in all (None until they
            are known); may be a coroutine function. After a change it begins at 0 again.
        :param resume: go on with what an earlier download, which failed, has left beside `to`
            (two hidden files); and leave it there, should this one fail.
        :param parallel: how many connections to use for a file of more than 16 MiB, at least 1.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises ResourceNotFoundError: there is no such file.
        :raises FileChangedError: the file changes all the time.
        :raises SandboxOperationError: it cannot be read.
        :raises SandboxConnectionError: the connection was lost again and again.
        :raises OSError: the file cannot be written here.
        """
        download = Download(
            self._client,
            self._dataplane(),
            path,
            progress=progress,
            timeout=timeout,
            headers=headers,
        )
        return await download.run(Path(to), resume=resume, parallel=parallel)

    @asynccontextmanager
    async def open_read(
        self,
        path: str,
        *,
        start: int = 0,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncFileReader]:
        """A file as a stream of bytes.

        ::

            async with sandbox.open_read("/var/log/app.log") as file:
                async for chunk in file:
                    ...

        A lost connection is made again, and if the file was changed meanwhile, that is an error.
        (What is written in place into bytes that are on their way, nobody can tell: `download`
        asks again at the end.)

        :param start: offset of the first byte to read.
        :param timeout: patience in seconds for each step.
        :raises ResourceNotFoundError: there is no such file.
        :raises FileChangedError: it was changed while it was read.
        """
        context = self._client.flow_context()
        if start < 0:
            raise ValueError(f"start must not be negative: {start!r}")
        read = RangedRead(path, context.config.retry, context.random, first=start)
        reader = RangeReader(
            self._client, self._dataplane(), path, read, timeout=timeout, headers=headers
        )
        try:
            await reader.open()
            yield AsyncFileReader(reader)
        finally:
            reader.close()

    def open_write(
        self,
        path: str,
        *,
        length: int | None = None,
        progress: Progress | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[AsyncFileWriter]:
        """A file to write bit by bit.

        ::

            async with sandbox.open_write("/home/user/out.csv") as file:
                await file.write("a,b\\n")

        The file appears when the block is left, whole. If the block raises, or is cancelled,
        nothing is changed.

        :param length: how many bytes will be written, if that is known.
        :param progress: called with the bytes sent and the bytes in all (None if nobody knows).
        :param timeout: patience in seconds for each step; the writer may take its time.
        :raises SandboxOperationError: the file cannot be written.
        :raises SandboxConnectionError: the connection was lost.
        """
        return open_writer(
            self._client,
            self._dataplane(),
            path,
            length=length,
            progress=progress,
            timeout=timeout,
            headers=headers,
        )

    async def wait_for_file(
        self,
        path: str,
        timeout: float = 60,
        *,
        poll_interval: float = 0.25,
        headers: Mapping[str, str] | None = None,
    ) -> FileStat:
        """Wait until there is a file. Returns what is known of it.

        :param timeout: how long to wait, in seconds.
        :param poll_interval: how long to wait between two looks, in seconds.
        :raises ResourceTimeoutError: there is none by then.
        """
        base = self._dataplane()
        return await self._client.drive(
            lambda context: await_file(
                context,
                base,
                path,
                timeout=timeout,
                poll_interval=poll_interval,
                headers=headers,
            )
        )
