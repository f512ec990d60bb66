"""yamux sessions driven by hand: one against frames written here, or two against each other."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Literal

from sandbox_proto.machines.yamux import Yamux
from sandbox_proto.machines.yamux_events import (
    SessionFailed,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    YamuxEvent,
    YamuxLimits,
)

DATA, WINDOW, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
KIB = 1024
WINDOW_BYTES = 256 * KIB

# Nothing happens by itself, and no window is larger than the protocol's first.
PLAIN = YamuxLimits(ping_interval=None, first_window=WINDOW_BYTES, max_window=WINDOW_BYTES)


def frame(type: int, flags: int, stream: int, length: int | bytes, *, version: int = 0) -> bytes:
    """One frame; data frames are given their payload."""
    payload = length if isinstance(length, bytes) else b""
    number = len(payload) if isinstance(length, bytes) else length
    return struct.pack("!BBHII", version, type, flags, stream, number) + payload


def read_frames(data: bytes) -> list[tuple[int, int, int, int | bytes]]:
    """What was sent: type, flags, stream, and the length or the payload."""
    frames: list[tuple[int, int, int, int | bytes]] = []
    while data:
        version, type, flags, stream, length = struct.unpack_from("!BBHII", data)
        assert version == 0
        data = data[12:]
        if type == DATA:
            assert len(data) >= length, "a frame is given whole"
            frames.append((type, flags, stream, data[:length]))
            data = data[length:]
        else:
            frames.append((type, flags, stream, length))
    return frames


class Side:
    """One `Yamux` driven by hand.

    :ivar inbox: stream -> what came on it.
    :ivar opened: the streams that the peer opened.
    :ivar ended: the streams that the peer ended.
    :ivar reset: the streams that were reset.
    """

    def __init__(
        self,
        role: Literal["client", "server"] = "client",
        limits: YamuxLimits = PLAIN,
        *,
        consumes: bool = True,
    ) -> None:
        self.now = 0.0
        self.machine = Yamux(role, limits, now=0.0)
        self.consumes = consumes
        self.events: list[YamuxEvent] = []
        self.inbox: dict[int, bytearray] = {}
        self.opened: list[int] = []
        self.ended: set[int] = set()
        self.reset: set[int] = set()

    def open(self) -> int:
        return self.machine.open(now=self.now)

    def send(self, stream: int, data: bytes) -> int:
        return self.machine.send(stream, data, now=self.now)

    def feed(self, *pieces: bytes) -> list[YamuxEvent]:
        """Bytes arrive. Returns what happened."""
        before = len(self.events)
        for piece in pieces:
            self.machine.receive_data(piece, now=self.now)
        self.take()
        return self.events[before:]

    def at(self, now: float) -> None:
        """Let time pass until then."""
        self.now = now
        self.machine.handle_timeout(now=now)
        self.take()

    def take(self) -> None:
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            match event:
                case StreamOpened(stream):
                    self.opened.append(stream)
                case StreamData(stream, data):
                    self.inbox.setdefault(stream, bytearray()).extend(data)
                    if self.consumes:
                        self.machine.consumed(stream, len(data), now=self.now)
                case StreamEnded(stream):
                    self.ended.add(stream)
                case StreamReset(stream):
                    self.reset.add(stream)

    def flush(self) -> bytes:
        """All that is to be sent now."""
        frames = []
        while self.machine.has_frames:
            frame = self.machine.next_frame()
            assert frame is not None
            frames.append(frame)
        assert self.machine.next_frame() is None
        return b"".join(frames)

    def said(self) -> list[tuple[int, int, int, int | bytes]]:
        """The frames that are to be sent now."""
        return read_frames(self.flush())

    @property
    def failure(self) -> SessionFailed:
        failures = [event for event in self.events if isinstance(event, SessionFailed)]
        assert len(failures) == 1, "a session fails once"
        assert self.events[-1] is failures[0], "nothing follows the end"
        return failures[0]


def settle(one: Side, other: Side) -> None:
    """Carry bytes until neither side has any."""
    while True:
        there, back = one.flush(), other.flush()
        if not there and not back:
            return
        if there:
            other.feed(there)
        if back:
            one.feed(back)


def pair(
    limits: YamuxLimits = PLAIN, *, consumes: Iterable[bool] = (True, True)
) -> tuple[Side, Side]:
    """A client and a server."""
    first, second = consumes
    return Side("client", limits, consumes=first), Side("server", limits, consumes=second)
