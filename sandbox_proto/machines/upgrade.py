"""The WebSocket upgrade, done with h11 and a key of our own (RFC 6455 section 4).

Doing it here and not in wsproto has three reasons: the key comes from injected
entropy, so recorded upgrades replay; a refusal is an ordinary response whose
status and message reach the user; and bytes right behind the 101 are kept.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache

import attrs
import h11

from ..errors import LocalProtocolError
from ..faults import Fault, FaultKind, Phase
from ..wire.http import Headers, Response
from ..wire.urls import Url
from .base import Buffer, Output, require_data
from .http1 import MAX_HEAD_BYTES

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_REJECTION_BYTES = 16 * 1024
KEY_BYTES = 16


def accept_token(key: bytes) -> bytes:
    """What a server answers to a client's ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())


@attrs.frozen
class Upgraded:
    """The server agreed; what follows is WebSocket.

    :ivar trailing_data: WebSocket bytes that arrived together with the answer.
    """

    headers: Headers
    trailing_data: bytes


@attrs.frozen
class UpgradeRejected:
    """The server answered with another status. `response.body` holds at most 16 KiB."""

    response: Response


@attrs.frozen
class UpgradeFailed:
    """No valid answer came."""

    fault: Fault


UpgradeEvent = Upgraded | UpgradeRejected | UpgradeFailed


# Stands in a checked request where the key of each single one belongs.
_ANY_KEY = b"*" * 24
_KEY = b"\r\nsec-websocket-key: "


@lru_cache(maxsize=64)
def _checked_upgrade(target: str, host: str, headers: Headers) -> h11.Request:
    """An upgrade as h11 has checked it, which takes it longer than all else: with any key."""
    return h11.Request(
        method="GET",
        target=target,
        headers=[
            (b"host", host.encode()),
            *((name.encode("ascii"), value.encode("latin-1")) for name, value in headers),
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-key", _ANY_KEY),
            (b"sec-websocket-version", b"13"),
        ],
    )


