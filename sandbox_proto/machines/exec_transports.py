"""The transports of commands: what each is made of."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from ..config import ExecTimeouts
from ..wire.ids import Entropy
from .exec_http_links import BlockingLink, StreamLink
from .exec_link import Link, WebSocketLink, exec_socket, socket_url
from .exec_output import Ledger, RawLedger, TextLedger
from .upgrade import KEY_BYTES
from .ws_client import WebSocketClient


class Transport(enum.Enum):
    """How a command is spoken to."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    """An event stream: output only, as bytes."""
    HTTP = "http"
    """One request that waits for the end."""


def new_link(
    transport: Transport,
    base: str,
    headers: Mapping[str, str],
    *,
    entropy: Entropy,
    timeouts: ExecTimeouts,
    open_deadline: float | None,
    kept: bool = False,
    opened: WebSocketClient | None = None,
) -> Link:
    """A link for a connection.

    :param base: the data plane's base URL.
    :param kept: the connection is not fresh; only for event streams.
    :param opened: the connection is a WebSocket, and this is its machine.
    """
    match transport:
        case Transport.SSE:
            return StreamLink(base, headers, timeouts, kept=kept)
        case Transport.HTTP:
            return BlockingLink(base, headers, timeouts)
        case Transport.WEBSOCKET:
            wire = opened or exec_socket(
                base,
                headers,
                nonce=entropy(KEY_BYTES),
                timeouts=timeouts,
                open_deadline=open_deadline,
            )
            return WebSocketLink(socket_url(base), wire, kept=opened is not None)


def new_ledger(transport: Transport, offsets: Mapping[str, int]) -> Ledger:
    """Accounts that begin at these offsets."""
    kind = RawLedger if transport is Transport.SSE else TextLedger
    return kind(offsets["stdout"], offsets["stderr"])
