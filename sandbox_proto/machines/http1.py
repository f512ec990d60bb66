"""An HTTP/1.1 client connection: one exchange at a time, any number in a row.

h11 speaks the protocol. This machine adds what h11 leaves to its user: time
limits, the phase a failed request had reached, bounds on what a peer may send,
answers that come before the request is complete, and whether the connection may
be used again. Bodies of known length do not pass through h11 at all
(design section 11): their bytes are counted into one buffer and a fresh h11
connection takes over afterwards, which is cheaper than the events of even the
smallest body. `tests/core/test_http1.py` proves that both ways give the same
result for every split.
"""

from __future__ import annotations

import enum
from collections import deque
from functools import lru_cache
from typing import Any

import attrs
import h11

from ..errors import LocalProtocolError
from ..faults import Fault, FaultKind, Phase
from ..plans.timeouts import Timeouts
from ..wire.http import Headers, Request, Response, StreamedBody
from .base import Buffer, Output, earliest, require_data
from .body import BodyBuffer
from .chunked import BadChunk, ChunkReader

MAX_HEAD_BYTES = 64 * 1024
MAX_INFORMATIONAL = 16
# Larger bodies are received in place, into the buffer that becomes the body.
IN_PLACE_BYTES = 128 * 1024
MIN_PROGRESS_BYTES = 1024
_JOIN_BELOW = 64 * 1024


@attrs.frozen
class ExchangeLimits:
    """Time and size limits of one exchange, all in seconds and bytes; None is no limit.

    :ivar read: how long to wait for the response's head once the request is out, and for
        each next kibibyte of its body.
    :ivar write: how long the transport may refuse to take any more output.
    :ivar total: from `send_request` to the end of the response.
    :ivar max_body_bytes: the largest response body accepted.
    """

    read: float | None = 10.0
    write: float | None = 10.0
    total: float | None = None
    max_body_bytes: int | None = None

    @classmethod
    def of(cls, timeouts: Timeouts, max_body_bytes: int | None) -> ExchangeLimits:
        """What of a request's patience concerns the exchange itself."""
        return cls(timeouts.read, timeouts.write, timeouts.total, max_body_bytes)


@attrs.frozen
class ResponseHead:
    """The final response's status line and headers arrived."""

    status: int
    headers: Headers
    reason: str

    def response(self, body: bytes, stream: object = None) -> Response:
        """The response that it begins."""
        return Response(self.status, self.headers, body, self.reason, stream)


@attrs.frozen
class BodyData:
    """A piece of the response body (only when it is streamed)."""

    data: bytes


@attrs.frozen
class ExchangeDone:
    """The response is complete. `body` holds it all unless it was streamed."""

    body: bytes


@attrs.frozen
class ExchangeFailed:
    """The exchange failed; the connection is of no further use."""

    fault: Fault


Http1Event = ResponseHead | BodyData | ExchangeDone | ExchangeFailed


class _State(enum.Enum):
    IDLE = "idle"
    ACTIVE = "active"
    BROKEN = "broken"


