"""Commands without isolation: the same promises, the host's own files."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio.local.runtime import (
    CommandSpec,
    RunningSandbox,
    SandboxDiedError,
    SandboxPathError,
    SpawnError,
    processes,
)

from ._runtime import (
    close,
    descendants_of,
    open_descriptors,
    opened,
    read_until,
    run,
    sandbox_in,
    shell,
    spec,
    start_shell,
)

pytestmark = pytest.mark.anyio
NAP = f"1{os.getpid():07}"  # seconds that only this test run sleeps
ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["pidfd", "thread"])
def way_to_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "thread":
        monkeypatch.delattr(os, "pidfd_open")


def _none(tmp_path: Path) -> Any:
    return sandbox_in(tmp_path, "none")


async def test_it_says_what_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path, "none") as runtime:
        assert runtime.isolation.label == "none"
        assert set(runtime.isolation.details.values()) == {"not enforced"}
        assert "no isolation" in runtime.isolation.description


@pytest.mark.usefixtures("way_to_wait")
async def test_commands_run_in_their_own_directory(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        home = await sandbox.home()
        assert Path(home) == spec(tmp_path).upper
        result = await shell(sandbox, "pwd; echo err >&2; exit 7")
        assert (result.code, result.stdout, result.stderr) == (7, f"{home}\n", "err\n")
        assert (await run(sandbox, "pwd", cwd="/usr")).stdout == "/usr\n"
        assert (await shell(sandbox, "kill -TERM $$")).code == 128 + signal.SIGTERM
        assert (await run(sandbox, "env", env={**ENVIRONMENT, "A": "b"})).stdout.count("=") == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (CommandSpec(argv=("/bin/nosh",), env={}), "/bin/nosh: No such file"),
        (CommandSpec(argv=("/etc/passwd",), env={}), "Permission denied"),
        (CommandSpec(argv=("true",), env={}, cwd="/nowhere"), "no such directory: /nowhere"),
        (CommandSpec(argv=("true", "a\0b"), env={}), "null"),
        (CommandSpec(argv=("true",), env={}, user="ghost"), "host process's user"),
    ],
)
async def test_what_cannot_start_says_why(
    tmp_path: Path, command: CommandSpec, message: str
) -> None:
    async with _none(tmp_path) as sandbox:
        before = len(open_descriptors())
        with pytest.raises(SpawnError, match=message):
            await sandbox.spawn(command)
        assert len(open_descriptors()) == before


async def test_its_own_user_may_be_named(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        assert (await run(sandbox, "true", user=str(os.geteuid()))).code == 0


async def test_a_terminal_is_one(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        then = "stty size; echo go; exec sleep 1000"
        script = f"trap '{then}' WINCH; stty size; sleep 1000 & wait"
        command = await sandbox.spawn(
            CommandSpec(argv=("bash", "-c", script), env=ENVIRONMENT, pty=True)
        )
        await read_until(command.stdout, b"24 80")
        command.resize(101, 31)
        await read_until(command.stdout, b"31 101\r\ngo")
        os.write(command.stdin, b"\x03")
        assert await command.wait() == 130
        close(command)


def _is_napping() -> bool:
    for pid in descendants_of(1):
        with contextlib.suppress(FileNotFoundError):
            if NAP.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return True
    return False


@pytest.mark.usefixtures("way_to_wait")
async def test_kill_takes_group_and_descendants(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        command = await start_shell(
            sandbox, f"sleep {NAP} & setsid sh -c 'sleep {NAP} & echo up; wait' & wait"
        )
        await read_until(command.stdout, b"up")
        await command.kill()
        assert await command.wait() == 137
        await sandbox.destroy()
        assert not _is_napping()
        await command.kill()
        close(command)


@pytest.mark.usefixtures("way_to_wait")
async def test_destroy_ends_commands_and_keeps_files(tmp_path: Path) -> None:
    before = descendants_of(os.getpid())
    async with opened(tmp_path, "none") as runtime:
        sandbox = await runtime.build(spec(tmp_path))
        await shell(sandbox, "echo kept > f")
        command = await start_shell(sandbox, f"sleep {NAP} & sleep {NAP}")
        ended = await start_shell(sandbox, f"sleep {NAP} & true")
        assert await ended.wait() == 0
        await sandbox.destroy()
        await sandbox.destroy()
        assert sandbox.died.is_set()
        assert await command.wait() == 137
        assert not _is_napping()
        with pytest.raises(SandboxDiedError):
            await sandbox.spawn(CommandSpec(argv=("true",), env=ENVIRONMENT))
        again = await runtime.build(spec(tmp_path))
        assert (await shell(again, "cat f")).stdout == "kept\n"
        await start_shell(again, f"sleep {NAP}")
        close(command)
        close(ended)
    assert descendants_of(os.getpid()) == before


async def test_frozen_commands_stand_still(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        command = await start_shell(sandbox, "echo up; read line; echo $line")
        await read_until(command.stdout, b"up\n")
        await sandbox.freeze()
        assert processes.read_table()[command.pid].state == "T"
        await sandbox.thaw()
        os.write(command.stdin, b"on\n")
        assert await read_until(command.stdout, b"\n") == b"on\n"
        assert await command.wait() == 0
        close(command)


async def _refusal(sandbox: RunningSandbox, path: str, to: str) -> int | None:
    with pytest.raises(SandboxPathError) as caught:
        if to == "read":
            os.close(await sandbox.open_file(path))
        else:
            await (await sandbox.create_file(path)).abort()
    return caught.value.errno


async def test_files_go_in_and_come_out(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        home = Path(await sandbox.home())
        pending = await sandbox.create_file(f"{home}/a/b c/ü")
        os.write(pending.fd, b"x")
        await pending.commit()
        assert (home / "a/b c/ü").stat().st_mode & 0o777 == 0o644
        descriptor = await sandbox.open_file(f"{home}/a/b c/ü")
        assert os.read(descriptor, 10) == b"x"
        os.close(descriptor)

        (home / "link").symlink_to("a/b c/ü")
        (home / "a/b c/ü").chmod(0o750)
        pending = await sandbox.create_file(f"{home}/link")
        os.write(pending.fd, b"y")
        await pending.commit()
        assert (home / "link").is_symlink()
        assert (home / "a/b c/ü").read_text() == "y"
        assert (home / "a/b c/ü").stat().st_mode & 0o777 == 0o750

        pending = await sandbox.create_file(f"{home}/never")
        await pending.abort()
        await pending.abort()
        os.mkfifo(home / "fifo")
        assert (await run(sandbox, "ls")).stdout.split() == ["a", "fifo", "link"]
        assert await _refusal(sandbox, f"{home}/none", "read") == errno.ENOENT
        assert await _refusal(sandbox, f"{home}", "read") == errno.EISDIR
        assert await _refusal(sandbox, f"{home}/fifo", "read") == errno.EINVAL
        assert await _refusal(sandbox, f"{home}/\0", "read") == errno.EINVAL
        assert await _refusal(sandbox, f"{home}", "write") == errno.EISDIR
        assert await _refusal(sandbox, f"{home}/x/", "write") == errno.EISDIR
        assert await _refusal(sandbox, f"{home}/fifo", "write") == errno.EINVAL
        assert await _refusal(sandbox, f"{home}/link/x", "write") == errno.ENOTDIR


async def test_layers_are_copied_into_a_new_directory(tmp_path: Path) -> None:
    for name in ("low", "high"):
        (tmp_path / "layers" / name).mkdir(parents=True)
        (tmp_path / "layers" / name / "both").write_text(name)
        (tmp_path / "layers" / name / name).symlink_to("both")
    layers = (tmp_path / "layers/high", tmp_path / "layers/low")
    async with opened(tmp_path, "none") as runtime:
        sandbox = await runtime.build(spec(tmp_path, layers=layers))
        assert (await shell(sandbox, "cat both; echo; ls")).stdout == "high\nboth\nhigh\nlow\n"
        await shell(sandbox, "echo mine > both")
        await sandbox.destroy()
        sandbox = await runtime.build(spec(tmp_path, layers=layers))
        assert (await shell(sandbox, "cat both")).stdout == "mine\n"


async def test_trees_are_removed_but_only_below_the_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state, "none") as runtime:
        sandbox = await runtime.build(spec(state))
        await shell(sandbox, "mkdir -p a/b; touch a/b/c; chmod 0 a/b a")
        await sandbox.destroy()
        await runtime.remove_tree(state / "sandboxes/one")
        assert not (state / "sandboxes/one").exists()
        await runtime.remove_tree(state / "sandboxes/one")
        for path in (tmp_path, state, state / "../x", Path("/")):
            with pytest.raises(ValueError, match="not below"):
                await runtime.remove_tree(path)


async def test_sockets_are_this_machines(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        with await sandbox.open_socket("inet") as made:
            made.bind(("127.0.0.1", 0))
            assert made.getblocking() is False


async def test_nothing_leaks(tmp_path: Path) -> None:
    async with _none(tmp_path) as sandbox:
        await shell(sandbox, "true")
        before = open_descriptors()
        for number in range(20):
            command = await sandbox.spawn(
                CommandSpec(argv=("true",), env=ENVIRONMENT, pty=bool(number % 2))
            )
            await command.wait()
            close(command)
        assert open_descriptors() == before


async def test_errors_pass_through_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with _none(tmp_path):
            raise ZeroDivisionError


async def test_cancellation_ends_everything(tmp_path: Path) -> None:
    before = descendants_of(os.getpid())
    with anyio.move_on_after(10) as scope:
        async with _none(tmp_path) as sandbox:
            close(await start_shell(sandbox, f"sleep {NAP}"))
            scope.cancel()
            await anyio.sleep_forever()
    assert descendants_of(os.getpid()) == before
