"""Images in files of this machine, and in the layouts that `skopeo` makes of others.

Whoever made the files is not trusted any more than a registry is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import posixpath
import stat
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import anyio.to_thread
import attrs

from ..runtime.feeding import fed
from ..runtime.tar_reader import TarError, TarReader
from .errors import ImageError
from .manifests import MAX_DOCUMENT, Descriptor, Index, parse_manifest
from .registry import Registry
from .store import ImageStore

_PIECE: Final = 1024 * 1024
_MAX_MEMBERS: Final = 100_000
_NAME: Final = "org.opencontainers.image.ref.name"
_OTHER_NAME: Final = "io.containerd.image.name"


class Source(Protocol):
    """Where the blobs of an image come from. Each has its digest and its size."""

    async def manifest(self, blob: Descriptor) -> bytes:
        """A manifest, or an index of several."""

    async def configuration(self, blob: Descriptor) -> bytes:
        """An image's configuration."""

    def archive(self, blob: Descriptor) -> AbstractAsyncContextManager[int]:
        """A layer's archive: a descriptor at its beginning."""


class RegistrySource:
    """A registry's blobs, which pass through a file here."""

    def __init__(self, registry: Registry, store: ImageStore) -> None:
        self._registry = registry
        self._store = store

    async def manifest(self, blob: Descriptor) -> bytes:
        """A manifest, or an index of several."""
        data, _, _ = await self._registry.manifest(blob.digest)
        return data

    async def configuration(self, blob: Descriptor) -> bytes:
        """An image's configuration."""
        _require_document(blob)
        file = io.BytesIO()
        await self._registry.blob(blob, file)
        return file.getvalue()

    @contextlib.asynccontextmanager
    async def archive(self, blob: Descriptor) -> AsyncIterator[int]:
        """A layer's archive."""
        with self._store.temporary_file() as file:
            await self._registry.blob(blob, file)
            file.seek(0)
            yield file.fileno()


class LayoutSource:
    """The blobs of a directory in the OCI image layout."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what

    def find(self, tag: str | None) -> Descriptor:
        """The manifest or index of the image with this tag; without one, of the only image.

        :raises ImageError: there is no such image, or no layout at all.
        """
        with _opened(self._path / "index.json", self._what) as file:
            data = file.read(MAX_DOCUMENT)
        index = parse_manifest(data, self._what)
        if not isinstance(index, Index):
            raise ImageError(f"{self._what} is no image layout")
        if tag is None:
            if len(index.manifests) == 1:
                return index.manifests[0]
            tag = "latest"
        for manifest in index.manifests:
            names = (manifest.annotations.get(_NAME), manifest.annotations.get(_OTHER_NAME))
            if any(name == tag or (name or "").endswith(f":{tag}") for name in names):
                return manifest
        raise ImageError(f"there is no image with the tag {tag!r} in {self._path}")

    async def manifest(self, blob: Descriptor) -> bytes:
        """A manifest, or an index of several."""
        return await self._document(blob)

    async def configuration(self, blob: Descriptor) -> bytes:
        """An image's configuration."""
        return await self._document(blob)

    async def _document(self, blob: Descriptor) -> bytes:
        _require_document(blob)
        with self._verified(blob) as file:
            await anyio.to_thread.run_sync(self._verify, blob, file)
            return file.read(blob.size)

    @contextlib.asynccontextmanager
    async def archive(self, blob: Descriptor) -> AsyncIterator[int]:
        """A layer's archive."""
        with self._verified(blob) as file:
            await anyio.to_thread.run_sync(self._verify, blob, file)
            yield file.fileno()

    def _verified(self, blob: Descriptor) -> contextlib.AbstractContextManager[BinaryIO]:
        digits = blob.digest.removeprefix("sha256:")
        return _opened(self._path / "blobs" / "sha256" / digits, self._what)

    def _verify(self, blob: Descriptor, file: BinaryIO) -> None:
        digest = hashlib.sha256()
        size = 0
        while data := file.read(_PIECE):
            digest.update(data)
            size += len(data)
        file.seek(0)
        if (size, f"sha256:{digest.hexdigest()}") != (blob.size, blob.digest):
            raise ImageError(f"{self._what} is damaged: a blob does not have its digest")


@attrs.frozen
class ArchivedImage:
    """An image in a file as `docker save` makes it.

    :ivar configuration: its configuration document.
    :ivar layers: where in the file its layers' archives are, lowest first: offset and size.
    """

    path: Path
    configuration: bytes
    layers: tuple[tuple[int, int], ...]

    def archive(self, number: int) -> AbstractAsyncContextManager[int]:
        """One layer's archive, as a pipe."""
        offset, size = self.layers[number]

        def write(target: BinaryIO) -> None:
            with _opened(self.path, str(self.path)) as file:
                file.seek(offset)
                left = size
                while left and (data := file.read(min(left, _PIECE))):
                    target.write(data)
                    left -= len(data)

        return fed(write)


