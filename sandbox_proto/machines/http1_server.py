"""The server's side of an HTTP/1.1 connection, up to and including a WebSocket upgrade.

Small, because its peers are tests, simulations and model hosts: requests are gathered
whole, one after the other, and answered whole or piece by piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import attrs
import h11

from ..errors import LocalProtocolError
from .base import Buffer, Output, require_data
from .http1 import MAX_HEAD_BYTES
from .upgrade import accept_token

MAX_REQUEST_BYTES = 256 * 1024 * 1024


@attrs.frozen
class RequestReceived:
    """A complete request.

    :ivar headers: names in lower case; of repeated ones the last counts.
    :ivar upgrade_key: the key of a WebSocket upgrade, else None.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    upgrade_key: str | None = None


class Http1Server:
    """See `machines.base` for how to drive it; it has no time limits of its own.

    :ivar finished: the connection is to be closed once its output is sent.
    """

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._output: list[Output] = []
        self._events: deque[RequestReceived] = deque()
        self._head: h11.Request | None = None
        self._body = bytearray()
        self.finished = False

    def receive_data(self, data: Buffer) -> None:
        """Bytes arrived."""
        require_data(data)
        if not self.finished:
            self._h11.receive_data(bytes(data))
            self._parse()

    def receive_eof(self) -> None:
        """The client shut down its sending side."""
        if not self.finished:
            self._h11.receive_data(b"")
            self._parse()

    def data_to_send(self) -> list[Output]:
        """The output since the last call."""
        output, self._output = self._output, []
        return output

    def next_event(self) -> RequestReceived | None:
        """The next complete request, or None."""
        return self._events.popleft() if self._events else None

    def respond(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Answer the request received last."""
        fields = {"content-length": str(len(body)), **headers}
        if status in (204, 304):
            fields.pop("content-length")
        self.begin_response(status, fields)
        if body and self._head is not None and self._head.method != b"HEAD":
            self.send_body(body)
        self.end_response()

    def begin_response(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin to answer the request received last; without a length, in chunks."""
        fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._send(h11.Response(status_code=status, headers=fields))

    def send_body(self, data: bytes) -> None:
        """A piece of the answer's body."""
        self._send(h11.Data(data=data))

    def end_response(self) -> None:
        """The answer is complete."""
        self._send(h11.EndOfMessage())
        self._head = None
        self._body.clear()
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._parse()
        elif self._h11.our_state is not h11.SWITCHED_PROTOCOL:
            self.finished = True

    def accept_upgrade(self, key: str) -> bytes:
        """Switch to WebSocket. Returns the bytes that came right behind the request."""
        headers = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", accept_token(key.encode())),
        ]
        self._send(h11.InformationalResponse(status_code=101, headers=headers))
        return bytes(self._h11.trailing_data[0])

    def _send(self, event: h11.Event) -> None:
        try:
            data = self._h11.send(event)
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(str(error)) from None
        if data:
            self._output.append(data)

    def _parse(self) -> None:
        try:
            while True:
                event = self._h11.next_event()
                match event:
                    case h11.Request():
                        self._head = event
                    case h11.Data():
                        self._body += event.data
                        if len(self._body) > MAX_REQUEST_BYTES:
                            self.finished = True
                            return
                    case h11.EndOfMessage():
                        self._events.append(self._complete())
                    case h11.ConnectionClosed():
                        self.finished = True
                        return
                    case _:
                        return
        except h11.RemoteProtocolError as error:
            self.finished = True
            if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.respond(error.error_status_hint, {"connection": "close"})

    def _complete(self) -> RequestReceived:
        assert self._head is not None
        headers = {
            name.decode("ascii"): value.decode("latin-1") for name, value in self._head.headers
        }
        upgrades = headers.get("upgrade", "").lower() == "websocket"
        return RequestReceived(
            self._head.method.decode("ascii"),
            self._head.target.decode("ascii"),
            headers,
            bytes(self._body),
            headers.get("sec-websocket-key") if upgrades else None,
        )
