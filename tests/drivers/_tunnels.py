"""What the tests of tunnels share: the service inside, a relay to cut, and small readers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, SocketAttribute, SocketStream

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.background import background_tasks

_SERVICE = Path(__file__).with_name("_tunnel_service.py")
ECHO, TELL, SEND, TELL_LATE, ALLOW, ECHO_V6, RESET = range(7000, 7007)
NOBODY = 7999
MIB = 1024 * 1024


@asynccontextmanager
async def serving_ports(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    """A sandbox in which `_tunnel_service` listens."""
    async with client.sandbox() as sandbox:
        await sandbox.write("service.py", _SERVICE.read_bytes())
        handle = await sandbox.run("exec python3 service.py", wait=False, timeout=0)
        assert (await anext(handle)).data == "listening\n"
        yield sandbox
        await handle.kill()


async def read_all(stream: ByteReceiveStream) -> bytes:
    """To the end."""
    data = bytearray()
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            data += await stream.receive()
    return bytes(data)


async def read_exactly(stream: ByteReceiveStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.receive(size - len(data))
    return bytes(data)


class Relay:
    """Stands between a client and a host, and can be cut.

    :ivar connections: how many were made through it.
    :ivar refusing: how many of the next connections are closed at once.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self._open: set[SocketStream] = set()
        self._changed = anyio.Event()
        self.connections = self.refusing = self.refused = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        async with listener, background_tasks() as tasks:
            tasks.start_soon(listener.serve, self._carry)
            yield self

    async def _carry(self, near: SocketStream) -> None:
        if self.refusing:
            self.refusing -= 1
            self.refused += 1
            await near.aclose()
            self._tell()
            return
        self.connections += 1
        far = await anyio.connect_tcp(*self._target)
        self._open |= {near, far}
        self._tell()
        async with near, far, anyio.create_task_group() as both:

            async def copy(source: SocketStream, sink: SocketStream) -> None:
                with contextlib.suppress(
                    anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream
                ):
                    while True:
                        await sink.send(await source.receive())
                both.cancel_scope.cancel()

            both.start_soon(copy, near, far)
            both.start_soon(copy, far, near)
        self._open -= {near, far}

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def cut(self) -> None:
        """Every connection is lost."""
        for stream in self._open:
            stream.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)

    async def until_connections(self, number: int) -> None:
        while self.connections < number:
            await self._changed.wait()

    def lead(self, sandbox: AsyncSandbox, endpoint: str) -> None:
        """The sandbox's data plane is reached through here."""
        assert sandbox.dataplane_url is not None
        sandbox.dataplane_url = sandbox.dataplane_url.replace(endpoint, self.url)
