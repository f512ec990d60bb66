"""Unpacking one layer of an image into a directory of its own, whatever its archive says.

This process has made the directory its root: no name, no link and no `..` in the archive
can lead anywhere else. Everything in it belongs to the one user there is.

In a layer's archive, `.wh.NAME` takes NAME away from the layers below, and
`.wh..wh..opq` takes away everything that they have in its directory. Here these become
what overlayfs understands. Devices are left out.

Standard library only: this runs in a child of the zygote.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from .streams import Stream
from .tar_reader import Entry, TarError, TarReader
from .trees import OPAQUE

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1024 * 1024
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_LATEST: Final = (1 << 33) * 10**9  # in nanoseconds: far enough, and file systems know it
_MAX_REMEMBERED: Final = 128 * 1024 * 1024  # bytes of paths

_FILE, _LINK, _SYMBOLIC_LINK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"5", b"6"
_DEVICES: Final = (b"3", b"4")

# An image cannot bring what overlayfs takes for its own notes, or a security module's labels.
_KEPT_ATTRIBUTES: Final = (b"user.", b"security.capability")
_FORBIDDEN_ATTRIBUTES: Final = b"user.overlay."


class Limits(NamedTuple):
    """How much an archive may hold: entries, and bytes of all files together."""

    entries: int
    size: int


class Extracted(NamedTuple):
    """What an archive was: the digest of its uncompressed bytes, its entries and their bytes."""

    digest: str
    entries: int
    size: int


def extract(descriptor: int, limits: Limits, trash: int) -> Extracted:
    """Unpack an archive into this process's root directory, which is empty.

    :param trash: a directory outside of it, for what the archive itself replaces.
    :raises TarError: it is damaged, too large, or holds what no layer can.
    :raises OSError: the disk is full, or fails.
    """
    stream = Stream(descriptor)
    reader = TarReader(stream)
    extraction = _Extraction(reader, limits, trash)
    for entry in reader:
        try:
            extraction.add(entry)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            name = entry.name.decode(errors="replace")[:200]
            raise TarError(f"{name!r} cannot be unpacked: {error.strerror}") from None
    extraction.finish()
    return Extracted(stream.finish(), extraction.entries, extraction.size)


class _Extraction:
    """Entries become files. All paths begin at this process's root."""

    def __init__(self, reader: TarReader, limits: Limits, trash: int) -> None:
        self._reader = reader
        self._limits = limits
        self._trash = trash
        self._times: dict[bytes, int] = {}  # of directories, which change until the end
        self._opaque: set[bytes] = set()
        self._whiteouts: set[bytes] = set()
        self._remembered = 0
        self.entries = 0
        self.size = 0

    def add(self, entry: Entry) -> None:
        """Unpack one entry."""
        self._count(entry)
        parts = _parts(entry.name)
        if not parts:
            if entry.kind == _DIRECTORY:
                self._complete_directory(b"/", entry)
            return
        path = b"/" + b"/".join(parts)
        if any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            return  # in a directory of aufs' own
        if parts[-1].startswith(_WHITEOUT):
            self._hide(path, parts[-1])
        elif entry.kind == _DIRECTORY:
            self._make_directory(path, entry)
        elif entry.kind == _FILE:
            self._make_file(path, entry)
        elif entry.kind == _SYMBOLIC_LINK:
            if not entry.link:
                raise TarError("a symbolic link of the archive leads nowhere")
            self._clear(path)
            os.symlink(entry.link, path)  # noqa: PTH211
            _set_time(path, entry)
        elif entry.kind == _LINK:
            self._make_link(path, entry)
        elif entry.kind == _FIFO:
            self._clear(path)
            os.mkfifo(path, entry.mode)
            _set_time(path, entry)
        elif entry.kind not in _DEVICES:
            raise TarError(f"the archive holds an entry of unknown kind {entry.kind!r}")

    def finish(self) -> None:
        """Do what had to wait for the last entry."""
        for path in self._whiteouts:
            # Where everything is hidden anyway, overlayfs would list a broken entry instead.
            if not self._opaque.isdisjoint((b"/", *_parents(path))):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if _is_whiteout(os.lstat(path)):
                        os.unlink(path)  # noqa: PTH108
        for path, modified in self._times.items():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.utime(path, ns=(modified, modified), follow_symlinks=False)

    def _count(self, entry: Entry) -> None:
        self.entries += 1
        self.size += entry.file_size
        if self.entries > self._limits.entries:
            raise TarError(f"the archive has more than {self._limits.entries} entries")
        if self.size > self._limits.size:
            raise TarError(f"the archive holds more than {self._limits.size} bytes")

    def _remember(self, path: bytes) -> bytes:
        self._remembered += len(path)
        if self._remembered > _MAX_REMEMBERED:
            raise TarError("the names in the archive are too long")
        return path

    # --- Kinds of entries ----------------------------------------------------------

    def _make_directory(self, path: bytes, entry: Entry) -> None:
        present = self._prepare_parent(path)
        if present is None or not stat.S_ISDIR(present.st_mode):
            self._remove(path, present)
            os.mkdir(path, 0o700)  # noqa: PTH102
            if present is not None and _is_whiteout(present):
                self._make_opaque(path)  # the one below stays away
        self._complete_directory(path, entry)

    def _complete_directory(self, path: bytes, entry: Entry) -> None:
        _set_attributes(path, entry)
        os.chmod(path, entry.mode)  # noqa: PTH101
        self._times[self._remember(path)] = _time_of(entry)

    def _make_file(self, path: bytes, entry: Entry) -> None:
        self._clear(path)
        descriptor = os.open(path, _CREATE, 0o600)
        try:
            if entry.sparse is None:
                self._write(descriptor, entry.size)
            else:
                for offset, length in entry.sparse:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                    self._write(descriptor, length)
                os.ftruncate(descriptor, entry.file_size)
            _set_attributes(descriptor, entry)
            os.fchmod(descriptor, entry.mode)  # last: writing clears the setuid bit
            modified = _time_of(entry)
            os.utime(descriptor, ns=(modified, modified))
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, size: int) -> None:
        while size:
            data = self._reader.read(min(size, _CHUNK))
            size -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

    def _make_link(self, path: bytes, entry: Entry) -> None:
        target = b"/" + b"/".join(_parts(entry.link))
        if target == path:
            return
        self._clear(path)
        os.link(target, path, follow_symlinks=False)

    def _hide(self, path: bytes, name: bytes) -> None:
        """What stands in this layer is not hidden: only what is below it."""
        if name == _OPAQUE:
            directory = path[: -len(name) - 1] or b"/"
            self._prepare_parent(path)
            self._make_opaque(directory)
            return
        hidden = name[len(_WHITEOUT) :]
        if hidden.startswith(_WHITEOUT):
            return  # notes of aufs for itself
        if hidden in (b"", b".", b".."):
            raise TarError("a whiteout of the archive has no name")
        path = path[: -len(name)] + hidden
        present = self._prepare_parent(path)
        if present is None:
            os.mknod(path, stat.S_IFCHR)
            self._whiteouts.add(self._remember(path))
        elif stat.S_ISDIR(present.st_mode):
            self._make_opaque(path)

    def _make_opaque(self, path: bytes) -> None:
        os.setxattr(path, OPAQUE, b"y")
        self._opaque.add(self._remember(path))

    # --- Making room ---------------------------------------------------------------

    def _clear(self, path: bytes) -> None:
        """Make sure that nothing has this name, and that its directory exists."""
        self._remove(path, self._prepare_parent(path))

    def _prepare_parent(self, path: bytes) -> os.stat_result | None:
        """Make sure that the directory exists; what is there under this name."""
        try:
            return os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            for parent in _parents(path):
                try:
                    present = os.lstat(parent)
                except FileNotFoundError:
                    os.mkdir(parent, 0o755)  # noqa: PTH102
                else:
                    if _is_whiteout(present):
                        os.unlink(parent)  # noqa: PTH108
                        os.mkdir(parent, 0o755)  # noqa: PTH102
                        self._make_opaque(parent)
            return None

    def _remove(self, path: bytes, present: os.stat_result | None) -> None:
        if present is None:
            return
        if stat.S_ISDIR(present.st_mode):
            os.rename(path, str(self.entries), dst_dir_fd=self._trash)
        else:
            os.unlink(path)  # noqa: PTH108


def _parts(name: bytes) -> list[bytes]:
    """A name's components.

    :raises TarError: it is no name for a file of this layer.
    """
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise TarError("the archive holds a name that leads out of it")
    if b"\0" in name:
        raise TarError("the archive holds a name with a NUL in it")
    return parts


def _parents(path: bytes) -> Iterator[bytes]:
    """The directories above a path, from the highest one down."""
    end = path.find(b"/", 1)
    while end != -1:
        yield path[:end]
        end = path.find(b"/", end + 1)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode)


def _time_of(entry: Entry) -> int:
    return min(max(entry.modified, 0), _LATEST)


def _set_time(path: bytes, entry: Entry) -> None:
    modified = _time_of(entry)
    os.utime(path, ns=(modified, modified), follow_symlinks=False)


def _set_attributes(file: bytes | int, entry: Entry) -> None:
    for name, value in entry.attributes.items():
        if name.startswith(_KEPT_ATTRIBUTES) and not name.startswith(_FORBIDDEN_ATTRIBUTES):
            # Not every file system takes every one; no program depends on all of them.
            with contextlib.suppress(OSError, ValueError):
                os.setxattr(file, name, value)
