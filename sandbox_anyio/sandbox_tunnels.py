"""Ports in a sandbox: byte streams to them, tunnels, and waiting for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from .sandbox_base import SandboxBase

if TYPE_CHECKING:
    from .tunnel import ErrorCallback, LocalPort, TunnelOpening
    from .tunnel_streams import TunnelStream

# What tunnels are made of is loaded with the first of them: most programs never use one.
_RETRIES = 3


@attrs.define
class TunnelMethods(SandboxBase):
    """See `AsyncSandbox`."""

    async def connect(self, port: int, *, headers: Mapping[str, str] | None = None) -> TunnelStream:
        """Connect to a port inside the sandbox, without a port of this machine.

        The result is a byte stream of anyio's: `send`, `receive`, `send_eof`, `aclose`. It
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
        from sandbox_proto.wire.tunnel import check_port

        from .tunnel_connection import open_tunnel_connection

        check_port(port)
        base = self._dataplane()
        sent = self._client.config.request_headers(headers)
        connection = await open_tunnel_connection(self._client, base, sent, retries=_RETRIES)
        try:
            stream = await connection.connect(port)
        except BaseException:
            connection.close()
            raise
        stream._own_connection()
        return stream

    def tunnel(
        self,
        remote_port: int,
        *,
        local_port: LocalPort = 0,
        max_reconnects: int = 3,
        headers: Mapping[str, str] | None = None,
        on_error: ErrorCallback | None = None,
    ) -> TunnelOpening:
        """Make a port of this machine lead to one inside the sandbox.

        ``async with sandbox.tunnel(5432) as tunnel`` serves the port for the length of the
        block, which owns the tasks for it. Awaited instead, it gives the tunnel with its
        session open and its port taken, to be entered later.

        :param remote_port: the port inside the sandbox, 1 to 65535.
        :param local_port: the port on 127.0.0.1 and ::1. 0 or None: the same number;
            ``"any"``: a free one, see `AsyncTunnel.local_port`.
        :param max_reconnects: how often in a row it is tried to get a lost session back; 0 is
            never.
        :param headers: headers of the session's request.
        :param on_error: called with the error of each connection that could not be made.
        :raises ValueError: a port is out of range.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.

        Awaiting or entering raises `SandboxConnectionError` if the session cannot be opened,
        and `OSError` if the port is in use.
        """
        from sandbox_proto.wire.tunnel import check_port

        from .tunnel import AsyncTunnel, TunnelOpening, check_local_port

        check_port(remote_port, "remote_port")
        check_local_port(local_port)
        base = self._dataplane()
        return TunnelOpening(
            lambda: AsyncTunnel(
                base,
                None,
                remote_port,
                local_port=local_port,
                max_reconnects=max_reconnects,
                headers=headers,
                client=self._client,
                on_error=on_error,
            )
        )

    async def wait_for_port(
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
        from sandbox_proto.wire.tunnel import check_port

        from .tunnel_connection import wait_for_port

        check_port(port)
        base = self._dataplane()
        sent = self._client.config.request_headers(headers)
        await wait_for_port(self._client, base, sent, port, timeout, retries=_RETRIES)
