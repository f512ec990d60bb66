"""Archives compressed by zstd: decompressed on this side of the wall, with what is installed.

Python 3.14 brings it; before that the package `zstandard` is needed, which the zygote,
having nothing but the standard library, could not load.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import BinaryIO, Final, cast

from .base import LayerError
from .feeding import Writer

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_CHUNK: Final = 1024 * 1024


def is_compressed(descriptor: int) -> bool:
    """Whether a file (not a pipe, which cannot be looked into) is compressed by zstd."""
    try:
        return os.pread(descriptor, len(_MAGIC), os.lseek(descriptor, 0, os.SEEK_CUR)) == _MAGIC
    except OSError:
        return False


def decompressor(descriptor: int) -> Writer:
    """What writes a file's content uncompressed, for as long as the descriptor is open.

    :raises LayerError: nothing here understands zstd.
    """
    read, problem = _find_reader()

    def write(target: BinaryIO) -> None:
        with open(descriptor, "rb", closefd=False) as source, read(source) as reader:
            try:
                while data := reader.read(_CHUNK):
                    target.write(data)
            except (problem, EOFError) as error:
                raise LayerError(f"the archive's compression is damaged: {error}") from None

    return write


def _find_reader() -> tuple[Callable[[BinaryIO], BinaryIO], type[Exception]]:
    try:
        built_in = importlib.import_module("compression.zstd")
    except ImportError:
        pass
    else:
        return built_in.ZstdFile, built_in.ZstdError
    try:
        package = importlib.import_module("zstandard")
    except ImportError:
        raise LayerError(
            "the archive is compressed with zstd: pip install zstandard to have it understood"
        ) from None

    def read(source: BinaryIO) -> BinaryIO:
        reader = package.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        return cast("BinaryIO", reader)

    return read, package.ZstdError
