"""Unpacking the archives of layers: what is in them is in the layer, exactly."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox_anyio.local.runtime import ExtractedTar

from ._images import (
    Extractor,
    HeldRuntime,
    archive,
    held_runtime,
    member,
    text_file,
    tree_of,
    zstd,
)

DIRECTORY, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldRuntime]:
    with held_runtime(tmp_path_factory.mktemp("state")) as held:
        yield held


@pytest.fixture
def extract(held: HeldRuntime, tmp_path: Path) -> Extractor:
    return Extractor(held, tmp_path)


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "user.overlay.opaque" in os.listxattr(path)


# --- What is in an archive is in the layer -----------------------------------------


def test_files_directories_and_links_arrive(extract: Extractor) -> None:
    data = archive(
        member(".", DIRECTORY, mode=0o751, mtime=5),
        member("d", DIRECTORY, mode=0o2700, mtime=1_000_000_000),
        text_file("d/file", "content", mode=0o4755, mtime=12.25),
        member("d/hard", LINK, linkname="d/file"),
        member("d/soft", SYMLINK, linkname="../../../etc/passwd", mtime=7),
        member("fifo", tarfile.FIFOTYPE, mode=0o600),
        member("d/empty", DIRECTORY, mode=0o000),
        "deep/er/than/its/parents",
    )
    layer = extract(data)
    file = layer / "d/file"
    assert file.read_text() == "content"
    assert stat.S_IMODE(file.stat().st_mode) == 0o4755
    assert file.stat().st_mtime == 12.25
    assert file.stat().st_nlink == 2
    assert (layer / "d/hard").samefile(file)
    assert str((layer / "d/soft").readlink()) == "../../../etc/passwd"
    assert (layer / "d/soft").lstat().st_mtime == 7
    assert stat.S_IMODE((layer / "d").stat().st_mode) == 0o2700
    assert (layer / "d").stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE((layer / "d/empty").stat().st_mode) == 0
    assert stat.S_ISFIFO((layer / "fifo").lstat().st_mode)
    assert stat.S_IMODE((layer / "deep/er").stat().st_mode) == 0o755
    assert (stat.S_IMODE(layer.stat().st_mode), layer.stat().st_mtime) == (0o751, 5)
    assert extract.made == ExtractedTar(
        "sha256:" + hashlib.sha256(data).hexdigest(), 8, len("content")
    )


def test_everything_belongs_to_the_identity(extract: Extractor) -> None:
    layer = extract(archive("a/", member("a/b", uid=1234, gid=99, uname="bin", gname="bin")))
    identity = getattr(extract.held.runtime, "identity", None)
    owner = os.geteuid() if identity is None else identity.user
    assert {path.lstat().st_uid for path in (layer, *layer.rglob("*"))} == {owner}


@pytest.mark.parametrize(
    "kind",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_every_format_is_read(extract: Extractor, kind: int) -> None:
    long = "/".join(["directory-with-a-name"] * (9 if kind == tarfile.USTAR_FORMAT else 30))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        tar.addfile(member(f"{long}/file"))
        tar.addfile(member("link", SYMLINK, linkname=long[:100]))
        if kind != tarfile.USTAR_FORMAT:
            tar.addfile(member("long", SYMLINK, linkname=long))
            tar.addfile(member("ü\udcff", mtime=-3))
    layer = extract(file.getvalue())
    assert (layer / long / "file").is_file()
    assert str((layer / "link").readlink()) == long[:100]
    if kind != tarfile.USTAR_FORMAT:
        assert str((layer / "long").readlink()) == long
        assert (layer / "ü\udcff").stat().st_mtime == 0


def test_attributes_arrive_but_not_overlays_own(extract: Extractor) -> None:
    capability = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    data = archive(
        member(
            "file",
            pax_headers={
                "SCHILY.xattr.user.note": "a=b\nc",
                "SCHILY.xattr.security.capability": capability.decode(errors="surrogateescape"),
                "SCHILY.xattr.security.selinux": "label",
                "SCHILY.xattr.trusted.thing": "x",
                "SCHILY.xattr.user.overlay.metacopy": "y",
            },
        ),
        member(
            "dir",
            DIRECTORY,
            pax_headers={
                "SCHILY.xattr.user.overlay.opaque": "y",
                "SCHILY.xattr.user.overlay.redirect": "/etc",
                "SCHILY.xattr.user.kept": "1",
            },
        ),
    )
    layer = extract(data)
    assert os.getxattr(layer / "file", "user.note") == b"a=b\nc"
    assert set(os.listxattr(layer / "file")) <= {"user.note", "security.capability"}
    assert os.listxattr(layer / "dir") == ["user.kept"]
    if os.geteuid() == 0:
        # Seen from here it is the capability of another user namespace's root.
        assert len(os.getxattr(layer / "file", "security.capability")) == 24


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"]])
def test_sparse_files_stay_sparse(extract: Extractor, tmp_path: Path, options: list[str]) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for position in range(0, 40 << 20, 1 << 20):
            file.seek(position)
            file.write(b"data at %d" % position)
        file.truncate(1 << 30)
    subprocess.run(
        ["tar", "-C", tmp_path, *options, "-Scf", tmp_path / "tar", "sparse"], check=True
    )
    layer = extract((tmp_path / "tar").read_bytes())
    copy = layer / "sparse"
    assert copy.stat().st_size == 1 << 30
    assert copy.stat().st_blocks < 2048
    with copy.open("rb") as file:
        for position in range(0, 40 << 20, 1 << 20):
            file.seek(position)
            assert file.read(20).rstrip(b"\0") == b"data at %d" % position
    extract.refuses((tmp_path / "tar").read_bytes(), "more than 1000 bytes", max_bytes=1000)


def test_sparse_files_of_other_versions_are_refused(extract: Extractor, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(
        [
            *("tar", "-C", tmp_path, "--format=posix", "--sparse-version=0.1"),
            *("-Scf", tmp_path / "tar", "sparse"),
        ],
        check=True,
    )
    extract.refuses((tmp_path / "tar").read_bytes(), "not understood")


def in_two_parts(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:]) + b"\0" * 700


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, in_two_parts, zstd], ids=["plain", "gzip", "parts", "zstd"]
)
def test_compressions_are_undone(extract: Extractor, compress: Callable[[bytes], bytes]) -> None:
    content = "".join(str(number) for number in range(300_000))
    data = archive("a/", text_file("a/long", content), text_file("a/b", "b"))
    layer = extract(compress(data))
    assert (layer / "a/long").read_text() == content
    assert extract.made is not None
    assert extract.made.digest == "sha256:" + hashlib.sha256(data).hexdigest()


def test_the_archive_may_be_a_pipe_or_an_open_file(extract: Extractor, tmp_path: Path) -> None:
    data = archive(text_file("file", "x" * 30_000))
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    layers = extract.held.runtime.layers
    extract.held.call(layers.extract_tar, reading, extract.held.state / "piped")
    os.close(reading)
    assert (extract.held.state / "piped/file").stat().st_size == 30_000
    (tmp_path / "tar").write_bytes(b"not this" + data)
    with (tmp_path / "tar").open("rb", buffering=0) as file:
        file.seek(8)
        extract.held.call(layers.extract_tar, file.fileno(), extract.held.state / "opened")
    assert (extract.held.state / "opened/file").stat().st_size == 30_000


def test_an_empty_archive_is_an_empty_layer(extract: Extractor) -> None:
    assert tree_of(extract(bytes(1024))) == {}
    assert tree_of(extract(b"")) == {}
    assert tree_of(extract(archive("no-end")[:512])) == {"no-end": (stat.S_IFREG | 0o644, b"")}


# --- Whiteouts ---------------------------------------------------------------------


def test_whiteouts_become_overlays(extract: Extractor) -> None:
    layer = extract(
        archive("d/", "d/.wh.gone", ".wh.top", "new/sub/.wh.x", "all/.wh..wh..opq", "all/kept")
    )
    assert is_whiteout(layer / "d/gone")
    assert is_whiteout(layer / "top")
    assert is_whiteout(layer / "new/sub/x")
    assert is_opaque(layer / "all")
    assert (layer / "all/kept").is_file()
    assert not any(path.name.startswith(".wh.") for path in layer.rglob("*"))


@pytest.mark.parametrize("first", [True, False])
def test_what_the_layer_itself_has_is_not_hidden(extract: Extractor, first: bool) -> None:
    whiteouts = [".wh.file", ".wh.dir"]
    things = ["file", "dir/", "dir/inside"]
    layer = extract(archive(*whiteouts, *things) if first else archive(*things, *whiteouts))
    assert (layer / "file").is_file()
    assert (layer / "dir/inside").is_file()
    assert is_opaque(layer / "dir")


def test_a_parent_that_was_hidden_hides_what_is_below(extract: Extractor) -> None:
    layer = extract(archive(".wh.dir", "dir/inside/file"))
    assert (layer / "dir/inside/file").is_file()
    assert is_opaque(layer / "dir")


def test_no_whiteouts_where_all_is_hidden(extract: Extractor) -> None:
    layer = extract(archive("d/.wh.x", "d/sub/.wh.y", "d/.wh..wh..opq", "other/.wh.z"))
    assert is_opaque(layer / "d")
    assert sorted(tree_of(layer)) == ["d", "d/sub", "other", "other/z"]


def test_the_whole_layer_may_be_opaque(extract: Extractor) -> None:
    assert is_opaque(extract(archive(".wh..wh..opq", "file")))


def test_notes_of_aufs_are_left_out(extract: Extractor) -> None:
    layer = extract(archive(".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/1.2", ".wh..wh.orph/"))
    assert tree_of(layer) == {}
