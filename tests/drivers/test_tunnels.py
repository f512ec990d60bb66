"""Ports in sandboxes: streams to them, and tunnels that listen, on either loop, for real."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest
from anyio.abc import ByteStream

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    SandboxClientError,
    SandboxConnectionError,
    SandboxTimeoutError,
    TunnelConnectionRefusedError,
    TunnelError,
)
from sandbox_anyio.local.launch import LocalHost
from sandbox_anyio.tunnel import AsyncTunnel
from sandbox_anyio.tunnel_connection import open_tunnel_connection

from ._tunnel_service import pattern, told
from ._tunnels import (
    ALLOW,
    ECHO,
    ECHO_V6,
    MIB,
    NOBODY,
    RESET,
    SEND,
    TELL,
    TELL_LATE,
    read_all,
    read_exactly,
    serving_ports,
)

pytestmark = pytest.mark.anyio
PATIENCE = 60


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with serving_ports(client) as sandbox:
        yield sandbox


class Ways:
    """The two ways to a port: a stream of our own, and a socket to a tunnel that listens."""

    def __init__(self, sandbox: AsyncSandbox, tunnels: dict[int, AsyncTunnel] | None) -> None:
        self._sandbox, self._tunnels = sandbox, tunnels

    async def to(self, port: int) -> ByteStream:
        if self._tunnels is None:
            return await self._sandbox.connect(port)
        return await anyio.connect_tcp("127.0.0.1", self._tunnels[port].local_port)


@pytest.fixture(params=["connect", "tunnel"])
async def ways(request: pytest.FixtureRequest, sandbox: AsyncSandbox) -> AsyncIterator[Ways]:
    if request.param == "connect":
        yield Ways(sandbox, None)
        return
    async with contextlib.AsyncExitStack() as stack:
        tunnels = {}
        for port in (ECHO, TELL, SEND, TELL_LATE, ALLOW, RESET):
            opening = sandbox.tunnel(port, local_port="any")
            tunnels[port] = await stack.enter_async_context(opening)
        yield Ways(sandbox, tunnels)


async def test_bytes_go_there_and_come_back(ways: Ways) -> None:
    async with await ways.to(ECHO) as stream:
        for word in (b"hello", bytes(1000), b"\xff"):
            await stream.send(word)
            assert await read_exactly(stream, len(word)) == word
        await stream.send_eof()
        assert await read_all(stream) == b""


async def test_the_answer_is_read_after_our_end(ways: Ways) -> None:
    """Send, shut down writing, read the answer: the reply the vendor's tunnel loses."""
    async with await ways.to(TELL) as stream:
        await stream.send(b"question")
        await stream.send_eof()
        assert await read_all(stream) == told(b"question")


async def test_the_other_end_may_end_first(ways: Ways) -> None:
    async with await ways.to(SEND) as stream:
        await stream.send(b"1000\n")
        assert await read_all(stream) == pattern(1000)


async def test_sixteen_streams_at_once(ways: Ways) -> None:
    sizes = {number: 100_000 + number * 7919 for number in range(16)}
    exact: set[int] = set()

    async def talk(number: int) -> None:
        data = pattern(sizes[number], number)
        async with await ways.to(ECHO) as stream, anyio.create_task_group() as both:

            async def say() -> None:
                await stream.send(data)
                await stream.send_eof()

            both.start_soon(say)
            if await read_all(stream) == data:
                exact.add(number)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as streams:
            for number in sizes:
                streams.start_soon(talk, number)
    assert exact == set(sizes)


async def test_twenty_megabytes_each_way(ways: Ways, sweep: int) -> None:
    size = 20 * MIB * sweep
    with anyio.fail_after(PATIENCE * sweep):
        async with await ways.to(TELL) as stream:
            data = pattern(size, 3)
            await stream.send(data)
            await stream.send_eof()
            assert await read_all(stream) == told(data)
        async with await ways.to(SEND) as stream:
            await stream.send(f"{size}\n".encode())
            assert await read_all(stream) == pattern(size)


