"""WebSocket frames made and read by hand, so that no library can hide its own mistakes."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from sandbox_proto.faults import Fault
from sandbox_proto.machines.websocket import (
    Closed,
    Failed,
    Message,
    Role,
    WebSocket,
    WebSocketEvent,
    WebSocketLimits,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

QUIET = WebSocketLimits(ping_interval=None)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = None,
    form: int | None = None,
    length: int | None = None,
) -> bytes:
    """One frame.

    :param form: how many bytes spell the length (0, 2, 8), else the shortest.
    :param length: the length to announce, if not that of the payload.
    """
    size = len(payload) if length is None else length
    if form is None:
        form = 0 if size < 126 else 2 if size < 65536 else 8
    masked = 0 if mask is None else 0x80
    first = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if form == 0:
        head = first + bytes([masked | size])
    elif form == 2:
        head = first + bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head = first + bytes([masked | 127]) + struct.pack("!Q", size)
    if mask is None:
        return head + payload
    return head + mask + _masked(payload, mask)


def close_frame(code: int | None = None, reason: str = "", *, mask: bytes | None = None) -> bytes:
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(CLOSE, payload, mask=mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def read_frames(data: bytes) -> list[tuple[int, bytes]]:
    """What a client sent: opcode and payload of each frame; every one masked and whole."""
    frames = []
    while data:
        first, second = data[0], data[1]
        assert first & 0xF0 == 0x80, "a client of ours sends whole frames without extensions"
        assert second & 0x80, "a client must mask"
        size, start = second & 0x7F, 2
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[2:start])
        mask, payload = data[start : start + 4], data[start + 4 : start + 4 + size]
        frames.append((first & 0xF, _masked(payload, mask)))
        data = data[start + 4 + size :]
    return frames


def close_code(frames: list[tuple[int, bytes]]) -> int | None:
    """The code of the close frame among these, if there is one and it has one."""
    for opcode, payload in frames:
        if opcode == CLOSE and payload:
            return int.from_bytes(payload[:2])
    return None


class Socket:
    """A `WebSocket` driven by hand."""

    def __init__(
        self,
        role: Role = "client",
        limits: WebSocketLimits = QUIET,
        *,
        now: float = 0.0,
        **more: object,
    ) -> None:
        self.machine = WebSocket(role, limits, now=now, **more)  # type: ignore[arg-type]
        self.now = now
        self.events: list[WebSocketEvent] = []
        self.sent: list[tuple[int, bytes]] = []

    def feed(self, *pieces: bytes) -> list[WebSocketEvent]:
        for piece in pieces:
            self.machine.receive_data(piece, now=self.now)
        return self.take()

    def at(self, now: float) -> list[WebSocketEvent]:
        self.now = now
        self.machine.handle_timeout(now=now)
        return self.take()

    def flush(self) -> bytes:
        """Write what is due; returns it."""
        output = b"".join(bytes(piece) for piece in self.machine.data_to_send())  # type: ignore[arg-type]
        if output:
            self.machine.data_sent(len(output), now=self.now)
        return output

    def take(self) -> list[WebSocketEvent]:
        """All events so far; what was sent stands in `sent` (for clients)."""
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
        return self.events

    def said(self) -> list[tuple[int, bytes]]:
        """The frames a client has sent so far."""
        self.sent += read_frames(self.flush())
        return self.sent

    @property
    def messages(self) -> list[str | bytes]:
        return [event.data for event in self.take() if isinstance(event, Message)]

    @property
    def end(self) -> Closed | Failed | None:
        ends = [event for event in self.take() if isinstance(event, (Closed, Failed))]
        assert len(ends) <= 1, "a socket ends once"
        assert not ends or self.events[-1] is ends[0], "nothing follows the end"
        return ends[0] if ends else None

    @property
    def fault(self) -> Fault:
        assert isinstance(self.end, Failed), f"it did not fail: {self.end}"
        return self.end.fault


def joined(frames: Iterable[bytes]) -> bytes:
    return b"".join(frames)
