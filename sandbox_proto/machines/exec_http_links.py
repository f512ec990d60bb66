"""Attachments over plain HTTP: an event stream (protocol/07), or one request that waits (08).

Both speak first and once: the opening message is the request. What else is said later (input,
kill) they cannot carry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ..config import ExecTimeouts
from ..errors import (
    CommandTimeoutError,
    LocalProtocolError,
    SandboxClientError,
    SandboxOperationError,
    SandboxProtocolError,
)
from ..faults import Fault, FaultKind, Phase
from ..wire.command_models import OutputChunk
from ..wire.error_bodies import context_of, data_plane_error, read_detail, retry_after_seconds
from ..wire.exec_messages import (
    ClientMessage,
    ExecError,
    Execute,
    Exit,
    MalformedMessage,
    Reconnect,
    Started,
)
from ..wire.http import Request, Response, json_body
from ..wire.sse import AckRequired, RawOutput, SseParser, decode_event, read_output
from ..wire.urls import Url
from .base import Buffer, Output, earliest
from .exec_link import LinkEnded, LinkEnding, LinkEvent, LinkOpened
from .http1 import (
    BodyData,
    ExchangeDone,
    ExchangeFailed,
    ExchangeLimits,
    Http1Client,
    Http1Event,
    ResponseHead,
)

_BUSY_STATUSES = frozenset({429, 502, 503, 504})
_MAX_ERROR_BYTES = 64 * 1024
_MAX_RESULT_BYTES = 256 * 1024 * 1024
# How long the end of a response that was announced may take, before its connection is given up.
_END_PATIENCE = 0.25


class _HttpLink:
    """One request and its answer, as a link."""

    def __init__(self, base: str, headers: Mapping[str, str], timeouts: ExecTimeouts) -> None:
        self._base, self._headers, self._timeouts = base, headers, timeouts
        self._http = Http1Client()
        self._messages: deque[LinkEvent] = deque([LinkOpened()])
        self._head: ResponseHead | None = None
        self._error_body = bytearray()
        self._ended = False
        self._request: Request
        self._now = 0.0

    def _post(
        self, path: str, body: Mapping[str, Any], limits: ExchangeLimits, now: float, stream: bool
    ) -> None:
        self._request = Request(
            "POST",
            Url.parse(self._base + path),
            {"content-type": "application/json", **self._headers},
            json_body(dict(body)),
        )
        self._head = None
        self._error_body.clear()
        self._http.send_request(self._request, limits, now=now, stream=stream, stream_errors=stream)

    # --- what the driver feeds and reads ----------------------------------------------

    def close(self, code: int, *, now: float) -> None:
        self._ended = True

    def receive_data(self, data: Buffer, *, now: float) -> None:
        self._now = now
        self._http.receive_data(data, now=now)

    def receive_eof(self, *, now: float) -> None:
        self._http.receive_eof(now=now)

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        self._http.connection_lost(fault, now=now)

    def data_to_send(self) -> list[Output]:
        return self._http.data_to_send()

    def data_sent(self, count: int, *, now: float) -> None:
        self._http.data_sent(count, now=now)

    def resume(self, *, now: float) -> None:
        self._http.resume(now=now)

    def next_deadline(self) -> float | None:
        return None if self._ended else self._http.next_deadline()

    def handle_timeout(self, *, now: float) -> None:
        self._http.handle_timeout(now=now)

    @property
    def finished(self) -> bool:
        return self._ended

    @property
    def reusable(self) -> bool:
        return not self._ended and self._http.reusable

    def take_output(self) -> list[OutputChunk] | list[RawOutput]:
        """See `Link`: nothing at once here."""
        return []

    def next_event(self) -> LinkEvent | None:
        """The next message or change, or None."""
        while not self._ended:
            if self._messages:
                message = self._messages.popleft()
                self._ended = isinstance(message, LinkEnded)
                return message
            event = self._http.next_event()
            if event is None:
                return None
            self._take_or_end(event)
        return None

    def _take_or_end(self, event: Http1Event) -> None:
        try:
            self._take(event)
        except MalformedMessage as error:
            self._messages.append(LinkEnded(LinkEnding.VIOLATION, str(error)))

    def _take(self, event: Http1Event) -> None:
        raise NotImplementedError

    # --- refusals ---------------------------------------------------------------------

    @property
    def _succeeded(self) -> bool:
        return self._head is not None and 200 <= self._head.status < 300

    def _refusal(self, body: bytes) -> LinkEnded:
        assert self._head is not None
        response = Response(self._head.status, self._head.headers, body, self._head.reason)
        error = self._error_of(response).in_context(context_of(self._request, response))
        return LinkEnded(
            self._ending_of(response.status),
            str(error),
            response.status,
            retry_after_seconds(response.header("retry-after")),
            error,
        )

    def _ending_of(self, status: int) -> LinkEnding:
        return LinkEnding.BUSY if status in _BUSY_STATUSES else LinkEnding.REFUSED

    def _error_of(self, response: Response) -> SandboxClientError:
        return data_plane_error(self._request, response)


class StreamLink(_HttpLink):
    """One response of the event stream; see the module's text."""

    def __init__(
        self, base: str, headers: Mapping[str, str], timeouts: ExecTimeouts, *, kept: bool
    ) -> None:
        """
        :param kept: its connection has served before.
        """
        super().__init__(base, {**headers, "accept": "text/event-stream"}, timeouts)
        self._kept = kept
        self._heard_last = False
        self._parser = SseParser()
        self._opening: Execute | Reconnect
        self._pause: AckRequired | None = None
        self._pause_until: float | None = None

    def send(self, message: ClientMessage, *, now: float) -> None:
        """Send the opening message. There can be no other.

        :raises LocalProtocolError: this is another.
        """
        if not isinstance(message, (Execute, Reconnect)):
            raise LocalProtocolError(f"an event stream cannot carry {message!r}")
        self._opening = message
        self._parser = SseParser()
        self._pause = self._pause_until = None
        silence = self._timeouts.sse_read
        limits = ExchangeLimits(read=silence, write=silence)
        path = f"/execute/stream/{'start' if isinstance(message, Execute) else 'resume'}"
        self._post(path, _stream_body(message), limits, now, stream=True)

    def next_deadline(self) -> float | None:
        return earliest(super().next_deadline(), self._pause_until)

    def handle_timeout(self, *, now: float) -> None:
        if self._pause_until is not None and now >= self._pause_until:
            self._end_pause()
        super().handle_timeout(now=now)

    def _take(self, event: Http1Event) -> None:
        if self._pause is not None:
            if isinstance(event, (ExchangeDone, ExchangeFailed)):
                self._end_pause()
            return
        match event:
            case ResponseHead():
                self._head = event
            case BodyData(data) if self._succeeded:
                self._take_content(data)
            case BodyData(data):
                self._error_body += data[: _MAX_ERROR_BYTES - len(self._error_body)]
            case ExchangeDone() if self._succeeded:
                self._take_events(self._parser.finish())
                if self._pause is not None:
                    self._end_pause()
                else:
                    ended = LinkEnded(LinkEnding.CLEAN, "the event stream ended")
                    self._messages.append(ended)
            case ExchangeDone():
                self._messages.append(self._refusal(bytes(self._error_body)))
            case ExchangeFailed(fault):
                self._messages.append(LinkEnded(self._how_it_failed(fault), fault.message))

    def take_output(self) -> list[RawOutput]:
        """See `Link`."""
        run: list[RawOutput] = []
        messages = self._messages
        while not self._ended:
            while messages and type(message := messages[0]) is RawOutput:
                run.append(message)
                messages.popleft()
            if messages or (event := self._http.next_event()) is None:
                break
            self._take_or_end(event)
        return run

    def _take_content(self, data: bytes) -> None:
        """Read events: output at once, as far as it is whole and spelled as usual."""
        start = 0
        if not self._parser.between_events:
            start = data.find(b"\n\n") + 2
            if start < 2:
                start = len(data)
            self._take_events(self._parser.feed(data[:start]))
        while start < len(data) and self._pause is None:
            if self._parser.between_events:
                output, start = read_output(data, start)
                self._messages += output
            # What comes next is something else, or not whole.
            end = data.find(b"\n\n", start) + 2
            if end < 2:
                end = len(data)
            if start < end:
                self._take_events(self._parser.feed(data[start:end]))
            start = end

    def _how_it_failed(self, fault: Fault) -> LinkEnding:
        if (
            self._kept
            and fault.kind is FaultKind.DISCONNECTED
            and fault.phase < Phase.RESPONSE_BEGUN
        ):
            return LinkEnding.STALE
        unsent = fault.phase is Phase.NOTHING_SENT
        return LinkEnding.UNREACHABLE if unsent else LinkEnding.ABNORMAL

    def _take_events(self, events: list[tuple[str, bytes]]) -> None:
        for name, data in events:
            message = decode_event(name, data)
            match message:
                case None:
                    pass
                case AckRequired():
                    # Its response ends now; if in order, its connection serves for the next.
                    self._pause = message
                    self._pause_until = self._now + _END_PATIENCE
                    return
                case ExecError(text, "ServerShuttingDown"):
                    self._messages.append(LinkEnded(LinkEnding.BUSY, text))
                    return
                case _:
                    self._heard_last = isinstance(message, (Exit, ExecError))
                    self._messages.append(message)

    @property
    def unfinished(self) -> Http1Client | None:
        """What waits for the end of the answer, once all that matters of it has come.

        None: the connection is of no further use.
        """
        return self._http if self._heard_last and not self._http.finished else None

    def _end_pause(self) -> None:
        if self._pause is not None and self._pause_until is not None:
            self._messages.append(self._pause)
            self._pause_until = None

    def _error_of(self, response: Response) -> SandboxClientError:
        if response.status == 404 and isinstance(self._opening, Reconnect):
            detail = read_detail(self._request, response)
            message = f"command {self._opening.command_id}: {detail.message}"
            return SandboxOperationError(message, "reconnect", "CommandNotFound")
        return super()._error_of(response)


