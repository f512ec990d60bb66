"""A command's output on disk, where memory is not to hold it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import BinaryIO

from sandbox_proto.wire.models import OutputChunk


class OutputFiles:
    """Two files, ``stdout`` and ``stderr``, in one directory, which is made if it is missing.

    :raises OSError: they cannot be made.
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        try:
            for name in ("stdout", "stderr"):
                self._files[name] = (place / name).open("wb")
        except BaseException:
            self.close()
            raise

    def write(self, chunk: OutputChunk) -> None:
        """Add a piece of output.

        :raises OSError: the disk is full.
        """
        data = chunk.data.encode() if chunk.raw is None else chunk.raw
        self._files[chunk.stream].write(data)

    def close(self) -> None:
        """Nothing follows."""
        for file in self._files.values():
            file.close()