async def test_who_does_not_read_holds_back_who_sends(ways: Ways) -> None:
    data = pattern(64 * MIB)
    sent = 0

    async def fill(stream: ByteStream) -> None:
        nonlocal sent
        for start in range(0, len(data), MIB):
            await stream.send(data[start : start + MIB])
            sent += MIB
        await stream.send_eof()

    with anyio.fail_after(PATIENCE):
        async with await ways.to(TELL_LATE) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fill, stream)
                async with await ways.to(ECHO) as other:
                    still, before = 0, -1
                    while still < 100:
                        still = still + 1 if sent == before else 0
                        before = sent
                        await other.send(b"x")
                        assert await other.receive() == b"x"
                assert sent < 40 * MIB, "windows and buffers of the system, not more"
                await (await ways.to(ALLOW)).aclose()
            assert await read_all(stream) == told(data)


async def test_a_stream_that_is_stuck_holds_up_no_other_of_its_session(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    assert sandbox.dataplane_url is not None
    headers = client.config.request_headers()
    data = pattern(8 * MIB)
    with anyio.fail_after(PATIENCE):
        session = await open_tunnel_connection(client, sandbox.dataplane_url, headers, retries=0)
        stuck, unread, other = [await session.connect(port) for port in (TELL_LATE, SEND, ECHO)]
        await unread.send(f"{len(data)}\n".encode())

        async def fill() -> None:
            await stuck.send(data)
            await stuck.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fill)
            for _ in range(200):
                await other.send(b"x")
                assert await other.receive() == b"x"
            await (await session.connect(ALLOW)).aclose()
            assert await read_all(stuck) == told(data)
            assert await read_all(unread) == data
        session.close()


async def test_a_consumer_that_waits_holds_back_the_sandbox(sandbox: AsyncSandbox) -> None:
    size = 64 * MIB
    with anyio.fail_after(PATIENCE):
        async with await sandbox.connect(SEND) as stream:
            await stream.send(f"{size}\n".encode())
            first = await stream.receive(10)
            async with await sandbox.connect(ECHO) as other:
                await other.send(b"meanwhile")
                assert await other.receive() == b"meanwhile"
            assert first + await read_all(stream) == pattern(size)


async def test_an_http_download(sandbox: AsyncSandbox, sweep: int) -> None:
    """10 MB; 100 MB with ``--sweep 10``; by the client of the standard library."""
    size = 10_000_000 * sweep
    made = await sandbox.run(f"mkdir -p www && head -c {size} /dev/zero > www/big")
    assert made.exit_code == 0
    server = await sandbox.run("exec python3 -m http.server 8000 -d www", wait=False, timeout=0)
    async with server, sandbox.tunnel(8000, local_port="any") as tunnel:
        await sandbox.wait_for_port(8000)

        def download() -> int:
            url = f"http://127.0.0.1:{tunnel.local_port}/big"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return sum(len(piece) for piece in iter(lambda: answer.read(MIB), b""))

        assert await anyio.to_thread.run_sync(download) == size


# --- ports that do not answer ---------------------------------------------------------


async def test_a_port_where_nobody_listens(sandbox: AsyncSandbox) -> None:
    with pytest.raises(TunnelConnectionRefusedError, match=str(NOBODY)) as caught:
        await sandbox.connect(NOBODY)
    assert caught.value.port == NOBODY
    told: list[SandboxClientError] = []
    async with sandbox.tunnel(NOBODY, local_port="any", on_error=told.append) as tunnel:
        async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
            with pytest.raises(anyio.BrokenResourceError):
                await local.receive()
        assert isinstance(tunnel.last_error, TunnelConnectionRefusedError)
        assert told == [tunnel.last_error]


async def test_a_reset_stays_a_reset(ways: Ways) -> None:
    async with await ways.to(RESET) as stream:
        await stream.send(b"x")
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, (TunnelError, OSError))


async def test_a_port_of_ipv6_and_a_tunnel_on_ipv6(sandbox: AsyncSandbox) -> None:
    async with sandbox.tunnel(ECHO_V6, local_port="any") as tunnel:
        for host in ("127.0.0.1", "::1"):
            async with await anyio.connect_tcp(host, tunnel.local_port) as local:
                await local.send(host.encode())
                assert await read_exactly(local, len(host)) == host.encode()


