"""Large files through bad networks, in little memory, and beside those who write to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    FileChangedError,
    ResourceNotFoundError,
    RetryPolicy,
    SandboxClientError,
    SandboxConnectionError,
)
from sandbox_anyio.local.launch import LocalHost

from ._cutting import DOWN, UP, Cut, CuttingRelay
from ._memory import forget_peak, peak
from ._own_host import OwnHost, own_host

pytestmark = pytest.mark.anyio

MIB = 1 << 20
EAGER = RetryPolicy(initial=0.01, jitter=0.0)
PLACE = "/home/user/big"


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox


def through(relay: CuttingRelay, host: LocalHost, retry: RetryPolicy = EAGER) -> AsyncSandboxClient:
    """A client whose every connection goes through a relay."""
    return AsyncSandboxClient(
        api_endpoint=relay.url, api_key=host.api_key, retry=retry, trust_env=False
    )


def leftovers(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir() if each.name.startswith(".sandbox-"))


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


# --- memory ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_on_both_sides(sweep: int, tmp_path: Path, anyio_backend: str) -> None:
    with own_host() as host:
        for parallel in (1, 4):
            check_memory(host, 64 * MIB * sweep, parallel, anyio_backend, tmp_path)


def check_memory(host: OwnHost, size: int, parallel: int, backend: str, directory: Path) -> None:
    asked = {
        "backend": backend,
        "endpoint": host.local.endpoint,
        "api_key": host.local.api_key,
        "size": size,
        "directory": str(directory),
        "parallel": parallel,
    }
    server = host._process.pid
    forget_peak(server)
    before = peak(server)
    done = subprocess.run(
        [sys.executable, "-m", "tests.drivers._memory", json.dumps(asked)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown_host = peak(server) - before
    told = json.loads(done.stdout)
    print(
        f"{size // MIB} MiB on {backend}, {parallel} at a time: "
        f"up {size / told['up'] / 1e6:.0f} MB/s, down {size / told['down'] / 1e6:.0f} MB/s, "
        f"client grew {told['grown'] / MIB:.1f} MiB, host grew {grown_host / MIB:.1f} MiB"
    )
    assert told["equal"]
    assert told["grown"] < 16 * MIB
    assert grown_host < 24 * MIB


# --- cuts -----------------------------------------------------------------------------


# Every part can be cut so often that no connection with a cut in store gets to a part's end.
@pytest.mark.parametrize(("parallel", "size", "after"), [(1, 12 * MIB, MIB), (4, 40 * MIB, MIB)])
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_download_cut_ten_times_goes_on_and_matches(
    host: LocalHost,
    sandbox: AsyncSandbox,
    tmp_path: Path,
    parallel: int,
    size: int,
    after: int,
    by_reset: bool,
) -> None:
    content = os.urandom(size)
    await sandbox.upload(content, PLACE)
    cuts = [Cut(DOWN, after + 7919 * number, by_reset) for number in range(10)]
    seen: list[int] = []
    with CuttingRelay(host.endpoint, cuts) as relay:
        async with through(relay, host) as client:
            cut = await client.get_sandbox(sandbox.name)
            got = await cut.download(
                PLACE, tmp_path / "f", lambda done, total: seen.append(done), parallel=parallel
            )
        assert relay.cuts == 10
    assert got == size and (tmp_path / "f").read_bytes() == content
    assert seen == sorted(seen) and seen[-1] == size, "nothing was fetched twice"
    assert leftovers(tmp_path) == []


async def test_a_stream_goes_on_after_cuts(host: LocalHost, sandbox: AsyncSandbox) -> None:
    content = os.urandom(4 * MIB)
    await sandbox.upload(content, PLACE)
    with CuttingRelay(host.endpoint, [Cut(DOWN, 700_000, True)] * 4) as relay:
        async with through(relay, host) as client:
            cut = await client.get_sandbox(sandbox.name)
            async with cut.open_read(PLACE) as file:
                assert await file.read() == content
        assert relay.cuts == 4


async def test_an_upload_that_can_be_read_again_is_sent_again(
    host: LocalHost, sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    content = os.urandom(2 * MIB)
    source = tmp_path / "source"
    source.write_bytes(content)
    with CuttingRelay(host.endpoint, [Cut(UP, MIB, False), Cut(UP, MIB // 2, True)]) as relay:
        async with through(relay, host) as client:
            cut = await client.get_sandbox(sandbox.name)
            assert await cut.upload(source, PLACE) == len(content)
        assert relay.cuts == 2
    assert await sandbox.read(PLACE) == content


async def test_an_upload_that_cannot_be_read_again_fails_and_changes_nothing(
    host: LocalHost, sandbox: AsyncSandbox
) -> None:
    await sandbox.write(PLACE, "before")

    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(MIB // 16)

    with CuttingRelay(host.endpoint, [Cut(UP, MIB, False)]) as relay:
        async with through(relay, host) as client:
            cut = await client.get_sandbox(sandbox.name)
            with pytest.raises(SandboxConnectionError):
                await cut.upload(pieces(), PLACE)
    assert await sandbox.read(PLACE) == b"before"


# --- going on later -------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 4])
async def test_a_failed_download_is_gone_on_with(
    host: LocalHost, sandbox: AsyncSandbox, tmp_path: Path, parallel: int
) -> None:
    content = os.urandom(40 * MIB)
    await sandbox.upload(content, PLACE)
    target = tmp_path / "f"
    target.write_text("before")
    cuts = [Cut(DOWN, 3 * MIB, False)] * 4
    with CuttingRelay(host.endpoint, cuts) as relay:
        async with through(relay, host, RetryPolicy(max_retries=0)) as client:
            cut = await client.get_sandbox(sandbox.name)
            with pytest.raises(SandboxConnectionError):
                await cut.download(PLACE, target, parallel=parallel)
            assert target.read_text() == "before"
            assert [name[-5:] for name in leftovers(tmp_path)] == [".json", ".part"]
            relay._cuts.clear()
            seen: list[int] = []
            await cut.download(
                PLACE, target, lambda done, total: seen.append(done), parallel=parallel
            )
    assert target.read_bytes() == content
    assert seen[0] > MIB and seen[-1] == len(content)
    assert leftovers(tmp_path) == []


async def test_what_was_begun_is_not_gone_on_with_when_the_file_has_changed(
    host: LocalHost, sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    await sandbox.upload(os.urandom(8 * MIB), PLACE)
    target = tmp_path / "f"
    with CuttingRelay(host.endpoint, [Cut(DOWN, 3 * MIB, False)]) as relay:
        async with through(relay, host, RetryPolicy(max_retries=0)) as client:
            cut = await client.get_sandbox(sandbox.name)
            with pytest.raises(SandboxConnectionError):
                await cut.download(PLACE, target)
            content = os.urandom(8 * MIB)
            await sandbox.upload(content, PLACE)
            await cut.download(PLACE, target)
    assert target.read_bytes() == content
    assert leftovers(tmp_path) == []


async def test_a_cancelled_download_is_gone_on_with(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    content = os.urandom(16 * MIB)
    await sandbox.upload(content, PLACE)
    target = tmp_path / "f"
    with anyio.CancelScope() as scope:
        await sandbox.download(
            PLACE, target, lambda done, total: scope.cancel() if done > 2 * MIB else None
        )
    assert scope.cancelled_caught and not target.exists() and leftovers(tmp_path)
    seen: list[int] = []
    await sandbox.download(PLACE, target, lambda done, total: seen.append(done))
    assert seen[0] > 2 * MIB
    assert target.read_bytes() == content and leftovers(tmp_path) == []


async def test_without_resume_nothing_is_left(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    await sandbox.upload(bytes(16 * MIB), PLACE)
    with anyio.CancelScope() as scope:
        await sandbox.download(
            PLACE,
            tmp_path / "f",
            lambda done, total: scope.cancel() if done > MIB else None,
            resume=False,
        )
    assert scope.cancelled_caught and names_in(tmp_path) == []
    with pytest.raises(ResourceNotFoundError):
        await sandbox.download("/nowhere", tmp_path / "f")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("note", ["", "no json", '{"format": 1}', "[]"])
async def test_a_damaged_note_is_as_good_as_none(
    sandbox: AsyncSandbox, tmp_path: Path, note: str
) -> None:
    content = os.urandom(8 * MIB)
    await sandbox.upload(content, PLACE)
    target = tmp_path / "f"
    with anyio.CancelScope() as scope:
        await sandbox.download(
            PLACE, target, lambda done, total: scope.cancel() if done > MIB else None
        )
    (tmp_path / leftovers(tmp_path)[0]).write_text(note)
    await sandbox.download(PLACE, target)
    assert target.read_bytes() == content and leftovers(tmp_path) == []


# --- others write ---------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("in_place", [False, True])
async def test_a_file_that_is_rewritten_meanwhile_is_one_version_in_the_end(
    sandbox: AsyncSandbox, tmp_path: Path, parallel: int, in_place: bool
) -> None:
    old, new = os.urandom(40 * MIB), os.urandom(40 * MIB)
    await sandbox.upload(old, PLACE)
    await sandbox.upload(new, "/home/user/new")
    seen: list[int] = []
    rewritten = False

    async def progress(done: int, total: int | None) -> None:
        nonlocal rewritten
        seen.append(done)
        if done > 4 * MIB and not rewritten:
            rewritten = True
            if in_place:
                await sandbox.run(f"cat new > {PLACE}", check=True)
            else:
                await sandbox.run(f"cp new other && mv other {PLACE}", check=True)

    await sandbox.download(PLACE, tmp_path / "f", progress, parallel=parallel)
    got = (tmp_path / "f").read_bytes()
    assert got == new or (got == old and not in_place)
    assert got == old or seen != sorted(seen), "it began again"
    if parallel > 1 or in_place:
        assert got == new


async def test_a_file_that_changes_all_the_time_is_an_error(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    await sandbox.upload(bytes(MIB), PLACE)
    versions = 0

    async def progress(done: int, total: int | None) -> None:
        nonlocal versions
        if done == total:
            versions += 1
            await sandbox.run(f"head -c {MIB + versions} /dev/zero > {PLACE}", check=True)

    with pytest.raises(FileChangedError, match="faster"):
        await sandbox.download(PLACE, tmp_path / "f", progress)
    assert versions == 6 and not (tmp_path / "f").exists()


# --- where it lands -------------------------------------------------------------------


async def test_the_target_is_replaced_in_one_step_and_keeps_its_mode_and_links(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    await sandbox.write(PLACE, "new")
    target, link = tmp_path / "f", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to("f")
    with target.open() as before:
        assert await sandbox.download(PLACE, link) == 3
        assert before.read() == "before"
    assert link.is_symlink() and target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(IsADirectoryError):
        await sandbox.download(PLACE, tmp_path)
    with pytest.raises(FileNotFoundError):
        await sandbox.download(PLACE, tmp_path / "no" / "f")
    with pytest.raises(ValueError, match="parallel"):
        await sandbox.download(PLACE, tmp_path / "g", parallel=0)
    assert names_in(tmp_path) == ["f", "link"]


async def test_an_empty_file_and_one_of_exactly_a_part(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    for size in (0, 1, 16 * MIB, 16 * MIB + 1):
        content = os.urandom(size)
        await sandbox.upload(content, PLACE)
        target = tmp_path / "f"
        assert await sandbox.download(PLACE, target) == size
        assert target.read_bytes() == content


async def test_two_downloads_to_one_place_do_not_meet(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    content = os.urandom(20 * MIB)
    await sandbox.upload(content, PLACE)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(sandbox.download, PLACE, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == content
    assert leftovers(tmp_path) == []


async def test_odd_names_on_this_side(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    await sandbox.write(PLACE, "x")
    for name in ("with space", "grüße-🎉", "new\nline", "a" * 255, "100%2F"):
        assert await sandbox.download(PLACE, tmp_path / name) == 1
    assert leftovers(tmp_path) == []
    with pytest.raises(SandboxClientError):
        await sandbox.download("/tmp", tmp_path / "f")
    assert leftovers(tmp_path) == []
