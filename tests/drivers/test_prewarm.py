"""`prewarm=`: WebSockets stand open for the commands to come, on either loop, for real."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost
from sandbox_anyio.prewarming import OpenSocket, Prewarming
from sandbox_proto.plans.prewarm import Destination

from ._networks import CountingNetwork

pytestmark = pytest.mark.anyio
PATIENCE = 30


class Watched:
    """A client with two sockets for each sandbox, and what its commands got of them."""

    def __init__(self, host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network = CountingNetwork()
        self.client = AsyncSandboxClient(
            api_endpoint=host.endpoint,
            api_key=host.api_key,
            trust_env=False,
            network=self.network,
            prewarm=2,
        )
        self.taken: list[bool] = []
        take = Prewarming.take

        def noted(kept: Prewarming, destination: Destination) -> OpenSocket | None:
            found = take(kept, destination)
            self.taken.append(found is not None)
            return found

        monkeypatch.setattr(Prewarming, "take", noted)

    @property
    def ready(self) -> list[OpenSocket]:
        assert self.client._prewarming is not None
        return list(self.client._prewarming._sockets.values())

    async def full(self) -> None:
        """Wait until all stand open."""
        with anyio.fail_after(PATIENCE):
            while len(self.ready) < 2:
                await anyio.lowlevel.checkpoint()


@pytest.fixture
def watched(host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(host, monkeypatch)


@pytest.fixture
async def sandbox(watched: Watched) -> AsyncIterator[AsyncSandbox]:
    async with watched.client, watched.client.sandbox() as sandbox:
        yield sandbox


async def test_commands_of_every_kind_take_them(sandbox: AsyncSandbox, watched: Watched) -> None:
    assert (await sandbox.run("echo 1")).stdout == "1\n"
    assert watched.taken == [False]
    await watched.full()
    assert (await sandbox.run("cat", input="hello")).stdout == "hello"
    await watched.full()
    assert (await sandbox.run("tty >/dev/null && echo yes", pty=True)).stdout == "yes\r\n"
    await watched.full()
    assert (await sandbox.run("printf hello; exit 3")).exit_code == 3
    await watched.full()
    async with await sandbox.run("sleep 60", wait=False) as handle:
        await handle.kill()
    assert (await handle.result).exit_code == 137
    assert watched.taken[1:5] == [True] * 4 and len(watched.ready) <= 2


async def test_many_at_a_time(sandbox: AsyncSandbox, watched: Watched) -> None:
    await sandbox.run("true")
    await watched.full()
    outputs: list[str] = []

    async def run(number: int) -> None:
        outputs.append((await sandbox.run(f"echo {number}")).stdout.strip())

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(run, number)
    assert sorted(outputs, key=int) == [str(number) for number in range(10)]
    assert watched.taken.count(True) >= 2


async def test_one_that_died_meanwhile_is_not_used(sandbox: AsyncSandbox, watched: Watched) -> None:
    await sandbox.run("true")
    await watched.full()
    for ready in watched.ready:
        ready.stream._inner._socket.shutdown(socket.SHUT_RD)  # type: ignore[attr-defined]
    assert (await sandbox.run("echo 1")).stdout == "1\n"
    assert watched.taken == [False, False]


async def test_nothing_is_left_open(watched: Watched, host: LocalHost) -> None:
    async with watched.client as client, client.sandbox() as sandbox:
        await sandbox.run("true")
        await watched.full()
    assert (watched.ready, watched.network.open_streams) == ([], 0)


async def test_without_a_block_there_are_none(watched: Watched) -> None:
    client = watched.client
    sandbox = await client.create_sandbox()
    try:
        for _ in range(3):
            assert (await sandbox.run("echo 1")).stdout == "1\n"
        assert watched.taken == [False] * 3 and watched.ready == []
    finally:
        await sandbox.delete()
        await client.aclose()


async def test_an_error_in_the_block_comes_out_as_it_is(watched: Watched) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with watched.client:
            raise KeyError("mine")


async def test_a_number_out_of_range_is_refused_at_once(anyio_backend: str) -> None:
    with pytest.raises(ValueError, match="prewarm must be a whole number from 0 to 16, not 17"):
        AsyncSandboxClient(prewarm=17)
