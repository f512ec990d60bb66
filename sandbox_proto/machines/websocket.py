"""An open WebSocket, for either role: messages, pings, the closing handshake.

wsproto speaks the protocol. This machine adds what wsproto leaves to its user:
a bound on message size, answers to pings, liveness (pings of our own, and a
limit on the silence after them), an end that is final (wsproto goes deaf after a
frame error while its state still says OPEN), and time limits for closing. The
upgrade that comes before is `machines.upgrade`.
"""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import Literal

import attrs
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError as WsprotoMisuse

from ..errors import LocalProtocolError
from ..faults import Fault, FaultKind, Phase
from .base import Buffer, Output, earliest, require_data
from .ws_frames import FrameSplitter, Kind
from .ws_masking import LARGE, fill

# A peer that pings without reading our pongs gets no more of them than this.
_PONG_BACKLOG_BYTES = 64 * 1024

Role = Literal["client", "server"]

NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
NO_STATUS = 1005
ABNORMAL = 1006
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011


@attrs.frozen
class WebSocketLimits:
    """Limits of one WebSocket, in seconds and bytes; None is no limit.

    :ivar ping_interval: how long after the last sign of life a ping is sent; None sends none.
    :ivar pong_timeout: how long after a ping the peer may stay silent.
    :ivar close_timeout: how long to wait for the peer's half of the closing handshake.
    :ivar write: how long the transport may refuse to take any more output.
    :ivar max_message_bytes: the largest message accepted.
    """

    ping_interval: float | None = 30.0
    pong_timeout: float | None = 60.0
    close_timeout: float | None = 0.01
    write: float | None = 60.0
    max_message_bytes: int = 16 * 1024 * 1024


@attrs.frozen
class Message:
    """A whole message: text or bytes, as it was sent."""

    data: str | bytes


@attrs.frozen
class Closed:
    """The peer closed in order.

    :ivar code: its close code; 1005 if it gave none.
    """

    code: int
    reason: str


@attrs.frozen
class Failed:
    """The connection ended without a closing handshake, or was ended by us for cause."""

    fault: Fault


@attrs.frozen
class MarkPassed:
    """The peer has received all that was sent before the latest `WebSocket.mark`."""


WebSocketEvent = Message | MarkPassed | Closed | Failed


