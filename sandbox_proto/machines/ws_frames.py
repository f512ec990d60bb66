"""Telling whole data frames from everything else in a WebSocket byte stream.

wsproto spends most of its time on the ceremony of a frame. Nearly all frames a
server sends are whole messages: FIN set, no extension bits, no mask. This splitter
recognises exactly those and cuts their payload out; every other frame (control,
fragmented, masked, extended or wrong) is passed on byte for byte for wsproto to
judge. `tests/core/test_websocket.py` proves the two ways equal for every split.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

_TEXT, _BINARY = 0x81, 0x82  # FIN, no reserved bit, opcode 1 or 2
_EXTENDED = {126: 2, 127: 8}  # how many bytes spell the length behind these
_LEAST_LENGTH = {2: 126, 8: 65536}  # what may be spelled in so many bytes; less fits into fewer


class Kind(enum.Enum):
    """What `FrameSplitter.take` cut off."""

    TEXT = enum.auto()
    BINARY = enum.auto()
    OTHER = enum.auto()
    """Bytes of a frame that is wsproto's business; not necessarily the whole frame."""
    OVERSIZED = enum.auto()
    """A data frame that announces more than the limit; nothing was consumed."""


class Piece(NamedTuple):
    """One cut: what it is, and its payload (for OTHER: its raw bytes)."""

    kind: Kind
    data: bytes


class FrameSplitter:
    """Cuts a server's byte stream. Only for the client's side: servers do not mask.

    Frames are cut out of what was fed, without a copy of it. Only a frame that came in pieces
    is put together, and nothing but that frame.
    """

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._buffer = b""
        self._position = 0
        self._following: tuple[bytes, int] | None = None  # what comes after the buffer, from where
        self._waiting = bytearray()  # an incomplete frame, until `_needed` bytes are there
        self._needed = 0
        self._other_left = 0

    def feed(self, data: bytes) -> None:
        """Bytes arrived. What was fed before has been taken, but for an incomplete frame."""
        if self._waiting:
            self._complete(data, 0)
        else:
            self._buffer, self._position = data, 0

    def take_texts(self) -> list[bytes]:
        """The payloads of all whole text frames that come next: `take` for many at once.

        Only while wsproto is not in the middle of a fragmented message.
        """
        texts: list[bytes] = []
        if self._other_left:
            return texts
        buffer, position, most = self._buffer, self._position, self._max_payload
        end = len(buffer)
        # Four bytes: the head of nearly every frame. Shorter frames at the end are for `take`.
        while position + 4 <= end and buffer[position] == _TEXT:
            length = buffer[position + 1]
            if length < 126:
                start = position + 2
            elif length == 126:
                start = position + 4
                length = buffer[position + 2] << 8 | buffer[position + 3]
                if length < _LEAST_LENGTH[2]:
                    break
            elif length == 127 and position + 10 <= end:
                start = position + 10
                length = int.from_bytes(buffer[position + 2 : start])
                if length < _LEAST_LENGTH[8]:
                    break
            else:
                break  # masked, or not all of its head is there
            stop = start + length
            if stop > end or length > most:
                break
            texts.append(buffer[start:stop])
            position = stop
        self._position = position
        return texts

    def take(self, *, in_message: bool) -> Piece | None:
        """Cut the next piece off, or None when more bytes are needed.

        :param in_message: wsproto is in the middle of a fragmented message, so that any data
            frame is its business.
        """
        while True:
            buffer, start = self._buffer, self._position
            available = len(buffer) - start
            if not available:
                if self._following is None:
                    return None
                (self._buffer, self._position), self._following = self._following, None
                continue
            if self._other_left:
                return self._cut_other(available)
            if available < 2:
                if self._wait(2):
                    continue
                return None
            first, second = buffer[start], buffer[start + 1]
            header, length = 2, second & 0x7F
            misspelt = False
            if length > 125:
                extended = _EXTENDED[length]
                header += extended
                if available < header:
                    if self._wait(header):
                        continue
                    return None
                length = int.from_bytes(buffer[start + 2 : start + header])
                misspelt = length < _LEAST_LENGTH[extended] or length >= 1 << 63
            plain = first in (_TEXT, _BINARY) and second < 0x80 and not in_message and not misspelt
            if not plain:
                self._other_left = header + (4 if second & 0x80 else 0) + length
                return self._cut_other(available)
            if length > self._max_payload:
                return Piece(Kind.OVERSIZED, b"")
            end = start + header + length
            if len(buffer) < end:
                if self._wait(header + length):
                    continue
                return None
            self._position = end
            kind = Kind.TEXT if first == _TEXT else Kind.BINARY
            return Piece(kind, buffer[start + header : end])

    def _cut_other(self, available: int) -> Piece:
        count = min(available, self._other_left)
        self._other_left -= count
        start = self._position
        self._position += count
        return Piece(Kind.OTHER, self._buffer[start : start + count])

    def _wait(self, needed: int) -> bool:
        """Keep the beginning of a frame until there is so much of it. Returns whether there is."""
        self._waiting += memoryview(self._buffer)[self._position :]
        self._needed = needed
        self._buffer, self._position = b"", 0
        following, self._following = self._following, None
        return following is not None and self._complete(*following)

    def _complete(self, data: bytes, start: int) -> bool:
        """Take what is missing of the frame. Returns whether it is there now."""
        end = start + self._needed - len(self._waiting)
        self._waiting += memoryview(data)[start:end]
        if len(self._waiting) < self._needed:
            return False
        self._buffer, self._position = bytes(self._waiting), 0
        self._waiting.clear()
        self._following = (data, end) if end < len(data) else None
        return True
