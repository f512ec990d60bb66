"""Files over every face: small and streamed, directories, search."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from sandbox_anyio import ResourceNotFoundError, ResourceTimeoutError, SandboxOperationError

MIB = 1 << 20


def test_write_read_stat_and_parts(sandbox: Any) -> None:
    content = os.urandom(MIB)
    sandbox.write("deep/er/blob", content)
    assert sandbox.read("deep/er/blob") == content
    stat = sandbox.stat("deep/er/blob")
    assert stat.size_bytes == MIB
    part = sandbox.read_range("deep/er/blob", start=10, end=19)
    assert (part.content, part.partial) == (content[10:20], True)
    assert sandbox.read_range("deep/er/blob", start=0, if_none_match=stat.etag).unchanged
    assert sandbox.wait_for_file("deep/er/blob").size_bytes == MIB


def test_what_is_not_there_is_named(sandbox: Any) -> None:
    with pytest.raises(ResourceNotFoundError, match="/nowhere"):
        sandbox.read("/nowhere")
    with pytest.raises(SandboxOperationError) as refused:
        sandbox.write("/tmp", "a directory")
    assert refused.value.operation == "write"
    with pytest.raises(ResourceTimeoutError):
        sandbox.wait_for_file("/nowhere", 0.05)


def test_upload_and_download(sandbox: Any, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB + 1)
    here, back = tmp_path / "here", tmp_path / "back"
    here.write_bytes(content)
    said: list[tuple[int, int | None]] = []
    assert sandbox.upload(here, "up", lambda *each: said.append(each)) == len(content)
    assert said[-1] == (len(content), len(content))
    said.clear()
    assert sandbox.download("up", back, lambda *each: said.append(each)) == len(content)
    assert back.read_bytes() == content and said[-1] == (len(content), len(content))


def test_upload_from_whatever_gives_bytes(sandbox: Any) -> None:
    file = io.BytesIO(b"skipped, taken")
    file.seek(9)
    assert sandbox.upload(file, "from-file") == 5
    pieces = (bytes([65 + n]) * MIB for n in range(3))
    assert sandbox.upload(pieces, "from-pieces", length=3 * MIB) == 3 * MIB
    assert sandbox.upload(memoryview(b"bytes"), "from-bytes") == 5
    assert sandbox.read("from-file") == b"taken"
    assert sandbox.run("md5sum < from-pieces; cut -c1 from-bytes").stdout.endswith("\nb\n")
    assert sandbox.stat("from-pieces").size_bytes == 3 * MIB


def test_an_error_of_the_source_comes_out_and_changes_nothing(sandbox: Any) -> None:
    def broken() -> Any:
        yield b"a beginning"
        raise ZeroDivisionError("from the source")

    with pytest.raises(ZeroDivisionError, match="from the source"):
        sandbox.upload(broken(), "never")
    with pytest.raises(ResourceNotFoundError):
        sandbox.stat("never")


def test_streams(sandbox: Any) -> None:
    said: list[int] = []
    with sandbox.open_write("rows", progress=lambda done, _: said.append(done)) as file:
        for row in range(200):
            file.write(f"row {row}\n")
        file.write(b"end")
        assert file.written == 1493
    assert sorted(said) == said and said[-1] == sandbox.stat("rows").size_bytes
    with sandbox.open_read("rows", start=4) as file:
        assert file.size == said[-1] and file.etag
        assert file.read(1) == b"0" and file.position == 5
        assert b"".join(file).endswith(b"row 199\nend")
        assert file.read() == b""


def test_a_write_that_fails_changes_nothing(sandbox: Any) -> None:
    sandbox.write("before", "old")
    with pytest.raises(ZeroDivisionError), sandbox.open_write("before") as file:
        file.write("new")
        raise ZeroDivisionError
    assert sandbox.read("before") == b"old"
    with pytest.raises(SandboxOperationError), sandbox.open_write("/tmp") as file:
        file.write("no directory")
    with pytest.raises(ResourceNotFoundError), sandbox.open_read("/nowhere"):
        raise AssertionError


def test_directories(sandbox: Any, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    (source / "sub").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "sub" / "b.txt").write_text("b")
    (source / "sub" / "c.pyc").write_text("c")
    there = "/home/user/tree"
    said: list[int] = []
    report = sandbox.upload_dir(
        source, there, ignore=["*.pyc"], progress=lambda done, _: said.append(done)
    )
    assert report.files == 2 and said
    assert sandbox.run(f"cd {there} && find . -type f | sort").stdout == "./a.txt\n./sub/b.txt\n"
    assert sandbox.download_dir(there, back).files == 2
    assert (back / "sub" / "b.txt").read_text() == "b"


def test_search(sandbox: Any) -> None:
    sandbox.write("/home/user/find/a.py", "import os\nprint(1)\n")
    sandbox.write("/home/user/find/sub/b.txt", "import nothing\n")
    assert len(sandbox.glob("**/*", "/home/user/find")) == 3
    assert [each.is_dir for each in sandbox.ls("/home/user/find")] == [False, True]
    found = list(sandbox.grep("import", "/home/user/find", glob="*.py"))
    assert [(each.line, each.text) for each in found] == [(1, "import os")]
    with pytest.raises(ResourceNotFoundError):
        sandbox.ls("/nowhere")
