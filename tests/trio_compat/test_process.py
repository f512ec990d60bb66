"""Processes in nurseries, and their pipes."""

from __future__ import annotations

import signal
from functools import partial
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError
from typing import Any

import pytest
import trio
import trio.testing

from sandbox_anyio import AsyncSandbox
from sandbox_proto.machines.output_pipes import PIPE_BYTES
from sandbox_trio_compat import SandboxProcess, run_process

pytestmark = pytest.mark.anyio

PATIENCE = 20
# What one read may bring on top of a pipe that was nearly full.
ONE_READ = 256 * 1024


async def start(
    nursery: trio.Nursery, sandbox: AsyncSandbox, command: Any, **options: Any
) -> SandboxProcess:
    process: SandboxProcess = await nursery.start(
        partial(run_process, sandbox, command, **{"check": False, **options})
    )
    return process


async def read_all(stream: trio.abc.ReceiveStream | None) -> bytes:
    assert stream is not None
    return b"".join([bytes(data) async for data in stream])


async def test_a_conversation(sandbox: AsyncSandbox) -> None:
    script = "while read line; do echo got $line; echo heard >&2; done; exit 4"
    pipes: Any = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, script, **pipes)
            assert (process.args, process.returncode, process.poll()) == (script, None, None)
            assert process.pid > 0
            assert "running" in repr(process)
            stdio = process.stdio
            assert process.stdin is not None and process.stderr is not None and stdio is not None
            for word in (b"one", b"two"):
                await stdio.send_all(word + b"\n")
                assert await stdio.receive_some() == b"got " + word + b"\n"
                assert await process.stderr.receive_some() == b"heard\n"
            # A character may come in two pieces.
            await process.stdin.send_all("\u00e9".encode()[:1])
            await process.stdin.send_all("\u00e9".encode()[1:] + b"\n")
            assert await stdio.receive_some() == "got \u00e9\n".encode()
            await stdio.send_eof()
            assert await process.wait() == 4
            assert await read_all(process.stdout) == b""
        assert process.returncode == process.poll() == 4
        assert repr(process) == f"<SandboxProcess {script!r}: ended with 4>"


async def test_without_pipes_there_are_none(sandbox: AsyncSandbox) -> None:
    async with trio.open_nursery() as nursery:
        process = await start(nursery, sandbox, "cat", stdin=b"in", stdout=DEVNULL, stderr=DEVNULL)
        streams = (process.stdin, process.stdout, process.stderr, process.stdio)
        assert streams == (None, None, None, None)
        assert await process.wait() == 0


async def test_both_outputs_in_one_pipe(sandbox: AsyncSandbox) -> None:
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done"
    async with trio.open_nursery() as nursery:
        process = await start(nursery, sandbox, script, stdout=PIPE, stderr=STDOUT)
        assert process.stderr is None
        expected = b"".join(b"out %d\nerr %d\n" % (i, i) for i in (1, 2, 3))
        assert await read_all(process.stdout) == expected


async def test_a_failure_is_told_in_the_nursery(sandbox: AsyncSandbox) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await start(nursery, sandbox, "echo why; exit 2", check=True, capture_stdout=True)
    [error] = caught.value.exceptions
    assert isinstance(error, CalledProcessError)
    assert (error.returncode, error.stdout) == (2, b"why\n")


async def test_a_pipe_that_nobody_reads_holds_the_command_back(sandbox: AsyncSandbox) -> None:
    """As with two pipes of a local process: what is in the other has to wait, and is not lost."""
    size = 8 * 1024 * 1024
    script = f"head -c {size} /dev/zero | tr '\\0' e >&2; echo after; echo done > /tmp/went-on"
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, script, stdout=PIPE, stderr=PIPE)
            assert process.stdout is not None and process.stderr is not None
            with trio.move_on_after(0.5) as scope:
                await process.stdout.receive_some()
            assert scope.cancelled_caught
            held = len(pipes_of(process)._queues["stderr"])
            assert PIPE_BYTES <= held <= PIPE_BYTES + ONE_READ
            assert not (await sandbox.run("cat /tmp/went-on")).success, "the command is held back"
            assert await read_all(process.stderr) == b"e" * size
            assert await read_all(process.stdout) == b"after\n"
            assert await process.wait() == 0


