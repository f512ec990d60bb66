"""Unpacking archives that were made to do harm, and packing what is odd."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from sandbox_anyio import SandboxClientError
from sandbox_anyio.archives import DirectoryArchive, Unpacker
from sandbox_proto.plans.archives import IgnoreRules

Member = tuple[tarfile.TarInfo, bytes]
NOTHING = IgnoreRules(())


def entry(name: str, content: bytes = b"evil", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content if info.isreg() else b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return entry(name, b"", type=kind, linkname=target)


def directory(name: str, **fields: object) -> Member:
    return entry(name, b"", type=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def archive_of(members: Iterable[Member]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def unpack(target: Path, *members: Member, ignore: tuple[str, ...] = (), symlinks: str = "keep"):
    unpacker = Unpacker(target, IgnoreRules.of(ignore), symlinks)  # type: ignore[arg-type]
    unpacker.unpack(archive_of(members), lambda: None)
    return unpacker.report


def everything_in(root: Path) -> dict[str, str]:
    """Relative path -> kind and content, of all that is there."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "dir" if path.is_dir() else path.read_text()
    return found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to unpack, beside what must not change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("kept")
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, target: Path):
    yield
    around = {name: kind for name, kind in everything_in(tmp_path).items() if "target" not in name}
    assert around == {"outside": "dir", "outside/secret": "kept"}


REFUSED = {
    "dots": [entry("../outside/secret")],
    "dots inside": [entry("a/../../outside/secret")],
    "dots that come back": [entry("a/../b")],
    "absolute": [entry("/outside/secret")],
    "a directory above": [directory("../outside/new")],
    "a link above": [link("../outside/link", "x")],
    "a file that is a directory, too": [entry("a"), entry("a/b")],
}


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED)
def test_what_reaches_outside_is_refused(target: Path, members: list[Member]) -> None:
    with pytest.raises(SandboxClientError):
        unpack(target, *members)


def test_a_link_leads_nowhere_while_files_are_written(target: Path) -> None:
    report = unpack(
        target,
        link("out", "../outside"),
        entry("out/secret"),
        link("abs", str(target.parent / "outside")),
        entry("abs/secret"),
    )
    assert everything_in(target) == {
        "abs": "dir",
        "abs/secret": "evil",
        "out": "dir",
        "out/secret": "evil",
    }
    assert set(report.skipped) == {"out", "abs"}


def test_links_that_lead_outside_are_left_out_and_told(target: Path) -> None:
    report = unpack(
        target,
        directory("d"),
        link("d/up", ".."),
        link("out", "../outside/secret"),
        link("abs", "/etc/passwd"),
        link("by", "d/up/../outside"),
        link("d/out", "../../outside"),
        link("good", "d"),
        link("dangling", "not/there"),
    )
    links = {name: kind for name, kind in everything_in(target).items() if "->" in kind}
    assert links == {"d/up": "-> ..", "good": "-> d", "dangling": "-> not/there"}
    assert set(report.skipped) == {"out", "abs", "by", "d/out"}
    assert report.links == 3
    assert all("outside" in reason for reason in report.skipped.values())


def test_a_link_of_a_very_long_way_is_still_one(target: Path) -> None:
    """The way that some versions of the standard library lose their head on."""
    deep = "/".join("d" * 200 for _ in range(20))
    with pytest.raises((SandboxClientError, OSError)):
        unpack(target, entry(f"{deep}/x"), link("out", f"{deep}/{'../' * 21}outside"))


def test_a_link_that_is_there_already_is_not_written_through(target: Path) -> None:
    target.mkdir()
    (target / "mine").symlink_to("../outside")
    with pytest.raises(SandboxClientError, match="link"):
        unpack(target, entry("mine/secret"))
    (target / "out").symlink_to("../outside/secret")
    with pytest.raises(SandboxClientError, match="outside"):
        unpack(target, entry("out"))
    (target / "other").write_text("mine")
    (target / "in").symlink_to("other")
    unpack(target, entry("in"))
    assert (target / "in").read_text() == "evil" and not (target / "in").is_symlink()
    assert (target / "other").read_text() == "mine"


def test_second_names_are_only_of_what_was_unpacked(target: Path) -> None:
    hard = tarfile.LNKTYPE
    report = unpack(
        target,
        entry("a", b"content"),
        link("b", "a", hard),
        link("c", "not-there", hard),
        link("a", "a", hard),
        link("d", "./a", hard),
    )
    assert {name: (target / name).read_text() for name in "abd"} == dict.fromkeys("abd", "content")
    assert set(report.skipped) == {"a", "c"}
    with pytest.raises(SandboxClientError):
        unpack(target, link("e", "../outside/secret", hard))
    assert "e" not in everything_in(target)


def test_devices_and_pipes_are_left_out(target: Path) -> None:
    kinds = {"fifo": tarfile.FIFOTYPE, "block": tarfile.BLKTYPE, "char": tarfile.CHRTYPE}
    report = unpack(target, *(entry(name, b"", type=kind) for name, kind in kinds.items()))
    assert everything_in(target) == {} and set(report.skipped) == set(kinds)


def test_modes_lose_what_gives_rights_to_others(target: Path) -> None:
    unpack(
        target,
        directory("d", mode=0o7777),
        entry("setuid", mode=0o6755),
        entry("open", mode=0o666),
        entry("closed", mode=0),
        directory("shut", mode=0),
        entry("shut/x"),
    )

    def mode(name: str) -> int:
        return stat.S_IMODE((target / name).stat().st_mode)

    assert mode("d") == 0o755 and mode("setuid") == 0o755 and mode("open") == 0o644
    assert mode("closed") == 0o600 and mode("shut") == 0o700


