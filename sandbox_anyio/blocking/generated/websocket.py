"""What is in ``sandbox_anyio/websocket.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from ...websocket import AsyncWebSocket
from ..base import Blocking


class WebSocketMethods(Blocking[AsyncWebSocket]):
    """See `WebSocket`."""

    def send(self, message: str | bytes) -> None:
        """Send a message, as text or bytes.

        :raises SandboxConnectionError: the socket is closed.
        """
        self._call(lambda it: it.send(message))

    def receive(self) -> str | bytes | None:
        """The next message; None when the peer has closed in order.

        :raises SandboxConnectionError: the connection failed.
        """
        return self._call(lambda it: it.receive())

    def close(self, code: int = 1000) -> None:
        """Say goodbye, if possible, and drop the connection. Waits for nothing."""
        self._do(lambda it: it.close(code))
