"""A yamux session: many byte streams over one, for either role (protocol/09 section 2).

A machine in the manner of `machines.base`, but for its output: it gives one frame at a
time (`next_frame`), so that whoever carries it decides how much may be on its way, and
frames of many streams take turns.

    stream              on                        then
    -----------------   -----------------------   -------------------------------------------
    open                send_eof(), all sent      half closed here: we read on
                        the peer's FIN            half closed there: `StreamEnded`
                        close()                   half closed here; data that comes resets it
    half closed here    the peer's FIN            gone
    half closed there   send_eof() or close()     gone, when all is sent
    any                 reset()                   gone, the peer is told
                        the peer's RST            gone: `StreamReset`
                        the session fails         gone; `SessionFailed` says it for all

What breaks the protocol ends the session with the `Violation` that it was, after the peer
has been told by a go-away. Frames for streams that are gone are not violations: they were
on their way. Frames for streams that never were, are.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from ..errors import LocalProtocolError
from ..faults import Fault, FaultKind, Phase
from .base import Buffer, earliest, require_data
from .yamux_events import (
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
from .yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PING,
    RST,
    SESSION,
    SYN,
    VERSION,
    WINDOW_UPDATE,
    FrameReader,
    GoAwayCode,
    Header,
    encode,
)
from .yamux_peer import PeerIds
from .yamux_stream import Stream
from .yamux_windows import ReceiveWindow, WindowBudget

# Answers to a peer that asks and asks, and does not read them, wait here up to this number.
_MAX_ANSWERS = 4096
_MAX_PONGS = 64


class Yamux:
    """See the module's text.

    :ivar round_trip: the shortest measured so far, in seconds.
    :ivar failed: the session is over; only last frames may be left to send.
    """

    def __init__(
        self, role: Literal["client", "server"], limits: YamuxLimits, *, now: float
    ) -> None:
        self._limits = limits
        self._next_id = 1 if role == "client" else 2
        self._peer_ids = PeerIds(2 if role == "client" else 1)
        self._streams: dict[int, Stream] = {}
        self._peer_streams = self._refused = 0
        self._budget = WindowBudget(limits.window_budget)
        self._events: deque[YamuxEvent] = deque()
        # What goes out: frames that are made already, then credit, then data in turn.
        self._ready: deque[bytes] = deque()
        self._creditors: deque[Stream] = deque()
        self._senders: deque[Stream] = deque()
        # What comes in: the data frame in the midst of which we are.
        self._reader = FrameReader()
        self._payload_left = 0
        self._payload_of: Stream | None = None
        self._payload_flags = 0
        self._expiry: dict[int, float] = {}  # streams that are not waited for for ever
        self._going_away = self._peer_goes_away = False
        self.failed = False
        self.round_trip: float | None = None
        self._last_heard = now
        self._pings = self._pings_answered = 0
        self._ping_sent: float | None = None
        self._next_ping = now
        self._ping_if_due(now)

    # --- commands ---------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened."""
        leaving = self._going_away or self._peer_goes_away or self.failed
        return not leaving and self._next_id <= MAX_STREAM_ID

    @property
    def drained(self) -> bool:
        """One side goes away, no stream is left, and all is said."""
        leaving = self._going_away or self._peer_goes_away or self.failed
        return leaving and not self._streams and not self._ready

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(self, *, now: float) -> int:
        """Open a stream. Returns its id; data may be sent at once.

        :raises LocalProtocolError: not `can_open`.
        """
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened in this session any more")
        id, self._next_id = self._next_id, self._next_id + 2
        stream = self._new_stream(id, now, acknowledged=False)
        self._ready.append(encode(WINDOW_UPDATE, SYN, id, stream.window.opening_grant()))
        return id

    def room(self, stream: int) -> int:
        """How many bytes `send` would take now; 0 also when the stream is gone."""
        known = self._streams.get(stream)
        return 0 if known is None else max(self._limits.send_buffer - known.outgoing_bytes, 0)

    def send(self, stream: int, data: Buffer, *, now: float) -> int:
        """Send data. Returns how many bytes were taken, perhaps none: then try again later.

        :raises LocalProtocolError: `send_eof` or `close` was called before.
        """
        known = self._streams.get(stream)
        if known is None:
            return 0
        if known.end_wanted:
            raise LocalProtocolError("cannot send on a stream after its end")
        count = min(self.room(stream), len(data))
        known.enqueue(memoryview(data)[:count])
        self._schedule(known)
        self._watch_stall(known, now)
        return count

    def unsent(self, stream: int) -> int:
        """How many bytes were taken and wait for their turn, or for the peer's credit."""
        known = self._streams.get(stream)
        return 0 if known is None else known.outgoing_bytes

    def send_eof(self, stream: int, *, now: float) -> None:
        """Nothing more will be sent; reading goes on. Harmless when repeated."""
        if (known := self._streams.get(stream)) is not None:
            known.end_wanted = True
            self._schedule(known)

    def close(self, stream: int, *, now: float) -> None:
        """The application is done: what it sent goes out, what still comes resets the stream."""
        if (known := self._streams.get(stream)) is not None and not known.abandoned:
            known.abandoned = True
            self._expiry[stream] = now + self._limits.linger
            self.send_eof(stream, now=now)

    def reset(self, stream: int, *, now: float) -> None:
        """End the stream at once, in both directions; what was not sent is dropped."""
        if stream in self._streams:
            self._ready.append(encode(WINDOW_UPDATE, RST, stream, 0))
            self._forget(self._streams[stream])

    def consumed(self, stream: int, count: int, *, now: float) -> None:
        """The application has done with so many bytes: the peer may send as many again."""
        known = self._streams.get(stream)
        if known is None or known.end_received or known.abandoned:
            return
        credit = known.window.consumed(count, round_trip=self.round_trip, now=now)
        if credit:
            if not known.credit:
                self._creditors.append(known)
            known.credit += credit

    def mark(self, *, now: float) -> int:
        """Ping the peer: see `passed`. What waits for its turn or for credit is not before it."""
        self._ping(now)
        return self._pings

    def passed(self, mark: int) -> bool:
        """Whether the peer has taken everything that went out before this mark."""
        return self._pings_answered >= mark

    def go_away(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Take no new streams; those that are open may finish. Harmless when repeated."""
        if not self._going_away and not self.failed:
            self._going_away = True
            self._ready.append(encode(GO_AWAY, 0, SESSION, code))

    # --- output -----------------------------------------------------------------------

    def next_frame(self) -> bytes | None:
        """The next frame to send, or None."""
        if self._ready:
            return self._ready.popleft()
        while self._creditors:
            stream = self._creditors.popleft()
            credit, stream.credit = stream.credit, 0
            if credit:
                return encode(WINDOW_UPDATE, 0, stream.id, credit)
        while self._senders:
            stream = self._senders.popleft()
            stream.scheduled = False
            if self._streams.get(stream.id) is stream and stream.can_send:
                frame = stream.next_frame()
                self._schedule(stream)
                if stream.over:
                    self._forget(stream)
                return frame
        return None

    @property
    def has_frames(self) -> bool:
        """Whether `next_frame` would give one."""
        if self._ready:
            return True
        for stream in self._creditors:
            if stream.credit:
                return True
        return any(stream.can_send for stream in self._senders) if self._senders else False

    def _schedule(self, stream: Stream) -> None:
        if stream.can_send and not stream.scheduled:
            stream.scheduled = True
            self._senders.append(stream)

    # --- what the driver feeds and reads ----------------------------------------------

    def next_event(self) -> YamuxEvent | None:
        return self._events.popleft() if self._events else None

    def receive_data(self, data: Buffer, *, now: float) -> None:
        require_data(data)
        if self.failed:
            return
        self._last_heard = now
        self._reader.feed(bytes(data))
        while not self.failed:
            if self._payload_left:
                if not self._take_payload(now):
                    return
            elif (header := self._reader.header()) is not None:
                self._take_header(header, now)
            else:
                return

    def connection_lost(self, fault: Fault) -> None:
        """What carried the session is gone."""
        if not self.failed:
            self._ready.clear()
            self._fail(fault)

    def resume(self, *, now: float) -> None:
        """The driver was away and did not read: that silence is not the peer's."""
        self._last_heard = max(self._last_heard, now)

    def next_deadline(self) -> float | None:
        if self.failed:
            return None
        expiry = min(self._expiry.values(), default=None)
        return earliest(expiry, self._dead_at(), self._next_ping_at())

    def handle_timeout(self, *, now: float) -> None:
        if self.failed:
            return
        for id in [id for id, until in self._expiry.items() if until <= now]:
            stream = self._streams[id]
            if stream.abandoned:
                self.reset(id, now=now)
            elif stream.outgoing_bytes:
                self._events.append(StreamReset(id))
                self.reset(id, now=now)
            else:
                del self._expiry[id]
        dead_at = self._dead_at()
        if dead_at is not None and now >= dead_at:
            seconds = self._limits.pong_timeout
            message = f"the peer answered no ping for {seconds:g} s"
            self._fail(Fault(FaultKind.LIVENESS, message, Phase.RESPONSE_BEGUN, seconds))
            return
        self._ping_if_due(now)

    def _next_ping_at(self) -> float | None:
        if self._ping_sent is not None or self._limits.ping_interval is None:
            return None
        return self._next_ping

    def _dead_at(self) -> float | None:
        if self._ping_sent is None or self._limits.pong_timeout is None:
            return None
        return max(self._ping_sent, self._last_heard) + self._limits.pong_timeout

    def _ping_if_due(self, now: float) -> None:
        due = self._next_ping_at()
        if due is not None and now >= due:
            self._ping(now)

    def _ping(self, now: float) -> None:
        self._pings += 1
        self._ping_sent = now
        self._ready.append(encode(PING, SYN, SESSION, self._pings & 0xFFFFFFFF))

    # --- frames -----------------------------------------------------------------------

    def _take_header(self, header: Header, now: float) -> None:
        if header.version != VERSION:
            self._violated(Violation.VERSION)
        elif header.type == PING:
            self._take_ping(header, now)
        elif header.type == GO_AWAY:
            self._take_go_away(header)
        elif header.type > GO_AWAY:
            self._violated(Violation.TYPE)
        elif header.stream == SESSION:
            self._violated(Violation.SESSION_STREAM)
        else:
            self._take_stream_frame(header, now)

    def _take_ping(self, header: Header, now: float) -> None:
        if header.flags & SYN:
            if len(self._ready) < _MAX_PONGS:  # who asks faster than he listens, gets fewer
                self._ready.append(encode(PING, ACK, SESSION, header.length))
        elif self._ping_sent is not None and header.length == self._pings & 0xFFFFFFFF:
            self._pings_answered = self._pings
            took = now - self._ping_sent
            self.round_trip = took if self.round_trip is None else min(took, self.round_trip)
            self._ping_sent = None
            self._next_ping = now + (self._limits.ping_interval or 0.0)

    def _take_go_away(self, header: Header) -> None:
        if header.length == GoAwayCode.NORMAL:
            if not self._peer_goes_away:
                self._peer_goes_away = True
                self._events.append(PeerGoesAway())
            return
        why = "a protocol error" if header.length == GoAwayCode.PROTOCOL_ERROR else "an error"
        message = f"the peer ended the session for {why} (code {header.length})"
        kind = FaultKind.PROTOCOL if header.length == 1 else FaultKind.DISCONNECTED
        self._fail(Fault(kind, message, Phase.RESPONSE_BEGUN))

    def _take_stream_frame(self, header: Header, now: float) -> None:
        id, flags, length = header.stream, header.flags, header.length
        if flags & SYN and not self._accept(id, now):
            stream = None
        else:
            stream = self._streams.get(id)
            if stream is None and not self._was_open(id):
                self._violated(Violation.UNKNOWN_STREAM)
        if self.failed:
            return
        if stream is not None and flags & ACK and not stream.acknowledged:
            stream.acknowledged = True
            self._events.append(StreamAccepted(id))
        if stream is not None and flags & RST:
            self._forget(stream)
            self._events.append(StreamReset(id))
            stream = None
        if header.type == DATA:
            self._take_data_header(stream, flags, length, now)
        elif stream is not None:
            stream.send_window += length
            if stream.send_window > MAX_WINDOW:
                self._violated(Violation.WINDOW_OVERFLOW)
                return
            if length and not stream.abandoned:
                self._expiry.pop(id, None)
                self._watch_stall(stream, now)
            self._schedule(stream)
            if flags & FIN:
                self._take_end(stream, now)

    def _take_data_header(self, stream: Stream | None, flags: int, length: int, now: float) -> None:
        if stream is not None:
            if length and stream.end_received:
                self._violated(Violation.DATA_AFTER_END)
                return
            if not stream.window.announced(length):
                self._violated(Violation.WINDOW_OVERRUN)
                return
        elif length > self._limits.max_window:
            # Nobody was ever granted so much, on whatever stream it was.
            self._violated(Violation.WINDOW_OVERRUN)
            return
        self._payload_of, self._payload_left, self._payload_flags = stream, length, flags
        if not length:
            self._finish_payload(now)

    def _take_payload(self, now: float) -> bool:
        piece = self._reader.payload(self._payload_left)
        if not piece:
            return False
        self._payload_left -= len(piece)
        stream = self._payload_of
        if stream is not None and self._streams.get(stream.id) is stream:
            if stream.abandoned:
                self.reset(stream.id, now=now)  # nobody reads it, and the peer should know
            else:
                self._events.append(StreamData(stream.id, piece))
        if not self._payload_left:
            self._finish_payload(now)
        return True

    def _finish_payload(self, now: float) -> None:
        stream, self._payload_of = self._payload_of, None
        if stream is not None and self._payload_flags & FIN:
            self._take_end(stream, now)

    def _take_end(self, stream: Stream, now: float) -> None:
        if self._streams.get(stream.id) is stream and not stream.end_received:
            stream.end_received = True
            self._events.append(StreamEnded(stream.id))
            self._watch_stall(stream, now)
            if stream.over:
                self._forget(stream)

    # --- streams ----------------------------------------------------------------------

    def _accept(self, id: int, now: float) -> bool:
        """The peer opens a stream. Returns whether it may."""
        if not self._peer_ids.take(id):
            self._violated(Violation.STREAM_ID)
            return False
        if self._going_away or self._peer_streams >= self._limits.peer_streams:
            self._refused += 1
            self._answer(encode(WINDOW_UPDATE, RST, id, 0))
            if self._refused > self._limits.refusals:
                self._violated(Violation.FLOOD)
            return False
        self._refused = 0
        self._peer_streams += 1
        stream = self._new_stream(id, now, acknowledged=True)
        self._answer(encode(WINDOW_UPDATE, ACK, id, stream.window.opening_grant()))
        self._events.append(StreamOpened(id))
        return True

    def _answer(self, frame: bytes) -> None:
        self._ready.append(frame)
        if len(self._ready) > _MAX_ANSWERS:
            self._violated(Violation.FLOOD)

    def _new_stream(self, id: int, now: float, *, acknowledged: bool) -> Stream:
        limits = self._limits
        window = ReceiveWindow(self._budget, limits.first_window, limits.max_window, now=now)
        stream = self._streams[id] = Stream(id, window, acknowledged=acknowledged)
        return stream

    def _watch_stall(self, stream: Stream, now: float) -> None:
        """What is to go to a peer that has ended the stream must be granted some time."""
        if stream.end_received and stream.outgoing_bytes and stream.id in self._streams:
            self._expiry.setdefault(stream.id, now + self._limits.stall)

    def _was_open(self, id: int) -> bool:
        if self._peer_ids.are_like(id):
            return self._peer_ids.was_taken(id)
        return id < self._next_id

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._expiry.pop(stream.id, None)
        if self._peer_ids.are_like(stream.id):
            self._peer_streams -= 1
        stream.credit = 0
        stream.window.close()

    # --- the end ----------------------------------------------------------------------

    def _violated(self, violation: Violation) -> None:
        if not self.failed:
            self._ready.clear()
            self._ready.append(encode(GO_AWAY, 0, SESSION, GoAwayCode.PROTOCOL_ERROR))
            message = f"the peer broke the yamux protocol: {violation.value}"
            fault = Fault(FaultKind.PROTOCOL, message, Phase.RESPONSE_BEGUN)
            self._fail(fault, violation)

    def _fail(self, fault: Fault, violation: Violation | None = None) -> None:
        self.failed = True
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._creditors.clear()
        self._senders.clear()
        self._events.append(SessionFailed(fault, violation))
