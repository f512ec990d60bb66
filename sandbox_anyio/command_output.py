"""What becomes of a command's output: callbacks, what is kept, files."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from sandbox_proto.wire.command_models import OutputChunk

OutputCallback = Callable[[Any], Any]
"""Takes text, or bytes with ``text=False``; may be async."""

# What is kept of each stream of a command whose output goes to files, in bytes.
SPILLED_KEEP = 1024 * 1024


@attrs.frozen(kw_only=True)
class OutputOptions:
    """What becomes of a command's output.

    :ivar on_stdout: called with each piece of standard output; may be async.
    :ivar on_stderr: called with each piece of standard error; may be async.
    :ivar text: False: callbacks get bytes, and the result has them.
    :ivar max_output: how many bytes of each stream are kept for the result; None is all.
    :ivar spill_to: a directory for files that get it all.
    :ivar iterable: it is kept until somebody iterates over it.
    """

    on_stdout: OutputCallback | None = None
    on_stderr: OutputCallback | None = None
    text: bool = True
    max_output: int | None = None
    spill_to: str | PathLike[str] | None = None
    iterable: bool = True

    def __attrs_post_init__(self) -> None:
        most: object = self.max_output
        if most is not None and (not isinstance(most, int) or most < 0):
            raise ValueError(f"max_output must be a number of bytes, not {most!r}")

    @property
    def kept(self) -> int | None:
        """How many bytes of each stream are kept."""
        return SPILLED_KEEP if self.max_output is None and self.spill_to else self.max_output


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
        self._files[chunk.stream].write(chunk.as_bytes())

    def close(self) -> None:
        """Nothing follows."""
        for file in self._files.values():
            file.close()
