"""The layers of images on this machine, each kept once however many images have it.

A layer is found by the digest of its uncompressed archive, which is computed here while it
is unpacked: nobody can plant another one under its name. Its directory has a short name,
because the names of all layers of a sandbox must fit into one mount; a file beside it has
the whole digest.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

import anyio
import attrs

from ..runtime.base import MAX_BYTES, MAX_ENTRIES, Runtime
from ..runtime.directories import unfinished
from .errors import ImageError
from .references import is_digest

_SHORT_NAMES: Final = (16, 32, 64)  # digits of the digest: the fewest that are unique
_TIDY_SECONDS: Final = 20
_OPAQUE: Final = "user.overlay.opaque"


@attrs.frozen
class StoredLayer:
    """A layer that is here.

    :ivar digest: of its uncompressed archive.
    :ivar path: its directory.
    :ivar size: the bytes of all its files.
    :ivar hides_all: nothing of the layers below it is to be seen.
    """

    digest: str
    path: Path
    size: int
    hides_all: bool


class ImageStore:
    """Layers in one directory.

    :param directory: below the runtime's state directory; made when it is first needed.
    :param max_entries: how many entries one layer may have.
    :param max_bytes: how many bytes the files of one layer may have.
    """

    def __init__(
        self,
        runtime: Runtime,
        directory: Path,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._runtime = runtime
        self._directory = directory
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    def find(self, digest: str) -> StoredLayer | None:
        """The layer with this digest, if it is here."""
        for name in _names(digest):
            record = self._read_record(name)
            path = self._directory / name
            if record is not None and record["digest"] == digest and path.is_dir():
                return StoredLayer(digest, path, int(record["size"]), _hides_all(path))
        return None

    @contextlib.asynccontextmanager
    async def claim(self, digest: str) -> AsyncIterator[StoredLayer | None]:
        """A stretch in which nobody else fetches this layer; it begins with what is here."""
        lock = self._locks[digest]
        try:
            async with lock:
                yield self.find(digest)
        finally:
            if not lock.locked():
                self._locks.pop(digest, None)

    async def add(self, archive: Path | int, expected: str | None) -> StoredLayer:
        """Unpack a layer's archive.

        :param archive: see `Layers.extract_tar`.
        :param expected: the digest it must have, uncompressed; None if any will do.
        :raises ImageError: it has another.
        :raises LayerError: it is damaged, or too large.
        """
        self._make_directory()
        fresh = unfinished(self._directory / "layer")
        try:
            made = await self._runtime.layers.extract_tar(
                archive, fresh, max_entries=self._max_entries, max_bytes=self._max_bytes
            )
            if expected not in (None, made.digest):
                raise ImageError(f"a layer is not what it should be: it is not {expected}")
            return self._keep(fresh, made.digest, made.size)
        finally:
            if fresh.is_dir():
                with anyio.move_on_after(_TIDY_SECONDS, shield=True):
                    await self._runtime.remove_tree(fresh)

    async def clean(self) -> None:
        """Remove what an earlier host began and did not finish. Before anything is fetched."""
        if not self._directory.is_dir():
            return
        await self._runtime.layers.clean(self._directory)
        for record in self._records():
            if not record.with_suffix("").is_dir():
                record.unlink()

    @contextlib.contextmanager
    def temporary_file(self) -> Iterator[BinaryIO]:
        """A file without a name, on the disk where layers are; gone after use, whatever happens."""
        self._make_directory()
        with tempfile.TemporaryFile(dir=self._directory) as file:
            yield cast("BinaryIO", file)

    # --- Names ------------------------------------------------------------------------

    def _keep(self, fresh: Path, digest: str, size: int) -> StoredLayer:
        present = self.find(digest)
        if present is not None:
            return present
        name = next(name for name in _names(digest) if self._is_free(name, digest))
        path = self._directory / name
        # First who it is: a directory without its record would be nobody's.
        record = _record_of(path)
        draft = unfinished(record)
        draft.write_text(json.dumps({"digest": digest, "size": size}))
        draft.rename(record)
        fresh.rename(path)
        return StoredLayer(digest, path, size, _hides_all(path))

    def _is_free(self, name: str, digest: str) -> bool:
        """Whether a layer may have this name: no other one has it."""
        if not (self._directory / name).exists():
            return True
        record = self._read_record(name)
        return record is not None and record["digest"] == digest

    def _read_record(self, name: str) -> dict[str, str] | None:
        try:
            record = json.loads(_record_of(self._directory / name).read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and {"digest", "size"} <= set(record) else None

    def _records(self) -> list[Path]:
        return [entry for entry in self._directory.glob("sha256-*.json") if entry.is_file()]

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _names(digest: str) -> Iterator[str]:
    if not is_digest(digest):
        raise ValueError(f"{digest!r} is no digest")
    digits = digest.removeprefix("sha256:")
    return (f"sha256-{digits[:length]}" for length in _SHORT_NAMES)


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _hides_all(path: Path) -> bool:
    # Of the root overlayfs takes no notice of such a mark.
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False
