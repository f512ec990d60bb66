"""Unpacking hostile and damaged archives: harmlessly, or not at all; and interruptions."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_anyio.local.runtime import LayerError, Runtime
from sandbox_anyio.local.runtime.base import LayerError as SameLayerError

from ._images import (
    Extractor,
    HeldRuntime,
    archive,
    held_runtime,
    member,
    text_file,
    wait_until,
    zstd,
)
from ._runtime import descendants_of

DIRECTORY, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldRuntime]:
    with held_runtime(tmp_path_factory.mktemp("state")) as held:
        yield held


@pytest.fixture
def extract(held: HeldRuntime, tmp_path: Path) -> Extractor:
    return Extractor(held, tmp_path)


def test_names_cannot_lead_out(extract: Extractor, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    layer = extract(
        archive(
            text_file(f"/{outside}/absolute", "in the layer"),
            member("evil", SYMLINK, linkname=str(outside)),
            text_file("evil/through-a-link", "in the layer"),
            member("up", SYMLINK, linkname="/../../../../.." + str(outside)),
            text_file("up/through-dots", "in the layer"),
        )
    )
    assert list(outside.iterdir()) == []
    inside = layer / str(outside).lstrip("/")
    assert sorted(path.name for path in inside.iterdir()) == [
        "absolute",
        "through-a-link",
        "through-dots",
    ]


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/..", "d/.."])
def test_dots_are_refused(extract: Extractor, name: str) -> None:
    extract.refuses(archive(name), "leads out")
    extract.refuses(archive("x", member("l", LINK, linkname=name)), "leads out")


def test_hard_links_cannot_reach_outside(extract: Extractor, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    extract.refuses(archive(member("l", LINK, linkname=str(secret))), "cannot be unpacked")
    extract.refuses(
        archive(
            member("d", SYMLINK, linkname=str(tmp_path)), member("l", LINK, linkname="d/secret")
        ),
        "cannot be unpacked",
    )
    extract.refuses(archive("d/", member("l", LINK, linkname="d")), "cannot be unpacked")


def test_a_link_is_replaced_and_never_written_through(extract: Extractor) -> None:
    layer = extract(
        archive(
            text_file("target", "safe"),
            member("link", SYMLINK, linkname="target"),
            text_file("link", "new"),
            member("second", LINK, linkname="target"),
            text_file("second", "alone"),
            member("self", LINK, linkname="self"),
        )
    )
    assert (layer / "target").read_text() == "safe"
    assert (layer / "target").stat().st_nlink == 1
    assert not (layer / "link").is_symlink()
    assert (layer / "second").read_text() == "alone"


def test_the_last_of_several_entries_counts(extract: Extractor) -> None:
    layer = extract(
        archive(
            text_file("a", "first"),
            text_file("a", "second"),
            "b/",
            "b/c/",
            "b/c/d",
            text_file("b", "file now"),
            "e",
            "e/",
            "e/f",
            member("e", DIRECTORY, mode=0o700),
            member("g", SYMLINK, linkname="e"),
            "g/",
        )
    )
    assert (layer / "a").read_text() == "second"
    assert (layer / "b").read_text() == "file now"
    assert (layer / "e/f").is_file()
    assert stat.S_IMODE((layer / "e").stat().st_mode) == 0o700
    assert (layer / "g").is_dir() and not (layer / "g").is_symlink()


def test_closed_directories_are_filled_and_stay_closed(extract: Extractor) -> None:
    layer = extract(
        archive(
            member("closed", DIRECTORY, mode=0o000),
            text_file("closed/file", "x", mode=0o000),
            member("closed/in", DIRECTORY, mode=0o111),
            "closed/in/deeper",
            text_file("closed/file", "y", mode=0o000),
            ".wh.closed",
        )
    )
    assert stat.S_IMODE((layer / "closed").stat().st_mode) == 0
    if os.geteuid() == 0:
        assert (layer / "closed/file").read_text() == "y"
        assert (layer / "closed/in/deeper").exists()


def test_devices_are_left_out(extract: Extractor) -> None:
    layer = extract(
        archive(
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("fake-whiteout", tarfile.CHRTYPE, devmajor=0, devminor=0),
            member("disk", tarfile.BLKTYPE, devmajor=254, devminor=0),
            "file",
        )
    )
    assert [path.name for path in layer.iterdir()] == ["file"]


def test_bounds_are_kept(extract: Extractor) -> None:
    extract.refuses(archive(*map(str, range(11))), "more than 10 entries", max_entries=10)
    big = archive(text_file("a", "x" * 600), text_file("b", "x" * 600))
    extract.refuses(big, "more than 1000 bytes", max_bytes=1000)
    extract(big, max_bytes=1200, max_entries=2)


def test_what_was_announced_counts_and_not_what_comes(extract: Extractor) -> None:
    info = member("huge")
    info.size = 1 << 50
    header = info.tobuf(tarfile.GNU_FORMAT)
    extract.refuses(header + bytes(10_000), "more than 1000000 bytes", max_bytes=1_000_000)
    extract.refuses(header + bytes(10_000), "cut off", max_bytes=1 << 51)


def test_a_bomb_of_padding_is_refused(extract: Extractor) -> None:
    extract.refuses(gzip.compress(bytes(40 << 20), 1), "too much follows")


def _with_header(position: int, value: bytes) -> bytes:
    """A file's header with one field changed, its checksum right."""
    header = bytearray(member("file").tobuf(tarfile.USTAR_FORMAT))
    header[position : position + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _pax(records: bytes) -> bytes:
    info = member("pax", b"x", size=len(records))
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"this is no archive" * 100, "checksum"),
        (b"short", "cut off"),
        (archive(text_file("f", "x" * 5000))[:2000], "cut off"),
        (gzip.compress(archive("f"), mtime=0)[:-9], "cut off"),
        (gzip.compress(archive("f"), mtime=0)[:40] + b"????" * 50, "damaged|cut off"),
        (gzip.compress(archive("f"), mtime=0) + b"trailing", "not compressed"),
        (b"\xfd7zXZ\0" + bytes(600), "xz"),
        (b"BZh9" + bytes(600), "bzip2"),
        (_with_header(124, b"-0000000001\0"), "impossible number"),
        (_with_header(124, b"\xff" * 12), "impossible number"),
        (_with_header(124, b"\x80" + b"\xff" * 11), "impossible number"),
        (_with_header(124, b"zzzzzzzzzzz\0"), "no number"),
        (_with_header(156, b"Q"), "unknown kind"),
        (_with_header(0, b".wh.\0"), "no name"),
        (_with_header(0, b".wh...\0"), "no name"),
        (_pax(b"99 path=x\n") + member("f").tobuf(), "pax header"),
        (_pax(b"0 path=x\n") + member("f").tobuf(), "pax header"),
        (_pax(b"nonsense") + member("f").tobuf(), "pax header"),
        (_pax(b"13 path=a\0bc\n") + member("f").tobuf(), "NUL"),
        (_pax(b"13 size=-100\n") + member("f").tobuf(), "no number"),
        (_pax(b"13 mtime=one\n") + member("f").tobuf(), "no number"),
        (_pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + member("f").tobuf(), "map"),
        (_pax(b"10 path=d\n") * 20 + member("f").tobuf(), "too many headers"),
        (member("x", b"x", size=1 << 30).tobuf(tarfile.USTAR_FORMAT), "too large"),
        (member("L", b"L", size=1 << 30).tobuf(tarfile.GNU_FORMAT), "too large"),
        (archive("/".join(["n" * 200] * 25)), "cannot be unpacked"),
        (archive("n" * 300), "cannot be unpacked"),
        (archive("file", "file/below"), "cannot be unpacked"),
        (archive(member("l", SYMLINK, linkname="l"), "l/below"), "cannot be unpacked"),
        (archive(member("empty", SYMLINK, linkname="")), "leads nowhere"),
    ],
)
def test_damage_is_refused_in_words(extract: Extractor, data: bytes, match: str) -> None:
    extract.refuses(data, match)


