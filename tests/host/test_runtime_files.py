"""Files of a real sandbox, honest ones and traps."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio.local.runtime import HOME, RunningSandbox, SandboxDiedError, SandboxPathError

from ._runtime import open_descriptors, run, sandbox_in, shell

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def _write(sandbox: RunningSandbox, path: str, data: bytes, **options: Any) -> None:
    pending = await sandbox.create_file(path, **options)
    os.write(pending.fd, data)
    await pending.commit()


async def _read(sandbox: RunningSandbox, path: str, **options: Any) -> bytes:
    descriptor = await sandbox.open_file(path, **options)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


async def _refusal_to_read(sandbox: RunningSandbox, path: str, **options: Any) -> int | None:
    with pytest.raises(SandboxPathError) as caught:
        os.close(await sandbox.open_file(path, **options))
    return caught.value.errno


async def _refusal_to_write(sandbox: RunningSandbox, path: str, **options: Any) -> int | None:
    with pytest.raises(SandboxPathError) as caught:
        await (await sandbox.create_file(path, **options)).abort()
    return caught.value.errno


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space",
        "zw\u00f6lf \u4e8c",
        "new\nline",
        "-rf",
        "raw\udcff",
        ".hidden",
        "x" * 255,
    ],
)
async def test_a_file_goes_in_and_comes_out(tmp_path: Path, name: str) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        path = f"{HOME}/{name}"
        await _write(sandbox, path, b"\0content\xff")
        assert await _read(sandbox, path) == b"\0content\xff"
        listing = tmp_path / "sandboxes/one/upper/home/user"
        assert [os.fsencode(p.name) for p in listing.iterdir()] == [os.fsencode(name)]


async def test_commands_and_files_share_one_view(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await _write(sandbox, f"{HOME}/in", b"hello")
        assert (await run(sandbox, "cat", "in")).stdout == "hello"
        await shell(sandbox, "echo world > /tmp/out; echo > /dev/shm/memory")
        assert await _read(sandbox, "/tmp/out") == b"world\n"
        assert await _read(sandbox, "/dev/shm/memory") == b"\n"


async def test_parents_are_made_with_the_usual_modes(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await _write(sandbox, f"{HOME}/a/b/../c//./d", b"")
        # As a walk would have it: "b" must exist for ".." to leave it.
        modes = await run(sandbox, "stat", "-c", "%a %U %n", "a", "a/b", "a/c", "a/c/d")
        assert modes.stdout == "755 root a\n755 root a/b\n755 root a/c\n644 root a/c/d\n"


async def test_an_existing_file_keeps_mode_and_owner(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "echo old > f; chmod 4751 f; mkdir d; ln f other")
        await _write(sandbox, f"{HOME}/f", b"new")
        assert (await run(sandbox, "stat", "-c", "%a %u:%g", "f")).stdout == "4751 0:0\n"
        assert await _read(sandbox, f"{HOME}/f") == b"new"
        assert await _read(sandbox, f"{HOME}/other") == b"old\n"  # replaced, not overwritten


async def test_nothing_shows_before_commit_and_nothing_is_left_by_abort(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        pending = await sandbox.create_file(f"{HOME}/f")
        os.write(pending.fd, b"half")
        assert (await run(sandbox, "ls")).stdout == ""
        await pending.abort()
        await pending.abort()
        assert (await run(sandbox, "ls", "-A")).stdout == ""
        pending = await sandbox.create_file(f"{HOME}/f")
        await pending.commit()
        await pending.abort()
        assert (await run(sandbox, "ls", "-A")).stdout == "f\n"
        with pytest.raises(ValueError, match="before"):
            await pending.commit()


async def test_unfinished_files_go_with_the_sandbox(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        pending = await sandbox.create_file(f"{HOME}/f")
        assert len(list((tmp_path / "sandboxes/one/upper/home/user").iterdir())) == 1
        await sandbox.destroy()
        assert list((tmp_path / "sandboxes/one/upper/home/user").iterdir()) == []
        with pytest.raises(SandboxDiedError):
            await pending.commit()
        await pending.abort()


async def test_a_cancelled_write_leaves_nothing(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        before = len(open_descriptors())
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(sandbox.create_file, f"{HOME}/{number}")
                tasks.start_soon(sandbox.open_file, "/etc/passwd")
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert (await run(sandbox, "ls", "-A")).stdout == ""
        assert len(open_descriptors()) == before


async def test_missing_and_wrong_paths_have_their_errno(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "echo > file; mkfifo fifo; ln -s loop loop; ln -s nowhere dangling")
        assert await _refusal_to_read(sandbox, f"{HOME}/none") == errno.ENOENT
        assert await _refusal_to_read(sandbox, f"{HOME}/dangling") == errno.ENOENT
        assert await _refusal_to_read(sandbox, f"{HOME}/file/x") == errno.ENOTDIR
        assert await _refusal_to_read(sandbox, HOME) == errno.EISDIR
        assert await _refusal_to_read(sandbox, f"{HOME}/loop") == errno.ELOOP
        assert await _refusal_to_read(sandbox, f"{HOME}/fifo") == errno.EINVAL
        assert await _refusal_to_read(sandbox, "/dev/zero") == errno.EINVAL
        assert await _refusal_to_read(sandbox, "/dev/ptmx") == errno.EINVAL
        assert await _refusal_to_read(sandbox, "relative") == errno.EINVAL
        assert await _refusal_to_read(sandbox, "/etc/passwd\0x") == errno.EINVAL
        assert await _refusal_to_read(sandbox, "/\ud800") == errno.EINVAL
        assert await _refusal_to_read(sandbox, "/" + "x" * 5000) == errno.ENAMETOOLONG
        assert await _refusal_to_read(sandbox, "/etc/passwd", user="nobody") == errno.EACCES

        assert await _refusal_to_write(sandbox, HOME) == errno.EISDIR
        assert await _refusal_to_write(sandbox, f"{HOME}/new/") == errno.EISDIR
        assert await _refusal_to_write(sandbox, "/") == errno.EISDIR
        assert await _refusal_to_write(sandbox, f"{HOME}/file/x") == errno.ENOTDIR
        assert await _refusal_to_write(sandbox, f"{HOME}/loop") == errno.ELOOP
        assert await _refusal_to_write(sandbox, f"{HOME}/fifo") == errno.EINVAL
        assert await _refusal_to_write(sandbox, "/dev/null") == errno.EINVAL
        assert await _refusal_to_write(sandbox, "/dev/new") == errno.EROFS
        assert await _refusal_to_write(sandbox, "/usr/bin/new") == errno.EROFS
        assert await _refusal_to_write(sandbox, f"{HOME}/" + "x" * 256) == errno.ENAMETOOLONG
        assert await _refusal_to_write(sandbox, "/x", user="1000") == errno.EACCES
        assert await _read(sandbox, "/etc/passwd", user="root") != b""


async def test_a_full_file_system_says_so(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        pending = await sandbox.create_file("/dev/shm/big")
        with pytest.raises(OSError, match="No space") as caught:
            while True:
                os.write(pending.fd, bytes(1 << 24))
        assert caught.value.errno == errno.ENOSPC
        await pending.abort()


async def test_links_are_written_through_and_end_inside(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(
            sandbox,
            "mkdir real; ln -s real dir; echo old > real/f; ln -s f real/link;"
            "ln -s /home/user/real/link absolute; ln -s new/made dangling;"
            "ln -s ../../../../../../../../etc/escape up",
        )
        await _write(sandbox, f"{HOME}/dir/link", b"1")
        assert await _read(sandbox, f"{HOME}/real/f") == b"1"
        await _write(sandbox, f"{HOME}/absolute", b"2")
        assert await _read(sandbox, f"{HOME}/real/f") == b"2"
        await _write(sandbox, f"{HOME}/dangling", b"3")
        assert await _read(sandbox, f"{HOME}/new/made") == b"3"
        await _write(sandbox, f"{HOME}/up", b"4")
        assert await _read(sandbox, "/etc/escape") == b"4"
        await _write(sandbox, "/../../../../etc/escape2", b"5")
        assert await _read(sandbox, "/etc/escape2") == b"5"
        links = await run(sandbox, "find", HOME, "-type", "l")
        assert len(links.stdout.split()) == 5  # none of them was replaced
    assert not [name for name in os.listdir("/etc") if "escape" in name]  # noqa: PTH208


async def test_no_path_leads_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host only")
    secret.chmod(0o644)
    async with sandbox_in(tmp_path) as sandbox:
        up = "../" * 20
        await shell(
            sandbox,
            f"ln -s {secret} a; ln -s {up}{secret} b; ln -s / c; ln -s /proc/1/root d;"
            "ln -s /proc/self/root e; ln -s /proc/self/cwd f; ln -s /proc/self/fd/0 g",
        )
        for path in ("a", "b", f"c{secret}", f"d{secret}", f"e{secret}", f"f{secret}", "g"):
            code = await _refusal_to_read(sandbox, f"{HOME}/{path}")
            assert code in (errno.ENOENT, errno.ELOOP, errno.EACCES), path


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/exe",
        "/proc/self/maps",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/proc/self/root/etc/passwd",
        "/proc/1/environ",
        "/proc/1/exe",
        "/proc/version",
        "/proc/sys/kernel/hostname",
    ],
)
async def test_the_kernels_files_are_out_of_reach(tmp_path: Path, path: str) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await run(sandbox, "ln", "-s", path, "link")
        for name in (path, f"{HOME}/link"):
            assert await _refusal_to_read(sandbox, name) in (errno.ELOOP, errno.EACCES)
            assert await _refusal_to_write(sandbox, name) in (errno.ELOOP, errno.EACCES)


async def test_opening_a_fifo_disturbs_nobody(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "mkfifo fifo; (echo lost > fifo; echo woken > proof) >&- 2>&- &")
        assert await _refusal_to_read(sandbox, f"{HOME}/fifo") == errno.EINVAL
        result = await shell(sandbox, "ls; cat fifo")
        assert result.stdout == "fifo\nlost\n"


async def test_files_are_regular_and_open_for_one_thing(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        descriptor = await sandbox.open_file("/etc/passwd")
        assert stat.S_ISREG(os.fstat(descriptor).st_mode)
        with pytest.raises(OSError, match="descriptor"):
            os.write(descriptor, b"x")
        os.close(descriptor)
        pending = await sandbox.create_file(f"{HOME}/new")
        with pytest.raises(OSError, match="descriptor"):
            os.read(pending.fd, 1)
        await pending.abort()


async def test_hostile_account_files_break_nothing(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "rm /etc/passwd; mkfifo /etc/passwd")
        assert await _refusal_to_read(sandbox, "/etc/group", user="root") == errno.EACCES
        await shell(sandbox, "rm /etc/passwd; printf 'root:x:\\302\\262:0\\nroot' > /etc/passwd")
        assert await _refusal_to_read(sandbox, "/etc/group", user="root") == errno.EACCES
        assert b"root" in await _read(sandbox, "/etc/group", user="0")