def read_docker_archive(path: Path, tag: str | None, what: str) -> ArchivedImage:
    """Look into a file as `docker save` makes it.

    :param tag: which image, if there are several: a tag, or a name with its tag.
    :raises ImageError: it is no such file, or has no such image.
    """
    with _opened(path, what) as file:
        try:
            members = _members(file, what)
        except TarError as error:
            raise ImageError(f"{what} cannot be read: {error}") from None
        listing = _parse_listing(_content(file, members, "manifest.json", what), what)
        entry = _choose(listing, tag, what)
        layers = entry.get("Layers")
        if not isinstance(layers, list):
            raise ImageError(f"{what} is damaged: its list of images is malformed")
        configuration = _content(file, members, str(entry.get("Config")), what)
        places = tuple(_place(members, str(layer), what) for layer in layers)
    return ArchivedImage(path, configuration, places)


@contextlib.asynccontextmanager
async def tree_archive(path: Path, what: str) -> AsyncIterator[int]:
    """A directory tree as an archive, in a pipe. Other file systems in it are left out."""
    async with fed(_tree_writer(path, what)) as descriptor:
        yield descriptor


@contextlib.contextmanager
def plain_archive(path: Path, what: str) -> Iterator[int]:
    """A tar file."""
    with _opened(path, what) as file:
        yield file.fileno()


# --- docker save -------------------------------------------------------------------


@attrs.frozen
class _Member:
    offset: int
    size: int
    link: str | None


class _File:
    """A file as the source of an archive, in which one can skip."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def skip(self, count: int) -> int:
        position = self._file.tell()
        skipped = min(count, self._size - position)
        self._file.seek(position + skipped)
        return skipped


def _members(file: BinaryIO, what: str) -> dict[str, _Member]:
    if file.read(2) == b"\x1f\x8b":
        raise ImageError(f"{what} is compressed: unpack it with gunzip first")
    file.seek(0)
    members: dict[str, _Member] = {}
    for entry in TarReader(_File(file)):
        name = posixpath.normpath(os.fsdecode(entry.name))
        link = os.fsdecode(entry.link) if entry.kind in (b"1", b"2") else None
        members[name] = _Member(file.tell(), entry.size, link)
        if len(members) > _MAX_MEMBERS:
            raise ImageError(f"{what} has too many files")
    return members


def _place(members: dict[str, _Member], name: str, what: str) -> tuple[int, int]:
    """Where a member is, over one link: layers that images share are stored once."""
    name = posixpath.normpath(name)
    member = members.get(name)
    if member is not None and member.link is not None:
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.link))
        member = members.get(beside) or members.get(posixpath.normpath(member.link))
    if member is None or member.link is not None:
        raise ImageError(f"{what} is damaged, or not made by `docker save`: it has no {name!r}")
    return member.offset, member.size


def _content(file: BinaryIO, members: dict[str, _Member], name: str, what: str) -> bytes:
    offset, size = _place(members, name, what)
    if size > MAX_DOCUMENT:
        raise ImageError(f"{what} is damaged: {name!r} is too large")
    file.seek(offset)
    return file.read(size)


def _parse_listing(data: bytes, what: str) -> list[dict[str, Any]]:
    try:
        listing = json.loads(data)
    except (ValueError, RecursionError):
        listing = None
    if not isinstance(listing, list) or not all(isinstance(entry, dict) for entry in listing):
        raise ImageError(f"{what} is damaged: its list of images is malformed")
    return listing


def _choose(listing: list[dict[str, Any]], tag: str | None, what: str) -> dict[str, Any]:
    names = [[str(name) for name in entry.get("RepoTags") or ()] for entry in listing]
    if tag is None:
        if len(listing) == 1:
            return listing[0]
        every = ", ".join(sorted(name for entry in names for name in entry))
        raise ImageError(f"{what} holds several images, say which one: {every}")
    for entry, own in zip(listing, names, strict=True):
        if any(name == tag or name.endswith((f":{tag}", f"/{tag}")) for name in own):
            return entry
    raise ImageError(f"there is no image {tag!r} in {what}")


# --- Trees and files ---------------------------------------------------------------


def _tree_writer(top: Path, what: str) -> Callable[[BinaryIO], None]:
    def write(target: BinaryIO) -> None:
        if not top.is_dir():
            raise ImageError(f"{what} cannot be read: there is no directory {str(top)!r}")
        try:
            write_tree(target, top.resolve(), top.stat().st_dev)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ImageError(f"{what} cannot be read: {error}") from None

    def write_tree(target: BinaryIO, real: Path, device: int) -> None:
        def prepare(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
            # The same tree is the same archive, whoever owns it here.
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            if info.isdir():
                place = real / info.name
                if place.lstat().st_dev != device:
                    return None
            return info

        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            archive.add(real, arcname="./", filter=prepare)

    return write


def _require_document(blob: Descriptor) -> None:
    if blob.size > MAX_DOCUMENT:
        raise ImageError(f"a document of the image is too large: {blob.size} bytes")


@contextlib.contextmanager
def _opened(path: Path, what: str) -> Iterator[BinaryIO]:
    """A regular file.

    :raises ImageError: there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"{what} cannot be read: {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(f"{what} cannot be read: {path} is no file")
    with open(descriptor, "rb") as file:  # noqa: PTH123
        yield file
