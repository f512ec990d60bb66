"""Images, layers and registries made on the spot, for the tests of those."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import attrs
import pytest

from sandbox_anyio.local.images import Platform
from sandbox_anyio.local.runtime import ExtractedTar, LayerError, Runtime, open_runtime

_numbers = itertools.count()

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


# What a sandbox sees below a directory, with hard links as groups of names. What is listed
# but not there (as overlayfs does it with whiteouts that hide nothing) is "broken".
LOOK = """
import hashlib, json, os, sys
top = os.fsencode(sys.argv[1]); found = {}; groups = {}
for directory, directories, files in os.walk(top):
    for name in directories + files:
        path = os.path.join(directory, name)
        shown = os.path.relpath(path, top).decode("utf-8", "backslashreplace")
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            found[shown] = "broken"
            continue
        kind = status.st_mode >> 12
        attributes = {}
        if kind in (4, 8):
            attributes = {key: os.getxattr(path, key).hex() for key in os.listxattr(path)}
        content = None
        if kind == 8:
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
            content += " with holes" * (status.st_blocks * 512 < status.st_size)
            groups.setdefault((status.st_dev, status.st_ino), []).append(shown)
        elif kind == 10:
            content = os.fsdecode(os.readlink(path))
        times = status.st_mtime_ns if kind != 12 else 0
        found[shown] = [oct(status.st_mode), times, attributes, content]
linked = sorted(sorted(group) for group in groups.values() if len(group) > 1)
status = os.lstat(top)
print(json.dumps([found, linked, oct(status.st_mode)], sort_keys=True))
"""


# --- Archives ----------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A member of an archive."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes] | str) -> bytes:
    """A tar file. A string is an empty file, or a directory if it ends with a slash."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in members:
            if isinstance(entry, str):
                kind = tarfile.DIRTYPE if entry.endswith("/") else tarfile.REGTYPE
                tar.addfile(member(entry, kind))
            elif isinstance(entry, tuple):
                info, data = entry
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                tar.addfile(entry)
    return file.getvalue()


def text_file(name: str, text: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member with content."""
    return member(name, **fields), text.encode()


@cache
def small_system() -> bytes:
    """An archive with a shell, a few programs, and the libraries these need."""
    files: dict[str, Path] = {}
    for name in ("sh", "ls", "cat", "env", "stat", "mkdir", "rm", "ln", "sleep"):
        program = shutil.which(name)
        assert program is not None
        files[f"bin/{name}"] = Path(program).resolve()
        listing = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listing):
            files[library.lstrip("/")] = Path(library).resolve()
    members: list[Any] = ["root/", "tmp/", "etc/"]
    for place, source in sorted(files.items()):
        members.append((member(place, mode=0o755), source.read_bytes()))
    members.append(text_file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"))
    return archive(*members)


# --- Images ------------------------------------------------------------------------


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **more}


@cache
def gzipped(data: bytes) -> bytes:
    """Compressed, quickly rather than well."""
    return gzip.compress(data, 1, mtime=0)


@attrs.frozen
class MadeImage:
    """An image as its blobs: all of them, and the manifest's."""

    blobs: Mapping[str, bytes]
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def make_image(
    *layers: bytes,
    config: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    compress: Callable[[bytes], bytes] = gzipped,
    layer_type: str = "application/vnd.oci.image.layer.v1.tar+gzip",
    manifest_type: str | None = MANIFEST,
    diff_ids: Sequence[str] | None = None,
) -> MadeImage:
    """An image of these layers, lowest first."""
    here = Platform.of_this_machine()
    configuration = json.dumps(
        {
            "os": "linux",
            "architecture": architecture or here.architecture,
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest_of(x) for x in layers]},
        }
    ).encode()
    packed = [compress(layer) for layer in layers]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "config": descriptor(configuration, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer, layer_type) for layer in packed],
    }
    if manifest_type is not None:
        document["mediaType"] = manifest_type
    manifest = json.dumps(document).encode()
    blobs = {digest_of(blob): blob for blob in (configuration, manifest, *packed)}
    return MadeImage(blobs, manifest)


def make_index(*entries: tuple[MadeImage, Mapping[str, str] | None], kind: str = INDEX) -> bytes:
    """An index of images with their platforms."""
    manifests = []
    for image, platform in entries:
        entry = descriptor(image.manifest, MANIFEST)
        if platform is not None:
            entry["platform"] = dict(platform)
        manifests.append(entry)
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()


def write_layout(path: Path, tags: Mapping[str | None, MadeImage]) -> None:
    """A directory in the OCI layout."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)
    manifests = []
    for tag, image in tags.items():
        for digest, blob in image.blobs.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(blob)
        entry = descriptor(image.manifest, MANIFEST)
        if tag is not None:
            entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        manifests.append(entry)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))


# --- Runtimes ----------------------------------------------------------------------


@attrs.frozen
class HeldRuntime:
    """A runtime for many tests that are not about loops: its calls block."""

    runtime: Runtime
    state: Path
    portal: anyio.from_thread.BlockingPortal

    def call(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Wait for a coroutine function."""
        return self.portal.call(partial(function, *args, **more))


@contextlib.contextmanager
def held_runtime(state: Path, backend: str = "asyncio") -> Iterator[HeldRuntime]:
    """Open a runtime beside this thread."""
    with (
        anyio.from_thread.start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(open_runtime("auto", state)) as runtime,
    ):
        yield HeldRuntime(runtime, state, portal)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll, for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def tree_of(top: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Every entry below a directory: its mode, and a file's content or a link's target."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            status = path.lstat()
            content: bytes | str | None = None
            if path.is_symlink():
                content = str(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(top))] = (status.st_mode, content)
    return found


class Extractor:
    """Unpacks archives into fresh layers of one runtime."""

    def __init__(self, held: HeldRuntime, place: Path) -> None:
        self.held = held
        self.place = place
        self.made: ExtractedTar | None = None

    def __call__(self, data: bytes, **options: Any) -> Path:
        file = self.place / f"archive-{next(_numbers)}"
        file.write_bytes(data)
        layer = self.held.state / f"layers/{next(_numbers)}"
        self.made = self.held.call(self.held.runtime.layers.extract_tar, file, layer, **options)
        return layer

    def refuses(self, data: bytes, match: str, **options: Any) -> None:
        """The archive is refused in words, and leaves nothing behind."""
        before = self.layers()
        with pytest.raises(LayerError, match=match):
            self(data, **options)
        assert self.layers() == before

    def layers(self) -> set[str]:
        layers = self.held.state / "layers"
        return {entry.name for entry in layers.iterdir()} if layers.is_dir() else set()


def zstd(data: bytes) -> bytes:
    """Compress, or skip the test where nothing can."""
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor().compress(data))
