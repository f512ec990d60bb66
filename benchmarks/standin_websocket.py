"""The server's side of WebSocket framing, as little of it as the stand-in needs."""

from __future__ import annotations

from collections.abc import Iterator

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame, unmasked."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8) + payload


def unmask(data: bytes | memoryview, mask: bytes, skipped: int = 0) -> bytes:
    """Masked bytes in the clear.

    :param skipped: how many bytes of the payload came before these.
    """
    size = len(data)
    if not size:
        return b""
    turn = skipped & 3
    key = (mask[turn:] + mask[:turn]) * (size // 4 + 1)
    return (int.from_bytes(data) ^ int.from_bytes(key[:size])).to_bytes(size)


class ClientFrames:
    """Cuts a client's byte stream into whole frames."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The opcodes and payloads that the next bytes complete."""
        return [(opcode, unmask(masked, mask)) for opcode, masked, mask in self.cut(data)]

    def cut(self, data: bytes) -> Iterator[tuple[int, memoryview, bytes]]:
        """The same with the payloads as they came, and their masks."""
        data = self._buffer + data if self._buffer else data
        view, start = memoryview(data), 0
        while len(data) - start >= 6:
            size, head = data[start + 1] & 0x7F, 2
            if size > 125:
                extended = 2 if size == 126 else 8
                head += extended
                if len(data) - start < head:
                    break
                size = int.from_bytes(data[start + 2 : start + head])
            end = start + head + 4 + size
            if len(data) < end:
                break
            body = start + head + 4
            yield data[start] & 0x0F, view[body:end], data[start + head : body]
            start = end
        self._buffer = data[start:]
