"""`open_process` and `run_process` beside anyio's own: the same commands, the same endings."""

from __future__ import annotations

import base64
import gzip
import json
import signal
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import anyio
import pytest
from anyio.abc import ByteReceiveStream, Process

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    SandboxProcess,
    open_process,
    run_process,
)
from sandbox_anyio.local.launch import LocalHost

from ._cancelling import EXIT_CODE, FIRST_WORDS, LAST_WORDS, Arena, Marked, arena_on
from ._processes import COMMANDS, TEXTS, Ending, ending_of
from ._servers import http_answer, read_request, serving

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def sandbox(host: LocalHost, anyio_backend: str) -> AsyncIterator[AsyncSandbox]:
    """One sandbox for all tests on one loop."""
    async with (
        AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client,
        client.sandbox() as sandbox,
    ):
        yield sandbox


async def both(sandbox: AsyncSandbox, command: Any, **options: Any) -> tuple[Ending, Ending]:
    """How it ends in the sandbox, and here."""
    with anyio.fail_after(PATIENCE):
        there = await ending_of(partial(run_process, sandbox, command, **options))
        here = await ending_of(partial(anyio.run_process, command, **options))
    return there, here


# --- run_process --------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False], ids=["check", "no check"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_programs(sandbox: AsyncSandbox, command: Any, check: bool) -> None:
    # anyio's own default for input is that of this process, which is not a sandbox's.
    there, here = await both(sandbox, command, check=check, stdin=DEVNULL)
    assert there == here.as_text()


@pytest.mark.parametrize("command", [text for text in TEXTS if text.id != "bash"])
async def test_texts_for_the_shell(sandbox: AsyncSandbox, command: Any) -> None:
    options: Any = {"check": False, "stdin": DEVNULL, "stderr": STDOUT}
    with anyio.fail_after(PATIENCE):
        there = await ending_of(
            partial(run_process, sandbox, command, executable="/bin/sh", **options)
        )
        here = await ending_of(partial(anyio.run_process, command, **options))
    assert there == here


@pytest.mark.parametrize("given", [b"one\ntwo\n", "h\u00e9 \u20ac".encode(), b"y" * 1_000_000])
async def test_input(sandbox: AsyncSandbox, given: bytes) -> None:
    there, here = await both(sandbox, ["cat"], input=given)
    assert there == here
    assert there.stdout == given


@pytest.mark.parametrize(
    "flags",
    [
        {"stdout": None, "stderr": None},
        {"stdout": None, "stderr": STDOUT},
        {"stdout": DEVNULL},
        {"stderr": DEVNULL},
        {"cwd": Path("/usr"), "env": {"WORD": "a b"}},
    ],
    ids=str,
)
async def test_where_output_goes(
    sandbox: AsyncSandbox, capfd: pytest.CaptureFixture[str], flags: dict[str, Any]
) -> None:
    command = ["sh", "-c", 'echo "$PWD $WORD"; echo err >&2; exit 1']
    flags = {"cwd": "/", "env": {"WORD": "x"}, **flags}
    with anyio.fail_after(PATIENCE):
        there = await ending_of(partial(run_process, sandbox, command, **flags))
        passed_on = capfd.readouterr()
        here = await ending_of(partial(anyio.run_process, command, **flags))
    assert there == here
    assert passed_on == capfd.readouterr()


async def test_what_cannot_be(sandbox: AsyncSandbox) -> None:
    with pytest.raises(ValueError, match="only one of"):
        await run_process(sandbox, "cat", input=b"x", stdin=DEVNULL)
    with pytest.raises(ValueError, match="for open_process"):
        await run_process(sandbox, "cat", stdin=PIPE)
    with pytest.raises(TypeError, match="bytes"):
        await run_process(sandbox, "cat", input="text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only `run_process` copies"):
        await open_process(sandbox, "true", stdout=None)


# --- open_process -------------------------------------------------------------------------


async def told_by(process: Process) -> tuple[Any, ...]:
    """A conversation with a process that says its input again, and ends with 5."""
    with anyio.fail_after(PATIENCE):
        async with process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stderr is not None
            running = process.returncode, process.pid > 0
            await process.stdin.send(b"one\n")
            first = await process.stdout.receive(), await process.stderr.receive()
            await process.stdin.send(b"two\n")
            second = await process.stdout.receive(2), await process.stdout.receive()
            await process.stdin.aclose()
            rest = await read_all(process.stdout), await read_all(process.stderr)
            end = await process.wait()
        return running, first, second, rest, end, process.returncode


