"""yamux on the wire: twelve bytes of header, and what follows them (protocol/09 section 2).

Data is not collected into frames when it is read: a header is looked at as soon as it is
whole, and its payload is handed on in the pieces in which it comes. So no length that a
peer announces costs any memory.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("!BBHII")
VERSION: Final = 0

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

SESSION: Final = 0
"""The stream id of frames that concern the whole session."""
INITIAL_WINDOW: Final = 256 * 1024
"""What each side may send on a new stream before it is told more."""
MAX_STREAM_ID: Final = 0xFFFFFFFF
MAX_WINDOW: Final = 0xFFFFFFFF
MAX_PAYLOAD: Final = 64 * 1024 - HEADER.size
"""The largest payload we send: with its header it fills a message of 64 KiB."""


class GoAwayCode(enum.IntEnum):
    """Why a side takes no new streams."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Header(NamedTuple):
    """The head of a frame, as it was sent.

    :ivar length: of the payload; for other types than data it is the value itself.
    """

    version: int
    type: int
    flags: int
    stream: int
    length: int


def encode(type: int, flags: int, stream: int, length: int) -> bytes:
    """The head of a frame, which is all of it for other types than data."""
    return HEADER.pack(VERSION, type, flags, stream, length)


class FrameReader:
    """Cuts a byte stream, however it is split, into headers and pieces of payload."""

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0

    def feed(self, data: bytes) -> None:
        """Bytes arrived; what was fed before was taken, but for the beginning of a header."""
        rest = self._buffer[self._position :]
        self._buffer = rest + data if rest else data
        self._position = 0

    def header(self) -> Header | None:
        """The next header, or None if it is not whole."""
        start = self._position
        if len(self._buffer) - start < HEADER.size:
            return None
        self._position = start + HEADER.size
        return Header(*HEADER.unpack_from(self._buffer, start))

    def payload(self, most: int) -> bytes:
        """What there is of the payload: at most so many bytes, perhaps none."""
        start = self._position
        piece = self._buffer[start : start + most]
        self._position = start + len(piece)
        return piece
