"""A chunked body (RFC 9112 section 7.1), read without an event for each of its chunks.

It accepts what h11 accepts; `tests/core/test_chunked.py` holds the two against each other.
"""

from __future__ import annotations

import re

import h11

# As long as a line of sizes, or all trailers together, may be.
MAX_LINE_BYTES = 64 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,20})(?:;[^\n]*)?[ \t]*")
_BLANK_LINE = re.compile(rb"\n\r?\n")


class BadChunk(ValueError):
    """The body is not chunked as it should be."""


class ChunkReader:
    """Takes the chunks off a body.

    :ivar finished: the last chunk and what belongs to it have come.
    :ivar rest: what came behind.
    """

    def __init__(self) -> None:
        self.finished = False
        self.rest = b""
        self._pending = b""  # the beginning of a line
        self._left = 0  # of the present chunk, with the end of line behind it
        self._last = False

    def feed(self, data: bytes) -> bytes:
        """The content of the next bytes.

        :raises BadChunk: they do not belong there.
        """
        if self._pending:
            data, self._pending = self._pending + data, b""
        position, end = 0, len(data)
        content: list[bytes] = []
        while position < end and not self.finished:
            if self._left > 2:
                stop = min(position + self._left - 2, end)
                content.append(data[position:stop])
                self._left -= stop - position
                position = stop
            elif self._left:
                expected = b"\r\n"[2 - self._left :]
                given = data[position : position + self._left]
                if not expected.startswith(given):
                    raise BadChunk("a chunk is longer than it said")
                self._left -= len(given)
                position += len(given)
            elif self._last:
                position = self._take_trailers(data, position)
            else:
                position = self._take_size(data, position)
        if self.finished:
            self.rest = data[position:]
        return content[0] if len(content) == 1 else b"".join(content)

    def _take_size(self, data: bytes, position: int) -> int:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            return self._keep(data, position)
        match = _SIZE.fullmatch(data, position, line_end)
        if match is None:
            raise BadChunk("the size of a chunk is malformed")
        size = int(match[1], 16)
        self._last = not size
        self._left = size + 2 if size else 0
        return line_end + 2

    def _take_trailers(self, data: bytes, position: int) -> int:
        if data.startswith((b"\r\n", b"\n"), position):
            self.finished = True
            return data.index(b"\n", position) + 1
        blank_line = _BLANK_LINE.search(data, position)
        if blank_line is None:
            return self._keep(data, position)
        _check_trailers(data[position : blank_line.end()])
        self.finished = True
        return blank_line.end()

    def _keep(self, data: bytes, position: int) -> int:
        self._pending = data[position:]
        if len(self._pending) > MAX_LINE_BYTES:
            raise BadChunk(f"a line exceeds {MAX_LINE_BYTES} bytes")
        return len(data)


def _check_trailers(trailers: bytes) -> None:
    """Let h11 read them. Hardly anybody sends any."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    connection.receive_data(trailers)
    try:
        connection.next_event()
        connection.next_event()
    except h11.RemoteProtocolError as error:
        raise BadChunk(f"the trailers are malformed: {error}") from None
