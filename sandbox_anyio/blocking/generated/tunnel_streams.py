"""What is in ``sandbox_anyio/tunnel_streams.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from ...tunnel_streams import _RECEIVE_BYTES, TunnelStream
from ..base import Blocking


class TunnelStreamMethods(Blocking[TunnelStream]):
    """See `BlockingTunnelStream`."""

    def receive(self, max_bytes: int = _RECEIVE_BYTES) -> bytes:
        """The next bytes, at least one.

        :param max_bytes: no more than this.
        :raises SandboxClientError: the connection was reset or lost.
        :raises TunnelError: this stream was closed.
        """
        return self._call(lambda it: it.receive(max_bytes))

    def send(self, item: bytes) -> None:
        """Send bytes. Returns when they are on their way.

        :raises SandboxClientError: the connection was reset or lost.
        :raises TunnelError: this stream was closed, or its sending side.
        """
        self._call(lambda it: it.send(item))

    def wait_sendable(self) -> None:
        """Wait until `send` would not have to wait, as far as one can know.

        :raises SandboxClientError: the connection was reset or lost.
        :raises TunnelError: this stream was closed, or its sending side.
        """
        self._call(lambda it: it.wait_sendable())

    def send_eof(self) -> None:
        """Send nothing more; the other end learns of it. Receiving goes on.

        :raises SandboxClientError: the connection was reset or lost.
        """
        self._call(lambda it: it.send_eof())

    def close(self) -> None:
        """Close. What was sent is still delivered; that may take a few seconds."""
        self._call(lambda it: it.aclose())

    def reset(self) -> None:
        """Close at once: what is on its way is lost, and the other end is told so."""
        self._do(lambda it: it.reset())
