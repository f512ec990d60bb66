"""What is in ``sandbox_anyio/sandbox_files.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..base import BlockingSandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_proto.wire.file_models import FileChunk, FileStat


@attrs.define
class FileMethods(BlockingSandbox):
    """See `Sandbox`."""

    def write(
        self,
        path: str,
        content: str | bytes,
        *,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Write a file, replacing what was there; missing parent directories are made.

        :param path: absolute, or relative to the sandbox's home.
        :param content: the whole content; text is encoded as UTF-8.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises SandboxOperationError: it cannot be written (``operation`` is ``write``).
        """
        self._call(lambda it: it.write(path, content, timeout=timeout, headers=headers))

    def read(
        self, path: str, *, timeout: int = 60, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Read a whole file into memory.

        :param path: absolute, or relative to the sandbox's home.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises ResourceNotFoundError: there is no such file (``resource_type`` is ``file``).
        :raises SandboxOperationError: it cannot be read.
        """
        return self._call(lambda it: it.read(path, timeout=timeout, headers=headers))

    def stat(
        self, path: str, *, timeout: int = 60, headers: Mapping[str, str] | None = None
    ) -> FileStat:
        """What is known of a file without reading it.

        :param path: absolute, or relative to the sandbox's home.
        :param timeout: patience in seconds for each step.
        :raises ResourceNotFoundError: there is no such file (``resource_type`` is ``file``).
        :raises SandboxClientError: it is no file that can be read.
        """
        return self._call(lambda it: it.stat(path, timeout=timeout, headers=headers))

    def read_range(
        self,
        path: str,
        *,
        start: int | None = None,
        end: int | None = None,
        suffix_bytes: int | None = None,
        if_range: str | None = None,
        if_none_match: str | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> FileChunk:
        """Read a part of a file into memory.

        :param path: absolute, or relative to the sandbox's home.
        :param start: offset of the first byte.
        :param end: offset of the last byte, which is part of it; default: that of the file.
        :param suffix_bytes: instead of both: that many bytes from the end.
        :param if_range: an ETag: if the file is not that one any more, all of it is read
            (``partial`` is False then).
        :param if_none_match: an ETag: if the file is still that one, nothing is read
            (``unchanged`` is True then).
        :param timeout: patience in seconds for each step.
        :raises ValueError: the arguments name no part.
        :raises ResourceNotFoundError: there is no such file.
        :raises SandboxOperationError: it cannot be read, or has no such part.
        """
        return self._call(
            lambda it: it.read_range(
                path,
                start=start,
                end=end,
                suffix_bytes=suffix_bytes,
                if_range=if_range,
                if_none_match=if_none_match,
                timeout=timeout,
                headers=headers,
            )
        )
