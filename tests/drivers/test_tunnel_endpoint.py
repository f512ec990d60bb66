"""The host's end of a tunnel without a host: what it holds awake, and whom it gives up."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute

from sandbox_anyio.background import background_tasks
from sandbox_anyio.local.service import ExecPatience
from sandbox_anyio.local.tunnel_endpoint import TunnelEndpoint
from sandbox_proto.host.messages import HostError
from sandbox_proto.machines.yamux import Yamux
from sandbox_proto.machines.yamux_events import StreamData, StreamEnded, StreamReset, YamuxLimits
from sandbox_proto.wire.tunnel import encode_header

pytestmark = pytest.mark.anyio
PATIENCE = 20


class Network:
    """A sandbox, as far as tunnels care: its network is this machine's."""

    async def open_socket(self, family: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET if family == "inet" else socket.AF_INET6)
        sock.setblocking(False)
        return sock


class Service:
    """A host's service, as far as tunnels care.

    :ivar attached_now: how many streams hold the sandbox awake.
    :ivar woken: how often the sandbox was asked for.
    """

    def __init__(self, *, stuck: float = PATIENCE) -> None:
        self.patience = ExecPatience(stuck=stuck)
        self.draining = anyio.Event()
        self.attached_now = self.woken = 0
        self.gone = False

    @contextmanager
    def attached(self, box_id: str) -> Iterator[None]:
        self.attached_now += 1
        try:
            yield
        finally:
            self.attached_now -= 1

    async def open_box(self, reference: str) -> tuple[None, Network]:
        self.woken += 1
        if self.gone:
            raise HostError(410, "Gone", "it was deleted")
        return None, Network()


class Client:
    """The other end: a yamux client whose messages go straight into the endpoint.

    :ivar close_code: what the endpoint closed the WebSocket with.
    """

    def __init__(self, service: Service) -> None:
        self._in, self._receive = anyio.create_memory_object_stream[dict[str, Any]](1000)
        self._changed = anyio.Event()
        self.yamux = Yamux("client", YamuxLimits(ping_interval=None), now=0)
        self.endpoint = TunnelEndpoint(service, self._receive.receive, self._take)  # type: ignore[arg-type]
        self.inbox: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.close_code: int | None = None
        self.takes = anyio.Event()
        self.takes.set()

    async def _take(self, event: Any) -> None:
        await self.takes.wait()
        if event["type"] == "websocket.close":
            self.close_code = event["code"]
        else:
            self.yamux.receive_data(event["bytes"], now=0)
        while (happened := self.yamux.next_event()) is not None:
            match happened:
                case StreamData(stream, data):
                    self.inbox[stream] = self.inbox.get(stream, b"") + data
                    self.yamux.consumed(stream, len(data), now=0)
                case StreamEnded(stream):
                    self.ended.add(stream)
                case StreamReset(stream):
                    self.reset.add(stream)
        self.flush()
        self._changed.set()
        self._changed = anyio.Event()

    def flush(self) -> None:
        while (frame := self.yamux.next_frame()) is not None:
            self._in.send_nowait({"type": "websocket.receive", "bytes": frame})

    def leave(self) -> None:
        """The WebSocket is gone."""
        self._in.send_nowait({"type": "websocket.disconnect"})

    def connect(self, port: int, words: bytes = b"") -> int:
        stream = self.yamux.open(now=0)
        self.yamux.send(stream, encode_header(port) + words, now=0)
        self.flush()
        return stream

    async def heard(self, stream: int, words: bytes) -> None:
        while self.inbox.get(stream) != words:
            await self._changed.wait()

    async def closed(self) -> int:
        while self.close_code is None:
            await self._changed.wait()
        return self.close_code

    async def serve(self) -> None:
        box = SimpleNamespace(id="box")
        with self._in, self._receive:
            await self.endpoint.serve(box, None)  # type: ignore[arg-type]


class Echo:
    """A port that echoes; after the end it says "bye".

    :ivar port: its number.
    :ivar cut: set when a connection was reset.
    """

    def __init__(self, port: int) -> None:
        self.port, self.cut = port, anyio.Event()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                async for data in stream:
                    await stream.send(data)
                await stream.send(b"bye")
            except anyio.BrokenResourceError:
                self.cut.set()


@asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    echo = Echo(listener.extra(SocketAttribute.local_port))
    async with listener, background_tasks() as tasks:
        tasks.start_soon(listener.serve, echo.serve)
        yield echo


async def test_open_streams_hold_the_sandbox_awake_and_nothing_else_does() -> None:
    service = Service()
    client = Client(service)
    with anyio.fail_after(PATIENCE):
        async with echoing() as echo, anyio.create_task_group() as tasks:
            tasks.start_soon(client.serve)
            await anyio.wait_all_tasks_blocked()
            assert service.attached_now == 0
            first, second = client.connect(echo.port, b"one"), client.connect(echo.port, b"two")
            await client.heard(first, b"\0one")
            await client.heard(second, b"\0two")
            assert (service.attached_now, service.woken) == (2, 2)
            client.yamux.send_eof(first, now=0)
            client.flush()
            await client.heard(first, b"\0onebye")
            while service.attached_now != 1:
                await anyio.lowlevel.checkpoint()
            client.leave()
            await echo.cut.wait()
    assert service.attached_now == 0


async def test_ports_of_a_sandbox_that_is_gone_do_not_answer() -> None:
    service = Service()
    client = Client(service)
    with anyio.fail_after(PATIENCE):
        async with echoing() as echo, anyio.create_task_group() as tasks:
            tasks.start_soon(client.serve)
            service.gone = True
            await client.heard(client.connect(echo.port), b"\2")
            client.leave()


async def test_a_host_that_drains_closes_with_going_away() -> None:
    service = Service()
    client = Client(service)
    with anyio.fail_after(PATIENCE):
        async with echoing() as echo, anyio.create_task_group() as tasks:
            tasks.start_soon(client.serve)
            stream = client.connect(echo.port)
            await client.heard(stream, b"\0")
            service.draining.set()
            await anyio.wait_all_tasks_blocked()
            assert not client.yamux.can_open
            client.yamux.send_eof(stream, now=0)
            client.flush()
            assert await client.closed() == 1001
            assert client.inbox[stream] == b"\0bye"


async def test_a_client_that_breaks_the_protocol_is_cut_off() -> None:
    client = Client(Service())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.serve)
            client._in.send_nowait({"type": "websocket.receive", "bytes": b"\1" * 12})
            assert await client.closed() == 1002


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    client = Client(Service(stuck=0.05))
    client.takes = anyio.Event()
    with anyio.fail_after(PATIENCE):
        await client.serve()


async def test_what_a_client_said_to_its_end_is_delivered_after_it_left() -> None:
    service = Service()
    client = Client(service)
    said = bytearray()
    ended = anyio.Event()

    async def listen(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for data in stream:
                said.extend(data)
        ended.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    with anyio.fail_after(PATIENCE):
        async with listener, background_tasks() as tasks:
            tasks.start_soon(listener.serve, listen)
            stream = client.connect(listener.extra(SocketAttribute.local_port))
            tasks.start_soon(client.serve)
            await client.heard(stream, b"\0")
            client.yamux.send(stream, bytes(200_000), now=0)
            client.yamux.send_eof(stream, now=0)
            client.flush()
            client.leave()
            await ended.wait()
    assert said == bytes(200_000)
