"""What is in ``sandbox_anyio/sandbox_transfers.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..base import BlockingSandbox
from ..callers import BlockingSource, callback_in_caller, source_in_caller

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from os import PathLike

    from sandbox_proto.wire.file_models import FileStat

    from ...sources import Progress
    from ..files import FileReader, FileWriter


@attrs.define
class TransferMethods(BlockingSandbox):
    """See `Sandbox`."""

    def upload(
        self,
        source: BlockingSource,
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

        :param source: a path, a file object open for reading bytes, bytes, or an iterable of bytes.
            It is read in this thread.
        :param path: POSIX, absolute, or relative to the sandbox's home; its missing parents
            are made.
        :param progress: called with the bytes sent and the bytes in all (None if nobody
            knows), in this thread.
        :param length: the size in bytes of what comes from an iterator, if it is known.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises OSError: the source cannot be read.
        :raises SandboxOperationError: the file cannot be written (``operation`` is ``write``).
        :raises SandboxConnectionError: the connection was lost, and the source can be read
            only once.
        """
        return self._call(
            lambda it: it.upload(
                source_in_caller(source),
                path,
                callback_in_caller(progress),
                length=length,
                timeout=timeout,
                headers=headers,
            )
        )

    def download(
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
            are known), in this thread. After a change it begins at 0 again.
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
        return self._call(
            lambda it: it.download(
                path,
                to,
                callback_in_caller(progress),
                resume,
                parallel=parallel,
                timeout=timeout,
                headers=headers,
            )
        )

    def open_read(
        self,
        path: str,
        *,
        start: int = 0,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[FileReader]:
        """A file as a stream of bytes.

        ::

            with sandbox.open_read("/var/log/app.log") as file:
                for chunk in file:
                    ...

        A lost connection is made again, and if the file was changed meanwhile, that is an error.
        (What is written in place into bytes that are on their way, nobody can tell: `download`
        asks again at the end.)

        :param start: offset of the first byte to read.
        :param timeout: patience in seconds for each step.
        :raises ResourceNotFoundError: there is no such file.
        :raises FileChangedError: it was changed while it was read.
        """
        return self._reader(
            lambda it: it.open_read(path, start=start, timeout=timeout, headers=headers)
        )

    def open_write(
        self,
        path: str,
        *,
        length: int | None = None,
        progress: Progress | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[FileWriter]:
        """A file to write bit by bit.

        ::

            with sandbox.open_write("/home/user/out.csv") as file:
                file.write("a,b\\n")

        The file appears when the block is left, whole. If the block raises
        nothing is changed.

        :param length: how many bytes will be written, if that is known.
        :param progress: called with the bytes sent and the bytes in all (None if nobody knows).
        :param timeout: patience in seconds for each step; the writer may take its time.
        :raises SandboxOperationError: the file cannot be written.
        :raises SandboxConnectionError: the connection was lost.
        """
        return self._writer(
            lambda it: it.open_write(
                path,
                length=length,
                progress=callback_in_caller(progress),
                timeout=timeout,
                headers=headers,
            )
        )

    def wait_for_file(
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
        return self._call(
            lambda it: it.wait_for_file(path, timeout, poll_interval=poll_interval, headers=headers)
        )
