"""What a tunnel's stream begins with: three bytes there, one byte back (protocol/09 section 3)."""

from __future__ import annotations

import enum
from typing import Final

from ..errors import (
    TunnelConnectionRefusedError,
    TunnelError,
    TunnelPortNotAllowedError,
    TunnelUnsupportedVersionError,
)

VERSION: Final = 1
HEADER_BYTES: Final = 3
MAX_PORT: Final = 65535
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""The largest WebSocket message either side accepts."""


class TunnelStatus(enum.IntEnum):
    """What a server answers to the header."""

    CONNECTED = 0
    PORT_NOT_ALLOWED = 1
    REFUSED = 2
    UNSUPPORTED_VERSION = 3


def check_port(port: object, name: str = "port") -> int:
    """A port that can be connected to.

    :raises ValueError: it is not one.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= MAX_PORT:
        raise ValueError(f"{name} must be a whole number from 1 to {MAX_PORT}, not {port!r}")
    return port


def encode_header(port: int) -> bytes:
    """What the client says first."""
    return bytes([VERSION]) + port.to_bytes(2, "big")


def decode_header(header: bytes) -> tuple[int, int]:
    """Version and port of a header that is whole."""
    return header[0], int.from_bytes(header[1:HEADER_BYTES], "big")


def status_error(status: int, port: int) -> TunnelError | None:
    """What a status means to the user; None: connected."""
    match status:
        case TunnelStatus.CONNECTED:
            return None
        case TunnelStatus.PORT_NOT_ALLOWED:
            text = f"the server does not allow tunnels to port {port}"
            return TunnelPortNotAllowedError(text, port=port)
        case TunnelStatus.REFUSED:
            text = f"nothing listens on port {port} in the sandbox"
            return TunnelConnectionRefusedError(text, port=port)
        case TunnelStatus.UNSUPPORTED_VERSION:
            text = f"the server does not speak version {VERSION} of the tunnel protocol"
            return TunnelUnsupportedVersionError(text)
        case _:
            return TunnelError(f"the server refused the tunnel to port {port} (status {status})")
