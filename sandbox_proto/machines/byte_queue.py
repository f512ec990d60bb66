"""Bytes that came and were not asked for yet."""

from __future__ import annotations

from collections import deque

# Smaller pieces are joined: a queue of single bytes would take fifty times their room.
_SMALL = 4096


class ByteQueue:
    """First in, first out, in any sizes."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._start = 0  # how much of the first piece was taken
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, data: bytes) -> None:
        """Bytes came."""
        self._size += len(data)
        last = self._pieces[-1] if self._pieces else None
        if len(data) >= _SMALL or last is None or len(last) >= _SMALL:
            self._pieces.append(data)
        elif isinstance(last, bytearray):
            last += data
        else:
            self._pieces[-1] = bytearray(last) + data

    def take(self, most: int) -> bytes:
        """At most so many bytes, as many as come cheaply; none only if there are none."""
        if not self._pieces:
            return b""
        first, start = self._pieces[0], self._start
        if len(first) - start > most:
            taken = bytes(first[start : start + most])
            self._start += most
        else:
            taken = bytes(first[start:])  # which is no copy of whole `bytes`
            self._pieces.popleft()
            self._start = 0
        self._size -= len(taken)
        return taken
