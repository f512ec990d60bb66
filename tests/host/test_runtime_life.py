"""How sandboxes and their runtime begin and end, also when things go wrong."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

import sandbox_anyio
from sandbox_anyio.local.runtime import (
    RuntimeUnavailableError,
    identity,
    open_runtime,
    probe,
)
from sandbox_anyio.local.runtime.identity import Identity

from ._runtime import (
    close,
    descendants_of,
    directory_of_nobody,
    give_to_sandboxes,
    open_descriptors,
    opened,
    own_processes,
    read_until,
    run,
    run_as_nobody,
    sandbox_in,
    shell,
    spec,
    start_shell,
)

pytestmark = pytest.mark.anyio
_PROJECT = Path(sandbox_anyio.__path__[0]).parent


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def _mounts_of(place: Path) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(place) in line]


def _socket_holders(pids: set[int]) -> Counter[str]:
    """How many of these processes hold each socket that any of them holds."""
    return Counter(
        target
        for pid in pids
        for target in {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        if target.startswith("socket:")
    )


def _wait_for_end(pid: int) -> None:
    handle = os.pidfd_open(pid)
    assert select.select([handle], [], [], 10)[0]
    os.close(handle)


def _user_ids(pids: set[int]) -> set[str]:
    """The four user ids of each of these processes."""
    found = set()
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found |= {line.partition(":")[2] for line in lines if line.startswith("Uid:")}
    return found


async def test_what_was_written_survives_destroy_and_rebuild(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        sandbox = await runtime.build(spec(tmp_path))
        await shell(sandbox, "echo kept > f; rm /etc/hosts; mkdir -p /srv/d; echo > /tmp/gone")
        await sandbox.destroy()
        again = await runtime.build(spec(tmp_path))
        result = await shell(again, "cat f; ls -d /srv/d; ls /etc/hosts /tmp")
        assert result.stdout == "kept\n/srv/d\n/tmp:\n"
    async with sandbox_in(tmp_path) as sandbox:
        assert (await shell(sandbox, "cat f")).stdout == "kept\n"


async def test_layers_lie_topmost_first_below_the_writable_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        for name in ("low", "high"):
            layer = tmp_path / "layers" / name
            (layer / "home/user").mkdir(parents=True)
            (layer / "home/user/both").write_text(name)
            (layer / f"home/user/{name}").write_text(name)
            give_to_sandboxes(runtime, layer)
        layers = (tmp_path / "layers/high", tmp_path / "layers/low")
        sandbox = await runtime.build(spec(tmp_path, layers=layers))
        result = await shell(sandbox, "cat both; rm low; echo changed > high; ls")
        assert result.stdout == "highboth\nhigh\n"
        assert (layers[1] / "home/user/low").exists()
        assert (layers[0] / "home/user/high").read_text() == "high"


async def test_a_stopped_sandboxs_upper_can_become_a_layer(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        sandbox = await runtime.build(spec(tmp_path))
        await shell(sandbox, "echo captured > f; rm -r /var/log; mkdir /var/log; rm /etc/hosts")
        await sandbox.destroy()
        (tmp_path / "layers").mkdir()
        spec(tmp_path).upper.rename(tmp_path / "layers/snapshot")
        for name in ("one", "two"):
            copy = await runtime.build(spec(tmp_path, name, layers=(tmp_path / "layers/snapshot",)))
            result = await shell(copy, "cat f; ls -A /var/log /etc/hosts")
            assert result.stdout == "captured\n/var/log:\n"


async def test_too_many_layers_are_refused_in_words(tmp_path: Path) -> None:
    layers = tuple(tmp_path / f"layers/{number}-{'x' * 40}" for number in range(80))
    for layer in layers:
        layer.mkdir(parents=True)
    async with opened(tmp_path) as runtime:
        with pytest.raises(RuntimeUnavailableError, match="too many layers"):
            await runtime.build(spec(tmp_path, layers=layers))
        fewer = await runtime.build(spec(tmp_path, layers=layers[:12]))
        assert (await shell(fewer, "echo fine")).stdout == "fine\n"


async def test_destroy_leaves_no_process_and_no_mount(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        before = own_processes()
        descriptors = len(open_descriptors())
        sandbox = await runtime.build(spec(tmp_path))
        command = await start_shell(sandbox, "setsid sleep 1000 & (setsid sleep 1000 &); echo up")
        await read_until(command.stdout, b"up")
        assert len(own_processes()) > len(before) + 3
        await sandbox.destroy()
        assert sandbox.died.is_set()
        assert own_processes() == before
        await sandbox.destroy()
        close(command)
        assert len(open_descriptors()) == descriptors
    assert _mounts_of(tmp_path) == []


async def test_closing_the_runtime_leaves_nothing(tmp_path: Path) -> None:
    before = own_processes()
    async with opened(tmp_path) as runtime:
        descriptors = len(open_descriptors())
        for name in ("one", "two", "three"):
            sandbox = await runtime.build(spec(tmp_path, name))
            close(await start_shell(sandbox, "sleep 1000"))
        await runtime.aclose()
        assert own_processes() == before
        assert len(open_descriptors()) <= descriptors
        with pytest.raises(RuntimeUnavailableError, match="has ended"):
            await runtime.build(spec(tmp_path, "four"))
    assert _mounts_of(tmp_path) == []


async def test_errors_pass_through_as_they_are(tmp_path: Path) -> None:
    before = own_processes()
    with pytest.raises(ZeroDivisionError):
        async with opened(tmp_path) as runtime:
            await runtime.build(spec(tmp_path))
            raise ZeroDivisionError
    assert own_processes() == before


async def test_cancellation_ends_everything(tmp_path: Path) -> None:
    before = own_processes()
    with anyio.move_on_after(10) as scope:
        async with open_runtime("auto", tmp_path) as runtime:
            sandbox = await runtime.build(spec(tmp_path))
            close(await start_shell(sandbox, "sleep 1000"))
            scope.cancel()
            await anyio.sleep_forever()
    assert own_processes() == before


async def test_a_cancelled_build_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        before = own_processes()

        async def build_and_destroy() -> None:
            await (await runtime.build(spec(tmp_path))).destroy()

        for turns in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build_and_destroy)
                for _ in range(turns):
                    await anyio.sleep(0.001)
                tasks.cancel_scope.cancel()
            assert own_processes() == before, turns
        sandbox = await runtime.build(spec(tmp_path))
        assert (await shell(sandbox, "echo fine")).stdout == "fine\n"


async def test_sandboxes_build_and_die_side_by_side(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        before = own_processes()

        async def live(name: str) -> None:
            for _ in range(3):
                sandbox = await runtime.build(spec(tmp_path, name))
                assert (await shell(sandbox, "echo $$")).code == 0
                # Would hang if a sibling held this sandbox's control socket.
                with anyio.fail_after(5):
                    await sandbox.destroy()

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(live, f"n{number}")
        assert own_processes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="others' descriptors are not for all to see")
async def test_no_process_holds_another_sandboxs_socket(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        for name in ("one", "two", "three"):
            await runtime.build(spec(tmp_path, name))
        holders = _socket_holders(own_processes())
        # The zygote's own socket, and per sandbox one that keeper and supervisor share.
        assert sorted(holders.values()) == [1, 2, 2, 2]


async def test_a_dead_zygote_is_reported_and_its_sandboxes_live_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        [zygote] = own_processes()
        sandbox = await runtime.build(spec(tmp_path))
        os.kill(zygote, signal.SIGKILL)
        _wait_for_end(zygote)
        with pytest.raises(RuntimeUnavailableError, match="restart the host"):
            await runtime.build(spec(tmp_path, "two"))
        assert (await shell(sandbox, "echo alive")).stdout == "alive\n"
        await sandbox.destroy()


# --- Removing --------------------------------------------------------------------------


async def test_only_what_lies_below_the_state_directory_is_removed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state) as runtime:
        for path in (
            tmp_path,
            state,
            state / "..",
            state / "x/../../outside",
            Path("/"),
            tmp_path / "state2",
        ):
            with pytest.raises(ValueError, match="not below"):
                await runtime.remove_tree(path)


async def test_what_a_killed_host_had_not_given_away_yet_is_removed(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        half = tmp_path / "half"
        (half / "upper").mkdir(parents=True, mode=0o700)  # this user's own, whoever that is
        (half / "upper/f").touch()
        await runtime.remove_tree(half)
        assert not half.exists()


async def test_links_are_removed_but_never_followed(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        precious = tmp_path / "precious/inner/file"
        precious.parent.mkdir(parents=True)
        precious.write_text("kept")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/link").symlink_to("../precious")
        (tmp_path / "link").symlink_to("precious")
        give_to_sandboxes(runtime, tmp_path / "precious")
        give_to_sandboxes(runtime, tmp_path / "tree")
        for name in ("link", "link/inner", "tree/link", "tree/link/inner"):
            with pytest.raises(OSError, match=r"directory|link"):
                await runtime.remove_tree(tmp_path / name)
        await runtime.remove_tree(tmp_path / "tree")
        assert precious.read_text() == "kept"


async def test_removing_while_sandboxes_run_and_twice_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        old = await runtime.build(spec(tmp_path, "old"))
        await shell(old, "for i in $(seq 300); do mkdir d$i; echo > d$i/f; done")
        await old.destroy()
        sandbox = await runtime.build(spec(tmp_path, "new"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runtime.remove_tree, spec(tmp_path, "old").upper)
            tasks.start_soon(runtime.remove_tree, spec(tmp_path, "old").work)
            tasks.start_soon(run, sandbox, "true")
        assert list((tmp_path / "sandboxes/old").iterdir()) == []


# --- Sudden death ------------------------------------------------------------------------

_SERVER = """
import os, sys, anyio
from pathlib import Path
from sandbox_anyio.local.runtime import CommandSpec, SandboxSpec, open_runtime

