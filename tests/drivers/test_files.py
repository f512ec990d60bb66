"""Files through the client, against the real host: stat, ranges, streams, links, odd names."""

from __future__ import annotations

import io
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
    ResourceTimeoutError,
    SandboxClientError,
    SandboxOperationError,
    ServiceResponse,
)
from sandbox_anyio.service import AsyncServiceURL

pytestmark = pytest.mark.anyio

NAMES = ["with space", "grüße-日本-🎉", "100%2Fslash", "semi;colon&and=more?#", "new\nline", "-rf"]


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", NAMES)
async def test_every_call_takes_every_name(sandbox: AsyncSandbox, name: str) -> None:
    path = f"/home/user/deep/{name}"
    assert await sandbox.upload(b"0123456789", path) == 10
    assert (await sandbox.stat(path)).size_bytes == 10
    assert (await sandbox.read_range(path, start=3, end=5)).content == b"345"
    async with sandbox.open_read(path) as file:
        assert await file.read() == b"0123456789"
    assert [each.path for each in await sandbox.ls("/home/user/deep")] == [path]
    assert [each.path for each in await sandbox.grep("345", "/home/user")] == [path]
    assert (await sandbox.wait_for_file(path)).size_bytes == 10


async def test_parts_of_a_file(sandbox: AsyncSandbox) -> None:
    await sandbox.write("/home/user/f", "0123456789")
    stat = await sandbox.stat("f")
    assert stat.size_bytes == 10 and stat.etag and stat.last_modified
    part = await sandbox.read_range("/home/user/f", start=7)
    assert (part.content, part.start, part.end, part.total_bytes) == (b"789", 7, 10, 10)
    assert part.partial and part.etag == stat.etag
    assert (await sandbox.read_range("/home/user/f", suffix_bytes=2)).content == b"89"
    assert (await sandbox.read_range("/home/user/f", start=8, end=99)).content == b"89"
    with pytest.raises(SandboxOperationError, match=r"bytes \*/10"):
        await sandbox.read_range("/home/user/f", start=10)

    same = await sandbox.read_range("/home/user/f", start=0, if_none_match=stat.etag)
    assert same.unchanged and same.content == b"" and same.etag == stat.etag
    tied = await sandbox.read_range("/home/user/f", start=5, if_range=stat.etag)
    assert tied.partial and tied.content == b"56789"
    await sandbox.write("/home/user/f", "abcdefghij")
    changed = await sandbox.read_range("/home/user/f", start=5, if_range=stat.etag)
    assert (changed.content, changed.partial, changed.start) == (b"abcdefghij", False, 0)
    fresh = await sandbox.read_range("/home/user/f", start=0, if_none_match=stat.etag)
    assert fresh.content == b"abcdefghij" and not fresh.unchanged


async def test_a_write_in_place_changes_the_validator(sandbox: AsyncSandbox) -> None:
    await sandbox.write("/home/user/f", "one")
    before = (await sandbox.stat("/home/user/f")).etag
    await sandbox.run("sleep 0.02; printf two > f")
    assert (await sandbox.stat("/home/user/f")).etag != before


async def test_what_is_no_file(sandbox: AsyncSandbox) -> None:
    for call in (sandbox.stat, sandbox.read):
        with pytest.raises(ResourceNotFoundError) as missing:
            await call("/nowhere")
        assert missing.value.resource_type == "file"
    with pytest.raises(ResourceNotFoundError):
        await sandbox.read_range("/nowhere", start=0)
    with pytest.raises(ResourceNotFoundError):
        async with sandbox.open_read("/nowhere"):
            pass
    with pytest.raises(SandboxClientError) as directory:
        await sandbox.stat("/tmp")
    assert directory.value.status == 400
    with pytest.raises(SandboxOperationError):
        await sandbox.upload(b"x", "/tmp")


