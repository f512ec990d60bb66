"""The client's end of a tunnel: connections to ports in a sandbox, over one WebSocket.

Three layers are one machine here: the WebSocket carries yamux frames in binary messages,
and each yamux stream begins with a few words about where it is to lead (`wire.tunnel`).

    stream        on                        then
    ----------    -----------------------   ------------------------------------------------
    asked for     status 0                  connected: data flows both ways
                  another status            refused
                  its end, or no answer     refused
    connected     see `machines.yamux`      ended, in order or by a reset
    any           the session ends          ended; `SessionEnded` says it for all

A session ends once. Whether another one is tried is for `plans.reconnect`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import attrs

from ..errors import (
    LocalProtocolError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxRetryableConnectionError,
    SandboxServerReloadError,
    SandboxTimeoutError,
    TunnelError,
)
from ..faults import Fault, FaultKind
from ..wire.error_bodies import context_of, read_detail, retry_after_seconds
from ..wire.http import Request, Response
from ..wire.tunnel import MAX_MESSAGE_BYTES, encode_header, status_error
from ..wire.urls import Origin, Url
from .base import SEND_EOF, Buffer, Output, earliest
from .upgrade import UpgradeFailed, UpgradeRejected
from .websocket import (
    GOING_AWAY,
    NORMAL_CLOSURE,
    Closed,
    Failed,
    MarkPassed,
    Message,
    WebSocketLimits,
)
from .ws_client import Opened, WebSocketClient, WebSocketClientEvent
from .yamux import Yamux
from .yamux_events import (
    PeerGoesAway,
    SessionFailed,
    StreamAccepted,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    YamuxEvent,
    YamuxLimits,
)

_BROKE_PROTOCOL = 1002
# What may wait in the WebSocket for the transport. More would only be queued there, where
# it is out of the reach of a stream that is reset.
_ON_ITS_WAY = 256 * 1024
_RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
# Servers have nothing to ask of us.
_CLIENT_YAMUX = YamuxLimits(peer_streams=0)


@attrs.frozen(kw_only=True)
class TunnelLimits:
    """Limits of a session, in seconds.

    :ivar open: for the WebSocket to open, TCP and TLS included; None is no limit.
    :ivar status: for the server to say whether a port can be reached.
    :ivar close: for the server's half of the closing handshake; None is no limit.
    :ivar yamux: those of the layer below.
    """

    open: float | None = 30.0
    status: float = 30.0
    close: float | None = 0.01
    yamux: YamuxLimits = _CLIENT_YAMUX


@attrs.frozen
class SessionOpened:
    """The session is open: `open` may be called."""


@attrs.frozen
class StreamConnected:
    """The port answers; data flows."""

    stream: int


@attrs.frozen
class StreamRefused:
    """The stream came to nothing; the session goes on."""

    stream: int
    error: SandboxClientError


@attrs.frozen
class StreamRoom:
    """`send` took less than it was given, and would take more now."""

    stream: int


@attrs.frozen
class SessionLeaving:
    """The server takes no new streams; those that are open go on."""


@attrs.frozen
class SessionEnded:
    """The session is over, and every stream that was open in it.

    :ivar error: what a user is told who needed it.
    :ivar final: another attempt would end the same way.
    :ivar retry_after: what the server asked us to wait, in seconds.
    """

    error: SandboxClientError
    final: bool = False
    retry_after: float | None = None

    @classmethod
    def unreachable(cls, fault: Fault) -> SessionEnded:
        """No connection could be made, or it was lost."""
        return cls(fault.to_error(), final=fault.kind is FaultKind.TLS)


TunnelEvent = (
    SessionOpened
    | StreamConnected
    | StreamRefused
    | StreamRoom
    | StreamData
    | StreamEnded
    | StreamReset
    | SessionLeaving
    | SessionEnded
)


class TunnelSession:
    """See the module's text, and `machines.base` for how to drive it."""

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str],
        limits: TunnelLimits,
        *,
        nonce: bytes,
        now: float,
    ) -> None:
        """
        :param base: the data plane's base URL.
        :param nonce: 16 unpredictable bytes for the WebSocket's key.
        """
        self._url = Url.parse(base.rstrip("/") + "/tunnel")
        self._headers, self._limits = headers, limits
        self._wire = WebSocketClient(
            self._url,
            headers,
            WebSocketLimits(
                ping_interval=None,  # yamux has pings of its own
                pong_timeout=None,
                close_timeout=limits.close,
                max_message_bytes=MAX_MESSAGE_BYTES,
            ),
            nonce=nonce,
            open_deadline=None if limits.open is None else now + limits.open,
            open_timeout=limits.open,
        )
        self._yamux: Yamux | None = None
        self._events: deque[TunnelEvent] = deque()
        self._asked: dict[int, tuple[int, float]] = {}  # stream -> port, deadline
        self._short: set[int] = set()  # streams that would send more
        self._unsent = 0
        self._now = now
        self._connected = self._ended = False

    # --- commands ---------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether `open` may be called."""
        return not self._ended and self._yamux is not None and self._yamux.can_open

    @property
    def round_trip(self) -> float | None:
        """The shortest measured so far, in seconds."""
        return None if self._yamux is None else self._yamux.round_trip

    def open(self, port: int, *, now: float) -> int:
        """Ask for a connection to a port in the sandbox. Returns its stream's number.

        :raises LocalProtocolError: not `can_open`.
        """
        if self._yamux is None or not self.can_open:
            raise LocalProtocolError("the tunnel's session takes no new streams")
        stream = self._yamux.open(now=now)
        self._yamux.send(stream, encode_header(port), now=now)
        self._asked[stream] = (port, now + self._limits.status)
        return stream

    def room(self, stream: int) -> int:
        """How many bytes `send` would take now."""
        return 0 if self._yamux is None else self._yamux.room(stream)

    def unsent(self, stream: int) -> int:
        """How many bytes were taken from the application and are still here."""
        return 0 if self._yamux is None else self._yamux.unsent(stream)

    @property
    def flushed(self) -> bool:
        """Whether the transport has taken everything."""
        return not self._unsent and not self._has_frames

    @property
    def has_more(self) -> bool:
        """Whether `data_to_send` would give more than it did."""
        return self._has_frames and self._unsent < _ON_ITS_WAY

    def send(self, stream: int, data: Buffer, *, now: float) -> int:
        """Send data. Returns how many bytes were taken, perhaps none: then `StreamRoom` follows."""
        taken = 0 if self._yamux is None else self._yamux.send(stream, data, now=now)
        if taken < len(data):
            self._short.add(stream)
        return taken

    def send_eof(self, stream: int, *, now: float) -> None:
        """Nothing more will be sent on this stream; reading goes on."""
        if self._yamux is not None:
            self._yamux.send_eof(stream, now=now)

    def consumed(self, stream: int, count: int, *, now: float) -> None:
        """So many bytes of this stream are out of the way."""
        if self._yamux is not None:
            self._yamux.consumed(stream, count, now=now)

    def mark(self, *, now: float) -> int:
        """Ask the server to confirm what it has: see `passed`."""
        return 0 if self._yamux is None else self._yamux.mark(now=now)

    def passed(self, mark: int) -> bool:
        """Whether the server has received all that was sent before this mark."""
        return self._yamux is None or self._yamux.passed(mark)

    def close_stream(self, stream: int, *, now: float) -> None:
        """Done with a stream: what was sent goes out, nothing more is read."""
        if self._yamux is not None:
            self._yamux.close(stream, now=now)
        self._forget(stream)

    def reset(self, stream: int, *, now: float) -> None:
        """End a stream at once, in both directions."""
        if self._yamux is not None:
            self._yamux.reset(stream, now=now)
        self._forget(stream)

    def _forget(self, stream: int) -> None:
        self._asked.pop(stream, None)
        self._short.discard(stream)

    def close(self, *, now: float) -> None:
        """Go away, and close the WebSocket. Streams that are open are cut."""
        self._now = now
        if self._yamux is not None and self._wire.open:
            self._yamux.go_away()
            self._pack(everything=True)
            self._wire.close(NORMAL_CLOSURE, now=now)
        self._end(SessionEnded(SandboxConnectionError("the tunnel was closed"), final=True))

    # --- the transport ----------------------------------------------------------------

    @property
    def connection_wanted(self) -> Origin | None:
        """Where to connect to, when a connection is needed now."""
        return None if self._connected or self._ended else self._url.origin

    def connected(self, *, now: float) -> None:
        """The driver has a fresh connection."""
        self._now = now
        self._connected = True

    def connect_failed(self, fault: Fault, *, now: float) -> None:
        """No connection could be made."""
        self._now = now
        self._end(SessionEnded.unreachable(fault))

    @property
    def over(self) -> bool:
        """No more events will come, except those not yet taken."""
        return self._ended

    # --- what the driver feeds --------------------------------------------------------

    def receive_data(self, data: Buffer, *, now: float) -> None:
        self._now = now
        self._wire.receive_data(data, now=now)

    def receive_eof(self, *, now: float) -> None:
        self._wire.receive_eof(now=now)

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        self._wire.connection_lost(fault, now=now)

    def data_to_send(self) -> list[Output]:
        if not self._connected:
            return []
        self._pack()
        output = self._wire.data_to_send()
        for piece in output:
            if piece is not SEND_EOF:
                self._unsent += len(piece)
        return output

    def data_sent(self, count: int, *, now: float) -> None:
        self._now = now
        self._unsent -= count
        self._wire.data_sent(count, now=now)

    def resume(self, *, now: float) -> None:
        """The driver was away and did not read: that silence is not the server's."""
        self._wire.resume(now=now)
        if self._yamux is not None:
            self._yamux.resume(now=now)

    def receive_buffer(self) -> memoryview | None:
        return None

    def buffer_filled(self, count: int, *, now: float) -> None:
        raise LocalProtocolError("this machine gave no buffer")

    # --- what the driver reads --------------------------------------------------------

    @property
    def wants_read(self) -> bool:
        return not self._ended

    @property
    def finished(self) -> bool:
        """There is no connection, or it is of no further use."""
        return not self._connected or (self._ended and not self._events)

    def next_deadline(self) -> float | None:
        if self._ended:
            return None
        if self.has_more:
            return self._now  # `data_to_send` does not give everything at once
        asked = min((deadline for _, deadline in self._asked.values()), default=None)
        below = None if self._yamux is None else self._yamux.next_deadline()
        return earliest(asked, below, self._wire.next_deadline())

    def handle_timeout(self, *, now: float) -> None:
        self._now = now
        self._wire.handle_timeout(now=now)
        if self._yamux is None or self._ended:
            return
        self._yamux.handle_timeout(now=now)
        late = [(stream, port) for stream, (port, until) in self._asked.items() if until <= now]
        for stream, port in late:
            self.reset(stream, now=now)
            limit = self._limits.status
            text = f"the server did not say within {limit:g} s whether port {port} answers"
            error = SandboxTimeoutError(text, limit="connect", seconds=limit)
            self._events.append(StreamRefused(stream, error))

    def next_event(self) -> TunnelEvent | None:
        while not self._events:
            if self._ended:
                return None
            if self._yamux is not None and (event := self._yamux.next_event()) is not None:
                self._take_from_yamux(event)
            elif (message := self._wire.next_event()) is not None:
                self._take_from_wire(message)
            else:
                return self._next_room()
        return self._events.popleft()

    def _next_room(self) -> StreamRoom | None:
        """One that had to wait and has found room for a piece worth its while."""
        for stream in self._short:
            if 2 * self.room(stream) >= self._limits.yamux.send_buffer:
                self._short.remove(stream)
                return StreamRoom(stream)
        return None

    # --- the WebSocket ----------------------------------------------------------------

    @property
    def _has_frames(self) -> bool:
        return self._yamux is not None and self._yamux.has_frames and self._wire.open

    def _pack(self, *, everything: bool = False) -> None:
        """Put frames into messages, one each, as far as they will soon be on their way."""
        if self._yamux is None or not self._has_frames:
            return
        room = _ON_ITS_WAY - self._unsent
        while everything or room > 0:
            if (frame := self._yamux.next_frame()) is None:
                return
            self._wire.send_bytes(frame, now=self._now)
            room -= len(frame)

    def _take_from_wire(self, event: WebSocketClientEvent) -> None:
        match event:
            case Opened():
                self._yamux = Yamux("client", self._limits.yamux, now=self._now)
                self._events.append(SessionOpened())
            case Message(data):
                raw = data.encode() if isinstance(data, str) else data
                if raw and self._yamux is not None:
                    self._yamux.receive_data(raw, now=self._now)
            case UpgradeRejected(response):
                self._end(self._rejected(response))
            case UpgradeFailed(fault):
                final = fault.kind in (FaultKind.PROTOCOL, FaultKind.TOO_LARGE)
                self._end(SessionEnded(fault.to_error(), final=final))
            case Closed(code, reason):
                said = f" ({reason})" if reason else ""
                text = f"the server closed the tunnel's session with code {code}{said}"
                kind = SandboxServerReloadError if code == GOING_AWAY else SandboxConnectionError
                self._end(SessionEnded(kind(text)))
            case Failed(fault):
                self._end(SessionEnded.unreachable(fault))
            case MarkPassed():
                pass  # we never mark

    def _rejected(self, response: Response) -> SessionEnded:
        request = Request("GET", self._url, self._headers)
        retry_after = retry_after_seconds(response.header("retry-after"))
        detail = read_detail(request, response, lists=False)
        text = f"the server refused the tunnel ({response.status}): {detail.message}"
        retryable = response.status in _RETRYABLE_STATUSES
        error: SandboxConnectionError
        if retryable:
            error = SandboxRetryableConnectionError(text, retry_after=retry_after)
        else:
            error = SandboxConnectionError(text)
        error.in_context(context_of(request, response))
        return SessionEnded(error, final=not retryable, retry_after=retry_after)

    # --- yamux ------------------------------------------------------------------------

    def _take_from_yamux(self, event: YamuxEvent) -> None:
        match event:
            case StreamData(stream, data) if stream in self._asked:
                self._take_status(stream, data)
            case StreamEnded(stream) | StreamReset(stream) if stream in self._asked:
                port, _ = self._asked[stream]
                text = f"the server ended the stream to port {port} without a status"
                self._refuse(stream, TunnelError(text))
            case StreamReset(stream):
                self._forget(stream)
                self._events.append(event)
            case StreamData() | StreamEnded():
                self._events.append(event)
            case PeerGoesAway():
                self._events.append(SessionLeaving())
            case SessionFailed(fault):
                self._pack(everything=True)
                self._wire.close(_BROKE_PROTOCOL, now=self._now)
                self._end(SessionEnded.unreachable(fault))
            case StreamAccepted() | StreamOpened():
                pass  # the status says more than the acceptance; and no stream may be opened

    def _take_status(self, stream: int, data: bytes) -> None:
        port, _ = self._asked[stream]
        error = status_error(data[0], port)
        if error is not None:
            self._refuse(stream, error)
            return
        del self._asked[stream]
        self.consumed(stream, 1, now=self._now)
        self._events.append(StreamConnected(stream))
        if len(data) > 1:
            self._events.append(StreamData(stream, data[1:]))

    def _refuse(self, stream: int, error: SandboxClientError) -> None:
        self.close_stream(stream, now=self._now)
        self._events.append(StreamRefused(stream, error))

    def _end(self, event: SessionEnded) -> None:
        if not self._ended:
            self._ended = True
            self._asked.clear()
            self._short.clear()
            self._events.append(event)
