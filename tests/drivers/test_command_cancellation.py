"""Cancelled at every place where a command's caller waits: nothing goes on, nothing is left.

The places are counted at the network's seam, so that each is tried, one after the other, until
an attempt gets to its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from sandbox_anyio import (
    AsyncCommandHandle,
    AsyncSandbox,
    AsyncSandboxClient,
    ExecTimeouts,
    SandboxClientError,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxTimeoutError,
)
from sandbox_anyio.local.launch import LocalHost
from sandbox_anyio.network import ByteStream
from sandbox_proto.plans.route import RoutePlan
from sandbox_proto.wire.urls import Url

from ._cancelling import EXIT_CODE, FIRST_WORDS, LAST_WORDS, Arena, Marked, arena_on
from ._networks import TRANSPORTS, CountingNetwork
from ._servers import serving, silent

pytestmark = pytest.mark.anyio

KILLED = 137
PATIENCE = 15.0


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def arena(
    host: LocalHost, client: AsyncSandboxClient, transport: str, anyio_backend: str
) -> AsyncIterator[Arena]:
    async with arena_on(host, client, transport) as arena:
        yield arena


# --- run -----------------------------------------------------------------------------------


async def test_a_waiting_run(arena: Arena) -> None:
    """With callbacks that wait themselves."""

    async def attempt(at: int) -> None:
        command, heard = Marked(arena), []

        async def hear(text: str) -> None:
            await arena.network.sleep_until(arena.network.now())
            heard.append(text)
            if text == FIRST_WORDS:
                await command.let_go()

        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            result = await arena.mine.run(command.text, on_stdout=hear, on_stderr=hear)
            assert (result.stdout, result.stderr) == (FIRST_WORDS + LAST_WORDS, "err\n")
            assert result.exit_code == EXIT_CODE
            assert sorted(heard) == sorted([FIRST_WORDS, LAST_WORDS, "err\n"])
        assert scope.cancelled_caught == arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    places = await arena.strike_everywhere(attempt, least=3)
    print(f"\nrun, waiting: {len(places)} places: {places}")


async def test_a_run_that_does_not_wait(arena: Arena) -> None:
    async def attempt(at: int) -> None:
        command, handle = Marked(arena), None
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            handle = await arena.mine.run(command.text, wait=False)
        assert (handle is None) == scope.cancelled_caught == arena.network.struck
        if handle is not None:
            assert await command.is_there()
            await handle.leave()
        arena.check_at_rest()
        await command.check_gone()

    places = await arena.strike_everywhere(attempt, least=2)
    print(f"\nrun, wait=False: {len(places)} places: {places}")


async def test_a_block_with_a_command(arena: Arena) -> None:
    async def attempt(at: int) -> None:
        command, output = Marked(arena), ""
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            async with await arena.mine.run(command.text, wait=False) as handle:
                async for chunk in handle:
                    output += chunk.data if chunk.stream == "stdout" else ""
                    await command.let_go()
            assert output == FIRST_WORDS + LAST_WORDS
        assert scope.cancelled_caught == arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    places = await arena.strike_everywhere(attempt, least=3)
    print(f"\nblock: {len(places)} places: {places}")


# --- what a handle can do ------------------------------------------------------------------

Output = list[str]


async def iterate(handle: AsyncCommandHandle, output: Output) -> None:
    async for chunk in handle:
        if chunk.stream == "stdout":
            output.append(chunk.data)


async def first_words(handle: AsyncCommandHandle) -> str:
    while (chunk := await anext(handle)).stream != "stdout":
        pass
    return chunk.data


async def await_result(handle: AsyncCommandHandle, output: Output) -> None:
    output[:] = [(await handle.result).stdout]


async def wait_for_output(handle: AsyncCommandHandle, output: Output) -> None:
    await handle.wait_for_output(LAST_WORDS)


async def send_input(handle: AsyncCommandHandle, output: Output) -> None:
    await handle.send_input("said\n")


async def close_input(handle: AsyncCommandHandle, output: Output) -> None:
    await handle.close_input()


async def kill(handle: AsyncCommandHandle, output: Output) -> None:
    await handle.kill()


async def reconnect(handle: AsyncCommandHandle, output: Output) -> None:
    """The second handle reads to the end; it is never the one that ends the command."""
    other = await handle.reconnect()
    try:
        async for _ in other:
            pass
    finally:
        other.close()


NEED_INPUT = (send_input, close_input)
OPERATIONS = (iterate, await_result, wait_for_output, *NEED_INPUT, kill, reconnect)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_an_operation_of_a_handle(
    arena: Arena,
    transport: str,
    operation: Callable[[AsyncCommandHandle, Output], Awaitable[None]],
) -> None:
    """Whatever was cancelled, the handle is of use afterwards, and no output is lost."""
    if operation in NEED_INPUT and transport != "websocket":
        pytest.skip("only a WebSocket carries input")
    takes_input = operation in NEED_INPUT

    async def attempt(at: int) -> None:
        command = Marked(arena)
        handle = await arena.mine.run(
            command.text, wait=False, close_input=False if takes_input else None
        )
        output = [await first_words(handle)]
        if operation is not kill and not takes_input:
            await command.let_go()
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            await operation(handle, output)
        assert scope.cancelled_caught == arena.network.struck
        if operation is kill:
            if transport == "websocket":
                await command.check_gone()  # said before the waiting: nothing takes it back
            assert (await handle.result).exit_code == KILLED
        else:
            await finish(command, handle, operation, output)
        await handle.leave()
        arena.check_at_rest()
        await command.check_gone()

    async def finish(
        command: Marked, handle: AsyncCommandHandle, operation: object, output: Output
    ) -> None:
        await command.let_go()
        await handle.close_input()
        with anyio.fail_after(PATIENCE):
            if operation is iterate:
                await iterate(handle, output)
                assert "".join(output) == FIRST_WORDS + LAST_WORDS
            result = await handle.result
        said = "said\n" if operation is send_input else ""
        assert result.stdout == FIRST_WORDS + said + LAST_WORDS
        assert (result.stderr, result.exit_code) == ("err\n", EXIT_CODE)

    places = await arena.strike_everywhere(attempt)
    print(f"\n{operation.__name__}: {len(places)} places: {places}")


# --- two tasks on one handle ---------------------------------------------------------------


@pytest.mark.parametrize("cancelled", ["the leader", "the follower"])
@pytest.mark.parametrize("other", [await_result, iterate, kill], ids=lambda each: each.__name__)
async def test_one_of_two_tasks_on_a_handle(
    arena: Arena,
    cancelled: str,
    other: Callable[[AsyncCommandHandle, Output], Awaitable[None]],
) -> None:
    """The one who is left gets everything, although it was the other who moved the bytes."""

    async def attempt(at: int) -> None:
        command, tasks = Marked(arena), {}
        handle = await arena.mine.run(command.text, wait=False)
        output = [await first_words(handle)]
        scope = anyio.CancelScope()

        async def be_cancelled(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            tasks["cancelled"] = anyio.get_current_task().id
            task_status.started()
            with scope:
                await handle.result

        async def go_on(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            task_status.started()
            await other(handle, output)

        def is_the_cancelled() -> bool:
            return anyio.get_current_task().id == tasks["cancelled"]

        arena.network.strike(at, scope.cancel, is_the_cancelled)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                first, second = be_cancelled, go_on
                if cancelled == "the follower":
                    first, second = second, first
                    tasks["cancelled"] = None
                await group.start(first)
                await group.start(second)
                if other is not kill:
                    await command.let_go()
            result = await handle.result
        assert scope.cancelled_caught == arena.network.struck
        if other is kill:
            assert result.exit_code == KILLED
        else:
            assert (result.stdout, result.exit_code) == (FIRST_WORDS + LAST_WORDS, EXIT_CODE)
            # Two who get to their end share the output, see below; one who is left gets it all.
            assert result.stdout.startswith("".join(output))
            assert "".join(output) == result.stdout or not arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    places = await arena.strike_everywhere(attempt)
    print(f"\n{cancelled} beside {other.__name__}: {len(places)} places: {places}")


# --- other ways to leave -------------------------------------------------------------------


class _OwnError(Exception):
    pass


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("waits", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(
    "error",
    [
        _OwnError("mine"),
        # What a callback raises that uses the client itself.
        SandboxOperationError("cannot write", "write"),
        SandboxConnectionError("cannot connect"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_out_of_a_callback(
    arena: Arena, stream: str, waits: bool, error: Exception
) -> None:
    command = Marked(arena)

    def fail(text: str) -> None:
        raise error

    async def wait_and_fail(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    callback = wait_and_fail if waits else fail
    with anyio.fail_after(PATIENCE), pytest.raises(type(error)) as caught:
        await arena.mine.run(command.text, **{f"on_{stream}": callback})  # type: ignore[arg-type]
    assert caught.value is error
    assert not await command.is_there(), "it was not killed"
    arena.check_at_rest()


async def test_closing_the_client_amid_a_run(arena: Arena) -> None:
    """Commands are left to themselves then, but their callers are told, and nothing stays open."""

    async def attempt(at: int) -> None:
        command, client = Marked(arena), arena.new_client()

        async def hear(text: str) -> None:
            await arena.network.sleep_until(arena.network.now())
            await command.let_go()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as others:
                # It closes while the run waits.
                arena.network.strike(at, lambda: others.start_soon(client.aclose))
                await run_until_closed(arena.on(client), command, hear)
        arena.check_at_rest(client)
        await command.let_go()
        await command.check_gone()
        await client.aclose()

    async def run_until_closed(
        sandbox: AsyncSandbox, command: Marked, hear: Callable[[str], object]
    ) -> None:
        try:
            result = await sandbox.run(command.text, on_stdout=hear)
        except SandboxConnectionError as error:
            assert arena.network.struck, error
            assert "closed" in str(error)
            assert error.command is not None
            assert error.command.may_be_running
            assert (FIRST_WORDS + LAST_WORDS).startswith(error.command.stdout)
        else:
            assert result.stdout == FIRST_WORDS + LAST_WORDS

    places = await arena.strike_everywhere(attempt, least=3)
    print(f"\naclose: {len(places)} places: {places}")


class _StuckNetwork(CountingNetwork):
    """Connecting takes for ever.

    :ivar connecting: somebody tries.
    """

    def __init__(self) -> None:
        super().__init__(dial=self._never)
        self.connecting = anyio.Event()

    async def _never(self, host: str, port: int, until: float | None) -> ByteStream:
        self.connecting.set()
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("how", ["client", "handle", "kill"])
async def test_ending_a_command_whose_connection_never_opens(transport: str, how: str) -> None:
    """Whoever waits is woken at once, and not when the patience for connecting is over."""
    network, errors = _StuckNetwork(), list[SandboxClientError]()
    async with AsyncSandboxClient(
        api_endpoint="http://127.0.0.1:1",
        api_key="k",
        trust_env=False,
        exec_transport=transport,  # type: ignore[arg-type]
        exec_timeouts=ExecTimeouts(open=1000.0, kill=0.1),
        network=network,
    ) as client:
        sandbox = AsyncSandbox(name="box", dataplane_url="http://127.0.0.1:1", client=client)
        handle = await sandbox.reconnect("0" * 32)

        async def wait() -> None:
            with pytest.raises(SandboxClientError) as caught:
                await handle.result
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await network.connecting.wait()
            if how == "client":
                await client.aclose()
            elif how == "handle":
                handle.close()
            else:
                with anyio.fail_after(PATIENCE), pytest.raises(SandboxTimeoutError):
                    await handle.kill()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert len(errors) == 1, "whoever waited still waits"


# --- what the others rest on ---------------------------------------------------------------


async def test_an_iteration_is_whole_although_another_task_awaits_the_result(arena: Arena) -> None:
    command, read, over = Marked(arena), anyio.Event(), anyio.Event()
    handle = await arena.mine.run(command.text, wait=False)
    output = []

    async def read_slowly() -> None:
        output.append(await first_words(handle))
        read.set()
        await over.wait()
        await iterate(handle, output)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_slowly)
            await read.wait()
            await command.let_go()
            result = await handle.result
            over.set()
    assert result.stdout == FIRST_WORDS + LAST_WORDS
    assert "".join(output) == result.stdout


async def test_waiting_on_a_closed_stream_is_an_os_error_each_time() -> None:
    """So the seam has it; the first time must not spoil the second."""
    network = CountingNetwork()
    with serving(silent) as server:
        route = RoutePlan.through(None).route_to(Url.parse(server.url).origin)
        for _ in range(2):
            stream = await network.connect(route, until=None)
            stream.close()
            with pytest.raises(OSError, match="closed"):
                await stream.wait(readable=True, writable=False, until=None)