async def test_who_closes_a_pipe_lets_the_command_go_on(sandbox: AsyncSandbox) -> None:
    script = "head -c 3000000 /dev/zero >&2; echo after"
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, script, stdout=PIPE, stderr=PIPE)
            async with trio.open_nursery() as readers:
                text: list[bytes] = []

                async def read() -> None:
                    text.append(await read_all(process.stdout))

                readers.start_soon(read)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert process.stderr is not None
                await process.stderr.aclose()
            assert text == [b"after\n"]


async def test_both_pipes_read_at_once(sandbox: AsyncSandbox) -> None:
    """Two readers of one command: each gets its own, all of it."""
    script = "seq 100000 & seq 200000 >&2; wait"
    texts: dict[str, bytes] = {}
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, script, stdout=PIPE, stderr=PIPE)

            async def read(name: str) -> None:
                texts[name] = await read_all(getattr(process, name))

            nursery.start_soon(read, "stdout")
            nursery.start_soon(read, "stderr")
    assert texts["stdout"] == b"".join(b"%d\n" % number for number in range(1, 100_001))
    assert texts["stderr"] == b"".join(b"%d\n" % number for number in range(1, 200_001))


async def test_input_that_nobody_reads_is_not_taken_for_ever(sandbox: AsyncSandbox) -> None:
    piece, sent = bytes(100 * 1024), 0
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, "exec sleep 1000", stdin=PIPE)
            assert process.stdin is not None
            with trio.move_on_after(1.5) as scope:
                while True:
                    await process.stdin.send_all(piece)
                    sent += len(piece)
            assert scope.cancelled_caught
            # The host takes 1 MiB for the command; what is on its way has a window of its own.
            assert sent < 3 * 1024 * 1024
            with trio.move_on_after(0.1) as scope:
                await process.stdin.wait_send_all_might_not_block()
            assert scope.cancelled_caught
            process.kill()


@pytest.mark.parametrize("how", ["kill", "terminate", "send_signal"])
async def test_killing(sandbox: AsyncSandbox, how: str) -> None:
    """There is one signal; it is carried out by the task that waits for the end."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, "yes", stdout=PIPE)
            assert process.stdout is not None
            await process.stdout.receive_some(10)
            if how == "send_signal":
                with pytest.raises(ValueError, match="only SIGKILL"):
                    process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGKILL)
            else:
                getattr(process, how)()
            assert await process.wait() == -signal.SIGKILL
            rest = await read_all(process.stdout)
            assert set(rest) <= set(b"y\n"), "what had come before is still there"
            process.kill()
            assert process.returncode == -signal.SIGKILL


async def test_who_sends_to_a_command_that_has_ended(sandbox: AsyncSandbox) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, "exit 0", stdin=PIPE)
            assert process.stdin is not None
            await process.wait()
            with pytest.raises(trio.BrokenResourceError, match="has ended"):
                await process.stdin.send_all(b"x")


async def test_input_is_text(sandbox: AsyncSandbox) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await start(nursery, sandbox, "cat", stdin=PIPE, stdout=PIPE)
            assert process.stdin is not None
            with pytest.raises(ValueError, match="UTF-8"):
                await process.stdin.send_all(b"good \xff bad")
            await process.stdin.send_all(b"good\xe2\x82")
            with pytest.raises(ValueError, match="UTF-8"):
                await process.stdin.aclose()
            assert await read_all(process.stdout) == b"good"


def pipes_of(process: SandboxProcess) -> Any:
    return process._process._handle.pipes
