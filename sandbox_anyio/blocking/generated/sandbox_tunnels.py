"""What is in ``sandbox_anyio/sandbox_tunnels.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..base import BlockingSandbox
from ..callers import callback_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...tunnel import ErrorCallback, LocalPort
    from ..tunnel import BlockingTunnelStream, Tunnel


@attrs.define
class TunnelMethods(BlockingSandbox):
    """See `Sandbox`."""

    def connect(
        self, port: int, *, headers: Mapping[str, str] | None = None
    ) -> BlockingTunnelStream:
        """Connect to a port inside the sandbox, without a port of this machine.

        The result is a stream of bytes: `send`, `receive`, `send_eof`, `close`. It
        can half-close, and holds back whoever sends faster than the other end reads. It has
        a WebSocket of its own; for many connections there is `tunnel`.

        :param port: 1 to 65535; something listens there, on 127.0.0.1 or ::1.
        :param headers: headers for this connection only.
        :raises TunnelConnectionRefusedError: nothing listens there.
        :raises TunnelPortNotAllowedError: the server does not allow it.
        :raises SandboxConnectionError: the server could not be reached, or did not answer.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        :raises ValueError: the port is out of range.
        """
        made = self._call(lambda it: it.connect(port, headers=headers))
        return self._stream(made)

    def tunnel(
        self,
        remote_port: int,
        *,
        local_port: LocalPort = 0,
        max_reconnects: int = 3,
        headers: Mapping[str, str] | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Tunnel:
        """Make a port of this machine lead to one inside the sandbox.

        It is served in the background, until it is closed, or for the length of a block:
        ``with sandbox.tunnel(5432) as tunnel``.

        :param remote_port: the port inside the sandbox, 1 to 65535.
        :param local_port: the port on 127.0.0.1 and ::1. 0 or None: the same number;
            ``"any"``: a free one, see `Tunnel.local_port`.
        :param max_reconnects: how often in a row it is tried to get a lost session back; 0 is
            never.
        :param headers: headers of the session's request.
        :param on_error: called with the error of each connection that could not be made, in a
            thread of its own.
        :raises SandboxConnectionError: the session could not be opened.
        :raises OSError: the port is in use, or may not be used.
        :raises ValueError: a port is out of range.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        """
        return self._tunnel(
            lambda it: it.tunnel(
                remote_port,
                local_port=local_port,
                max_reconnects=max_reconnects,
                headers=headers,
                on_error=callback_in_thread(on_error),
            )
        )

    def wait_for_port(
        self, port: int, timeout: float = 30.0, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Wait until something listens on a port inside the sandbox.

        :param port: 1 to 65535.
        :param timeout: patience in seconds.
        :param headers: headers for this request only.
        :raises SandboxTimeoutError: nothing did in time (``limit`` is ``operation``).
        :raises TunnelPortNotAllowedError: the server does not allow to ask.
        :raises SandboxConnectionError: the server could not be reached.
        :raises ValueError: the port is out of range.
        """
        self._call(lambda it: it.wait_for_port(port, timeout, headers=headers))
