"""Files of a sandbox, opened from inside it without trusting anything in it.

Paths, links and file types are the sandboxed programs' to choose. Resolution ends at the
sandbox's root and follows no magic link: `/proc/self/exe` would be the supervisor's own
executable, which is the host's. For the same reason nothing on procfs or sysfs is opened.

Standard library only: this module runs in the supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from . import linux

_NEW_FILE_MODE: Final = 0o644
_NEW_DIRECTORY_MODE: Final = 0o755
_MAX_LINKS: Final = 40  # as many as the kernel follows
_RETRIES: Final = 8
TEMPORARY_PREFIX: Final = ".sandbox-upload-"


def _refusal(code: int, path: str, message: str | None = None) -> OSError:
    return OSError(code, message or os.strerror(code), path)


def _resolve(root: int, path: str, flags: int, more: int = 0) -> int:
    resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS | more
    for attempt in range(_RETRIES):
        try:
            return linux.openat2(root, path, flags, resolve)
        except OSError as error:
            # EAGAIN: something was renamed during the walk, and the kernel could not
            # tell whether ".." stayed inside.
            if error.errno != errno.EAGAIN or attempt == _RETRIES - 1:
                raise
    raise AssertionError("unreachable")


def _refuse_kernel_files(descriptor: int, path: str) -> None:
    if linux.file_system_type(descriptor) in (linux.PROC_SUPER_MAGIC, linux.SYSFS_MAGIC):
        raise _refusal(errno.EACCES, path, "files of the kernel are not accessible this way")


def _require_regular(descriptor: int, path: str) -> os.stat_result:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise _refusal(errno.EISDIR, path)
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(errno.EINVAL, path, "not a regular file")
    return status


def open_root() -> int:
    """The directory below which all paths are resolved: this process's root."""
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_regular(root: int, path: str) -> int:
    """Open a regular file for reading.

    :raises OSError: with the errno `SandboxPathError` documents.
    """
    # Looked at before it is opened: opening a FIFO or a device may already do something.
    probe = _resolve(root, path, os.O_PATH)
    try:
        _require_regular(probe, path)
        _refuse_kernel_files(probe, path)
    finally:
        os.close(probe)
    descriptor = _resolve(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(descriptor, path)
        _refuse_kernel_files(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_readable(root: int, path: str) -> int:
    """Open a directory or a regular file for reading.

    :raises OSError: with the errno `SandboxPathError` documents.
    """
    try:
        descriptor = _open_directory(root, path)
    except NotADirectoryError:
        return open_regular(root, path)
    try:
        _refuse_kernel_files(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class PendingUpload:
    """A file under a temporary name in the directory it will appear in."""

    def __init__(self, root: int, path: str) -> None:
        """Create it, with every missing parent directory.

        :raises OSError: the destination is a directory or special, or cannot be written.
        """
        self._directory, self._name = _find_destination(root, path)
        self.descriptor = -1
        self._temporary = f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
        try:
            self._mode, self._owner = self._look_at_existing(path)
            self.descriptor = os.open(
                self._temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
                dir_fd=self._directory,
            )
        except BaseException:
            os.close(self._directory)
            raise

    def _look_at_existing(self, path: str) -> tuple[int, tuple[int, int] | None]:
        """Mode and owner the file will have: the existing one's, if there is one."""
        try:
            existing = os.open(
                self._name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory
            )
        except FileNotFoundError:
            return _NEW_FILE_MODE, None
        try:
            status = _require_regular(existing, path)
        finally:
            os.close(existing)
        return stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)

    def commit(self) -> None:
        """Move the file into place."""
        try:
            if self._owner is not None:
                # An owner that is not mapped here cannot be given; root's it is then.
                with contextlib.suppress(OSError):
                    os.fchown(self.descriptor, *self._owner)
            os.fchmod(self.descriptor, self._mode)  # after fchown, which clears setuid bits
            os.rename(
                self._temporary,
                self._name,
                src_dir_fd=self._directory,
                dst_dir_fd=self._directory,
            )
        except BaseException:
            self.abort()
            raise
        self._close()

    def abort(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._directory)
        self._close()

    def _close(self) -> None:
        os.close(self.descriptor)
        os.close(self._directory)


def _find_destination(root: int, path: str) -> tuple[int, str]:
    """The directory and the name a write to `path` ends up at, links followed.

    The last component is followed by hand, because the file is put there by a rename,
    which would replace the link instead of writing through it.
    """
    wanted = path
    for _ in range(_MAX_LINKS):
        parent, _, name = wanted.rpartition("/")
        if name in ("", ".", ".."):
            raise _refusal(errno.EISDIR, path)
        directory = _open_parents(root, parent or "/")
        try:
            _refuse_kernel_files(directory, path)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            link = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else None
        except FileNotFoundError:
            link = None
        except BaseException:
            os.close(directory)
            raise
        if link is None:
            return directory, name
        os.close(directory)
        wanted = link if link.startswith("/") else f"{parent}/{link}"
    raise _refusal(errno.ELOOP, path)


def _open_parents(root: int, path: str) -> int:
    """Open a directory; what is missing of it is made."""
    try:
        return _open_directory(root, path)
    except FileNotFoundError:
        pass
    walked = ""
    directory = _open_directory(root, "/")
    for name in path.split("/"):
        if not name:
            continue
        walked = f"{walked}/{name}"
        try:
            try:
                below = _open_directory(root, walked)
            except FileNotFoundError:
                _refuse_kernel_files(directory, path)
                os.mkdir(name, _NEW_DIRECTORY_MODE, dir_fd=directory)
                below = _open_directory(root, walked)
        finally:
            os.close(directory)
        directory = below
    return directory


def _open_directory(root: int, path: str) -> int:
    return _resolve(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
