"""Tunnels whose sessions, callers, sandboxes or hosts come to an end, on either loop, for real."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    SandboxConnectionError,
    TunnelConnectionRefusedError,
)
from sandbox_anyio.local.launch import LocalHost
from sandbox_anyio.tunnel_connection import open_tunnel_connection

from ._own_host import own_host
from ._tunnel_service import pattern
from ._tunnels import ECHO, MIB, Relay, read_exactly, serving_ports

pytestmark = pytest.mark.anyio
PATIENCE = 60


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with serving_ports(client) as sandbox:
        yield sandbox


# --- sessions that are lost -----------------------------------------------------------


async def test_a_lost_session_comes_back_by_itself(
    client: AsyncSandboxClient, host: LocalHost
) -> None:
    with anyio.fail_after(PATIENCE):
        async with serving_ports(client) as sandbox, Relay(host.endpoint).running() as relay:
            relay.lead(sandbox, host.endpoint)
            async with sandbox.tunnel(ECHO, local_port="any") as tunnel:
                assert relay.connections == 1
                async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
                    await local.send(b"x")
                    assert await local.receive() == b"x"
                    relay.refusing = 1
                    relay.cut()
                    with pytest.raises(anyio.BrokenResourceError):
                        await local.receive()
                await relay.until_connections(2)  # although nobody connects
                assert relay.refused == 1
                async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
                    await local.send(b"again")
                    assert await local.receive() == b"again"


async def test_a_session_that_was_given_up_is_tried_again_for_the_next_who_connects(
    client: AsyncSandboxClient, host: LocalHost
) -> None:
    with anyio.fail_after(PATIENCE):
        async with serving_ports(client) as sandbox, Relay(host.endpoint).running() as relay:
            relay.lead(sandbox, host.endpoint)
            failed = anyio.Event()
            async with sandbox.tunnel(
                ECHO, local_port="any", max_reconnects=1, on_error=lambda error: failed.set()
            ) as tunnel:
                relay.refusing = 1
                relay.cut()
                await failed.wait()
                assert isinstance(tunnel.last_error, SandboxConnectionError)
                async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
                    await local.send(b"x")
                    assert await local.receive() == b"x"


async def test_no_reconnects_are_none(client: AsyncSandboxClient, host: LocalHost) -> None:
    with anyio.fail_after(PATIENCE):
        async with serving_ports(client) as sandbox, Relay(host.endpoint).running() as relay:
            relay.lead(sandbox, host.endpoint)
            async with sandbox.tunnel(ECHO, local_port="any", max_reconnects=0) as tunnel:
                relay.cut()
                async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
                    with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                        await local.receive()
                assert relay.connections == 1


async def test_a_lost_stream_says_why(client: AsyncSandboxClient, host: LocalHost) -> None:
    async with serving_ports(client) as sandbox, Relay(host.endpoint).running() as relay:
        relay.lead(sandbox, host.endpoint)
        stream = await sandbox.connect(ECHO)
        relay.cut()
        for _ in range(2):
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await stream.receive()
            assert isinstance(caught.value.__cause__, SandboxConnectionError)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


# --- lifetimes ------------------------------------------------------------------------


async def test_what_was_sent_before_closing_arrives(sandbox: AsyncSandbox) -> None:
    writer = (
        "import socket; c = socket.create_server(('127.0.0.1', 7500)).accept()[0]; "
        "d = b''.join(iter(lambda: c.recv(65536), b'')); print(len(d))"
    )
    handle = await sandbox.run(f'exec python3 -c "{writer}"', wait=False, timeout=0)
    await anyio.lowlevel.checkpoint()
    stream = None
    while stream is None:
        try:
            stream = await sandbox.connect(7500)
        except TunnelConnectionRefusedError:
            await anyio.sleep(0.02)  # nobody tells when a port is taken
    await stream.send(bytes(3 * MIB))
    await stream.aclose()
    assert (await handle.result).stdout == f"{3 * MIB}\n"


async def test_cancelled_callers_leave_a_stream_whole(sandbox: AsyncSandbox) -> None:
    async with await sandbox.connect(ECHO) as stream:
        for _ in range(3):
            with anyio.move_on_after(0.01):
                await stream.receive()
        await stream.send(b"still here")
        assert await read_exactly(stream, 10) == b"still here"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.receive()
            tasks.cancel_scope.cancel()


async def test_whoever_drives_the_session_may_be_cancelled_at_any_moment(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    assert sandbox.dataplane_url is not None
    headers = client.config.request_headers()
    done: list[int] = []

    async def talk(number: int) -> None:
        stream = await session.connect(ECHO)
        data, got = pattern(300_000, number), b""

        async def say() -> None:
            await stream.send(data)
            await stream.send_eof()

        async with stream, anyio.create_task_group() as both:
            both.start_soon(say)
            while len(got) < len(data):
                with anyio.move_on_after(0.0003 * number):
                    got += await stream.receive(50_000)
        assert got == data
        done.append(number)

    with anyio.fail_after(PATIENCE):
        session = await open_tunnel_connection(client, sandbox.dataplane_url, headers, retries=0)
        async with anyio.create_task_group() as tasks:
            for number in range(1, 13):
                tasks.start_soon(talk, number)
        session.close()
    assert sorted(done) == [*range(1, 13)]


async def test_closing_the_client_ends_its_streams(host: LocalHost, sandbox: AsyncSandbox) -> None:
    async with AsyncSandboxClient(
        api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
    ) as other:
        stream = await (await other.get_sandbox(sandbox.name)).connect(ECHO)
    with pytest.raises(anyio.BrokenResourceError):
        await stream.receive()


async def test_a_stopped_sandbox_wakes(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        async with sandbox.tunnel(ECHO, local_port="any") as tunnel:
            await sandbox.stop()
            async with await anyio.connect_tcp("127.0.0.1", tunnel.local_port) as local:
                with pytest.raises(anyio.BrokenResourceError):
                    await local.receive()  # what listened has ended, and the sandbox is awake
            assert (await client.get_sandbox_status(sandbox.name)).status == "ready"
        await sandbox.stop()
        with pytest.raises(TunnelConnectionRefusedError):
            await sandbox.connect(ECHO)
        assert (await client.get_sandbox_status(sandbox.name)).status == "ready"


async def test_a_host_that_ends_takes_leave(anyio_backend: str) -> None:
    with own_host() as mine:
        async with AsyncSandboxClient(
            api_endpoint=mine.local.endpoint, api_key=mine.local.api_key, trust_env=False
        ) as client:
            sandbox = await client.create_sandbox()
            command = "exec python3 -m http.server 8000"
            await sandbox.run(command, wait=False, timeout=0, detach=True)
            await sandbox.wait_for_port(8000)
            stream = await sandbox.connect(8000)
            mine.terminate()
            with anyio.fail_after(PATIENCE), pytest.raises(anyio.BrokenResourceError) as caught:
                await stream.receive()
            assert "1001" in str(caught.value)
