"""Writing a directory as a tar stream, and unpacking one that nobody trusts."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import attrs

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.plans.archives import PREFIX, IgnoreRules, entry_path, link_is_inside

from .directory_report import DirectoryReport, SymlinkPolicy

_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 256 * 1024
_MODE_BITS = 0o777


# --- packing --------------------------------------------------------------------------


@attrs.frozen
class _Entry:
    """One thing to pack, as it was when it was found."""

    info: bytes
    file: Path | None
    size: int


class DirectoryArchive:
    """A directory of this machine as a tar file that is made while it is read.

    :ivar report: what is in it.
    :ivar length: its size in bytes.
    """

    def __init__(self, root: Path, ignore: IgnoreRules, symlinks: SymlinkPolicy) -> None:
        """Look through the directory; its files are not read yet.

        :raises OSError: something in it cannot be looked at.
        """
        if not root.is_dir():
            raise NotADirectoryError(f"{str(root)!r} is not a directory")
        self.report = DirectoryReport()
        self._ignore = ignore
        self._symlinks = symlinks
        self._entries = list(self._scan(root, "", (_identity(root.stat()),)))
        content = sum(len(entry.info) + _padded(entry.size) for entry in self._entries)
        self.length = content + 2 * _BLOCK

    def _scan(
        self, directory: Path, prefix: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[_Entry]:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = prefix + entry.name
            is_link = entry.is_symlink()
            follow = self._symlinks == "follow"
            try:
                status = entry.stat(follow_symlinks=follow)
            except FileNotFoundError:
                self.report.skipped[path] = "it leads nowhere" if is_link else "it is gone"
                continue
            is_dir = stat.S_ISDIR(status.st_mode)
            if self._ignore.ignores(path, is_dir=is_dir):
                continue
            if is_dir:
                identity = _identity(status)
                if is_link and identity in above:
                    self.report.skipped[path] = "it leads to a directory that it is in"
                    continue
                self.report.directories += 1
                yield _entry(path, status, tarfile.DIRTYPE)
                yield from self._scan(Path(entry.path), f"{path}/", (*above, identity))
            elif stat.S_ISLNK(status.st_mode):
                if self._symlinks == "skip":
                    self.report.skipped[path] = "it is a symbolic link"
                    continue
                self.report.links += 1
                yield _entry(path, status, tarfile.SYMTYPE, link=os.readlink(entry.path))  # noqa: PTH115
            elif stat.S_ISREG(status.st_mode):
                self.report.files += 1
                self.report.bytes += status.st_size
                yield _entry(path, status, tarfile.REGTYPE, file=Path(entry.path))
            else:
                self.report.skipped[path] = "it is a device, pipe or socket"

    def begin(self) -> AsyncIterator[bytes]:
        """The archive from its beginning."""
        return _ArchiveReader(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        """In pieces that are worth a write: many files are smaller than their headers."""
        gathered = bytearray()
        for piece in self._parts():
            gathered += piece
            if len(gathered) >= _CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
        yield bytes(gathered)

    def _parts(self) -> Iterator[bytes]:
        for entry in self._entries:
            yield entry.info
            if entry.file is not None:
                yield from _content(entry.file, entry.size)
                yield bytes(_padded(entry.size) - entry.size)
        yield bytes(2 * _BLOCK)


class _ArchiveReader:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> _ArchiveReader:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def _entry(
    path: str, status: os.stat_result, kind: bytes, *, file: Path | None = None, link: str = ""
) -> _Entry:
    info = tarfile.TarInfo(path)
    info.type = kind
    info.mode = stat.S_IMODE(status.st_mode) & _MODE_BITS
    info.mtime = int(status.st_mtime)
    info.linkname = link
    info.size = status.st_size if file is not None else 0
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return _Entry(header, file, info.size)


def _content(path: Path, size: int) -> Iterator[bytes]:
    """A file as long as it was when it was found: what was appended since is left out."""
    left = size
    with path.open("rb", buffering=0) as file:
        while left:
            data = file.read(min(_CHUNK_BYTES, left))
            if not data:
                raise SandboxClientError(f"{str(path)!r} became shorter while it was uploaded")
            left -= len(data)
            yield data


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


# --- unpacking ------------------------------------------------------------------------


class Unpacker:
    """Unpacks an archive into a directory, and writes nothing outside of it.

    Nothing is written through a link: each directory on the way is looked at before, links
    that are in the archive are made last, and files are put in their place by a rename. So
    neither ``..``, nor an absolute name, nor a link of any kind leads out.

    :ivar report: what was unpacked so far.
    """

    def __init__(self, target: Path, ignore: IgnoreRules, symlinks: SymlinkPolicy) -> None:
        self.report = DirectoryReport()
        self._ignore = ignore
        self._symlinks = symlinks
        target.mkdir(parents=True, exist_ok=True)
        self._target = target.resolve()
        self._real = {""}  # directories that were found to be no links
        self._written: set[str] = set()
        self._links: list[tuple[str, str]] = []
        self._modes: list[tuple[str, int, float]] = []

    def unpack(self, archive: IO[bytes], proceed: Callable[[], object]) -> None:
        """Unpack all of it.

        :param proceed: called for each entry; may raise.
        :raises SandboxClientError: it is damaged, or tries to reach outside.
        :raises OSError: something cannot be written.
        """
        try:
            with tarfile.open(fileobj=archive, mode="r:", errors="surrogateescape") as tar:
                for member in tar:
                    proceed()
                    self._unpack(tar, member)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise SandboxClientError(f"the archive from the sandbox is refused: {error}") from error
        for path, target in self._links:
            self._make_link(path, target)
        for path, mode, modified in reversed(self._modes):
            with contextlib.suppress(OSError):
                os.utime(self._target / path, (modified, modified))
                (self._target / path).chmod(mode)

    def _unpack(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = entry_path(member.name)
        if path is None or path.startswith(PREFIX):
            return
        if self._ignore.ignores_any(path, is_dir=member.isdir()):
            return
        mode = (member.mode or 0) & _MODE_BITS & ~0o022
        if member.isdir():
            self._enter(path)
            self._modes.append((path, mode | 0o700, member.mtime))
            self.report.directories += 1
        elif member.issym():
            self._links.append((path, member.linkname))
        elif member.islnk():
            self._copy(path, member)
        elif member.isreg():
            content = tar.extractfile(_filtered(member, self._target))
            assert content is not None
            self._write(path, content, mode | 0o600, member.mtime)
        else:
            self.report.skipped[path] = "it is a device, pipe or socket"

    def _enter(self, path: str) -> Path:
        """A directory, made if it is missing, none of whose parents is a link."""
        if path not in self._real:
            parent, _, name = path.rpartition("/")
            directory = self._enter(parent) / name
            try:
                directory.mkdir()
            except FileExistsError:
                if not stat.S_ISDIR(directory.lstat().st_mode):
                    raise SandboxClientError(
                        f"cannot unpack over {str(directory)!r}: it is a link or a file here, "
                        "and a directory in the sandbox"
                    ) from None
            self._real.add(path)
        return self._target / path

    def _write(self, path: str, content: IO[bytes], mode: int, modified: float) -> None:
        parent, _, name = path.rpartition("/")
        directory = self._enter(parent)
        temporary = directory / f".sandbox-{os.urandom(8).hex()}.part"
        size = 0
        try:
            with temporary.open("xb") as file:
                while data := content.read(_CHUNK_BYTES):
                    file.write(data)
                    size += len(data)
            os.utime(temporary, (modified, modified))
            temporary.chmod(mode)
            temporary.replace(directory / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._written.add(path)
        self.report.files += 1
        self.report.bytes += size

    def _copy(self, path: str, member: tarfile.TarInfo) -> None:
        """A second name of a file: only of one that has just been written here."""
        source = entry_path(member.linkname)
        if source is None or source not in self._written or source == path:
            self.report.skipped[path] = "it is a second name of a file that was not transferred"
            return
        status = (self._target / source).stat()
        with (self._target / source).open("rb") as content:
            self._write(path, content, stat.S_IMODE(status.st_mode), status.st_mtime)

    def _make_link(self, path: str, target: str) -> None:
        if self._symlinks == "skip":
            self.report.skipped[path] = "it is a symbolic link"
            return
        if not link_is_inside(path, target):
            self.report.skipped[path] = f"it is a symbolic link that leads outside: {target!r:.200}"
            return
        parent, _, name = path.rpartition("/")
        directory = self._enter(parent)
        temporary = directory / f".sandbox-{os.urandom(8).hex()}.part"
        try:
            temporary.symlink_to(target)
            temporary.replace(directory / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self.report.skipped[path] = f"it is a symbolic link: {error.strerror}"
        else:
            self.report.links += 1


def _filtered(member: tarfile.TarInfo, target: Path) -> tarfile.TarInfo:
    """The standard library's opinion of an entry, besides our own."""
    data_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
    if data_filter is None:
        return member
    plain: tarfile.TarInfo = data_filter(member, str(target))
    return plain


def ignore_rules(patterns: Iterable[str], symlinks: str) -> IgnoreRules:
    """What is left out; the policy for links is checked, too.

    :raises ValueError: a pattern or the policy is none.
    """
    if symlinks not in ("keep", "follow", "skip"):
        raise ValueError(f"symlinks must be 'keep', 'follow' or 'skip', not {symlinks!r}")
    return IgnoreRules.of(patterns)
