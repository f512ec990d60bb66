"""The bytes of an archive, as they come out of a descriptor: plain, or compressed by gzip.

What was read is counted and hashed, so that it can be told afterwards what it was.

Standard library only: this runs in a child of the zygote.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import Final

from .tar_reader import TarError

_CHUNK: Final = 256 * 1024
_MAX_INFLATED: Final = 1024 * 1024
# Archives are padded to whole records; what goes on for longer is no padding.
_MAX_TRAILER: Final = 16 * 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_OTHER_COMPRESSIONS: Final = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


class Stream:
    """An uncompressed view of what a descriptor delivers."""

    def __init__(self, descriptor: int) -> None:
        """Read the beginning, to tell what it is.

        :raises TarError: it is compressed in a way that is not understood.
        """
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._buffer = b""
        self._position = 0
        self._raw = self._read_raw(6)
        self._inflater = None
        if self._raw.startswith(_GZIP):
            self._inflater = zlib.decompressobj(wbits=31)
        for magic, name in _OTHER_COMPRESSIONS:
            if self._raw.startswith(magic):
                raise TarError(f"the archive is compressed with {name}, which is not understood")

    def read(self, count: int) -> bytes:
        """The next bytes: up to `count` of them, and none only at the end."""
        if self._position == len(self._buffer):
            self._buffer = self._next()
            self._position = 0
            self._hash.update(self._buffer)
        data = self._buffer[self._position : self._position + count]
        self._position += len(data)
        return data

    def skip(self, count: int) -> int:
        """Pass over up to `count` bytes. Returns how many: none only at the end."""
        return len(self.read(count))

    def finish(self) -> str:
        """Read to the end. Returns the digest of the uncompressed archive.

        :raises TarError: what follows the archive is too long to be padding.
        """
        skipped = 0
        while count := self.skip(_MAX_INFLATED):
            skipped += count
            if skipped > _MAX_TRAILER:
                raise TarError("too much follows the end of the archive")
        return f"sha256:{self._hash.hexdigest()}"

    def _next(self) -> bytes:
        if self._inflater is None:
            data, self._raw = self._raw or os.read(self._descriptor, _CHUNK), b""
            return data
        try:
            return self._inflate()
        except zlib.error:
            raise TarError("the archive's compression is damaged") from None

    def _inflate(self) -> bytes:
        assert self._inflater is not None
        while True:
            if self._inflater.eof and not self._begin_member(self._inflater.unused_data):
                return b""
            if not self._raw:
                self._raw = os.read(self._descriptor, _CHUNK)
                if not self._raw:
                    raise TarError("the archive is cut off: its compression does not end")
            data = self._inflater.decompress(self._raw, _MAX_INFLATED)
            self._raw = self._inflater.unconsumed_tail
            if data:
                return data

    def _begin_member(self, rest: bytes) -> bool:
        """Go on with another compressed part, if another follows."""
        while not rest.lstrip(b"\0"):
            rest = os.read(self._descriptor, _CHUNK)
            if not rest:
                return False
        rest = rest.lstrip(b"\0")
        if len(rest) < len(_GZIP):
            rest += os.read(self._descriptor, _CHUNK)
        if not rest.startswith(_GZIP):
            raise TarError("something that is not compressed follows the compressed archive")
        self._inflater = zlib.decompressobj(wbits=31)
        self._raw = rest
        return True

    def _read_raw(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = os.read(self._descriptor, count - len(data))
            if not more:
                break
            data += more
        return data
