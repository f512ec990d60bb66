"""The file that a download becomes, while it is not complete: beside its place, by another name."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

from sandbox_proto.plans.download import DownloadProgress

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class PartialFile:
    """Holds what was fetched; `commit` moves it into place in one step.

    With `resume` its name follows from what is fetched to where, and what an earlier attempt
    left there is taken over. While another download holds that name, a fresh one is used.

    :param source: what is fetched: the same text is the same file.
    :ivar saved: how far the earlier attempt was.
    :raises OSError: there can be no file here.
    """

    def __init__(self, target: Path, source: str, *, resume: bool) -> None:
        self._target = target.resolve()
        if self._target.is_dir():
            raise IsADirectoryError(f"{str(target)!r} is a directory: name the file to write")
        self.saved: DownloadProgress | None = None
        self._descriptor = -1
        self._keeps = False
        if resume:
            self._take_over(source)
        if self._descriptor < 0:
            self._make()

    def _take_over(self, source: str) -> None:
        key = f"{self._target.name}\0{source}".encode("utf-8", "surrogateescape")
        import hashlib

        digest = hashlib.sha256(key).hexdigest()[:24]
        self._place = self._target.with_name(f".sandbox-{digest}.part")
        descriptor = os.open(self._place, _OPEN, 0o666)
        if not _lock(descriptor, self._place):
            os.close(descriptor)
            return
        self._descriptor = descriptor
        self._keeps = True
        with contextlib.suppress(OSError, ValueError):
            saved = DownloadProgress.parse(json.loads(self._note.read_text()))
            if saved is not None and (not saved.done or self._size() >= saved.done[-1][1]):
                self.saved = saved
        # It holds for what is there now; what is written from here on, it does not know.
        self._note.unlink(missing_ok=True)

    def _make(self) -> None:
        self._place = self._target.with_name(f".sandbox-{os.urandom(12).hex()}.part")
        self._descriptor = os.open(self._place, _OPEN | os.O_EXCL, 0o666)

    @property
    def _note(self) -> Path:
        return self._place.with_suffix(".json")

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes in their place.

        :raises OSError: the disk is full.
        """
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def clear(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._descriptor, 0)

    def commit(self, size: int) -> None:
        """All is there: the file appears in its place, with the mode of what it replaces."""
        os.ftruncate(self._descriptor, size)
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(self._target.stat().st_mode)
            self._place.chmod(mode)
        self._close()
        self._place.replace(self._target)

    def leave(self, progress: DownloadProgress | None) -> None:
        """The download has failed: write down how far it was, or leave nothing behind."""
        if self._descriptor < 0:
            return
        if self._keeps and progress is not None and progress.done:
            with contextlib.suppress(OSError):
                # What the note says must be there, also after a loss of power.
                os.fsync(self._descriptor)
                self._note.write_text(json.dumps(progress.to_data()))
                self._close()
                return
        with contextlib.suppress(OSError):
            self._place.unlink()
        self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def _lock(descriptor: int, place: Path) -> bool:
    """Keep others from a file that has just been opened. Whether it is still in its place."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return place.stat().st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False