class Http1Client:
    """The client's side of one connection. See `machines.base` for how to drive it.

    :ivar phase: how far the current (or last) request got.
    """

    def __init__(self, *, through_h11: bool = False) -> None:
        """
        :param through_h11: let h11 read all bodies (the slow twin of going past it).
        """
        self._through_h11 = through_h11
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._state = _State.IDLE
        self._limits = ExchangeLimits()
        self._output: list[Output] = []
        self._events: deque[Http1Event] = deque()
        self.phase = Phase.NOTHING_SENT
        self._unsent = 0
        self._request_ended = False
        self._stream_success = self._stream_errors = False
        self._streaming = self._heard = False
        self._is_head = False
        self._body = BodyBuffer()
        self._body_bytes = 0
        self._past_h11: int | None = None  # body bytes still to come, once past h11
        self._in_place = False
        self._chunks: ChunkReader | None = None  # a streamed body in chunks, past h11
        self._keep_alive = True
        self._informational = 0
        self._started = 0.0
        self._last_progress = 0.0
        self._progress_bytes = 0
        self._received_eof = False

    # --- commands ---------------------------------------------------------------------

    def send_request(
        self,
        request: Request,
        limits: ExchangeLimits,
        *,
        now: float,
        stream: bool = False,
        stream_errors: bool = False,
    ) -> None:
        """Begin an exchange.

        :param stream: deliver the body of a successful (2xx) response as `BodyData` events
            instead of gathering it; the body of any other is gathered.
        :param stream_errors: with `stream`: deliver the body of any other response so, too.
        :raises LocalProtocolError: the connection is busy or broken.
        """
        if self._state is not _State.IDLE or self._received_eof:
            raise LocalProtocolError(
                f"cannot begin a request on a connection that is {self._state}"
            )
        self._state = _State.ACTIVE
        self._events.clear()  # the rest of an answer that came whole and was not read to its end
        self._limits = limits
        self._started = self._last_progress = now
        self._progress_bytes = self._body_bytes = self._informational = 0
        self.phase = Phase.NOTHING_SENT
        self._stream_success, self._stream_errors = stream, stream_errors
        self._streaming = self._heard = False
        self._keep_alive = True
        body = request.body
        self._is_head = request.method == "HEAD"
        headers = [("host", request.url.origin.host_header), *request.headers.items()]
        if isinstance(body, StreamedBody):
            if body.length is None:
                headers.append(("transfer-encoding", "chunked"))
            else:
                headers.append(("content-length", str(body.length)))
        elif body or request.method in ("POST", "PUT", "PATCH"):
            headers.append(("content-length", str(sum(map(len, body)))))
        self._send(_checked_request(request.method, request.url.target, tuple(headers)))
        self._request_ended = False
        if not isinstance(body, StreamedBody):
            for piece in body:
                self._send(h11.Data(data=piece))  # type: ignore[arg-type]  # any buffer will do
            self.end_request(now=now)

    def send_body(self, data: Buffer, *, now: float) -> None:
        """Send a piece of a streamed request body. Does nothing once the response is complete."""
        if self._state is not _State.ACTIVE:
            return
        if not self._unsent:
            self._last_progress = now
        try:
            self._send(h11.Data(data=data))  # type: ignore[arg-type]  # any buffer will do
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(
                f"the body is longer than its announced length ({error})"
            ) from None

    def end_request(self, *, now: float) -> None:
        """The request body is complete. Does nothing once the response is complete."""
        if self._state is not _State.ACTIVE:
            return
        try:
            self._send(_END_OF_MESSAGE)
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(
                f"the body is shorter than its announced length ({error})"
            ) from None
        self._request_ended = True
        self._last_progress = now
        self._note_sent()

    def _send(self, event: h11.Event) -> None:
        pieces = self._h11.send_with_data_passthrough(event)
        for piece in pieces or ():
            size = len(piece)
            if not size:
                continue
            self._unsent += size
            last = self._output[-1] if self._output else None
            # One small write is cheaper than two, for us and for the network.
            if isinstance(last, bytes) and len(last) + size <= _JOIN_BELOW:
                self._output[-1] = last + piece
            else:
                self._output.append(piece)

    # --- what the driver feeds --------------------------------------------------------

    def receive_data(self, data: Buffer, *, now: float) -> None:
        require_data(data)
        if self._state is not _State.ACTIVE:
            # Nobody asked for these bytes: the peer cannot be trusted with another request.
            self._state = _State.BROKEN
            return
        if self._past_h11 is not None:
            self._receive_past_h11(data, now)
            return
        if self._chunks is not None:
            self._receive_chunks(bytes(data), now)
            return
        self._heard = True
        self._h11.receive_data(bytes(data))
        self._parse(now)

    def receive_eof(self, *, now: float) -> None:
        self._received_eof = True
        if self._state is not _State.ACTIVE:
            self._state = _State.BROKEN
        elif self._past_h11 is not None:
            missing = self._past_h11
            self._fail(FaultKind.DISCONNECTED, f"the answer's body was cut {missing} bytes short")
        elif self._chunks is not None:
            self._fail(
                FaultKind.DISCONNECTED, "the connection was closed before the answer was complete"
            )
        else:
            self._h11.receive_data(b"")
            self._parse(now)

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        if self._state is _State.ACTIVE:
            self._fail(fault.kind, fault.message, seconds=fault.seconds)
        self._state = _State.BROKEN

    def data_to_send(self) -> list[Output]:
        output, self._output = self._output, []
        return output

    def data_sent(self, count: int, *, now: float) -> None:
        if self._state is not _State.ACTIVE:
            return  # the rest of a request whose answer came early
        self._unsent -= count
        self._last_progress = now
        if self.phase is Phase.NOTHING_SENT:
            self.phase = Phase.PARTLY_SENT
        self._note_sent()

    def resume(self, *, now: float) -> None:
        """The driver was away (its consumer was busy): that time does not count as the peer's."""
        self._last_progress = now

    def receive_buffer(self) -> memoryview | None:
        if self._past_h11 is None or self._streaming or not self._in_place:
            return None
        return self._body.writable()

    def buffer_filled(self, count: int, *, now: float) -> None:
        assert self._past_h11 is not None
        self._body.filled(count)
        self._past_h11 -= count
        self._made_progress(count, now)
        if not self._past_h11:
            self._finish_past_h11()

    def _note_sent(self) -> None:
        if self._request_ended and not self._unsent and self.phase < Phase.SENT:
            self.phase = Phase.SENT

    # --- what the driver reads --------------------------------------------------------

    def next_event(self) -> Http1Event | None:
        return self._events.popleft() if self._events else None

    @property
    def wants_read(self) -> bool:
        return self._state is _State.ACTIVE

    @property
    def finished(self) -> bool:
        return self._state is _State.BROKEN

    @property
    def streaming(self) -> bool:
        """Whether the response's body comes as `BodyData`; known once its head has come."""
        return self._streaming

    @property
    def wants_body(self) -> bool:
        """Whether more of a streamed request body is welcome: no answer has ended it early."""
        return self._state is _State.ACTIVE and not self._request_ended

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on this connection."""
        return self._state is _State.IDLE and not self._received_eof

    def next_deadline(self) -> float | None:
        if self._state is not _State.ACTIVE:
            return None
        return earliest(self._total_deadline(), self._progress_deadline())

    def handle_timeout(self, *, now: float) -> None:
        if self._state is not _State.ACTIVE:
            return
        total, progress = self._total_deadline(), self._progress_deadline()
        if total is not None and now >= total and (progress is None or total <= progress):
            limit = self._limits.total
            self._fail(FaultKind.DEADLINE, f"no complete answer within {limit:g} s", seconds=limit)
        elif progress is not None and now >= progress:
            if self._unsent:
                limit = self._limits.write
                what = f"the peer took no more of the request for {limit:g} s"
                self._fail(FaultKind.WRITE_TIMEOUT, what, seconds=limit)
            else:
                limit = self._limits.read
                what = "answer" if self.phase < Phase.RESPONSE_BEGUN else "more of the answer"
                self._fail(FaultKind.READ_TIMEOUT, f"no {what} within {limit:g} s", seconds=limit)

    def _total_deadline(self) -> float | None:
        return None if self._limits.total is None else self._started + self._limits.total

    def _progress_deadline(self) -> float | None:
        if self._unsent:
            limit = self._limits.write
        elif self._request_ended or self.phase is Phase.RESPONSE_BEGUN:
            limit = self._limits.read
        else:
            return None  # the application is slow to feed the body; the peer is not to blame
        return None if limit is None else self._last_progress + limit

    # --- parsing ----------------------------------------------------------------------

    def _parse(self, now: float) -> None:
        try:
            while self._state is _State.ACTIVE and self._past_h11 is None and self._chunks is None:
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._handle(event, now)
        except h11.RemoteProtocolError as error:
            if self._received_eof:
                when = "before the answer was complete" if self._heard else "without an answer"
                self._fail(FaultKind.DISCONNECTED, f"the connection was closed {when}")
            elif error.error_status_hint == 431:
                limit = f"{MAX_HEAD_BYTES // 1024} KiB"
                self._fail(FaultKind.TOO_LARGE, f"the answer's head exceeds {limit}")
            else:
                self._fail(FaultKind.PROTOCOL, f"the answer is not valid HTTP: {error}")

    def _handle(self, event: object, now: float) -> None:
        match event:  # the usual first: h11's events have abstract bases, slow to be asked in vain
            case h11.Response():
                self._begin_response(event, now)
            case h11.Data():
                self._made_progress(len(event.data), now)
                self._take_body(event.data)
            case h11.EndOfMessage():
                self._complete()
            case h11.InformationalResponse():
                self._informational += 1
                if event.status_code == 101 or self._informational > MAX_INFORMATIONAL:
                    self._fail(
                        FaultKind.PROTOCOL, f"unexpected answers of status {event.status_code}"
                    )
            case h11.ConnectionClosed():
                self._fail(FaultKind.DISCONNECTED, "the connection was closed without an answer")

    def _begin_response(self, response: h11.Response, now: float) -> None:
        self.phase = Phase.RESPONSE_BEGUN
        success = 200 <= response.status_code < 300
        self._streaming = self._stream_success and (success or self._stream_errors)
        self._last_progress = now
        headers = tuple(
            [(name.decode("ascii"), value.decode("latin-1")) for name, value in response.headers]
        )
        self._events.append(
            ResponseHead(response.status_code, headers, response.reason.decode("latin-1"))
        )
        length = self._plain_length(response, headers)
        limit = self._limits.max_body_bytes
        if limit is not None and length is not None and length > limit:
            self._fail(FaultKind.TOO_LARGE, f"the answer's body has {length} bytes, over {limit}")
        elif length is not None and self._may_go_past_h11(length):
            self._go_past_h11(length, now)
        elif self._streaming and self._comes_in_chunks(headers) and self._may_go_past_h11(0):
            early, _ = self._h11.trailing_data
            self._keep_alive = self._h11.our_state is h11.DONE
            self._chunks = ChunkReader()
            if early:
                self._receive_chunks(early, now)
        else:
            self._body = BodyBuffer()

    def _plain_length(self, response: h11.Response, headers: Headers) -> int | None:
        """The body's Content-Length, where it is what frames the body."""
        if response.status_code in (204, 304) or self._is_head:
            return None
        named = dict(headers)
        if "transfer-encoding" in named or "content-length" not in named:
            return None
        return int(named["content-length"])  # h11 has checked that it is one number

    def _comes_in_chunks(self, headers: Headers) -> bool:
        codings = [value for name, value in headers if name == "transfer-encoding"]
        return [coding.lower() for coding in codings] == ["chunked"] and not self._is_head

    def _receive_chunks(self, data: bytes, now: float) -> None:
        chunks = self._chunks
        assert chunks is not None
        try:
            content = chunks.feed(data)
        except BadChunk as error:
            self._fail(FaultKind.PROTOCOL, f"the answer is not valid HTTP: {error}")
            return
        if content:
            self._made_progress(len(content), now)
            self._take_body(content)
        if self._state is _State.ACTIVE and chunks.finished:
            self._keep_alive = self._keep_alive and not chunks.rest
            self._chunks = None
            self._finish_past_h11()

    def _may_go_past_h11(self, length: int) -> bool:
        # While the request goes out, h11 is needed for it. For a large body that is given up.
        return (self._request_ended or length > IN_PLACE_BYTES) and not self._through_h11

    def _go_past_h11(self, length: int, now: float) -> None:
        """Take the body off h11's hands; see the module's text."""
        early, _ = self._h11.trailing_data
        # Where the connection must close, or the request is still going out, h11 is not DONE.
        self._keep_alive = self._h11.our_state is h11.DONE
        self._past_h11 = length
        if not self._streaming and len(early) == length:
            self._past_h11 = None
            self._made_progress(length, now)
            self._finish_past_h11(early)
            return
        self._in_place = length > IN_PLACE_BYTES
        self._body = BodyBuffer(length if self._in_place else None)
        if early:
            self._receive_past_h11(early, now)
        elif not length:
            self._finish_past_h11()

    def _receive_past_h11(self, data: Buffer, now: float) -> None:
        assert self._past_h11 is not None
        if len(data) > self._past_h11:
            self._keep_alive = False  # bytes nobody asked for follow the body
            data = memoryview(data)[: self._past_h11]
        self._past_h11 -= len(data)
        self._made_progress(len(data), now)
        self._take_body(data)
        if not self._past_h11:
            self._finish_past_h11()

    def _finish_past_h11(self, body: bytes | None = None) -> None:
        self._past_h11 = None
        reusable = self._keep_alive and self._request_ended and not self._unsent
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._end(reusable, body)

    def _take_body(self, data: Buffer) -> None:
        self._body_bytes += len(data)
        limit = self._limits.max_body_bytes
        if limit is not None and self._body_bytes > limit:
            self._fail(FaultKind.TOO_LARGE, f"the answer's body exceeds {limit} bytes")
        elif self._streaming:
            self._events.append(BodyData(bytes(data)))
        else:
            self._body.append(data)

    def _made_progress(self, count: int, now: float) -> None:
        # Fewer bytes than this within the read limit is a drip, and does not count.
        self._progress_bytes += count
        if self._streaming or self._progress_bytes >= MIN_PROGRESS_BYTES:
            self._progress_bytes = 0
            self._last_progress = now

    def _complete(self) -> None:
        trailing, _ = self._h11.trailing_data
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        reusable = done and not trailing and not self._unsent and not self._received_eof
        if reusable:
            self._h11.start_next_cycle()
        self._end(reusable)

    def _end(self, reusable: bool, body: bytes | None = None) -> None:
        self._state = _State.IDLE if reusable else _State.BROKEN
        self._output.clear()
        self._unsent = 0
        self._events.append(ExchangeDone(self._body.take() if body is None else body))

    def _fail(self, kind: FaultKind, message: str, *, seconds: float | None = None) -> None:
        self._state = _State.BROKEN
        self._past_h11 = self._chunks = None
        self._body = BodyBuffer()
        self._events.append(ExchangeFailed(Fault(kind, message, self.phase, seconds)))


_END_OF_MESSAGE = h11.EndOfMessage()


@lru_cache(maxsize=64)
def _checked_request(method: str, target: str, headers: Headers) -> h11.Request:
    """A request as h11 has checked it; polling asks the same again and again."""
    return h11.Request(method=method, target=target, headers=_checked_headers(headers))


@lru_cache(maxsize=64)
def _checked_headers(headers: Headers) -> Any:
    """Headers as h11 has checked them, which takes it longer than all else of a request.

    (h11 keeps the name of their type to itself.)
    """
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    return h11.Request(method="GET", target="/", headers=encoded).headers
