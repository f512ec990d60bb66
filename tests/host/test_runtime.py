"""Commands in a real sandbox: starting, talking, ending."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio.local.runtime import (
    HOME,
    CommandSpec,
    RunningSandbox,
    SandboxDiedError,
    SpawnError,
)

from ._runtime import (
    ENVIRONMENT,
    close,
    finish,
    open_descriptors,
    read_all,
    read_until,
    run,
    sandbox_in,
    shell,
    start_shell,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_output_error_and_code_arrive(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        result = await shell(sandbox, "echo out; echo err >&2; exit 7")
    assert (result.code, result.stdout, result.stderr) == (7, "out\n", "err\n")


async def test_input_arrives(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await sandbox.spawn(CommandSpec(argv=("cat",), env=ENVIRONMENT))
        os.write(command.stdin, b"through")
        assert (await finish(command)).stdout == "through"


async def test_much_output_arrives_whole(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        result = await shell(sandbox, "head -c 3000000 /dev/zero | tr '\\0' x")
    assert result.stdout == "x" * 3_000_000


async def test_a_signal_counts_as_128_and_its_number(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        assert (await shell(sandbox, "kill -TERM $$")).code == 128 + signal.SIGTERM
        assert (await shell(sandbox, "kill -KILL $$")).code == 128 + signal.SIGKILL


async def test_signals_start_at_their_defaults(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        status = await run(sandbox, "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.stdout.splitlines())
    of_the_c_library = 1 << 31 | 1 << 32  # posix_spawn(3) itself ignores 32 and 33
    assert int(fields["SigIgn"], 16) & ~of_the_c_library == 0
    assert int(fields["SigBlk"], 16) == 0


async def test_the_environment_is_exactly_what_was_given(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        result = await run(sandbox, "/usr/bin/env", env={"A": "1 2", "ÄÖ": "ü\nq"})
    assert sorted(result.stdout.splitlines()) == ["A=1 2", "q", "ÄÖ=ü"]


async def test_a_large_environment_and_long_arguments_arrive(tmp_path: Path) -> None:
    value = "v" * 100_000
    async with sandbox_in(tmp_path) as sandbox:
        result = await run(
            sandbox, "/bin/sh", "-c", 'echo "$A$B$1"', "sh", value, env={"A": value, "B": value}
        )
    assert result.stdout == value * 3 + "\n"


async def test_the_pid_is_the_one_seen_inside(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "echo $$")
        pid = command.pid
        assert (await finish(command)).stdout == f"{pid}\n"


async def test_commands_start_at_home_or_where_told(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        assert (await run(sandbox, "pwd")).stdout == f"{HOME}\n"
        assert await sandbox.home() == HOME
        assert (await run(sandbox, "pwd", cwd="/var/lib")).stdout == "/var/lib\n"


async def test_programs_are_found_by_the_given_path(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "mkdir b; printf '#!/bin/sh\\necho mine' > b/tool; chmod +x b/tool")
        result = await run(sandbox, "tool", env={"PATH": f"/nowhere:{HOME}/b:/bin"})
        assert result.stdout == "mine\n"
        assert (await run(sandbox, "./tool", cwd=f"{HOME}/b")).stdout == "mine\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (CommandSpec(argv=("/bin/nosh", "-c", "true"), env={}), "no such program: /bin/nosh"),
        (CommandSpec(argv=("nosuch",), env=ENVIRONMENT), "no such program: nosuch"),
        (CommandSpec(argv=("/etc/passwd",), env={}), "not executable: /etc/passwd"),
        (CommandSpec(argv=("/bin",), env={}), "no such program: /bin"),
        (CommandSpec(argv=("true",), env={}, cwd="/nowhere"), "no such directory: /nowhere"),
        (CommandSpec(argv=("true",), env={}, cwd="/etc/passwd"), "Not a directory"),
        (CommandSpec(argv=(), env={}), "no program"),
        (CommandSpec(argv=("true", "a\0b"), env={}), "null"),
        (CommandSpec(argv=("true",), env={"A=B": "C"}), "illegal"),
        (CommandSpec(argv=("/bin/echo", "x" * 200_000), env={}), "too long"),
        (CommandSpec(argv=("true",), env={}, user="nobody"), "root is the only user"),
        (CommandSpec(argv=("true",), env={}, user="1000"), "root is the only user"),
        (CommandSpec(argv=("true",), env={}, user="root:nogroup"), "root is the only user"),
        (CommandSpec(argv=("true",), env={}, user="ghost"), "no user 'ghost'"),
        (CommandSpec(argv=("true",), env={}, user=":"), "no user"),
    ],
)
@pytest.mark.parametrize("pty", [False, True])
async def test_what_cannot_start_says_why(
    tmp_path: Path, command: CommandSpec, message: str, pty: bool
) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        before = len(open_descriptors())
        with pytest.raises(SpawnError, match=message):
            await sandbox.spawn(
                CommandSpec(command.argv, command.env, command.cwd, command.user, pty)
            )
        assert len(open_descriptors()) == before
        assert (await shell(sandbox, "echo still fine")).stdout == "still fine\n"


@pytest.mark.parametrize("user", [None, "root", "0", "0:0", "root:root"])
async def test_root_is_who_commands_run_as(tmp_path: Path, user: str | None) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        assert (await run(sandbox, "id", "-u", user=user)).stdout == "0\n"


async def test_standard_streams_can_be_opened_by_name(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        result = await shell(sandbox, "echo out > /dev/stdout; echo err > /dev/stderr")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


async def test_commands_run_side_by_side(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        first = await start_shell(sandbox, "read line; echo first $line")
        second = await start_shell(sandbox, "read line; echo second $line")
        os.write(second.stdin, b"b\n")
        assert (await finish(second)).stdout == "second b\n"
        os.write(first.stdin, b"a\n")
        assert (await finish(first)).stdout == "first a\n"


# --- Terminals -----------------------------------------------------------------------


_JOB = b"sh -c 'echo up$((0)); exec cat'\n"  # the word it says is not in its echo


async def _terminal(sandbox: RunningSandbox, *argv: str) -> Any:
    env = {**ENVIRONMENT, "PS1": "$ ", "TERM": "dumb"}
    return await sandbox.spawn(CommandSpec(argv=argv, env=env, pty=True))


async def test_a_terminal_is_one_and_has_the_usual_size(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await _terminal(sandbox, "/bin/sh", "-c", "tty; stty size; echo >&2 error")
        assert command.stdin == command.stdout
        assert command.stderr is None
        output = await read_all(command.stdout)
        assert output.split() == [b"/dev/pts/0", b"24", b"80", b"error"]
        assert await command.wait() == 0


async def test_a_terminal_can_be_resized(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await _terminal(
            sandbox, "bash", "--norc", "-c", "trap 'stty size' WINCH; sleep 1000 & echo up; wait"
        )
        await read_until(command.stdout, b"up")
        command.resize(101, 31)
        await read_until(command.stdout, b"31 101")
        await command.kill()
        close(command)


async def test_control_c_interrupts_the_foreground_job_only(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await _terminal(sandbox, "bash", "--norc", "-i")
        output = await read_until(command.stdout, b"$ ")
        assert b"job control" not in output
        os.write(command.stdin, _JOB)
        await read_until(command.stdout, b"up0")
        os.write(command.stdin, b"\x03")
        await read_until(command.stdout, b"$ ")
        os.write(command.stdin, b"echo code $?\n")
        await read_until(command.stdout, b"code 130")
        os.write(command.stdin, _JOB)
        await read_until(command.stdout, b"up0")
        os.write(command.stdin, b"\x1a")
        await read_until(command.stdout, b"Stopped")
        os.write(command.stdin, b"fg\n")
        await read_until(command.stdout, b"cat'\r\n")
        os.write(command.stdin, b"\x04exit 5\n")
        assert await command.wait() == 5
        close(command)


async def test_closing_the_terminal_hangs_up(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await _terminal(sandbox, "sleep", "1000")
        close(command)
        assert await command.wait() == 128 + signal.SIGHUP


# --- Ending --------------------------------------------------------------------------


async def _is_running(sandbox: RunningSandbox, *names: str) -> bool:
    listing = await run(sandbox, "ps", "-eo", "stat=,args=")
    living = [line for line in listing.stdout.splitlines() if not line.startswith("Z")]
    return any(name in line for line in living for name in names)


async def _has_ended(sandbox: RunningSandbox, *names: str) -> bool:
    """True once it has; a killed process may take its time."""
    while await _is_running(sandbox, *names):
        pass
    return True


async def test_kill_takes_the_whole_group(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "sleep 1111 & sleep 1112 & echo up; wait")
        await read_until(command.stdout, b"up")
        await command.kill()
        assert await command.wait() == 128 + signal.SIGKILL
        assert await _has_ended(sandbox, "sleep")
        close(command)


async def test_kill_takes_grandchildren_in_sessions_of_their_own(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(
            sandbox, "setsid sh -c 'setsid sleep 2222 & echo up; wait' & sleep 2223; true"
        )
        await read_until(command.stdout, b"up")
        await command.kill()
        await command.wait()
        assert await _has_ended(sandbox, "sleep")
        close(command)


async def test_kill_after_the_end_takes_what_was_left_behind(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "sleep 3333 & echo up")
        assert await command.wait() == 0
        assert await _is_running(sandbox, "sleep 3333")
        await command.kill()
        assert await _has_ended(sandbox, "sleep 3333")
        close(command)


async def test_kill_spares_other_commands(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        other = await start_shell(sandbox, "read line; echo alive")
        command = await start_shell(sandbox, "sleep 1000")
        await command.kill()
        await command.kill()
        assert await command.wait() == 137
        os.write(other.stdin, b"\n")
        assert (await finish(other)).stdout == "alive\n"
        close(command)


async def test_a_background_process_does_not_delay_the_end(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "exec 3<&0; (read line <&3; echo later) & echo first")
        assert await command.wait() == 0
        await read_until(command.stdout, b"first\n")
        os.write(command.stdin, b"\n")
        await read_until(command.stdout, b"later\n")
        close(command)


async def test_orphans_are_reaped(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        for _ in range(10):
            await shell(sandbox, "(setsid true &) ; (sh -c 'true & exec true' &)")
        result = await shell(sandbox, "while ps -eo stat= | grep -q Z; do :; done; echo none")
        assert result.stdout == "none\n"


async def test_waiting_after_the_end_and_twice_gives_the_code(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "exit 9")
        assert [await command.wait(), await command.wait()] == [9, 9]
        close(command)


async def test_a_cancelled_spawn_leaves_nothing_running(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        before = len(open_descriptors())
        for pty in (False, True):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await sandbox.spawn(CommandSpec(argv=("sleep", "4444"), env=ENVIRONMENT, pty=pty))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(
                    sandbox.spawn, CommandSpec(argv=("sleep", "4444"), env=ENVIRONMENT)
                )
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert await _has_ended(sandbox, "sleep 4444")
        assert len(open_descriptors()) == before


async def test_fifty_commands_leak_no_descriptor(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "true")
        before = open_descriptors()
        supervisor_before = (await shell(sandbox, "ls /proc/$PPID/fd 2>&1 | wc -l")).stdout
        for number in range(50):
            command = CommandSpec(argv=("true",), env=ENVIRONMENT, pty=bool(number % 2))
            started = await sandbox.spawn(command)
            await started.wait()
            close(started)
        assert open_descriptors() == before
        assert (await shell(sandbox, "ls /proc/$PPID/fd 2>&1 | wc -l")).stdout == supervisor_before


async def test_commands_inherit_no_descriptor(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        other = await start_shell(sandbox, "read line")
        listing = await run(sandbox, "ls", "/proc/self/fd")
        assert listing.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls' own
        await finish(other)


# --- Standing still ------------------------------------------------------------------


async def test_frozen_commands_stand_still_until_thawed(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(
            sandbox, "i=0; while :; do i=$((i+1)); echo $i > count; [ -e stop ] && exit 3; done"
        )
        counter = tmp_path / "sandboxes/one/upper/home/user/count"
        while not (counter.exists() and counter.read_text()):
            await anyio.lowlevel.checkpoint()
        await sandbox.freeze()
        states = await run(sandbox, "ps", "-eo", "stat=,args=")
        assert [line[0] for line in states.stdout.splitlines() if "while" in line] == ["T"]
        first = counter.read_text()
        assert (await shell(sandbox, "sleep 0.05")).code == 0  # new commands do run
        assert counter.read_text() == first
        await sandbox.thaw()
        await shell(sandbox, "touch stop")
        assert (await finish(command)).code == 3


async def test_thaw_leaves_stopped_jobs_stopped(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "kill -STOP $$; exit 4")
        while "T" not in (await run(sandbox, "ps", "-o", "stat=", str(command.pid))).stdout:
            pass
        running = await start_shell(sandbox, "read _")
        await sandbox.freeze()
        await sandbox.freeze()
        await sandbox.thaw()
        assert (await finish(running)).code == 1
        assert "T" in (await run(sandbox, "ps", "-o", "stat=", str(command.pid))).stdout
        await run(sandbox, "kill", "-CONT", str(command.pid))
        assert (await finish(command)).code == 4


async def test_a_terminal_survives_a_freeze(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await _terminal(sandbox, "bash", "--norc", "-i")
        await read_until(command.stdout, b"$ ")
        os.write(command.stdin, _JOB)
        await read_until(command.stdout, b"up0")
        await sandbox.freeze()
        await sandbox.thaw()
        os.write(command.stdin, b"one\n\x04")
        output = await read_until(command.stdout, b"$ ")
        assert b"Stopped" not in output
        close(command)
        await command.wait()


# --- The sandbox's own end -----------------------------------------------------------


async def test_killing_everything_from_inside_is_reported(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "read _; kill -KILL 2; sleep 1000")
        os.write(command.stdin, b"\n")
        await sandbox.died.wait()
        assert await command.wait() == 137
        for attempt in (
            sandbox.spawn(CommandSpec(argv=("true",), env={})),
            sandbox.open_file("/etc/passwd"),
            sandbox.create_file("/x"),
            sandbox.open_socket("inet"),
            sandbox.freeze(),
        ):
            with pytest.raises(SandboxDiedError):
                await attempt
        await command.kill()
        await sandbox.destroy()
        close(command)


async def test_killing_the_supervisor_ends_the_sandbox(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "read _; kill -KILL $PPID; sleep 1000")
        os.write(command.stdin, b"\n")
        await sandbox.died.wait()
        assert await command.wait() == 137
        close(command)


async def test_a_stopped_supervisor_does_not_hinder_the_end(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        command = await start_shell(sandbox, "read _; kill -STOP $PPID; echo up; sleep 1000")
        os.write(command.stdin, b"\n")
        await read_until(command.stdout, b"up")
        began = anyio.current_time()
        await sandbox.destroy()
        assert anyio.current_time() - began < 5  # else the host's patience ended it
        close(command)


async def test_polite_signals_to_everybody_do_not_end_the_sandbox(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        assert (await shell(sandbox, "kill -TERM -1; kill -HUP -1; kill -INT -1")).code == 0
        assert (await shell(sandbox, "echo alive")).stdout == "alive\n"