class ClientUpgrade:
    """Asks for the upgrade of one fresh connection. See `machines.base` for how to drive it."""

    def __init__(
        self,
        url: Url,
        headers: Mapping[str, str],
        *,
        nonce: bytes,
        deadline: float | None,
        timeout: float | None = None,
    ) -> None:
        """
        :param nonce: 16 unpredictable bytes for the key.
        :param deadline: when to give up, or None.
        :param timeout: the limit behind `deadline` in seconds, for the error's text.
        """
        if len(nonce) != KEY_BYTES:
            raise LocalProtocolError(f"the WebSocket key needs {KEY_BYTES} bytes of entropy")
        self._key = base64.b64encode(nonce)
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        offered = headers.get("sec-websocket-protocol", "")
        self._subprotocols = [name.strip() for name in offered.split(",")]
        self._deadline, self._timeout = deadline, timeout
        self._rejection: h11.Response | None = None
        self._body = bytearray()
        self._event: UpgradeEvent | None = None
        self._ended = self._succeeded = False
        self._phase = Phase.NOTHING_SENT
        request = _checked_upgrade(url.target, url.origin.host_header, tuple(headers.items()))
        sent = self._h11.send(request).replace(_KEY + _ANY_KEY, _KEY + self._key, 1)
        self._h11.send(h11.EndOfMessage())
        self._output: list[Output] = [sent]

    def receive_data(self, data: Buffer, *, now: float) -> None:
        require_data(data)
        if not self._ended:
            self._h11.receive_data(bytes(data))
            self._parse()

    def receive_eof(self, *, now: float) -> None:
        if not self._ended:
            self._h11.receive_data(b"")
            self._parse()

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        if self._ended:
            return
        if self._rejection is not None:
            self._reject()  # the status says enough
        else:
            self._fail(fault.kind, fault.message, fault.seconds)

    def data_to_send(self) -> list[Output]:
        output, self._output = self._output, []
        return output

    def data_sent(self, count: int, *, now: float) -> None:
        self._phase = max(self._phase, Phase.SENT)

    def receive_buffer(self) -> memoryview | None:
        return None

    def buffer_filled(self, count: int, *, now: float) -> None:
        raise LocalProtocolError("this machine gave no buffer")

    def resume(self, *, now: float) -> None:
        """Nothing to do: the deadline of the upgrade is absolute."""

    def next_event(self) -> UpgradeEvent | None:
        event, self._event = self._event, None
        return event

    @property
    def wants_read(self) -> bool:
        return not self._ended

    @property
    def finished(self) -> bool:
        return self._ended

    @property
    def succeeded(self) -> bool:
        """Whether the server agreed: the connection goes on, with another machine."""
        return self._succeeded

    def next_deadline(self) -> float | None:
        return None if self._ended else self._deadline

    def handle_timeout(self, *, now: float) -> None:
        if not self._ended and self._deadline is not None and now >= self._deadline:
            if self._rejection is not None:
                self._reject()  # the status says enough; its body may stay away
                return
            within = "in time" if self._timeout is None else f"within {self._timeout:g} s"
            self._fail(
                FaultKind.CONNECT_TIMEOUT, f"the WebSocket was not open {within}", self._timeout
            )

    def _parse(self) -> None:
        try:
            while not self._ended:
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                match event:
                    case h11.InformationalResponse(status_code=101):
                        self._accept(event)
                    case h11.Response():
                        self._phase = Phase.RESPONSE_BEGUN
                        self._rejection = event
                    case h11.Data():
                        self._body += event.data
                        if len(self._body) > MAX_REJECTION_BYTES:
                            self._reject()
                    case h11.EndOfMessage():
                        self._reject()
                    case h11.ConnectionClosed():
                        self._fail(
                            FaultKind.DISCONNECTED,
                            "the connection was closed instead of upgraded to a WebSocket",
                        )
        except h11.RemoteProtocolError as error:
            if self._rejection is not None:
                self._reject()
            elif self._h11.trailing_data[1]:
                message = "the connection was closed instead of upgraded to a WebSocket"
                self._fail(FaultKind.DISCONNECTED, message)
            else:
                message = f"the answer to the WebSocket upgrade is not valid HTTP: {error}"
                self._fail(FaultKind.PROTOCOL, message)

    def _accept(self, response: h11.InformationalResponse) -> None:
        headers = _text_headers(response)
        named = dict(headers)
        listed = ",".join(value for name, value in headers if name == "connection")
        connection = [token.strip().lower() for token in listed.split(",")]
        if named.get("upgrade", "").lower() != "websocket" or "upgrade" not in connection:
            self._fail(FaultKind.PROTOCOL, "the server switched to something other than WebSocket")
        elif named.get("sec-websocket-accept", "").encode() != accept_token(self._key):
            self._fail(FaultKind.PROTOCOL, "the server's WebSocket accept token is wrong")
        elif "sec-websocket-extensions" in named:
            self._fail(FaultKind.PROTOCOL, "the server chose a WebSocket extension nobody offered")
        elif named.get("sec-websocket-protocol", self._subprotocols[0]) not in self._subprotocols:
            self._fail(FaultKind.PROTOCOL, "the server chose a subprotocol nobody offered")
        else:
            self._ended = self._succeeded = True
            self._event = Upgraded(headers, bytes(self._h11.trailing_data[0]))

    def _reject(self) -> None:
        assert self._rejection is not None
        self._ended = True
        self._event = UpgradeRejected(
            Response(
                self._rejection.status_code,
                _text_headers(self._rejection),
                bytes(self._body[:MAX_REJECTION_BYTES]),
                self._rejection.reason.decode("latin-1"),
            )
        )

    def _fail(self, kind: FaultKind, message: str, seconds: float | None = None) -> None:
        self._ended = True
        self._event = UpgradeFailed(Fault(kind, message, self._phase, seconds))


def _text_headers(response: h11.Response | h11.InformationalResponse) -> Headers:
    return tuple(
        (name.decode("ascii"), value.decode("latin-1")) for name, value in response.headers
    )