async def test_links_and_dots_lead_nowhere_but_inside(sandbox: AsyncSandbox) -> None:
    await sandbox.run("ln -s / top; ln -s ../../../../../etc up; ln -s loop loop; mkfifo fifo")
    inside = await sandbox.read("/etc/hostname")
    for way in ("up/hostname", "top/etc/hostname", "../../../../etc/hostname"):
        assert (await sandbox.read_range(way, start=0)).content == inside
        assert (await sandbox.stat(way)).size_bytes == len(inside)
    for nothing in ("loop", "fifo", "/proc/self/exe", "/proc/1/environ"):
        with pytest.raises(SandboxClientError) as refused:
            await sandbox.stat(nothing)
        assert refused.value.status in (400, 403)


async def test_a_stream_is_read_bit_by_bit_from_anywhere(sandbox: AsyncSandbox) -> None:
    await sandbox.write("/home/user/f", "0123456789")
    async with sandbox.open_read("/home/user/f", start=2) as file:
        assert (file.size, file.position) == (10, 2)
        assert await file.read(3) == b"234"
        assert await file.read(0) == b""
        assert file.position == 5
        assert [chunk async for chunk in file] == [b"56789"]
        assert await file.read() == await file.read(5) == b""
    async with sandbox.open_read("/home/user/f", start=10) as file:
        assert await file.read() == b""
    with pytest.raises(ValueError, match="start"):
        async with sandbox.open_read("/home/user/f", start=-1):
            pass


async def test_a_stream_that_is_left_early_leaves_the_client_usable(sandbox: AsyncSandbox) -> None:
    await sandbox.upload(bytes(8 << 20), "/home/user/big")
    for _ in range(3):
        async with sandbox.open_read("/home/user/big") as file:
            await anext(file)
    assert (await sandbox.stat("/home/user/big")).size_bytes == 8 << 20


async def test_a_stream_notices_that_the_file_was_changed(sandbox: AsyncSandbox) -> None:
    await sandbox.upload(bytes(8 << 20), "/home/user/big")
    async with sandbox.open_read("/home/user/big") as file:
        await anext(file)
        file._reader.close()  # as if the connection were lost
        await sandbox.write("/home/user/big", "another")
        with pytest.raises(FileChangedError):
            await file.read()


async def test_what_is_written_bit_by_bit_appears_when_it_is_whole(sandbox: AsyncSandbox) -> None:
    await sandbox.write("/home/user/f", "before")
    async with sandbox.open_write("/home/user/f") as file:
        for number in range(1000):
            await file.write(f"line {number}\n")
        assert await sandbox.read("/home/user/f") == b"before"
    content = await sandbox.read("/home/user/f")
    assert content == b"".join(b"line %d\n" % number for number in range(1000))
    assert file.written == len(content)


async def test_a_block_that_fails_or_is_cancelled_changes_nothing(sandbox: AsyncSandbox) -> None:
    await sandbox.write("/home/user/f", "before")
    with pytest.raises(ZeroDivisionError):
        async with sandbox.open_write("/home/user/f") as file:
            await file.write("half")
            raise ZeroDivisionError
    with anyio.move_on_after(5) as scope:
        async with sandbox.open_write("/home/user/f") as file:
            await file.write("half")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    with pytest.raises(SandboxClientError, match="ended after 4 of 9"):
        async with sandbox.open_write("/home/user/f", length=9) as file:
            await file.write("half")
    assert await sandbox.read("/home/user/f") == b"before"
    # The host removes what was begun as soon as it sees the end of each.
    with anyio.fail_after(10):
        while (await sandbox.run("ls -A")).stdout != "f\n":
            await anyio.lowlevel.checkpoint()


async def test_a_file_that_cannot_be_written_is_an_error_of_the_block(
    sandbox: AsyncSandbox,
) -> None:
    with anyio.fail_after(20), pytest.raises(SandboxOperationError) as refused:
        async with sandbox.open_write("/usr/nothing") as file:
            while True:
                await file.write(bytes(1 << 20))
    assert refused.value.status == 403


