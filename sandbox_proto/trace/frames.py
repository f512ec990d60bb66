"""What a client sends, in a form that can be compared.

A client masks its WebSocket frames with random keys, so the same words look different each
time. Here frames are unmasked; everything else is passed on as it is.
"""

from __future__ import annotations

from typing import Any

from ..machines.base import SEND_EOF, Output

_OPCODES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
_FINAL, _MASKED = 0x80, 0x80
_UPGRADE = b"\r\nupgrade: websocket\r\n"


class SentBytes:
    """The output of one connection after the other."""

    def __init__(self, *, framed: bool = False) -> None:
        """
        :param framed: the upgrade has been made already.
        """
        self._framed = framed
        self._rest = bytearray()

    def new_connection(self) -> None:
        """What follows goes out on another connection."""
        self._framed = False
        self._rest.clear()

    def take(self, output: list[Output]) -> list[Any]:
        """Output as encoded data: bytes, whole frames, or the word ``end``."""
        taken: list[Any] = []
        for chunk in output:
            if chunk is SEND_EOF:
                taken.append("end")
            elif self._framed:
                self._rest += chunk
                taken += self._whole_frames()
            else:
                data = bytes(chunk)
                if data.startswith(b"GET ") and _UPGRADE in data.lower():
                    self._framed = True
                taken.append(data)
        return taken

    def _whole_frames(self) -> list[Any]:
        frames: list[Any] = []
        while (frame := self._next_frame()) is not None:
            frames.append(frame)
        return frames

    def _next_frame(self) -> dict[str, Any] | None:
        data = self._rest
        if len(data) < 2:
            return None
        header, length = 2, data[1] & ~_MASKED
        if length > 125:
            header += 2 if length == 126 else 8
            length = int.from_bytes(data[2:header]) if len(data) >= header else 1 << 64
        key_end = header + (4 if data[1] & _MASKED else 0)
        end = key_end + length
        if len(data) < end:
            return None
        payload = unmasked(bytes(data[key_end:end]), bytes(data[header:key_end]))
        name = _OPCODES.get(data[0] & 0x0F, "reserved")
        if not data[0] & _FINAL:
            name += " (to be continued)"
        del data[:end]
        return {"frame": name, "data": payload}


def unmasked(payload: bytes, key: bytes) -> bytes:
    """A payload without its mask (or with it: the operation is its own reverse)."""
    if not key or not payload:
        return payload
    size = len(payload)
    mask = int.from_bytes((key * (size // 4 + 1))[:size])
    return (int.from_bytes(payload) ^ mask).to_bytes(size)