@pytest.mark.parametrize("port", [0, 65536, "80", None])
async def test_what_is_no_port_is_refused_at_once(sandbox: AsyncSandbox, port: object) -> None:
    with pytest.raises(ValueError, match="port"):
        await sandbox.connect(port)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="port"):
        sandbox.tunnel(port)  # type: ignore[arg-type]
    if port not in (0, None):
        with pytest.raises(ValueError, match="local_port"):
            sandbox.tunnel(80, local_port=port)  # type: ignore[arg-type]


async def test_waiting_for_a_port(sandbox: AsyncSandbox) -> None:
    with pytest.raises(SandboxTimeoutError) as caught:
        await sandbox.wait_for_port(NOBODY, timeout=0.2)
    assert (caught.value.limit, caught.value.seconds) == ("operation", 0.2)
    server = "import socket as s, time; time.sleep(.3); x = s.create_server(('127.0.0.1', 7999)); "
    command = f'exec python3 -c "{server}x.accept(); time.sleep(60)"'
    async with await sandbox.run(command, wait=False):
        await sandbox.wait_for_port(NOBODY, timeout=PATIENCE)


# --- tunnels that listen --------------------------------------------------------------


async def test_a_tunnel_listens_only_inside_its_block(sandbox: AsyncSandbox) -> None:
    tunnel = await sandbox.tunnel(ECHO, local_port="any")
    assert (tunnel.remote_port, tunnel.local_port > 0) == (ECHO, True)
    with pytest.raises(OSError, match=r"."):
        await anyio.connect_tcp("127.0.0.1", tunnel.local_port)
    async with tunnel as entered:
        assert entered is tunnel
        async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
            await local.send(b"x")
            assert await local.receive() == b"x"
            tunnel.close()
            tunnel.close()
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await local.receive()
    with pytest.raises(OSError, match=r"."):
        await anyio.connect_tcp("127.0.0.1", tunnel.local_port)


async def test_the_same_port_is_the_default_and_must_be_free(sandbox: AsyncSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}"):
            await sandbox.tunnel(port)
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}"):
            await sandbox.tunnel(ECHO, local_port=port)
    async with sandbox.tunnel(port) as tunnel:
        assert tunnel.local_port == tunnel.remote_port == port


async def test_a_task_of_ones_own_may_serve(sandbox: AsyncSandbox) -> None:
    async with anyio.create_task_group() as tasks:
        tunnel = await tasks.start((await sandbox.tunnel(ECHO, local_port="any")).serve)
        async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
            await local.send(b"x")
            assert await local.receive() == b"x"
        tunnel.close()


async def test_a_tunnel_needs_no_sandbox_object(sandbox: AsyncSandbox, host: LocalHost) -> None:
    assert sandbox.dataplane_url is not None
    async with AsyncTunnel(sandbox.dataplane_url, host.api_key, ECHO, local_port=0) as tunnel:
        assert tunnel.local_port == ECHO
        async with await anyio.connect_tcp("127.0.0.1", ECHO) as local:
            await local.send(b"x")
            assert await local.receive() == b"x"


async def test_an_error_in_the_block_comes_out_as_it_is(sandbox: AsyncSandbox) -> None:
    with pytest.raises(ZeroDivisionError):
        async with sandbox.tunnel(ECHO, local_port="any"):
            raise ZeroDivisionError


async def test_a_session_that_cannot_be_had(sandbox: AsyncSandbox) -> None:
    for name in ("no-such-sandbox", "no/such/path"):
        assert sandbox.dataplane_url is not None
        base = sandbox.dataplane_url.rpartition("/")[0]
        nowhere = AsyncSandbox(name="x", dataplane_url=f"{base}/{name}", client=sandbox._client)
        with pytest.raises(SandboxConnectionError) as caught:
            await nowhere.connect(80)
        assert caught.value.status in (404, 410)
        with pytest.raises(SandboxConnectionError):
            await nowhere.tunnel(80, local_port="any")
