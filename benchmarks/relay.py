"""A line that is far away: bytes take their time in both directions.

``python -m benchmarks.relay PORT`` prints where it listens, as JSON, and serves until its
standard input ends. Bandwidth is unlimited. A connection's first bytes wait for one more
round trip, as they would for the handshake of TCP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import deque
from typing import cast

_STEP = 1024 * 1024


class _End(asyncio.Protocol):
    """One side of a connection; what it receives leaves at the other side, later."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self.peer: _End | None = None
        self.early: deque[bytes] = deque()
        self.not_before = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is like it
        while self.early:
            transport.write(self.early.popleft())

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def eof_received(self) -> bool:
        self._later(None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(None)

    def _later(self, data: bytes | None) -> None:
        due = max(self._loop.time() + self._relay.one_way, self.not_before)
        self._loop.call_at(due, self._arrive, data)

    def _arrive(self, data: bytes | None) -> None:
        peer = self.peer
        if peer is None:
            return
        if data is None:
            if peer._transport is not None:
                peer._transport.close()
        elif peer._transport is None:
            peer.early.append(data)
        else:
            peer._transport.write(data)


class Relay:
    """Leads connections to a port of this machine.

    :param one_way: seconds that bytes take in each direction.
    """

    def __init__(self, port: int, one_way: float) -> None:
        self._port, self.one_way = port, one_way
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self) -> _End:
        """A client connects."""
        near, far = _End(self), _End(self)
        near.peer, far.peer = far, near
        # The SYN and its answer are one round trip; the client's first bytes come after it.
        near.not_before = asyncio.get_running_loop().time() + 3 * self.one_way
        task = asyncio.ensure_future(self._dial(far))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return near

    async def _dial(self, far: _End) -> None:
        await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._port)


async def serve(port: int, one_way: float) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Relay(port, one_way).accept, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("port", type=int, help="where connections lead to")
    parser.add_argument("--round-trip", type=float, default=0.02, help="seconds (default 0.02)")
    options = parser.parse_args()
    serving = serve(options.port, options.round_trip / 2)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    main()
