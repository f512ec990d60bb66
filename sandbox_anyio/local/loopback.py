"""Connections to what listens inside a sandbox."""

from __future__ import annotations

import socket

from ..anyio_network import connect_socket
from .runtime.base import RunningSandbox


async def connect_inside(sandbox: RunningSandbox, port: int) -> socket.socket:
    """Connect to a port on the loopback of a sandbox, whichever family it is on.

    :raises OSError: nothing listens there.
    """
    sock = await sandbox.open_socket("inet")
    try:
        return await connect_socket(sock, ("127.0.0.1", port))
    except ConnectionRefusedError:
        sock = await sandbox.open_socket("inet6")
        return await connect_socket(sock, ("::1", port, 0, 0))
