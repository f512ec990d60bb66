"""`run_process` cancelled at every place where it waits: no command is left, nor anything else.

See `tests/drivers/test_command_cancellation.py` for how the places are found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from subprocess import PIPE
from typing import Any

import pytest
import trio

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost
from sandbox_trio_compat import SandboxProcess, run_process
from tests.drivers._cancelling import EXIT_CODE, FIRST_WORDS, LAST_WORDS, Arena, Marked, arena_on

pytestmark = pytest.mark.anyio

PATIENCE = 15.0


@pytest.fixture
async def arena(host: LocalHost, client: AsyncSandboxClient) -> AsyncIterator[Arena]:
    async with arena_on(host, client, "auto") as arena:
        yield arena


@pytest.mark.parametrize("stdin", [b"", b"in\n"], ids=["event stream", "websocket"])
async def test_a_direct_call(arena: Arena, stdin: bytes) -> None:
    async def attempt(at: int) -> None:
        command = Marked(arena)
        await command.let_go()
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            done = await run_process(
                arena.mine, command.text, stdin=stdin, check=False, capture_stdout=True
            )
            assert done.stdout == FIRST_WORDS.encode() + stdin + LAST_WORDS.encode()
            assert done.returncode == EXIT_CODE
        assert scope.cancelled_caught == arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    places = await arena.strike_everywhere(attempt, least=3)
    print(f"\nrun_process: {len(places)} places: {places}")


async def test_in_a_nursery_with_pipes(arena: Arena) -> None:
    """The reader and the supervisor are cancelled together, wherever either of them waits."""

    async def attempt(at: int) -> None:
        command = Marked(arena)
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            async with trio.open_nursery() as nursery:
                await converse(command, nursery)
        assert scope.cancelled_caught == arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    async def converse(command: Marked, nursery: trio.Nursery) -> None:
        run: Any = partial(run_process, check=False, stdin=PIPE, stdout=PIPE)
        process: SandboxProcess = await nursery.start(run, arena.mine, command.text)
        assert process.stdin is not None and process.stdout is not None
        async with process.stdin as stdin:
            await stdin.send_all(b"said\n")
        await command.let_go()
        output = b"".join([bytes(data) async for data in process.stdout])
        assert output == f"{FIRST_WORDS}said\n{LAST_WORDS}".encode()
        assert await process.wait() == EXIT_CODE

    places = await arena.strike_everywhere(attempt, least=3)
    print(f"\nnursery.start: {len(places)} places: {places}")


async def test_a_call_that_was_cancelled_before(arena: Arena) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_process(arena.mine, "touch /tmp/never")
    assert scope.cancelled_caught
    assert not (await arena.observed.run("cat /tmp/never")).success
    arena.check_at_rest()