def test_damaged_zstd_is_refused(extract: Extractor) -> None:
    packed = zstd(archive(text_file("f", "x" * 100_000)))
    extract.refuses(packed[:20] + b"????" + packed[24:], "damaged|cut off")


def test_zstd_in_a_pipe_is_not_understood(extract: Extractor) -> None:
    reading, writing = os.pipe()
    os.write(writing, zstd(archive("f")))
    os.close(writing)
    with pytest.raises(LayerError, match="zstd"):
        extract.held.call(
            extract.held.runtime.layers.extract_tar, reading, extract.held.state / "never"
        )
    os.close(reading)


def test_without_zstd_the_message_says_what_to_install(
    extract: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = zstd(archive("f"))
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    extract.refuses(packed, "pip install zstandard")


# --- Trouble -----------------------------------------------------------------------


def test_a_layer_that_exists_is_left_alone(extract: Extractor, tmp_path: Path) -> None:
    layer = extract(archive("old"))
    (tmp_path / "tar").write_bytes(archive("new"))
    with pytest.raises(FileExistsError):
        extract.held.call(extract.held.runtime.layers.extract_tar, tmp_path / "tar", layer)
    assert [path.name for path in layer.iterdir()] == ["old"]


def test_only_below_the_state_directory(extract: Extractor, tmp_path: Path) -> None:
    (tmp_path / "tar").write_bytes(archive("new"))
    for target in (tmp_path / "outside", extract.held.state, extract.held.state / "../x"):
        with pytest.raises(ValueError, match="not below"):
            extract.held.call(extract.held.runtime.layers.extract_tar, tmp_path / "tar", target)
    assert not (tmp_path / "outside").exists()


def test_a_killed_task_leaves_no_half_layer(extract: Extractor) -> None:
    reading, writing = os.pipe()
    before = extract.layers()
    old = descendants_of(os.getpid())
    data = archive(*(f"file-{number}" for number in range(40)), text_file("big", "x" * 50_000))
    layer = extract.held.state / "layers/killed"
    runtime: Runtime = extract.held.runtime
    future = extract.held.portal.start_task_soon(runtime.layers.extract_tar, reading, layer)
    os.write(writing, data[:30_000])
    wait_until(lambda: len(list(layer.parent.glob("killed*/tree/file-*"))) > 10)
    [task] = descendants_of(os.getpid()) - old
    os.kill(task, 9)
    with pytest.raises(OSError, match="was ended"):
        future.result(10)
    os.close(writing)
    os.close(reading)
    assert extract.layers() == before


def test_a_cancelled_extraction_leaves_nothing(extract: Extractor) -> None:
    reading, writing = os.pipe()
    before, old = extract.layers(), descendants_of(os.getpid())
    layer = extract.held.state / "layers/cancelled"
    future = extract.held.portal.start_task_soon(
        extract.held.runtime.layers.extract_tar, reading, layer
    )
    os.write(writing, archive(*(f"file-{number}" for number in range(40)))[:20_000])
    wait_until(lambda: len(list(layer.parent.glob("cancelled*/tree/file-*"))) > 5)
    future.cancel()
    wait_until(lambda: extract.layers() == before and descendants_of(os.getpid()) == old)
    os.close(writing)
    os.close(reading)


def test_leftovers_of_an_earlier_host_are_cleaned(extract: Extractor) -> None:
    layers = extract.held.state / "layers"
    layer = extract(archive("kept"))
    left = layers / "x.unfinished-0123"
    shutil.copytree(layer, left / "tree")
    (left / "closed").mkdir(mode=0)
    (layers / "y.unfinished-1").write_text("a file")
    identity = getattr(extract.held.runtime, "identity", None)
    if identity is not None:
        for path in (left, *left.rglob("*")):
            os.chown(path, identity.user, identity.group)
    extract.held.call(extract.held.runtime.layers.clean, layers)
    assert not any("unfinished" in name for name in extract.layers())
    assert (layer / "kept").is_file()
    extract.held.call(extract.held.runtime.layers.remove, layer)
    assert not layer.exists()


def test_the_error_is_exported() -> None:
    assert LayerError is SameLayerError
