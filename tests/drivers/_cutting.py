"""A relay that cuts connections after a number of bytes, and refuses some of the next ones."""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Literal

import attrs

from sandbox_anyio.anyio_network import _dial
from sandbox_anyio.network import ByteStream

from ._servers import ScriptedServer

Direction = Literal["up", "down"]
UP: Direction = "up"
DOWN: Direction = "down"
REFUSED, SLAMMED = "refused", "slammed"


@attrs.frozen
class Cut:
    """The end of one connection.

    :ivar direction: ``up`` is from the client to the host.
    :ivar after: how many bytes of that direction are still carried.
    :ivar by_reset: by RST; else by FIN.
    :ivar refusals: what happens to the connections after it: ``refused`` by the system, or
        ``slammed``, which is accepted and reset.
    """

    direction: Direction
    after: int
    by_reset: bool
    refusals: tuple[str, ...] = ()


class CuttingRelay:
    """Carries bytes to `target`; the n-th connection suffers the n-th cut.

    :ivar cuts: how many connections were cut.
    :ivar refusals: how many connections were refused or slammed.
    :ivar carried: how many connections were carried, cut or not.
    :ivar most: direction -> the most bytes that one connection carried.
    """

    def __init__(self, target: str, cuts: Iterable[Cut] = ()) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self._cuts = deque(cuts)
        self._due: deque[str] = deque()
        self._server = ScriptedServer(self._carry)
        self.url = self._server.url
        self.cuts = self.refusals = self.carried = 0
        self.most: dict[Direction, int] = {UP: 0, DOWN: 0}

    def __enter__(self) -> CuttingRelay:
        self._server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.__exit__(*exc)

    async def dial(self, host: str, port: int, until: float | None) -> ByteStream:
        """How the client opens its connections: the next one may be refused."""
        if self._is_due(REFUSED):
            with socket.socket() as nobody_listens:
                nobody_listens.bind((host, 0))
                return await _dial(host, nobody_listens.getsockname()[1], until)
        return await _dial(host, port, until)

    def _is_due(self, refusal: str) -> bool:
        if not self._due or self._due[0] != refusal:
            return False
        self._due.popleft()
        self.refusals += 1
        return True

    def _carry(self, client: socket.socket) -> None:
        if self._is_due(SLAMMED):
            _reset_on_close(client)
            return
        cut = self._cuts.popleft() if self._cuts else None
        self.carried += 1
        with socket.create_connection(self._target) as host:
            for side in (client, host):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._carry_until(cut, client, host):
                assert cut is not None
                self.cuts += 1
                self._due.extend(cut.refusals)
                if cut.by_reset:
                    _reset_on_close(client)
                    _reset_on_close(host)

    def _carry_until(self, cut: Cut | None, client: socket.socket, host: socket.socket) -> bool:
        """Carry until an end closes (False), or the connection is to be cut (True)."""
        counts: dict[Direction, int] = {UP: 0, DOWN: 0}
        while cut is None or counts[cut.direction] < cut.after:
            readable, _, _ = select.select([client, host], [], [])
            for source in readable:
                direction, sink = (UP, host) if source is client else (DOWN, client)
                data = source.recv(65536)
                if not data:
                    return False
                if cut is not None and cut.direction == direction:
                    data = data[: cut.after - counts[direction]]
                sink.sendall(data)
                counts[direction] += len(data)
                self.most[direction] = max(self.most[direction], counts[direction])
        return True


def _reset_on_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
