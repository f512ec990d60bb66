"""Files of a sandbox as streams, for code that blocks."""

from __future__ import annotations

from typing import Self

from .generated.file_streams import ReaderMethods, WriterMethods


class FileReader(ReaderMethods):
    """A file of a sandbox, being read. Obtained from `Sandbox.open_read`.

    Iterate it, or `read` from it. A lost connection is made again, and reading goes on where it
    was; if the file was changed meanwhile, `FileChangedError` is raised.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return self._call(lambda it: it.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


class FileWriter(WriterMethods):
    """A file of a sandbox, being written. Obtained from `Sandbox.open_write`."""

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._async.written
