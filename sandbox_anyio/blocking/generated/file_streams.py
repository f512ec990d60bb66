"""What is in ``sandbox_anyio/file_streams.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...file_streams import AsyncFileReader, AsyncFileWriter
from ..base import Blocking

if TYPE_CHECKING:
    from sandbox_proto.wire.http import Buffer


class ReaderMethods(Blocking[AsyncFileReader]):
    """See `FileReader`."""

    @property
    def size(self) -> int | None:
        """The size of the file in bytes; None if the server did not tell."""
        return self._async.size

    @property
    def etag(self) -> str | None:
        """The validator of the file that is read."""
        return self._async.etag

    @property
    def position(self) -> int:
        """Offset of the next byte in the file."""
        return self._async.position

    def read(self, size: int = -1) -> bytes:
        """Read bytes; empty at the end.

        :param size: how many at most; what has come is not waited for to become more. Negative:
            all that is left, into memory.
        """
        return self._call(lambda it: it.read(size))


class WriterMethods(Blocking[AsyncFileWriter]):
    """See `FileWriter`."""

    def write(self, data: str | Buffer) -> None:
        """Append; waits while the connection takes no more. Text is encoded as UTF-8.

        :raises SandboxOperationError: the file cannot be written.
        :raises SandboxConnectionError: the connection was lost.
        """
        self._call(lambda it: it.write(data))

    def finish(self) -> None:
        """The content is complete; wait until the file is in its place."""
        self._call(lambda it: it.finish())
