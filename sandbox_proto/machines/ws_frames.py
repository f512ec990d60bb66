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
    """Cuts a server's byte stream. Only for the client's side: servers do not mask."""

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._buffer = b""
        self._position = 0
        self._waiting = bytearray()  # an incomplete frame, until `_needed` bytes are there
        self._needed = 0
        self._other_left = 0

    def feed(self, data: bytes) -> None:
        """Bytes arrived."""
        if self._waiting:
            self._waiting += data
            if len(self._waiting) < self._needed:
                return
            data = bytes(self._waiting)
            self._waiting.clear()
        self._buffer = data
        self._position = 0

    def take(self, *, in_message: bool) -> Piece | None:
        """Cut the next piece off, or None when more bytes are needed.

        :param in_message: wsproto is in the middle of a fragmented message, so that any data
            frame is its business.
        """
        buffer, start = self._buffer, self._position
        available = len(buffer) - start
        if self._other_left:
            return self._cut_other(available) if available else None
        if available < 2:
            self._wait(2)
            return None
        first, second = buffer[start], buffer[start + 1]
        header, length = 2, second & 0x7F
        misspelt = False
        if length > 125:
            extended = 2 if length == 126 else 8
            header += extended
            if available < header:
                self._wait(header)
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
            self._wait(header + length)
            return None
        self._position = end
        return Piece(Kind.TEXT if first == _TEXT else Kind.BINARY, buffer[start + header : end])

    def _cut_other(self, available: int) -> Piece:
        count = min(available, self._other_left)
        self._other_left -= count
        start = self._position
        self._position += count
        return Piece(Kind.OTHER, self._buffer[start : start + count])

    def _wait(self, needed: int) -> None:
        self._waiting += memoryview(self._buffer)[self._position :]
        self._needed = needed
        self._buffer = b""
        self._position = 0
