"""One attachment to a command, over one connection: bytes below, exec messages above.

A link lives as long as its connection: it opens it, sends the messages it is given,
decodes what comes and says how it ended. It decides nothing about trying again; that is
`machines.exec_session`. Here is the link over a WebSocket; `machines.exec_http_links`
has those over plain HTTP.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import attrs

from ..config import ExecTimeouts
from ..errors import SandboxClientError, SandboxProtocolError
from ..faults import Fault, FaultKind
from ..wire.command_models import OutputChunk
from ..wire.error_bodies import retry_after_seconds
from ..wire.exec_messages import (
    ClientMessage,
    CloseStdin,
    Input,
    MalformedMessage,
    ServerMessage,
    decode_from_server,
    encode,
    read_output,
)
from ..wire.http import Response
from ..wire.sse import RawOutput, StreamMessage
from ..wire.urls import Url
from .base import Buffer, Output
from .upgrade import UpgradeFailed, UpgradeRejected
from .websocket import Closed, Failed, MarkPassed, Message, WebSocketLimits
from .ws_client import Opened, WebSocketClient

RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
_UNSUPPORTED_STATUSES = frozenset({404, 405, 501})
_CLEAN_CODES = frozenset({1000, 1001, 1005})
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


class LinkEnding(enum.Enum):
    """How an attachment ended, as far as the next decision cares."""

    CLEAN = "clean"
    """Closed in order, or without a reason (1000, 1005)."""
    GOING_AWAY = "going away"
    """Closed because the server reloads (1001)."""
    ABNORMAL = "abnormal"
    """Cut, reset, silent, or closed with any other code."""
    BUSY = "busy"
    """The upgrade was refused for now (429, 500, 502, 503, 504)."""
    UNREACHABLE = "unreachable"
    """No connection could be made, or it did not open in time."""
    REFUSED = "refused"
    """The upgrade was refused for good (404, 403, any other status), or answered with nonsense."""
    VIOLATION = "violation"
    """The server sent a message that is not of the protocol."""
    STALE = "stale"
    """The connection was kept from earlier and turned out to be dead; nobody's failure."""
    LOST = "lost"
    """The answer was lost, and on this transport nobody can be asked what became of the command."""


@attrs.frozen
class LinkEnded:
    """The attachment is over.

    :ivar message: a sentence for people.
    :ivar status: the HTTP status that refused it.
    :ivar retry_after: seconds the refusal asked us to wait.
    :ivar error: what to raise if this is the end; None: what the ending says.
    """

    ending: LinkEnding
    message: str
    status: int | None = None
    retry_after: float | None = None
    error: SandboxClientError | None = None

    @property
    def unsupported(self) -> bool:
        """The server does not know this way of running commands."""
        return self.ending is LinkEnding.REFUSED and self.status in _UNSUPPORTED_STATUSES

    @classmethod
    def unreachable(cls, fault: Fault) -> LinkEnded:
        """No connection could be made."""
        final = fault.kind is FaultKind.TLS
        return cls(LinkEnding.REFUSED if final else LinkEnding.UNREACHABLE, fault.message)


@attrs.frozen
class LinkOpened:
    """The link is open; messages flow."""


@attrs.frozen
class InputArrived:
    """The server has received all input that was sent."""


LinkEvent = LinkOpened | InputArrived | ServerMessage | StreamMessage | LinkEnded


class Link(Protocol):
    """What every link offers; see `machines.base` for how to drive it."""

    def send(self, message: ClientMessage, *, now: float) -> None:
        """Send a message; the first is `Execute` or `Reconnect`."""

    def close(self, code: int, *, now: float) -> None:
        """End the attachment from our side."""

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """See `Machine`."""

    def receive_eof(self, *, now: float) -> None:
        """See `Machine`."""

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        """See `Machine`."""

    def data_to_send(self) -> list[Output]:
        """See `Machine`."""

    def data_sent(self, count: int, *, now: float) -> None:
        """See `Machine`."""

    def resume(self, *, now: float) -> None:
        """The driver was away and reads again."""

    def next_deadline(self) -> float | None:
        """See `Machine`."""

    def handle_timeout(self, *, now: float) -> None:
        """See `Machine`."""

    @property
    def finished(self) -> bool:
        """Nothing more will come."""

    @property
    def reusable(self) -> bool:
        """Whether its connection can carry another attachment."""

    def take_output(self) -> list[OutputChunk] | list[RawOutput]:
        """The output that comes next, as much as there is: `next_event` for many at once."""

    def next_event(self) -> LinkEvent | None:
        """The next message or change, or None."""


def exec_socket(
    base: str,
    headers: Mapping[str, str],
    *,
    nonce: bytes,
    timeouts: ExecTimeouts,
    open_deadline: float | None,
) -> WebSocketClient:
    """A WebSocket for one command.

    :param base: the data plane's base URL.
    """
    limits = WebSocketLimits(
        ping_interval=timeouts.ping_interval,
        pong_timeout=timeouts.pong,
        close_timeout=timeouts.close,
        max_message_bytes=MAX_MESSAGE_BYTES,
    )
    return WebSocketClient(
        socket_url(base),
        headers,
        limits,
        nonce=nonce,
        open_deadline=open_deadline,
        open_timeout=timeouts.open,
    )