def test_what_is_in_the_way_is_replaced_and_the_rest_stays(target: Path) -> None:
    (target / "d").mkdir(parents=True)
    for name in ("d/old", "d/x", "y"):
        (target / name).write_text("mine")
    with (target / "d" / "x").open() as before:
        unpack(target, directory("d"), entry("d/x", b"new"), entry("y", b"new"))
        assert before.read() == "mine"
    assert everything_in(target) == {"d": "dir", "d/old": "mine", "d/x": "new", "y": "new"}


@pytest.mark.parametrize("cut", [1, 511, 700])
def test_a_damaged_archive_is_refused(target: Path, cut: int) -> None:
    whole = archive_of([entry("a", bytes(1000)), entry("b")]).getvalue()
    for damaged in (whole[:cut], b"\xff" * 1024, whole[:100] + b"?" + whole[101:]):
        unpacker = Unpacker(target, NOTHING, "keep")
        with pytest.raises(SandboxClientError):
            unpacker.unpack(io.BytesIO(damaged), lambda: None)


def test_ignored_entries_and_links_are_left_out(target: Path) -> None:
    report = unpack(
        target,
        directory("build"),
        entry("build/x"),
        entry("a.pyc"),
        entry("d/b.pyc"),
        entry("kept"),
        link("l", "kept"),
        ignore=("build/", "*.pyc"),
        symlinks="skip",
    )
    assert everything_in(target) == {"kept": "evil"}
    assert report.files == 1 and set(report.skipped) == {"l"}


# --- packing --------------------------------------------------------------------------


def packed(root: Path, *ignore: str, symlinks: str = "keep") -> tuple[DirectoryArchive, bytes]:
    archive = DirectoryArchive(root, IgnoreRules.of(ignore), symlinks)  # type: ignore[arg-type]

    async def read() -> bytes:
        return b"".join([piece async for piece in archive.begin()])

    content = anyio.run(read)
    assert len(content) == archive.length
    return archive, content


def test_what_is_packed_is_unpacked(tmp_path: Path, target: Path) -> None:
    source = target / "source"
    for name in ("a b", "grüße-🎉", "new\nline", "-rf", "x" * 200, "d/e/f", "100%2F"):
        file = source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}" * 1000)
    (source / os.fsdecode(b"raw\xff")).write_text("raw")
    (source / "empty").mkdir()
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    os.utime(source / "run", (1_000_000_000, 1_000_000_000))
    (source / "d" / "link").symlink_to("../a b")
    os.mkfifo(source / "fifo")
    archive, content = packed(source)
    assert set(archive.report.skipped) == {"fifo"}
    assert (archive.report.files, archive.report.links) == (9, 1)

    unpacker = Unpacker(target / "copy", NOTHING, "keep")
    unpacker.unpack(io.BytesIO(content), lambda: None)
    (source / "fifo").unlink()
    assert everything_in(target / "copy") == everything_in(source)
    run = (target / "copy" / "run").stat()
    assert (run.st_mtime, stat.S_IMODE(run.st_mode)) == (1_000_000_000, 0o755)
    assert unpacker.report.bytes == archive.report.bytes


def test_policies_for_links(target: Path) -> None:
    source = target / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "x").write_text("x")
    (source / "file").symlink_to("d/x")
    (source / "dir").symlink_to("d")
    (source / "d" / "loop").symlink_to("..")
    (source / "dangling").symlink_to("nowhere")

    def names(symlinks: str) -> tuple[set[str], set[str]]:
        archive, content = packed(source, symlinks=symlinks)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            return {member.name for member in tar}, set(archive.report.skipped)

    assert names("keep") == ({"d", "d/x", "d/loop", "dir", "file", "dangling"}, set())
    assert names("skip") == ({"d", "d/x"}, {"d/loop", "dir", "file", "dangling"})
    followed, skipped = names("follow")
    assert followed == {"d", "d/x", "file", "dir", "dir/x"}
    assert skipped == {"dangling", "d/loop", "dir/loop"}


def test_ignored_entries_are_not_packed(target: Path) -> None:
    source = target / "source"
    for name in (".git/x", "a/__pycache__/y", "a/b.pyc", "a/b.py", "docs/x.tmp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    archive, content = packed(source, ".git", "__pycache__", "*.pyc", "docs/*.tmp")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert {member.name for member in tar} == {"a", "a/b.py", "docs"}
    assert archive.report.files == 1


def test_a_file_that_grows_is_packed_as_it_was_and_one_that_shrinks_is_an_error(
    target: Path,
) -> None:
    source = target / "source"
    source.mkdir(parents=True)
    (source / "f").write_text("0123456789")

    def repacked(content: str) -> bytes:
        archive = DirectoryArchive(source, NOTHING, "keep")
        (source / "f").write_text(content)

        async def read() -> bytes:
            return b"".join([piece async for piece in archive.begin()])

        packed = anyio.run(read)
        assert len(packed) == archive.length
        return packed

    with tarfile.open(fileobj=io.BytesIO(repacked("0123456789 and more"))) as tar:
        assert tar.extractfile("f").read() == b"0123456789"  # type: ignore[union-attr]
    with pytest.raises(SandboxClientError, match="shorter"):
        repacked("short")


def test_what_is_no_directory_cannot_be_packed(target: Path) -> None:
    target.mkdir()
    (target / "file").write_text("x")
    for path in (target / "file", target / "nothing"):
        with pytest.raises(NotADirectoryError):
            DirectoryArchive(path, NOTHING, "keep")
