"""The vendor's clients, unchanged, with every call that has to do with files, against our host."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._javascript import Seen, tell
from ._vendor import connected, done, vendor

PLACE = "/home/user/deep/with space-ü.txt"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


@pytest.fixture(params=["sync", "async"])
async def sandbox(
    request: pytest.FixtureRequest, host: LocalHost, anyio_backend: str
) -> AsyncIterator[Any]:
    """A sandbox of either of the vendor's clients."""
    kind = request.param
    async with connected(kind, host.endpoint, api_key=host.api_key) as client:
        made = await done(client.create_sandbox())
        yield made
        await done(client.delete_sandbox(made.name))


@pytest.mark.anyio
async def test_parts_of_a_file(sandbox: Any) -> None:
    await done(sandbox.write(PLACE, "0123456789"))
    stat = await done(sandbox.stat(PLACE))
    assert (stat.size_bytes, stat.content_type) == (10, "application/octet-stream")
    assert stat.etag and stat.last_modified

    async def part(**more: Any) -> Any:
        return await done(sandbox.read_range(PLACE, **more))

    middle = await part(start=3, end=5)
    assert (middle.content, middle.start, middle.end, middle.total_bytes) == (b"345", 3, 6, 10)
    assert middle.partial and middle.etag == stat.etag
    assert (await part(start=8)).content == b"89"
    assert (await part(suffix_bytes=2)).content == b"89"
    assert (await part(suffix_bytes=99)).content == b"0123456789"
    assert (await part(start=8, end=99)).content == b"89"
    same = await part(start=0, if_none_match=stat.etag)
    assert same.unchanged and same.content == b"" and same.etag == stat.etag
    assert (await part(start=5, if_range=stat.etag)).content == b"56789"
    with pytest.raises(vendor.SandboxOperationError, match=r"\*/10"):
        await part(start=10)

    await done(sandbox.write(PLACE, "abcdefghij"))
    changed = await part(start=5, if_range=stat.etag)
    assert (changed.content, changed.partial) == (b"abcdefghij", False)
    assert not (await part(start=0, if_none_match=stat.etag)).unchanged


@pytest.mark.anyio
async def test_large_and_empty_files_and_odd_names(sandbox: Any) -> None:
    content = os.urandom(3 << 20)
    for name in ("large", "gr\u00fc\u00dfe", "100%2Fslash", "a\nb", "x;y&z=1#?"):
        await done(sandbox.write(f"/home/user/{name}", content))
        assert await done(sandbox.read(f"/home/user/{name}")) == content
        got = await done(sandbox.read_range(f"/home/user/{name}", start=1 << 20, end=(2 << 20) - 1))
        assert got.content == content[1 << 20 : 2 << 20]
    await done(sandbox.write("/home/user/empty", ""))
    assert await done(sandbox.read("/home/user/empty")) == b""
    assert (await done(sandbox.stat("/home/user/empty"))).size_bytes == 0
    listed = await done(sandbox.ls("/home/user"))
    assert len(listed) == 6


@pytest.mark.anyio
async def test_searches(sandbox: Any) -> None:
    await done(sandbox.write("/home/user/src/a.py", "one\nneedle two\n"))
    await done(sandbox.write("/home/user/src/sub/.b.py", "needle"))
    await done(sandbox.write("/home/user/c.txt", "needle"))
    listed = await done(sandbox.ls("/home/user"))
    assert [(each.path, each.is_dir) for each in listed] == [
        ("/home/user/c.txt", False),
        ("/home/user/src", True),
    ]
    found = await done(sandbox.glob("**/*.py", "/home/user"))
    assert [each.path for each in found] == ["/home/user/src/a.py", "/home/user/src/sub/.b.py"]
    assert found.matches[0].size_bytes == 15 and found.matches[0].modified_at
    limited = await done(sandbox.glob("**", "/home/user", limit=2))
    assert (len(limited), limited.truncated) == (2, True)
    lines = await done(sandbox.grep("needle", "/home/user", glob="*.py"))
    assert [(each.path, each.line, each.text) for each in lines] == [
        ("/home/user/src/a.py", 2, "needle two"),
        ("/home/user/src/sub/.b.py", 1, "needle"),
    ]
    assert len(await done(sandbox.grep("needle", "/home/user", limit=1))) == 1
    assert not await done(sandbox.grep("nothing", "/home/user"))


@pytest.mark.anyio
async def test_what_is_not_there_and_what_makes_no_sense(sandbox: Any) -> None:
    async def outcome(call: Any) -> Any:
        with pytest.raises(vendor.SandboxClientError) as refused:
            await done(call())
        return refused.value

    for call in (
        lambda: sandbox.read("/nowhere"),
        lambda: sandbox.stat("/nowhere"),
        lambda: sandbox.read_range("/nowhere", start=0),
        lambda: sandbox.glob("*", "/nowhere"),
        lambda: sandbox.ls("/nowhere"),
        lambda: sandbox.grep("x", "/nowhere"),
    ):
        missing = await outcome(call)
        assert isinstance(missing, vendor.ResourceNotFoundError)
        assert missing.resource_type == "file"
    directory = await outcome(lambda: sandbox.read("/tmp"))
    assert isinstance(directory, vendor.SandboxOperationError) and directory.operation == "read"
    refused = await outcome(lambda: sandbox.write("/tmp", "x"))
    assert isinstance(refused, vendor.SandboxOperationError) and refused.operation == "write"
    denied = await outcome(lambda: sandbox.write("/usr/x", "x"))
    assert isinstance(denied, vendor.SandboxOperationError)
    for call in (
        lambda: sandbox.glob("[", "/home/user"),
        lambda: sandbox.glob("*", "relative"),
        lambda: sandbox.grep("x", "/home/user", limit=0),
    ):
        assert type(await outcome(call)) is vendor.SandboxClientError


# --- JavaScript -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(host: LocalHost, packages: Path) -> Seen:
    """What the story saw, by step."""
    return tell(Path(__file__).with_name("files.mjs"), packages, host)


def test_javascript_reads_parts(seen: Seen) -> None:
    stat, parts = seen["parts"]["stat"], seen["parts"]["parts"]
    assert stat["size_bytes"] == 10 and stat["etag"]
    assert {name: part["content"] for name, part in parts.items()} == {
        "middle": "345",
        "rest": "89",
        "last": "89",
        "clamped": "89",
        "same": "",
        "tied": "56789",
        "changed": "abcdefghij",
    }
    assert parts["middle"]["start"] == 3 and parts["middle"]["total_bytes"] == 10
    assert parts["middle"]["partial"] and not parts["changed"]["partial"]
    assert parts["same"]["unchanged"] and parts["same"]["etag"] == stat["etag"]


def test_javascript_searches(seen: Seen) -> None:
    found = seen["found"]
    assert found["ls"] == [["/home/user/deep", True, 0]]
    assert found["glob"] == [["/home/user/deep/a.py", False, 15]]
    assert found["limited"]["truncated"] and len(found["limited"]["matches"]) == 1
    line = {"path": "/home/user/deep/a.py", "line": 2, "text": "needle two"}
    assert found["lines"] == {"matches": [line], "truncated": False}


def test_javascript_is_told_what_is_wrong(seen: Seen) -> None:
    errors = seen["errors"]
    for call in ("stat", "range", "glob", "grep"):
        assert errors[call]["error"] == "LangSmithResourceNotFoundError", errors[call]
        assert errors[call]["resourceType"] == "file"
    assert errors["behind"]["error"] == "LangSmithSandboxOperationError"
    assert errors["pattern"]["error"] == "LangSmithSandboxError"
