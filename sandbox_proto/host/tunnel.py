"""The server's end of one tunnel (protocol/09): messages in and out, and ports to dial."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from ..machines.base import Buffer, earliest
from ..machines.yamux import Yamux
from ..machines.yamux_events import (
    PeerGoesAway,
    SessionFailed,
    StreamAccepted,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    Violation,
    YamuxEvent,
    YamuxLimits,
)
from ..wire.tunnel import HEADER_BYTES, VERSION, TunnelStatus, decode_header

CLOSED, GOING_AWAY, BROKE_PROTOCOL = 1000, 1001, 1002

# A stream that does not say where it is to lead is reset after so many seconds.
_HEADER_SECONDS = 30.0
# What open streams are given to finish when the host shuts down, in seconds.
_LEAVE_SECONDS = 1.5


@attrs.frozen
class Dial:
    """A client wants a connection to this port: answer by `connected` or `refused`."""

    stream: int
    port: int


HostTunnelEvent = Dial | StreamData | StreamEnded | StreamReset


@attrs.define
class _Header:
    deadline: float
    data: bytes = b""


class HostTunnel:
    """One session, from its first message to its last.

    :ivar finished: the session is over: close with `close_code` when all is said.
    :ivar close_code: what to close the WebSocket with.
    :ivar violation: how the client broke the protocol, if it did.
    """

    def __init__(
        self,
        *,
        now: float,
        limits: YamuxLimits | None = None,
        allowed: Callable[[int], bool] = lambda port: True,
    ) -> None:
        """
        :param allowed: says which ports may be dialled.
        """
        self._yamux = Yamux("server", limits or YamuxLimits(), now=now)
        self._allowed = allowed
        self._headers: dict[int, _Header] = {}
        self._events: deque[HostTunnelEvent] = deque()
        self._leave_until: float | None = None
        self._now = now
        self.finished = False
        self.close_code = CLOSED
        self.violation: Violation | None = None

    # --- the driver's answers -----------------------------------------------------------

    def connected(self, stream: int, *, now: float) -> None:
        """The port answers."""
        self._yamux.send(stream, bytes([TunnelStatus.CONNECTED]), now=now)

    def refused(
        self, stream: int, *, now: float, status: TunnelStatus = TunnelStatus.REFUSED
    ) -> None:
        """The port does not answer, or not in time."""
        self._yamux.send(stream, bytes([status]), now=now)
        self._yamux.close(stream, now=now)

    def send(self, stream: int, data: Buffer, *, now: float) -> int:
        """What the port said. Returns how many bytes were taken, perhaps none."""
        return self._yamux.send(stream, data, now=now)

    def room(self, stream: int) -> int:
        """How many bytes `send` would take now."""
        return self._yamux.room(stream)

    def send_eof(self, stream: int, *, now: float) -> None:
        """The port says nothing more."""
        self._yamux.send_eof(stream, now=now)

    def consumed(self, stream: int, count: int, *, now: float) -> None:
        """The port has taken so many bytes."""
        self._yamux.consumed(stream, count, now=now)

    def reset(self, stream: int, *, now: float) -> None:
        """The connection to the port broke."""
        self._yamux.reset(stream, now=now)

    def leave(self, *, now: float) -> None:
        """The host shuts down: no new streams, and a moment for those that are open."""
        if self._leave_until is None and not self.finished:
            self._yamux.go_away()
            self._leave_until = now + _LEAVE_SECONDS

    # --- what the client says, and is told ----------------------------------------------

    def receive(self, message: str | bytes, *, now: float) -> None:
        """A message of the client; where it ends means nothing."""
        self._now = now
        data = message.encode() if isinstance(message, str) else message
        if data and not self.finished:
            self._yamux.receive_data(data, now=now)

    def next_message(self) -> bytes | None:
        """The next message to send, or None."""
        message = self._yamux.next_frame()
        if message is None and self._yamux.drained:
            # Also when it was the client that went: some do not close by themselves.
            self._finish(CLOSED if self._leave_until is None else GOING_AWAY)
        return message

    def next_event(self) -> HostTunnelEvent | None:
        """What happened next, or None."""
        while not self._events:
            event = self._yamux.next_event()
            if event is None:
                return None
            self._take(event)
        return self._events.popleft()

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout`."""
        if self.finished:
            return None
        header = next((header.deadline for header in self._headers.values()), None)
        return earliest(header, self._leave_until, self._yamux.next_deadline())

    def handle_timeout(self, *, now: float) -> None:
        """Time passed. Harmless when called early."""
        self._now = now
        self._yamux.handle_timeout(now=now)
        for stream, header in list(self._headers.items()):
            if header.deadline <= now:
                del self._headers[stream]
                self._yamux.reset(stream, now=now)
        if self._leave_until is not None and now >= self._leave_until:
            self._finish(GOING_AWAY)

    # --- yamux --------------------------------------------------------------------------

    def _take(self, event: YamuxEvent) -> None:
        match event:
            case StreamOpened(stream):
                self._headers[stream] = _Header(self._now + _HEADER_SECONDS)
            case StreamData(stream, data) if stream in self._headers:
                self._take_header(stream, data)
            case StreamEnded(stream) if stream in self._headers:
                del self._headers[stream]
                self._yamux.reset(stream, now=self._now)
            case StreamReset(stream) if stream in self._headers:
                del self._headers[stream]
            case StreamData() | StreamEnded() | StreamReset():
                self._events.append(event)
            case SessionFailed(_, violation):
                self.violation = violation
                self._headers.clear()
                self._finish(CLOSED if violation is None else BROKE_PROTOCOL)
            case PeerGoesAway() | StreamAccepted():
                pass  # what is open goes on; and we open nothing

    def _take_header(self, stream: int, data: bytes) -> None:
        header = self._headers[stream]
        have = len(header.data)
        header.data += data[: HEADER_BYTES - have]
        rest = data[HEADER_BYTES - have :]
        self._yamux.consumed(stream, len(data) - len(rest), now=self._now)
        if len(header.data) < HEADER_BYTES:
            return
        del self._headers[stream]
        version, port = decode_header(header.data)
        if version != VERSION:
            self.refused(stream, now=self._now, status=TunnelStatus.UNSUPPORTED_VERSION)
        elif not self._allowed(port):
            self.refused(stream, now=self._now, status=TunnelStatus.PORT_NOT_ALLOWED)
        elif not port:
            self.refused(stream, now=self._now)
        else:
            self._events.append(Dial(stream, port))
            if rest:
                self._events.append(StreamData(stream, rest))

    def _finish(self, code: int) -> None:
        if not self.finished:
            self.finished = True
            self.close_code = code
