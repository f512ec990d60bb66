"""Searching a real sandbox, and what a search must not do to it or its host."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    ResourceNotFoundError,
    SandboxClientError,
)
from sandbox_anyio.local.runtime.searching import LineSearch, Walk

from ._own_host import OwnHost, own_host

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def plain() -> Iterator[OwnHost]:
    """A host that does not isolate."""
    with own_host(isolation="none") as host:
        yield host


@pytest.fixture(params=["isolated", "plain"])
async def sandbox(
    request: pytest.FixtureRequest, anyio_backend: str
) -> AsyncIterator[AsyncSandbox]:
    """A sandbox of either runtime."""
    isolated = request.param == "isolated"
    host = request.getfixturevalue("host") if isolated else request.getfixturevalue("plain").local
    async with (
        AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client,
        client.sandbox() as sandbox,
    ):
        yield sandbox


async def home_of(sandbox: AsyncSandbox) -> str:
    return (await sandbox.run("pwd")).stdout.strip()


async def test_names(sandbox: AsyncSandbox) -> None:
    await sandbox.run(
        "mkdir -p d/e d-x; echo 1 > d/e/a.py; echo 22 > d/.h; ln -s /etc d/out; ln -s . d/loop; "
        "ln -s nowhere d/dangling; mkfifo d/fifo; touch 'd/new\nline' 'd/a b' d/'[x]'",
        check=True,
    )
    home = await home_of(sandbox)

    async def names(pattern: str, **more: Any) -> list[str]:
        found = await sandbox.glob(pattern, home, **more)
        assert [each.path for each in found] == sorted(each.path for each in found)
        return [each.path.removeprefix(home + "/") for each in found]

    assert await names("*") == ["d", "d-x"]
    assert await names("**/*.py") == ["d/e/a.py"]
    assert await names("d/*") == [
        *("d/.h", "d/[x]", "d/a b", "d/dangling", "d/e", "d/fifo", "d/loop", "d/new\nline"),
        "d/out",
    ]
    assert await names("d/[[]x]") == ["d/[x]"]
    assert len(await names("**")) == 12, "no link is followed"
    assert await names("nothing*") == []
    assert await names("*/") == ["d", "d-x"]

    a = (await sandbox.glob("d/e/*", home)).matches[0]
    assert (a.is_dir, a.size_bytes) == (False, 2) and a.modified_at
    e = (await sandbox.glob("d/e", home)).matches[0]
    assert (e.is_dir, e.size_bytes) == (True, 0)
    assert (await sandbox.ls(f"{home}/d/out", limit=1)).matches[0].path.startswith(f"{home}/d/out/")


async def test_lines(sandbox: AsyncSandbox) -> None:
    home = await home_of(sandbox)
    files = {
        "a.py": "one needle\ntwo\r\nneedle three\r\nlast needle",
        "sub/b.txt": "Needle\nn.edle\nneedle",
        "sub/binary": "a\0needle\n",
        "sub/long": "x" * 3000 + "needle\n",
        "sub/huge": "y" * 3_000_000 + "needle" + "z" * 10 + "\nneedle after\n",
    }
    for name, content in files.items():
        await sandbox.write(f"{home}/{name}", content)
    await sandbox.run("mkfifo fifo; ln -s sub link; printf 'ne\\377\\nnee\\377dle needle\\n' > bad")

    async def found(text: str = "needle", **more: Any) -> list[tuple[str, int, str]]:
        result = await sandbox.grep(text, more.pop("path", home), **more)
        assert not result.truncated
        return [(each.path.removeprefix(home).lstrip("/"), each.line, each.text) for each in result]

    assert await found() == [
        ("a.py", 1, "one needle"),
        ("a.py", 3, "needle three"),
        ("a.py", 4, "last needle"),
        ("bad", 2, "nee\ufffddle needle"),
        ("sub/b.txt", 3, "needle"),
        ("sub/huge", 1, "y" * 2000),
        ("sub/huge", 2, "needle after"),
        ("sub/long", 1, "x" * 2000),
    ]
    assert [line[:2] for line in await found(glob="*.py")] == [
        ("a.py", 1),
        ("a.py", 3),
        ("a.py", 4),
    ]
    assert [line[0] for line in await found(glob="sub/*.txt")] == ["sub/b.txt"]
    assert await found(glob="/".join(["**", "*.txt"])) == [("sub/b.txt", 3, "needle")]
    assert await found("n.edle") == [("sub/b.txt", 2, "n.edle")]
    assert [line[:2] for line in await found(path=f"{home}/a.py")] == [
        ("a.py", 1),
        ("a.py", 3),
        ("a.py", 4),
    ]
    assert await found("\u00e4\u00f6") == []


async def test_caps(sandbox: AsyncSandbox) -> None:
    home = await home_of(sandbox)
    await sandbox.run("mkdir many; cd many; seq 1 1500 | xargs touch; seq 1 20000 > lines")
    assert [len(await sandbox.glob("*", f"{home}/many", limit=n)) for n in (1, 10)] == [1, 10]
    default = await sandbox.ls(f"{home}/many")
    assert (len(default), default.truncated) == (1000, True)
    everything = await sandbox.ls(f"{home}/many", limit=1501)
    assert (len(everything), everything.truncated) == (1501, False)
    lines = await sandbox.grep("1", f"{home}/many")
    assert (len(lines), lines.truncated) == (1000, True)
    most = await sandbox.grep("1", f"{home}/many", limit=1_000_000)
    assert (len(most), most.truncated) == (10_000, True)


async def test_what_cannot_be_searched(sandbox: AsyncSandbox) -> None:
    home = await home_of(sandbox)
    await sandbox.write(f"{home}/file", "x")
    for path in ("/no/such/place", f"{home}/file"):
        with pytest.raises(ResourceNotFoundError) as missing:
            await sandbox.glob("*", path)
        assert missing.value.resource_type == "file"
    with pytest.raises(ResourceNotFoundError):
        await sandbox.grep("x", "/no/such/place")
    for pattern, path, limit in (("[", home, 1), ("*", "relative", 1), ("*", home, 0)):
        with pytest.raises(SandboxClientError) as refused:
            await sandbox.glob(pattern, path, limit=limit)
        assert refused.value.status == 400


# --- inside a sandbox -----------------------------------------------------------------


async def test_nothing_outside_and_nothing_of_the_kernel_is_searched(
    client: AsyncSandboxClient, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("the secret of this machine")
    async with client.sandbox() as sandbox:
        await sandbox.run("ln -s ../../../../../.. up; ln -s / top; ln -s /proc/1/root magic")
        for path in ("/home/user/up", "/home/user/top", "/../../..", "/"):
            found = [each.path for each in await sandbox.ls(path)]
            assert any(each.endswith("/home") for each in found)
            with pytest.raises(ResourceNotFoundError):
                await sandbox.ls(f"{path}{tmp_path}")
        for path in ("/proc", "/proc/self", "/home/user/magic"):
            with pytest.raises(SandboxClientError):
                await sandbox.glob("**", path)
        below = await sandbox.glob("proc/**", "/", limit=5)
        assert [each.path for each in below] == ["/proc"], "it is named, and not entered"


async def test_files_that_only_root_may_read_are_roots_to_search(
    client: AsyncSandboxClient,
) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.run("mkdir shut; echo needle > shut/f; chmod 0 shut shut/f")
        assert len(await sandbox.grep("needle", "/home/user")) == 1


async def test_searches_end_with_their_client(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        with anyio.move_on_after(0.3):
            await sandbox.grep("nothing", "/usr")
        with anyio.fail_after(20):
            while (await sandbox.run("pgrep -x search")).success:
                await anyio.lowlevel.checkpoint()


async def test_a_search_that_is_killed_from_inside_is_an_error(
    client: AsyncSandboxClient,
) -> None:
    async with client.sandbox() as sandbox:
        killing = await sandbox.run(
            "until pkill -KILL -x search; do :; done", wait=False, timeout=30
        )
        with pytest.raises(SandboxClientError) as ended:
            await sandbox.grep("nothing that is anywhere", "/usr")
        assert ended.value.status == 500
        await killing.result
        assert len(await sandbox.ls("/")) > 3, "the sandbox lives on"


async def test_many_searches_at_a_time(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.write("/home/user/f", "needle")
        done = 0

        async def search() -> None:
            nonlocal done
            assert len(await sandbox.grep("needle", "/home/user")) == 1
            done += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(search)
        assert done == 60


# --- the walk itself ------------------------------------------------------------------


def said_by(question: dict[str, Any], start: Path) -> bytes:
    """What a walk says, read at its end."""
    ours, theirs = os.pipe()
    full = {
        "path": "/",
        "match": None,
        "descend": None,
        "directories_only": False,
        "text": "",
        "limit": 1000,
        "seconds": 30.0,
        "max_text": 2000,
        "max_bytes": 1 << 20,
        **question,
    }
    with os.fdopen(ours, "rb") as pipe:
        Walk(full, theirs).run(lambda path: os.open(start, os.O_RDONLY))
        return pipe.read()


def test_a_walk_ends_when_its_time_is_up(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / str(number)).touch()
    said = said_by({"kind": "glob", "seconds": -1.0}, tmp_path)
    assert said == b'["end",true]\n'
    (tmp_path / "big").write_bytes(b"x\n" * (4 << 20))
    began = time.perf_counter()
    assert said_by({"kind": "grep", "text": "y", "seconds": 0.001}, tmp_path).endswith(b"true]\n")
    assert time.perf_counter() - began < 2


def test_a_walk_says_no_more_than_it_may(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("needle and more\n" * 1000)
    said = said_by({"kind": "grep", "text": "needle", "max_bytes": 1000}, tmp_path)
    assert len(said) < 1100 and said.endswith(b'["end",true]\n')


def test_a_walk_goes_as_deep_as_it_has_descriptors_for(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    said = said_by({"kind": "glob", "match": "(?!)", "descend": "(?s:.*)"}, tmp_path)
    assert said == b'["end",true]\n'
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # Python's own way is recursive


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_lines_are_found_however_they_are_split(size: int) -> None:
    content = b"".join(
        b"line %d %s\n" % (number, b"needle " * (number % 3)) for number in range(1, 50)
    )
    content += b"a last needle"
    search = LineSearch(b"needle", 20)
    found = []
    for begin in range(0, len(content), size):
        found += search.feed(content[begin : begin + size])
    found += search.finish()
    lines = content.split(b"\n")
    assert found == [
        (number, line[:20]) for number, line in enumerate(lines, 1) if b"needle" in line
    ]
