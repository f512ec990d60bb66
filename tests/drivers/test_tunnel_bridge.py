"""Carrying bytes from a tunnel to a socket, with both ends played by the test."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio.tunnel import _downwards
from sandbox_anyio.tunnel_streams import TunnelStream
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.yamux_events import StreamData, StreamEnded

pytestmark = pytest.mark.anyio


class PlayedSocket:
    """Takes as many bytes as the test allows."""

    def __init__(self) -> None:
        self.room, self.taken, self.ended = 0, b"", False
        self.broken = False
        self._more = anyio.Event()

    def allow(self, room: int) -> None:
        """Take so many from now on; whoever waits is not told yet."""
        self.room = room

    def tell(self) -> None:
        """Whoever waits may go on."""
        self._more.set()
        self._more = anyio.Event()

    def try_send(self, data: Buffer) -> int:
        if self.broken:
            raise ConnectionResetError("the application is gone")
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        await self._more.wait()

    def send_eof(self) -> None:
        self.ended = True


class PlayedConnection:
    """Delivers when the test says so."""

    def __init__(self) -> None:
        self.credit = 0
        self._news = anyio.Event()

    def tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def drive_until(self, done: Callable[[], bool]) -> None:
        while not done():
            await self._news.wait()

    async def let_others_run(self) -> None:
        await anyio.lowlevel.checkpoint()

    def consumed(self, id: int, count: int) -> None:
        self.credit += count

    delivered = consumed


class Bridge:
    """A tunnel's stream, a socket, and what is said between them."""

    def __init__(self) -> None:
        self.socket, self.connection = PlayedSocket(), PlayedConnection()
        self.stream = TunnelStream(self.connection, 1, 80)  # type: ignore[arg-type]

    async def come(self, data: bytes) -> None:
        """Data arrives from the sandbox."""
        self.stream._take(StreamData(1, data))
        self.connection.tell()
        await anyio.wait_all_tasks_blocked()

    async def carry(self) -> None:
        await _downwards(self.socket, self.stream)  # type: ignore[arg-type]


async def test_what_comes_while_something_waits_goes_behind_it() -> None:
    bridge = Bridge()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.carry)
        await anyio.wait_all_tasks_blocked()
        bridge.socket.allow(3)
        await bridge.come(b"abcdef")
        assert (bridge.socket.taken, bridge.connection.credit) == (b"abc", 6)
        bridge.socket.allow(100)
        await bridge.come(b"ghi")
        assert bridge.socket.taken == b"abc"
        bridge.socket.tell()
        await anyio.wait_all_tasks_blocked()
        assert bridge.socket.taken == b"abcdefghi"
        await bridge.come(b"jkl")
        assert (bridge.socket.taken, bridge.connection.credit) == (b"abcdefghijkl", 12)
        bridge.stream._take(StreamEnded(1))
        bridge.connection.tell()
    assert bridge.socket.ended


async def test_an_application_that_is_gone_is_noticed() -> None:
    bridge = Bridge()
    gone = False
    async with anyio.create_task_group() as tasks:

        async def carry() -> None:
            nonlocal gone
            with pytest.raises(ConnectionResetError):
                await bridge.carry()
            gone = True

        tasks.start_soon(carry)
        await anyio.wait_all_tasks_blocked()
        bridge.socket.broken = True
        await bridge.come(b"abc")
    assert gone