class BlockingLink(_HttpLink):
    """``POST /execute``: the answer is the result. See the module's text."""

    def send(self, message: ClientMessage, *, now: float) -> None:
        """Send the opening message. There can be no other.

        :raises LocalProtocolError: this is another.
        """
        if not isinstance(message, Execute):
            raise LocalProtocolError(f"a blocking request cannot carry {message!r}")
        self._limit = message.timeout_seconds
        grace = self._timeouts.grace
        patience = self._limit + grace if self._limit > 0 and grace is not None else None
        limits = ExchangeLimits(
            read=None, write=patience, total=patience, max_body_bytes=_MAX_RESULT_BYTES
        )
        self._post("/execute", _blocking_body(message), limits, now, stream=False)

    def _take(self, event: Http1Event) -> None:
        match event:
            case ResponseHead():
                self._head = event
            case ExchangeDone(body) if self._succeeded:
                self._messages.extend(_read_result(body))
            case ExchangeDone(body):
                self._messages.append(self._refusal(body))
            case ExchangeFailed(fault):
                self._messages.append(self._failure(fault))

    def _failure(self, fault: Fault) -> LinkEnded:
        if fault.phase is Phase.NOTHING_SENT:
            return LinkEnded(LinkEnding.UNREACHABLE, fault.message)
        error: SandboxClientError = fault.to_error()
        if fault.kind is FaultKind.DEADLINE:
            text = f"the command has a limit of {self._limit} s; {fault.message}"
            error = CommandTimeoutError(text, self._limit)
        return LinkEnded(LinkEnding.LOST, fault.message, error=error)

    def _ending_of(self, status: int) -> LinkEnding:
        if status == 429:
            return LinkEnding.BUSY  # refused before it was carried out
        return LinkEnding.LOST if status in _BUSY_STATUSES else LinkEnding.REFUSED

    def _error_of(self, response: Response) -> SandboxClientError:
        if response.status == 408:
            detail = read_detail(self._request, response)
            return CommandTimeoutError(detail.message, self._limit)
        return super()._error_of(response)