class WebSocket:
    """One open WebSocket. See `machines.base` for how to drive it."""

    def __init__(
        self,
        role: Role,
        limits: WebSocketLimits,
        *,
        now: float,
        trailing_data: bytes = b"",
        frame_by_frame: bool = False,
    ) -> None:
        """
        :param trailing_data: bytes that came right behind the upgrade.
        :param frame_by_frame: let wsproto read every frame (the slow twin of the splitter).
        """
        kind = ConnectionType.CLIENT if role == "client" else ConnectionType.SERVER
        self._ws = Connection(kind)
        self._limits = limits
        self._splitter: FrameSplitter | None = None
        if role == "client" and not frame_by_frame:
            self._splitter = FrameSplitter(limits.max_message_bytes)
        self._output: list[Output] = []
        self._unsent = 0
        # Texts that came together are one entry: nothing is made of them before they are asked for.
        self._events: deque[WebSocketEvent | deque[str]] = deque()
        self._parts: list[str | bytes | bytearray] = []
        self._message_bytes = 0
        self._ended = False
        self._closing_since: float | None = None
        self._last_heard = now
        self._ping_sent: float | None = None
        self._marks = 0
        self._last_written = now
        if trailing_data:
            self.receive_data(trailing_data, now=now)

    # --- commands ---------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether messages may be sent."""
        return not self._ended and self._closing_since is None

    def send_text(self, text: str, *, now: float) -> None:
        """Send a text message.

        :raises LocalProtocolError: the socket is not open any more.
        """
        if len(text) < LARGE:
            self._send(TextMessage(data=text), now)
        else:
            self._send_large(TextMessage(data=""), text.encode(), now)

    def send_bytes(self, data: bytes, *, now: float) -> None:
        """Send a binary message.

        :raises LocalProtocolError: the socket is not open any more.
        """
        if len(data) < LARGE:
            self._send(BytesMessage(data=data), now)
        else:
            self._send_large(BytesMessage(data=b""), data, now)

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "", *, now: float) -> None:
        """Begin the closing handshake; harmless when already closing or closed."""
        if self.open:
            self._closing_since = now
            self._queue(self._ws.send(CloseConnection(code=code, reason=reason or None)), now)

    def _send(self, event: TextMessage | BytesMessage, now: float) -> None:
        self._queue(self._framed(event), now)

    def _send_large(self, empty: TextMessage | BytesMessage, data: bytes, now: float) -> None:
        self._queue(fill(self._framed(empty), data), now)

    def _framed(self, event: TextMessage | BytesMessage) -> bytes:
        if not self.open:
            raise LocalProtocolError("cannot send on a WebSocket that is closing or closed")
        try:
            return self._ws.send(event)
        except WsprotoMisuse as error:
            raise LocalProtocolError(str(error)) from None

    def mark(self, *, now: float) -> None:
        """Ask to be told, by `MarkPassed`, when the peer has received all that was sent so far."""
        self._marks += 1
        self._queue(self._ws.send(Ping(payload=self._latest_mark)), now)

    @property
    def _latest_mark(self) -> bytes:
        return b"%d" % self._marks

    def _queue(self, data: bytes | bytearray, now: float) -> None:
        if not self._unsent:
            self._last_written = now
        self._unsent += len(data)
        self._output.append(data)

    # --- what the driver feeds --------------------------------------------------------

    def receive_data(self, data: Buffer, *, now: float) -> None:
        require_data(data)
        if self._ended:
            return
        self._last_heard = now
        self._ping_sent = None
        if self._splitter is None:
            self._receive_with_wsproto(bytes(data), now)
            return
        self._splitter.feed(bytes(data))
        while not self._ended:
            if not self._parts and (texts := self._splitter.take_texts()):
                self._receive_texts(texts, now)
                continue
            piece = self._splitter.take(in_message=bool(self._parts))
            if piece is None:
                return
            match piece.kind:
                case Kind.TEXT:
                    self._receive_texts([piece.data], now)
                case Kind.BINARY:
                    self._events.append(Message(piece.data))
                case Kind.OTHER:
                    self._receive_with_wsproto(piece.data, now)
                case Kind.OVERSIZED:
                    self._fail_oversized(now)

    def _receive_texts(self, payloads: list[bytes], now: float) -> None:
        if not self._events or not isinstance(self._events[-1], deque):
            self._events.append(deque())
        texts = self._events[-1]
        assert isinstance(texts, deque)
        try:
            texts.extend(map(str, payloads, repeat("utf-8")))  # those before a wrong one count
        except UnicodeDecodeError as error:
            self._fail_protocol(INVALID_DATA, f"a text message is not UTF-8: {error.reason}", now)

    def receive_eof(self, *, now: float) -> None:
        if not self._ended:
            self._fail(FaultKind.DISCONNECTED, "the WebSocket was cut without a closing handshake")

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        if not self._ended:
            self._fail(fault.kind, fault.message, seconds=fault.seconds)
        self._output.clear()
        self._unsent = 0

    def data_to_send(self) -> list[Output]:
        output, self._output = self._output, []
        return output

    def data_sent(self, count: int, *, now: float) -> None:
        self._unsent -= count
        self._last_written = now

    def resume(self, *, now: float) -> None:
        """The driver was away and did not read: that silence is not the peer's."""
        if self._ping_sent is not None:
            self._ping_sent = now

    def receive_buffer(self) -> memoryview | None:
        return None

    def buffer_filled(self, count: int, *, now: float) -> None:
        raise LocalProtocolError("this machine gave no buffer")

    # --- what the driver reads --------------------------------------------------------

    def next_event(self) -> WebSocketEvent | None:
        while self._events:
            first = self._events[0]
            if not isinstance(first, deque):
                self._events.popleft()
                return first
            if first:
                return Message(first.popleft())
            self._events.popleft()
        return None

    def take_texts(self) -> deque[str]:
        """The text messages that come next, as many as there are: `next_event` for many at once."""
        if self._events and isinstance(texts := self._events[0], deque):
            self._events.popleft()
            return texts
        return deque()

    @property
    def wants_read(self) -> bool:
        return not self._ended

    @property
    def finished(self) -> bool:
        return self._ended

    def next_deadline(self) -> float | None:
        if self._ended:
            return None
        limits = self._limits
        write = self._last_written + limits.write if self._unsent and limits.write else None
        if self._closing_since is not None:
            if limits.close_timeout is None:
                return write
            return earliest(write, self._closing_since + limits.close_timeout)
        if self._ping_sent is not None:
            alive = None if limits.pong_timeout is None else self._ping_sent + limits.pong_timeout
        else:
            alive = (
                None if limits.ping_interval is None else self._last_heard + limits.ping_interval
            )
        return earliest(write, alive)

    def handle_timeout(self, *, now: float) -> None:
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return
        limits = self._limits
        if self._unsent and limits.write and now >= self._last_written + limits.write:
            message = f"the peer took no more data for {limits.write:g} s"
            self._fail(FaultKind.WRITE_TIMEOUT, message, seconds=limits.write)
        elif self._closing_since is not None:
            # Our close frame is out; waiting longer for the peer's would be for nothing.
            self._end(Closed(ABNORMAL, "the peer did not answer the close frame"))
        elif self._ping_sent is not None:
            message = f"the peer answered no ping for {limits.pong_timeout:g} s"
            self._fail(FaultKind.LIVENESS, message, seconds=limits.pong_timeout)
        else:
            self._ping_sent = now
            self._queue(self._ws.send(Ping()), now)

    # --- wsproto ----------------------------------------------------------------------

    def _receive_with_wsproto(self, data: bytes, now: float) -> None:
        if self._ws.state not in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            return
        self._ws.receive_data(data)
        for event in self._ws.events():
            match event:
                case TextMessage() | BytesMessage():
                    self._take_part(event, now)
                case Ping():
                    if self.open and self._unsent < _PONG_BACKLOG_BYTES:
                        self._queue(self._ws.send(event.response()), now)
                case Pong(payload=payload):
                    # Any byte is a sign of life, see receive_data; this may be more than that.
                    if payload and bytes(payload) == self._latest_mark:
                        self._events.append(MarkPassed())
                case CloseConnection():
                    self._take_close(event, now)
            if self._ended:
                return

    def _take_part(self, event: TextMessage | BytesMessage, now: float) -> None:
        part = event.data
        ascii_only = not isinstance(part, str) or part.isascii()
        self._message_bytes += len(part) if ascii_only else len(part.encode())  # type: ignore[union-attr]  # text here
        if self._message_bytes > self._limits.max_message_bytes:
            self._fail_oversized(now)
            return
        if part or not self._parts:  # empty fragments, of which there may be many, cost nothing
            self._parts.append(part)
        if event.message_finished:
            parts, self._parts, self._message_bytes = self._parts, [], 0
            whole = "".join(parts) if isinstance(part, str) else b"".join(parts)  # type: ignore[arg-type]  # one kind per message
            self._events.append(Message(whole))

    def _take_close(self, event: CloseConnection, now: float) -> None:
        if self._ws.state is ConnectionState.OPEN:
            # Not the peer's close: this is how wsproto reports a frame it cannot accept.
            self._fail_protocol(event.code, event.reason or "a frame is malformed", now)
            return
        if self._ws.state is ConnectionState.REMOTE_CLOSING:
            self._queue(self._ws.send(event.response()), now)
        self._end(Closed(int(event.code), event.reason or ""))

    def _fail_oversized(self, now: float) -> None:
        limit = self._limits.max_message_bytes
        self._say_goodbye(TOO_BIG, now)
        self._fail(FaultKind.TOO_LARGE, f"a message exceeds {limit} bytes")

    def _fail_protocol(self, code: int, message: str, now: float) -> None:
        self._say_goodbye(code, now)
        self._fail(FaultKind.PROTOCOL, f"the peer broke the WebSocket protocol: {message}")

    def _say_goodbye(self, code: int, now: float) -> None:
        if self._ws.state is ConnectionState.OPEN:
            self._queue(self._ws.send(CloseConnection(code=code)), now)

    def _fail(self, kind: FaultKind, message: str, *, seconds: float | None = None) -> None:
        self._end(Failed(Fault(kind, message, Phase.RESPONSE_BEGUN, seconds)))

    def _end(self, event: Closed | Failed) -> None:
        self._ended = True
        self._parts.clear()
        self._events.append(event)