def socket_url(base: str) -> Url:
    """Where commands are spoken to by WebSocket."""
    return Url.parse(base + "/execute/ws")


class WebSocketLink:
    """See the module's text, and `machines.base` for how to drive it."""

    def __init__(self, url: Url, wire: WebSocketClient, *, kept: bool = False) -> None:
        """
        :param wire: the socket, see `exec_socket`.
        :param kept: it is open already, and its `Opened` was taken.
        """
        self._url, self._wire = url, wire
        self._kept, self._unheard = kept, kept
        self._texts: deque[str] = deque()  # taken from the socket, and not read yet
        self._ended = False

    # --- commands ---------------------------------------------------------------------

    def send(self, message: ClientMessage, *, now: float) -> None:
        """Send a message; dropped when the socket is closing, as the command is over then."""
        if self._wire.open:
            self._wire.send_text(encode(message), now=now)
            if isinstance(message, (Input, CloseStdin)):
                self._wire.mark(now=now)

    def close(self, code: int, *, now: float) -> None:
        """End the attachment from our side."""
        self._wire.close(code, now=now)
        self._ended = True

    # --- what the driver feeds and reads ----------------------------------------------

    def receive_data(self, data: Buffer, *, now: float) -> None:
        self._wire.receive_data(data, now=now)

    def receive_eof(self, *, now: float) -> None:
        self._wire.receive_eof(now=now)

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        self._wire.connection_lost(fault, now=now)

    def data_to_send(self) -> list[Output]:
        return self._wire.data_to_send()

    def data_sent(self, count: int, *, now: float) -> None:
        self._wire.data_sent(count, now=now)

    def resume(self, *, now: float) -> None:
        self._wire.resume(now=now)

    def next_deadline(self) -> float | None:
        return None if self._ended else self._wire.next_deadline()

    def handle_timeout(self, *, now: float) -> None:
        self._wire.handle_timeout(now=now)

    @property
    def finished(self) -> bool:
        return self._ended

    @property
    def reusable(self) -> bool:
        return False  # a socket carries exactly one attachment

    def take_output(self) -> list[OutputChunk]:
        """See `Link`."""
        if self._ended or self._kept:
            return []
        self._texts = self._texts or self._wire.take_texts()
        return read_output(self._texts) if self._texts else []

    def next_event(self) -> LinkEvent | None:
        """The next message or change, or None."""
        if self._kept:
            self._kept = False
            return LinkOpened()
        while not self._ended:
            event = Message(self._texts.popleft()) if self._texts else self._wire.next_event()
            match event:
                case None:
                    return None
                case Message(data):
                    self._unheard = False
                    try:
                        message = decode_from_server(data)
                    except MalformedMessage as error:
                        return self._end(LinkEnding.VIOLATION, str(error))
                    if message is not None:
                        return message
                case Opened():
                    return LinkOpened()
                case MarkPassed():
                    return InputArrived()
                case UpgradeRejected(response):
                    return self._end_rejected(response)
                case UpgradeFailed(fault):
                    final = fault.kind in (FaultKind.PROTOCOL, FaultKind.TOO_LARGE)
                    ending = LinkEnding.REFUSED if final else LinkEnding.UNREACHABLE
                    return self._end(ending, fault.message)
                case Closed(code, reason):
                    said = f" ({reason})" if reason else ""
                    ending = _ending_of(code)
                    return self._end(ending, f"the server closed with code {code}{said}")
                case Failed(fault):
                    return self._end(LinkEnding.ABNORMAL, fault.message)
        return None

    def _end_rejected(self, response: Response) -> LinkEnded:
        busy = response.status in RETRYABLE_STATUSES
        self._ended = True
        return LinkEnded(
            LinkEnding.BUSY if busy else LinkEnding.REFUSED,
            _rejection_text(self._url, response),
            response.status,
            retry_after_seconds(response.header("retry-after")),
        )

    def _end(self, ending: LinkEnding, message: str) -> LinkEnded:
        self._ended = True
        if self._unheard and ending is not LinkEnding.VIOLATION:
            ending = LinkEnding.STALE  # it stood there too long, which is nobody's failure
        return LinkEnded(ending, message)


def _ending_of(code: int) -> LinkEnding:
    if code == 1001:
        return LinkEnding.GOING_AWAY
    return LinkEnding.CLEAN if code in _CLEAN_CODES else LinkEnding.ABNORMAL


def _rejection_text(url: Url, response: Response) -> str:
    """What a refused upgrade says (protocol/06 section 9): the status, and the server's words."""
    if response.status == 404:
        text = f"there is no exec endpoint at {url.without_query()} (404)"
    else:
        text = f"the exec WebSocket was refused with {response.status} {response.reason}".rstrip()
    try:
        body = response.json()
    except SandboxProtocolError:
        return text
    detail = body.get("detail") if isinstance(body, Mapping) else None
    if not isinstance(detail, Mapping):
        return text
    message, error_id = detail.get("message"), detail.get("error_id")
    if isinstance(message, str) and message:
        text += f": {message}"
    if isinstance(error_id, str) and error_id:
        text += f" (error_id={error_id})"
    return text