async def test_uploads_from_everything_that_has_bytes(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    content = b"0123456789" * 100_000
    local = tmp_path / "source"
    local.write_bytes(content)

    def pieces() -> Iterator[bytes]:
        yield content[:5]
        yield b""
        yield content[5:]

    async def later() -> AsyncIterator[bytes]:
        for piece in pieces():
            await anyio.lowlevel.checkpoint()
            yield piece

    seen: list[tuple[int, int | None]] = []
    begun = io.BytesIO(b"skipped" + content)
    begun.seek(7)
    async with await anyio.open_file(local, "rb") as opened:
        with local.open("rb") as ordinary:
            sources = [
                (str(local), len(content)),
                (local, len(content)),
                (ordinary, len(content)),
                (begun, len(content)),
                (content, len(content)),
                (memoryview(content), len(content)),
                (opened, None),
                (pieces(), None),
                (later(), None),
            ]
            for source, length in sources:
                seen.clear()
                sent = await sandbox.upload(
                    source, "/home/user/f", lambda done, total: seen.append((done, total))
                )
                assert sent == len(content) and seen[-1] == (len(content), length), source
                assert await sandbox.read("/home/user/f") == content, source
    assert await sandbox.upload(later(), "/home/user/f", length=len(content)) == len(content)
    assert await sandbox.upload(b"", "/home/user/f") == 0
    assert await sandbox.read("/home/user/f") == b""


@pytest.mark.parametrize("length", [3, 11])
async def test_a_source_of_another_size_than_was_said_changes_nothing(
    sandbox: AsyncSandbox, length: int
) -> None:
    await sandbox.write("/home/user/f", "before")
    with pytest.raises(SandboxClientError, match=f"{length} bytes"):
        await sandbox.upload(iter([b"0123456789"]), "/home/user/f", length=length)
    assert await sandbox.read("/home/user/f") == b"before"


async def test_what_cannot_be_uploaded(sandbox: AsyncSandbox, tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError):
        await sandbox.upload("/no/such/file", "/home/user/f")
    with pytest.raises(IsADirectoryError):
        await sandbox.upload(str(tmp_path), "/home/user/f")
    with pytest.raises(TypeError, match="binary"):
        await sandbox.upload(io.StringIO("text"), "/home/user/f")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await sandbox.upload(5, "/home/user/f")  # type: ignore[arg-type]


async def test_a_callback_may_be_a_coroutine_function(sandbox: AsyncSandbox) -> None:
    seen: list[int] = []

    async def told(done: int, total: int | None) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(done)

    await sandbox.upload(bytes(1 << 20), "/home/user/f", told)
    assert seen == sorted(seen) and seen[-1] == 1 << 20


async def test_a_file_is_waited_for(sandbox: AsyncSandbox) -> None:
    with pytest.raises(ResourceTimeoutError) as late:
        await sandbox.wait_for_file("/home/user/made", 0.1, poll_interval=0.01)
    assert late.value.resource_type == "file"
    handle = await sandbox.run("sleep 0.2; printf done > made", wait=False)
    assert (await sandbox.wait_for_file("/home/user/made", 20)).size_bytes >= 0
    await handle.result


async def test_a_signed_link_gives_parts_too(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    await sandbox.write("/home/user/f", "0123456789")
    link = (await sandbox.generate_download_url("/home/user/f")).download_url
    origin, token = link.rsplit("/dl/", 1)
    at = AsyncServiceURL(origin, origin, "", "")

    async def ask(method: str = "GET", **headers: str) -> ServiceResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await at.request(method, f"dl/{token}", headers=named)

    whole = await ask()
    assert (whole.status_code, whole.content) == (200, b"0123456789")
    part = await ask(range="bytes=2-3")
    assert (part.status_code, part.content) == (206, b"23")
    assert part.headers["content-range"] == "bytes 2-3/10"
    assert (await ask(if_none_match=part.headers["etag"])).status_code == 304
    head = await ask("HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    assert (await ask(range="bytes=99-")).status_code == 416
    await at.aclose()