async def main():
    state = Path(sys.argv[2])
    async with open_runtime("auto", state) as runtime:
        for name in ("one", "two"):
            place = state / name
            sandbox = await runtime.build(SandboxSpec(name, (), place / "upper", place / "work"))
            script = f"(setsid sleep 1000 &); read _; {sys.argv[3]}; echo done; sleep 1000"
            command = await sandbox.spawn(CommandSpec(("sh", "-c", script), {"PATH": "/bin"}))
            os.write(command.stdin, bytes([10]))
            await anyio.wait_readable(command.stdout)
        print("up", flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[1])
"""


def _survivors_of_a_killed_server(backend: str, state: Path, script: str) -> set[int]:
    """Start a server with two busy sandboxes, kill it, and tell what is left a second later."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, backend, str(state), script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        living = {os.pidfd_open(pid): pid for pid in descendants_of(server.pid)}
        assert len(living) >= 1 + 2 * 5
        server.kill()
        deadline = time.monotonic() + 1.0
        while living and (left := deadline - time.monotonic()) > 0:
            for handle in select.select(living, [], [], left)[0]:
                os.close(handle)
                del living[handle]
    return set(living.values())


@pytest.mark.parametrize("script", ["trap '' HUP TERM", "kill -STOP $PPID", "kill -STOP 2"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_killed_server_leaves_nothing(tmp_path: Path, backend: str, script: str) -> None:
    assert _survivors_of_a_killed_server(backend, tmp_path, script) == set()
    assert _mounts_of(tmp_path) == []


# --- Who builds --------------------------------------------------------------------------


async def test_sandboxes_never_belong_to_root(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "touch f")
        owner = spec(tmp_path).upper.joinpath("home/user/f").stat().st_uid
        assert owner != 0
        ids = f"\t{owner}" * 4
        assert _user_ids(own_processes()) == {ids}
    if os.geteuid() == 0:
        assert identity.choose_identity(tmp_path / "sandbox-owner") == Identity(owner, owner)
        status = os.stat(tmp_path)  # noqa: PTH116
        assert (status.st_uid, status.st_mode & 0o777) == (0, 0o710)


_NON_ROOT = """
import sys, anyio, os
from pathlib import Path
from sandbox_anyio.local.runtime import CommandSpec, SandboxSpec, open_runtime, probe

async def main():
    state = Path(sys.argv[2])
    report = await probe(state)
    print("\\n".join(report.lines()))
    assert report.usable
    assert all(finding.state != "missing" for finding in report.findings)
    async with open_runtime("auto", state) as runtime:
        place = state / "one"
        sandbox = await runtime.build(SandboxSpec("one", (), place / "upper", place / "work"))
        script = "id -u; touch f; stat -c %u f; echo > /dev/stdout; echo x > /etc/new; rm -r /var"
        command = await sandbox.spawn(CommandSpec(("/bin/sh", "-c", script), {"PATH": "/bin"}))
        assert await command.wait() == 0
        assert os.read(command.stdout, 1000) == b"0\\n0\\n\\n"
        descriptor = await sandbox.open_file("/etc/new")
        assert os.read(descriptor, 10) == b"x\\n"
        await sandbox.destroy()
        await runtime.remove_tree(place)
        assert not place.exists()

anyio.run(main, backend=sys.argv[1])
print("done")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="this user is tested by all the other tests")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_works_for_an_ordinary_user(backend: str) -> None:
    with directory_of_nobody() as state:
        result = run_as_nobody(_NON_ROOT, backend, str(state))
        assert result.stdout.endswith("done\n"), result.stderr + result.stdout
        assert "host uid 54321, yours" in result.stdout


async def test_the_doctor_finds_everything(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        report = await probe(tmp_path / "state")
    assert report.usable
    assert report.problem is None
    assert {finding.state for finding in report.findings} == {"ok", "note"}
    text = "\n".join(report.lines())
    for word in ("bubblewrap", "seccomp", "overlay", "user ids", "cgroups", "python3"):
        assert word in text
