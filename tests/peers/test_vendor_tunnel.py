"""The vendor's own tunnels, unchanged, on our host: the threaded one and its async face."""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost

from ._vendor import chunks_of, connected, done

pytestmark = [
    pytest.mark.anyio,
    # It is raised where the vendor reads, and ends its session.
    pytest.mark.filterwarnings("ignore:connect.. must be used as a context:DeprecationWarning"),
]
_MIB = 1024 * 1024
_SERVICE = Path(__file__).parents[1] / "drivers" / "_tunnel_service.py"
ECHO, TELL, SEND, NOBODY = 7000, 7001, 7002, 7999


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def sandbox(kind: str, host: LocalHost) -> AsyncIterator[Any]:
    """The vendor's object for a sandbox in which something listens."""
    async with (
        AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as ours,
        ours.sandbox() as served,
    ):
        await served.write("service.py", _SERVICE.read_bytes())
        handle = await served.run("exec python3 service.py", wait=False, timeout=0)
        assert (await anext(handle)).data == "listening\n"
        async with connected(kind, host.endpoint, api_key=host.api_key) as client:
            yield await done(client.get_sandbox(served.name))
        await handle.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def tunnel_to(sandbox: Any, port: int, **more: Any) -> Any:
    """A started tunnel of the vendor's."""
    return await done(sandbox.tunnel(port, local_port=free_port(), **more))


def connect(tunnel: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=30)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(min(count - len(data), 65536))
        assert piece, "the connection ended"
        data += piece
    return bytes(data)


def converse(tunnel: Any, data: bytes) -> None:
    """Says it to the echo, and hears it again."""
    with connect(tunnel) as sock:
        writer = threading.Thread(target=sock.sendall, args=(data,))
        writer.start()
        assert read_exactly(sock, len(data)) == data
        writer.join()


async def test_one_connection_and_sixteen(sandbox: Any) -> None:
    tunnel = await tunnel_to(sandbox, ECHO)
    try:
        await anyio.to_thread.run_sync(converse, tunnel, b"hello")
        async with anyio.create_task_group() as tasks:
            for number in range(16):
                data = bytes([number]) * (100_000 + number)
                tasks.start_soon(anyio.to_thread.run_sync, converse, tunnel, data)
    finally:
        tunnel.close()


async def test_megabytes_go_both_ways(sandbox: Any, sweep: int) -> None:
    """8 MiB; 64 MiB with ``--sweep 8``. It loses answers after its own end, so it asks none."""
    size = 8 * _MIB * sweep
    tunnel = await tunnel_to(sandbox, SEND)
    echo = await tunnel_to(sandbox, ECHO)

    def download() -> str:
        with connect(tunnel) as sock:
            sock.sendall(f"{size}\n".encode())
            data = read_exactly(sock, size)
            assert sock.recv(1) == b"", "and then the end"
        return hashlib.sha256(data).hexdigest()

    block = bytes(range(251)) * 1100
    expected = hashlib.sha256((block * (size // len(block) + 1))[:size]).hexdigest()
    try:
        assert await anyio.to_thread.run_sync(download) == expected
        await anyio.to_thread.run_sync(converse, echo, bytes(size))
    finally:
        tunnel.close()
        echo.close()


async def test_an_http_download(sandbox: Any, sweep: int) -> None:
    """10 MB; 100 MB with ``--sweep 10``."""
    size = 10_000_000 * sweep
    made = await done(sandbox.run(f"mkdir -p www && head -c {size} /dev/zero > www/big"))
    assert made.exit_code == 0
    server = await done(
        sandbox.run("exec python3 -um http.server 8000 -d www", wait=False, timeout=0)
    )
    assert "Serving HTTP" in (await anext(chunks_of(server))).data
    tunnel = await tunnel_to(sandbox, 8000)

    def download() -> int:
        url = f"http://127.0.0.1:{tunnel.local_port}/big"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return sum(len(piece) for piece in iter(lambda: answer.read(_MIB), b""))

    try:
        assert await anyio.to_thread.run_sync(download) == size
    finally:
        tunnel.close()
        await done(server.kill())


async def test_a_port_where_nobody_listens_is_closed_at_once(sandbox: Any) -> None:
    tunnel = await tunnel_to(sandbox, NOBODY)

    def read() -> bytes:
        with connect(tunnel) as sock:
            return sock.recv(1)

    try:
        assert await anyio.to_thread.run_sync(read) == b""
        assert await anyio.to_thread.run_sync(read) == b"", "and the session goes on"
    finally:
        tunnel.close()


async def test_a_session_that_died_is_made_anew_for_the_next_connection(sandbox: Any) -> None:
    tunnel = await tunnel_to(sandbox, ECHO)
    inner = getattr(tunnel, "_tunnel", tunnel)
    try:
        await anyio.to_thread.run_sync(converse, tunnel, b"before")
        first = inner._yamux
        first._conn._ws.socket.shutdown(socket.SHUT_RDWR)
        await anyio.to_thread.run_sync(first._reader_thread.join, 10)
        await anyio.to_thread.run_sync(converse, tunnel, b"after")
        assert inner._yamux is not first
    finally:
        tunnel.close()
