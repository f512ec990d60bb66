"""What a host on a virtual network is: bytes in, bytes out, and time that it is told.

`ModelHost` is one; a host that plays a recorded trace is another; yours may be the third.
"""

from __future__ import annotations

from typing import Protocol

from ..faults import Fault
from ..machines.base import Buffer, Output
from ..wire.urls import Origin


class Peer(Protocol):
    """The host's end of one connection.

    After every call the network takes `data_to_send`, of this and of all other connections.
    """

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """Bytes arrived from the client (at least one)."""

    def receive_eof(self, *, now: float) -> None:
        """The client shut down its sending side, or closed in order."""

    def abandon(self, *, now: float) -> None:
        """The connection is gone; nothing more can be sent or received."""

    def data_to_send(self, *, now: float) -> list[Output]:
        """Bytes for the client, each once. Taken only while the client's side has room."""

    @property
    def finished(self) -> bool:
        """Whether the host closes the connection once its output is sent."""


class VirtualHost(Protocol):
    """Whoever answers on a virtual network."""

    def connect(self, origin: Origin, *, now: float) -> Peer | Fault:
        """A client connects.

        :param origin: whom the client wants; proxies do not exist on a virtual network, and
            TLS is taken as done.
        :returns: the new connection, or why there is none.
        """

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout` if nothing else happens first."""

    def handle_timeout(self, *, now: float) -> None:
        """Time passed. Harmless when called early."""
