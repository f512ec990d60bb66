"""A WebSocket to a service in a sandbox, for code that blocks."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .generated.websocket import WebSocketMethods


class WebSocket(WebSocketMethods):
    """An open WebSocket: one thread receives, any thread sends. Close it with its block."""

    @property
    def subprotocol(self) -> str | None:
        """The one of the offered subprotocols that the peer chose."""
        return self._async.subprotocol

    @property
    def close_code(self) -> int | None:
        """The peer's close code, once it has closed."""
        return self._async.close_code

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str | bytes:
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._portal.forked:
            self.close()
