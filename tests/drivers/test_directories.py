"""Whole directories, into a sandbox and out of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    SandboxClientError,
    SandboxOperationError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a bit of everything."""
    root = tmp_path / "project"
    for name in ("README", "src/a b.py", "src/grüße-🎉/new\nline", "src/-rf", "x" * 200):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    (root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "src" / "link").symlink_to("../README")
    (root / "empty").mkdir()
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("x")
    return root


def content_of(root: Path) -> dict[str, str]:
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "dir" if path.is_dir() else path.read_text()
    return found


async def archives_in(sandbox: AsyncSandbox) -> str:
    command = "find / -xdev -name '.sandbox-*' 2>/dev/null; ls -A /tmp /var/tmp 2>/dev/null"
    return "".join(
        line for line in (await sandbox.run(command)).stdout.splitlines() if ".sandbox-" in line
    )


async def test_there_and_back(sandbox: AsyncSandbox, project: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    report = await sandbox.upload_dir(
        project, "/home/user/deep/er", ignore=[".git"], progress=lambda *told: seen.append(told)
    )
    assert (report.files, report.links, report.skipped) == (6, 1, {})
    assert seen[-1][0] == seen[-1][1]
    assert (await sandbox.run("/home/user/deep/er/run.sh")).stdout == "ran\n"
    assert (await sandbox.run("readlink /home/user/deep/er/src/link")).stdout == "../README\n"

    back = await sandbox.download_dir("/home/user/deep/er", tmp_path / "back")
    assert (back.files, back.links, back.skipped) == (6, 1, {})
    expected = {
        name: content for name, content in content_of(project).items() if ".git" not in name
    }
    assert content_of(tmp_path / "back") == expected
    assert (tmp_path / "back" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert await archives_in(sandbox) == ""


async def test_odd_places(sandbox: AsyncSandbox, project: Path, tmp_path: Path) -> None:
    for place in ('/home/user/it\'s a "$HOME"', "/home/user/new\nline", "/new", "/home/user/-x"):
        await sandbox.upload_dir(project, place)
        await sandbox.download_dir(place, tmp_path / "back")
        assert content_of(tmp_path / "back") == content_of(project)
    assert await archives_in(sandbox) == ""


async def test_the_directory_that_holds_the_archive_comes_without_it(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    await sandbox.write("/home/user/f", "x")
    await sandbox.download_dir("/home/user", tmp_path / "back")
    assert content_of(tmp_path / "back") == {"f": "x"}


async def test_what_is_in_the_way_is_replaced_and_the_rest_stays(
    sandbox: AsyncSandbox, project: Path
) -> None:
    await sandbox.write("/home/user/p/README", "old")
    await sandbox.write("/home/user/p/other", "stays")
    await sandbox.upload_dir(project, "/home/user/p/")
    assert await sandbox.read("/home/user/p/README") == b"content of README"
    assert await sandbox.read("/home/user/p/other") == b"stays"


async def test_links_by_policy(sandbox: AsyncSandbox, project: Path, tmp_path: Path) -> None:
    await sandbox.upload_dir(project, "/home/user/kept")
    await sandbox.upload_dir(project, "/home/user/followed", symlinks="follow")
    assert (await sandbox.run("test -L kept/src/link && ! test -L followed/src/link")).success
    await sandbox.download_dir("/home/user/kept", tmp_path / "followed", symlinks="follow")
    assert (tmp_path / "followed" / "src" / "link").read_text() == "content of README"
    await sandbox.run("ln -s /etc/passwd kept/out")
    report = await sandbox.download_dir("/home/user/kept", tmp_path / "kept")
    assert set(report.skipped) == {"out"}
    with pytest.raises(ValueError, match="symlinks"):
        await sandbox.upload_dir(project, "/home/user/x", symlinks="maybe")  # type: ignore[arg-type]


async def test_what_cannot_be_done(sandbox: AsyncSandbox, project: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        await sandbox.upload_dir(project / "README", "/home/user/x")
    with pytest.raises(SandboxOperationError) as refused:
        await sandbox.upload_dir(project, "/usr/x")
    assert refused.value.status == 403
    await sandbox.write("/home/user/file", "x")
    with pytest.raises(SandboxOperationError) as refused:
        await sandbox.upload_dir(project, "/home/user/file")
    assert refused.value.operation == "write"
    for path in ("/home/user/file", "/nowhere"):
        with pytest.raises(SandboxOperationError, match="no directory") as missing:
            await sandbox.download_dir(path, tmp_path / "x")
        assert missing.value.operation == "read"
    with pytest.raises(ValueError, match="patterns"):
        await sandbox.upload_dir(project, "/home/user/x", ignore="*.pyc")
    assert await archives_in(sandbox) == ""
    assert not (tmp_path / "x").exists()


async def test_a_sandbox_without_tar_says_so(
    client: AsyncSandboxClient, project: Path, tmp_path: Path
) -> None:
    nowhere = {"env_vars": {"PATH": "/nowhere"}}
    async with client.sandbox(run_config=nowhere) as sandbox:
        with pytest.raises(SandboxOperationError, match="no program `tar`"):
            await sandbox.download_dir("/home/user", tmp_path / "x")


async def test_a_cancelled_upload_leaves_no_archive(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(bytes(32 << 20))
    with anyio.CancelScope() as scope:
        await sandbox.upload_dir(
            source,
            "/home/user/x",
            progress=lambda done, total: scope.cancel() if done == total else None,
        )
    assert scope.cancelled_caught
    with anyio.fail_after(10):
        while await archives_in(sandbox):
            await anyio.lowlevel.checkpoint()


async def test_a_failed_download_leaves_no_archive(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    await sandbox.write("/home/user/d/f", bytes(1 << 20))
    target = tmp_path / "target"
    target.mkdir()
    (target / "f").mkdir()
    (target / "f" / "x").write_text("in the way")
    with pytest.raises(OSError, match="directory"):
        await sandbox.download_dir("/home/user/d", target)
    assert [each.name for each in target.iterdir()] == ["f"]
    assert await archives_in(sandbox) == ""


async def test_programs_in_the_sandbox_cannot_reach_outside_by_their_tar(
    client: AsyncSandboxClient, tmp_path: Path
) -> None:
    """The sandbox's own `tar` is replaced by one that packs what it likes."""
    evil = """
import io, sys, tarfile
with tarfile.open(sys.argv[sys.argv.index("-f") + 1], "w") as tar:
    for name in ("good", "../evil"):
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
"""
    mine = {"env_vars": {"PATH": "/home/user/bin:/usr/bin:/bin"}}
    async with client.sandbox(run_config=mine) as sandbox:
        await sandbox.write("/home/user/bin/evil.py", evil)
        await sandbox.write("bin/tar", '#!/bin/sh\nexec python3 /home/user/bin/evil.py "$@"\n')
        await sandbox.run("chmod +x bin/tar", check=True)
        with pytest.raises(SandboxClientError, match="outside"):
            await sandbox.download_dir("/home/user", tmp_path / "target")
    assert not (tmp_path / "evil").exists()


async def test_many_small_files_are_faster_as_a_directory(
    sandbox: AsyncSandbox, tmp_path: Path, sweep: int
) -> None:
    count = 200 * sweep
    source = tmp_path / "many"
    for number in range(count):
        file = source / f"d{number % 50}" / f"file {number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content {number}")
    began = time.perf_counter()
    report = await sandbox.upload_dir(source, "/home/user/at-once")
    at_once = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(count):
        await sandbox.write(f"/home/user/one/d{number % 50}/file {number}", f"content {number}")
    one_by_one = time.perf_counter() - began
    began = time.perf_counter()
    await sandbox.download_dir("/home/user/at-once", tmp_path / "back")
    back = time.perf_counter() - began
    print(
        f"{count} files: {at_once:.2f} s as a directory, {one_by_one:.2f} s one by one, "
        f"{one_by_one / at_once:.1f} times; back in {back:.2f} s"
    )
    assert report.files == count
    assert (await sandbox.run("diff -r one at-once")).stdout == ""
    assert content_of(tmp_path / "back") == content_of(source)
    assert at_once < one_by_one
