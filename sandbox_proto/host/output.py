"""What a command wrote, kept for whoever attaches: sanitised text in a ring."""

from __future__ import annotations

import codecs

RING_BYTES = 2 * 1024 * 1024
CHUNK_BYTES = 32 * 1024


class Utf8Sanitizer:
    """Raw bytes in, valid UTF-8 out, whatever the chunk borders.

    An incomplete character waits for its rest; what is not UTF-8 becomes U+FFFD. Offsets
    count the sanitised bytes (protocol/06 section 5), so sanitising comes before counting.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """The sanitised form of the next bytes."""
        return self._decoder.decode(data, final).encode()


class OutputRing:
    """The last bytes of one stream, with their offsets; the oldest make room for the newest."""

    def __init__(self, capacity: int = RING_BYTES) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self.start = 0
        """Offset of the oldest byte still held."""

    @property
    def capacity(self) -> int:
        """How many bytes it holds at most."""
        return self._capacity

    @property
    def end(self) -> int:
        """Offset behind the newest byte."""
        return self.start + len(self._data)

    def append(self, data: bytes) -> None:
        """Add sanitised bytes."""
        self._data += data
        excess = len(self._data) - self._capacity
        if excess > 0:
            self._drop(_align_forward(self._data, excess))

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self.start += count

    def room_before(self, offset: int) -> int:
        """How many bytes can be added before the byte at `offset` is lost."""
        return max(self._capacity - (self.end - max(offset, self.start)), 0)

    def read(self, offset: int, limit: int = CHUNK_BYTES) -> tuple[int, str]:
        """Text from `offset` on, and the offset it really begins at.

        It begins later if the byte is gone or inside a character. An offset beyond the end is
        the end.
        """
        position = min(max(offset - self.start, 0), len(self._data))
        position = _align_forward(self._data, position)
        stop = min(position + limit, len(self._data))
        while stop < len(self._data) and _continues(self._data[stop]):
            stop -= 1
        return self.start + position, self._data[position:stop].decode()


def _continues(byte: int) -> bool:
    """Whether a byte is inside a UTF-8 character, not at its beginning."""
    return byte & 0xC0 == 0x80


def _align_forward(data: bytearray, position: int) -> int:
    while position < len(data) and _continues(data[position]):
        position += 1
    return position