async def read_all(stream: ByteReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


async def test_a_process_is_like_anyios(sandbox: AsyncSandbox) -> None:
    command = ["sh", "-c", "while read line; do echo $line; echo heard >&2; done; exit 5"]
    there = await told_by(await open_process(sandbox, command))
    here = await told_by(await anyio.open_process(command))
    assert there == here
    assert there[-1] == 5


async def test_the_end_of_a_block_waits(sandbox: AsyncSandbox) -> None:
    """With its input closed, the command comes to its end; it is not killed."""
    for opening in (partial(open_process, sandbox), anyio.open_process):
        with anyio.fail_after(PATIENCE):
            async with await opening(["sh", "-c", "cat > /tmp/kept; exit 3"]) as process:
                assert process.stdin is not None
                await process.stdin.send(b"all of it")
            assert process.returncode == 3
    assert await sandbox.read("/tmp/kept") == b"all of it"


async def test_the_end_of_a_block_ends_who_writes_for_ever(sandbox: AsyncSandbox) -> None:
    """A local one would get a SIGPIPE."""
    with anyio.fail_after(PATIENCE):
        async with await open_process(sandbox, "yes", stdin=DEVNULL) as process:
            assert process.stdout is not None
            assert await process.stdout.receive(4) == b"y\ny\n"
        assert process.returncode == -signal.SIGKILL
        async with await open_process(sandbox, "sleep 1000", stdin=DEVNULL) as process:
            process.terminate()
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(ValueError, match="only SIGKILL"):
            process.send_signal(signal.SIGINT)


async def test_streams_say_what_anyios_say(sandbox: AsyncSandbox) -> None:
    process: Process
    for opening in (partial(open_process, sandbox), anyio.open_process):
        with anyio.fail_after(PATIENCE):
            process = await opening("exec cat", stderr=DEVNULL)
            assert process.stderr is None
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None and stdout is not None
            await stdin.send(b"x")
            assert await stdout.receive() == b"x"
            await stdin.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await stdin.send(b"late")
            with pytest.raises(anyio.EndOfStream):
                await stdout.receive()
            assert await process.wait() == 0
            await process.aclose()
            await process.aclose()


async def test_one_reader_at_a_time(sandbox: AsyncSandbox) -> None:
    with anyio.fail_after(PATIENCE):
        async with await open_process(sandbox, "cat") as process:
            stdout = process.stdout
            assert stdout is not None
            async with anyio.create_task_group() as readers:
                readers.start_soon(read_all, stdout)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(anyio.BusyResourceError):
                    await stdout.receive()
                assert process.stdin is not None
                await process.stdin.aclose()
            with pytest.raises(ValueError, match="max_bytes"):
                await stdout.receive(0)


async def test_a_client_that_closes_breaks_its_processes(
    host: LocalHost, sandbox: AsyncSandbox
) -> None:
    client = AsyncSandboxClient(api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False)
    mine = AsyncSandbox(name=sandbox.name, dataplane_url=sandbox.dataplane_url, client=client)
    process = await open_process(mine, "cat")
    assert process.stdout is not None and process.stdin is not None
    await client.aclose()
    with pytest.raises(anyio.BrokenResourceError):
        await process.stdout.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await process.stdin.send(b"x")


# --- bytes, where the server keeps them ---------------------------------------------------


@pytest.mark.parametrize("content", [gzip.compress(b"x" * 9000, mtime=0), bytes(range(256)) * 500])
async def test_bytes_come_as_they_are_from_a_server_that_keeps_them(content: bytes) -> None:
    """The embedded host keeps text; this one says what a process wrote, in pieces of any size."""

    def script(connection: socket.socket) -> None:
        head, body = read_request(connection)
        assert head.startswith("POST /box/execute/stream/start ")
        events = [("started", {"command_id": json.loads(body)["command_id"], "pid": 1})]
        for start in range(0, len(content), 777):
            data = base64.b64encode(content[start : start + 777]).decode()
            events.append(("stdout", {"offset": start, "data": data}))
        events.append(("exit", {"exit_code": 0}))
        said = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        connection.sendall(http_answer(200, None, body=said.encode()))

    with serving(script) as server:
        async with AsyncSandboxClient(
            api_endpoint=server.url, api_key="key", trust_env=False
        ) as client:
            box = AsyncSandbox(name="box", dataplane_url=f"{server.url}/box", client=client)
            with anyio.fail_after(PATIENCE):
                done = await run_process(box, ["any"])
                assert done.stdout == content
                process = await open_process(box, ["any"], stdin=DEVNULL)
                assert process.stdout is not None
                assert await read_all(process.stdout) == content
                await process.aclose()


# --- cancelled ----------------------------------------------------------------------------


@pytest.fixture
async def arena(
    host: LocalHost, client: AsyncSandboxClient, anyio_backend: str
) -> AsyncIterator[Arena]:
    async with arena_on(host, client, "auto") as arena:
        yield arena


async def test_run_process_cancelled_wherever_it_waits(arena: Arena) -> None:
    async def attempt(at: int) -> None:
        command = Marked(arena)
        await command.let_go()
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            done = await run_process(arena.mine, command.text, input=b"in\n", check=False)
            assert done.stdout == f"{FIRST_WORDS}in\n{LAST_WORDS}".encode()
            assert (done.stderr, done.returncode) == (b"err\n", EXIT_CODE)
        assert scope.cancelled_caught == arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    await arena.strike_everywhere(attempt, least=3)


async def test_a_block_cancelled_wherever_it_waits(arena: Arena) -> None:
    async def attempt(at: int) -> None:
        command = Marked(arena)
        process: SandboxProcess | None = None
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            arena.network.strike(at, scope.cancel)
            async with await open_process(arena.mine, command.text) as process:
                assert process.stdin is not None and process.stdout is not None
                await process.stdin.send(b"said\n")
                await process.stdin.aclose()
                await command.let_go()
                output = await read_all(process.stdout)
            assert output == f"{FIRST_WORDS}said\n{LAST_WORDS}".encode()
            assert process.returncode == EXIT_CODE
        assert scope.cancelled_caught == arena.network.struck
        arena.check_at_rest()
        await command.check_gone()

    await arena.strike_everywhere(attempt, least=3)
