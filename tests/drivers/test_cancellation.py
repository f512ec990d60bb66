"""Cancelling at any moment: no command goes on, no sandbox stays, no caller hangs."""

from __future__ import annotations

import socket

import anyio
import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient, ResourceNotFoundError, RetryPolicy
from sandbox_anyio.local.launch import LocalHost
from sandbox_proto.config import ExecTimeouts, ExecTransport

from ._servers import read_request, serving, silent

pytestmark = pytest.mark.anyio


async def test_cancelling_run_kills_the_remote_processes(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        heard = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await sandbox.run(
                    "sleep 1000 & echo up; sleep 1000", on_stdout=lambda text: heard.set()
                )

            tasks.start_soon(run)
            with anyio.fail_after(10):
                await heard.wait()
            tasks.cancel_scope.cancel()
        assert (await sandbox.run("pgrep -x sleep")).stdout == ""


async def test_a_callback_that_raises_kills_the_command_too(client: AsyncSandboxClient) -> None:
    def fail(text: str) -> None:
        raise ZeroDivisionError

    async with client.sandbox() as sandbox:
        with pytest.raises(ZeroDivisionError):
            await sandbox.run("echo up; sleep 1000", on_stdout=fail)
        assert (await sandbox.run("pgrep -x sleep")).stdout == ""


@pytest.mark.parametrize("transport", ["websocket", "auto"])
async def test_cancelling_run_before_it_starts_ends_soon(transport: ExecTransport) -> None:
    """At once where nothing was asked; where a request is on its way, it is looked for."""
    timeouts = ExecTimeouts(kill=0.5)
    with serving(silent) as server:
        async with AsyncSandboxClient(
            api_endpoint=server.url,
            api_key="k",
            trust_env=False,
            exec_transport=transport,
            exec_timeouts=timeouts,
        ) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=server.url, client=client)
            with anyio.fail_after(3):
                with anyio.move_on_after(0.1) as scope:
                    await sandbox.run("x")
            assert scope.cancelled_caught


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.004, 0.008, 0.012, 0.02])
@pytest.mark.parametrize("how", ["sandbox", "create", "named"])
async def test_cancelling_a_creation_leaves_no_sandbox(
    client: AsyncSandboxClient, delay: float, how: str
) -> None:
    before = {box.id for box in await client.list_sandboxes()}
    with anyio.fail_after(15), anyio.move_on_after(delay) as scope:
        if how == "sandbox":
            async with client.sandbox():
                scope.cancel()
                await anyio.sleep_forever()
        elif how == "create":
            await (await client.create_sandbox()).delete()
        else:
            await (await client.create_sandbox(name="to-be-cancelled")).delete()
    assert {box.id for box in await client.list_sandboxes()} == before


async def test_cancelling_a_creation_whose_answer_never_comes_undoes_it(host: LocalHost) -> None:
    """The relay swallows the answer, so the sandbox exists and nobody was told."""
    from ._servers import Relay

    with Relay(
        host.endpoint, lambda asked: False, swallow=lambda asked: asked.startswith(b"POST /boxes")
    ) as relay:
        async with AsyncSandboxClient(
            api_endpoint=relay.url, api_key=host.api_key, trust_env=False
        ) as client:
            before = {box.id for box in await client.list_sandboxes()}
            for settings in ({}, {"name": "swallowed"}):
                with anyio.fail_after(10):
                    with anyio.move_on_after(0.3) as scope:
                        await client.create_sandbox(**settings)
                assert scope.cancelled_caught
            assert relay.swallowed == 2
            assert {box.id for box in await client.list_sandboxes()} == before


async def test_cancelling_does_not_delete_somebody_elses_sandbox(
    client: AsyncSandboxClient,
) -> None:
    """The name is taken by an older sandbox; a cancelled creation must not touch it."""
    import json
    import time
    from email.utils import formatdate

    deleted: list[str] = []

    def script(connection: socket.socket) -> None:
        while True:
            head, _ = read_request(connection)
            if head.startswith("POST"):
                silent(connection)
                return
            if head.startswith("DELETE"):
                deleted.append(head)
            old = {"id": "1", "name": "mine", "created_at": "2020-01-01T00:00:00Z"}
            body = json.dumps(old).encode()
            connection.sendall(
                f"HTTP/1.1 200 OK\r\ndate: {formatdate(time.time(), usegmt=True)}\r\n"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )

    with serving(script) as server:
        async with AsyncSandboxClient(api_endpoint=server.url, api_key="k", trust_env=False) as own:
            with anyio.fail_after(10), anyio.move_on_after(0.2):
                await own.create_sandbox(name="mine")
    assert deleted == []


async def test_leaving_the_block_while_a_command_runs_does_not_hang(host: LocalHost) -> None:
    with anyio.fail_after(10):
        async with AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client:
            sandbox = await client.create_sandbox()
            handle = await sandbox.run("sleep 1000", wait=False)
    async with AsyncSandboxClient(
        api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
    ) as client:
        await client.delete_sandbox(sandbox.name)
    with pytest.raises(Exception, match="closed"):
        await handle.result


async def test_closing_the_client_wakes_whoever_waits(client: AsyncSandboxClient) -> None:
    from sandbox_anyio import SandboxConnectionError

    async with client.sandbox() as sandbox:
        own = AsyncSandboxClient(
            api_endpoint=client.config.api_endpoint, api_key=client.config.api_key, trust_env=False
        )
        mine = await own.get_sandbox(sandbox.name)
        started = anyio.Event()

        async def wait_for_ever() -> None:
            with pytest.raises(SandboxConnectionError):
                await mine.run("echo up; sleep 1000", on_stdout=lambda text: started.set())

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_for_ever)
                await started.wait()
                await own.aclose()
        with pytest.raises(SandboxConnectionError, match="closed"):
            await own.list_sandboxes()


async def test_deleting_is_not_lost_to_cancellation(client: AsyncSandboxClient) -> None:
    with anyio.CancelScope() as scope:
        async with client.sandbox() as sandbox:
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(ResourceNotFoundError):
        await client.get_sandbox(sandbox.name)


async def test_a_cancelled_input_tears_no_frame(client: AsyncSandboxClient) -> None:
    """Megabytes of input, cancelled in the middle of sending: the conversation goes on whole."""
    async with client.sandbox() as sandbox:
        handle = await sandbox.run("sleep 0.3; wc -c", wait=False, close_input=False)
        block = "x" * 1_000_000
        for _ in range(5):
            with anyio.move_on_after(0.0001):
                await handle.send_input(block)
        await handle.close_input()
        with anyio.fail_after(20):
            assert (await handle.result).stdout.strip() == "5000000"


async def test_a_flow_that_was_cancelled_while_waiting_leaves_no_connection() -> None:
    with serving(silent) as server:
        async with AsyncSandboxClient(
            api_endpoint=server.url, api_key="k", trust_env=False, retry=RetryPolicy(max_retries=0)
        ) as client:
            for _ in range(5):
                with anyio.move_on_after(0.02):
                    await client.get_sandbox("box")
            assert client._pool.open_connections == 0
