"""Where a response body is gathered: one buffer, allocated once, handed out without a copy."""

from __future__ import annotations

import io

# Growing in steps keeps a lying Content-Length from costing memory the peer never
# sends, while the reallocation of a large block moves pages and copies nothing.
_STEP = 16 * 1024 * 1024


class BodyBuffer:
    """Gathers a body; of known length (filled in place) or unknown (appended).

    CPython's BytesIO gives its inner block away as `bytes` when nothing else looks at
    it, so a body of n bytes costs n bytes of memory, not two times n.
    """

    def __init__(self, length: int | None = None) -> None:
        self._io = io.BytesIO()
        self._length = length
        self._view: memoryview | None = None
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end."""
        self._release()
        self._io.seek(self._filled)
        self._io.write(data)
        self._filled += len(data)

    def writable(self) -> memoryview:
        """Room for the bytes that come next; only for bodies of known length."""
        assert self._length is not None and self._filled < self._length
        if self._view is None or self._filled == len(self._view):
            self._release()
            size = min(self._length, self._filled + _STEP)
            self._io.seek(size - 1)
            self._io.write(b"\0")
            self._view = self._io.getbuffer()
        return self._view[self._filled :]

    def filled(self, count: int) -> None:
        """`count` bytes were written into what `writable` returned."""
        self._filled += count

    def take(self) -> bytes:
        """The body. The buffer is empty afterwards."""
        self._release()
        self._io.truncate(self._filled)
        body = self._io.getvalue()
        self._io = io.BytesIO()
        self._filled = 0
        return body

    def _release(self) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None