def _stream_body(message: Execute | Reconnect) -> dict[str, Any]:
    """The body of start or resume (protocol/07 sections 1.1 and 1.2)."""
    body = message.to_json()
    for name in ("type", "kill_on_disconnect", "close_stdin"):
        body.pop(name, None)
    return body


def _blocking_body(message: Execute) -> dict[str, Any]:
    """The body of a blocking request, in both dialects of protocol/08 section 2."""
    body: dict[str, Any] = {
        "command": message.command,
        "timeout": message.timeout_seconds,
        "timeout_seconds": message.timeout_seconds,
        "shell": message.shell,
    }
    for name in ("env", "cwd", "run_config"):
        if value := getattr(message, name):
            body[name] = value
    return body


def _read_result(body: bytes) -> list[LinkEvent]:
    """A result as what would have come piece by piece.

    :raises MalformedMessage: it is none.
    """
    try:
        fields = Response(200, (), body).json()
    except SandboxProtocolError as error:
        raise MalformedMessage(str(error)) from None
    if not isinstance(fields, Mapping):
        raise MalformedMessage("the result is not a JSON object")
    texts = {name: fields.get(name) or "" for name in ("stdout", "stderr")}
    code = fields.get("exit_code", -1)
    if not all(isinstance(text, str) for text in texts.values()) or type(code) is not int:
        raise MalformedMessage("the result's stdout, stderr or exit_code is of the wrong type")
    chunks = [OutputChunk(name, text, 0) for name, text in texts.items() if text]
    return [Started("", None), *chunks, Exit(code)]
