"""A WebSocket from the first byte to the last: the upgrade, then the messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import attrs

from ..errors import LocalProtocolError
from ..faults import Fault
from ..wire.http import Headers
from ..wire.urls import Url
from .base import Buffer, Output
from .upgrade import ClientUpgrade, Upgraded, UpgradeFailed, UpgradeRejected
from .websocket import WebSocket, WebSocketEvent, WebSocketLimits


@attrs.frozen
class Opened:
    """The server agreed; messages flow. `headers` are those of its answer."""

    headers: Headers


WebSocketClientEvent = Opened | UpgradeRejected | UpgradeFailed | WebSocketEvent


class WebSocketClient:
    """See `machines.base` for how to drive it."""

    def __init__(
        self,
        url: Url,
        headers: Mapping[str, str],
        limits: WebSocketLimits,
        *,
        nonce: bytes,
        open_deadline: float | None,
        open_timeout: float | None = None,
    ) -> None:
        """
        :param nonce: 16 unpredictable bytes for the key.
        :param open_deadline: when to give up the upgrade.
        :param open_timeout: the limit behind it in seconds, for the error's text.
        """
        self._limits = limits
        self._wire: ClientUpgrade | WebSocket = ClientUpgrade(
            url, headers, nonce=nonce, deadline=open_deadline, timeout=open_timeout
        )
        self._now = 0.0

    # --- commands ---------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether messages may be sent."""
        return isinstance(self._wire, WebSocket) and self._wire.open

    def send_text(self, text: str, *, now: float) -> None:
        """Send a text message.

        :raises LocalProtocolError: the socket is not open.
        """
        self._opened().send_text(text, now=now)

    def send_bytes(self, data: bytes, *, now: float) -> None:
        """Send a binary message.

        :raises LocalProtocolError: the socket is not open.
        """
        self._opened().send_bytes(data, now=now)

    def mark(self, *, now: float) -> None:
        """See `WebSocket.mark`.

        :raises LocalProtocolError: the socket is not open.
        """
        self._opened().mark(now=now)

    def close(self, code: int, *, now: float) -> None:
        """Begin the closing handshake, if there is anything to close."""
        if isinstance(self._wire, WebSocket):
            self._wire.close(code, now=now)

    def _opened(self) -> WebSocket:
        if not isinstance(self._wire, WebSocket):
            raise LocalProtocolError("the WebSocket is not open yet")
        return self._wire

    # --- what the driver feeds and reads ----------------------------------------------

    def receive_data(self, data: Buffer, *, now: float) -> None:
        self._now = now
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

    def receive_buffer(self) -> memoryview | None:
        return None

    def buffer_filled(self, count: int, *, now: float) -> None:
        raise LocalProtocolError("this machine gave no buffer")

    @property
    def wants_read(self) -> bool:
        return self._wire.wants_read

    @property
    def finished(self) -> bool:
        return self._wire.finished and not (
            isinstance(self._wire, ClientUpgrade) and self._wire.succeeded
        )

    def next_deadline(self) -> float | None:
        return self._wire.next_deadline()

    def handle_timeout(self, *, now: float) -> None:
        self._wire.handle_timeout(now=now)

    def take_texts(self) -> deque[str]:
        """See `WebSocket.take_texts`."""
        return self._wire.take_texts() if isinstance(self._wire, WebSocket) else deque()

    def next_event(self) -> WebSocketClientEvent | None:
        event = self._wire.next_event()
        if isinstance(event, Upgraded):
            self._wire = WebSocket(
                "client", self._limits, now=self._now, trailing_data=event.trailing_data
            )
            return Opened(event.headers)
        return event
