"""Copying a layer's files, with everything about them that a sandbox can see.

Content (holes stay holes), modes with their special bits, times, extended attributes and
hard links; whiteouts, FIFOs and sockets as what they are.

Standard library only: this runs in children of the zygote, as root of a user namespace in
which the files' owner is the only user. So no mode keeps it from reading anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import Final

from . import trees
from .guarded_files import TEMPORARY_PREFIX

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE: Final = 0x40049409
_SMALL: Final = 128 * 1024
_CHUNK: Final = 16 * 1024 * 1024

_OVERLAY: Final = "user.overlay."
# How overlayfs writes down what programs in a sandbox call user.overlay.*
_ESCAPED: Final = "user.overlay.overlay."


class Copier:
    """Copies entries of directories into other directories.

    :param staging: an empty directory on the target's file system, where one name of every
        hard-linked file is kept. Emptied by `finish`.
    """

    def __init__(self, staging: int) -> None:
        self._staging = staging
        self._staged: set[str] = set()
        self._can_clone = True

    def copy(self, source: int, name: str, target: int) -> None:
        """Copy one entry that is no directory."""
        if name.startswith(TEMPORARY_PREFIX):
            return  # half an upload: the host is still writing it
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if status.st_nlink > 1:
            self._copy_linked(source, name, target, status)
        else:
            self._copy_alone(source, name, target, status)

    def finish(self) -> None:
        """Forget about hard links, so that files have no more names than they should."""
        for name in self._staged:
            os.unlink(name, dir_fd=self._staging)
        self._staged.clear()

    def _copy_linked(self, source: int, name: str, target: int, status: os.stat_result) -> None:
        staged = f"{status.st_dev}-{status.st_ino}"
        if staged in self._staged:
            try:
                os.link(
                    staged,
                    name,
                    src_dir_fd=self._staging,
                    dst_dir_fd=target,
                    follow_symlinks=False,
                )
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                # As many names as the file system allows: go on with another copy.
                os.unlink(staged, dir_fd=self._staging)
                self._staged.discard(staged)
            else:
                return
        if self._copy_alone(source, name, target, status):
            os.link(
                name, staged, src_dir_fd=target, dst_dir_fd=self._staging, follow_symlinks=False
            )
            self._staged.add(staged)

    def _copy_alone(self, source: int, name: str, target: int, status: os.stat_result) -> bool:
        """Copy without regard to other names. Returns whether there was anything to copy."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._copy_file(source, name, target, status)
            return True
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK) or trees.is_whiteout(status):
            os.mknod(name, status.st_mode, dir_fd=target)
        else:
            return False  # a device, which nothing in a sandbox could have made or could use
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
        return True

    def _copy_file(self, source: int, name: str, target: int, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        original = os.open(name, _READ, dir_fd=source)
        try:
            copy = os.open(name, _CREATE, mode & 0o777, dir_fd=target)
            try:
                self._copy_content(original, copy, status.st_size)
                copy_attributes(original, copy)
                if mode & 0o7000:  # after the content, which clears these bits
                    os.fchmod(copy, mode)
                os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(copy)
        finally:
            os.close(original)

    def _copy_content(self, original: int, copy: int, size: int) -> None:
        if size <= _SMALL:
            if size:
                _write_all(copy, os.read(original, size))
            return
        if self._can_clone:
            try:
                fcntl.ioctl(copy, _FICLONE, original)
            except OSError:
                self._can_clone = False  # this file system copies nothing lazily
            else:
                return
        os.ftruncate(copy, size)
        end = 0
        while end < size:
            try:
                start = os.lseek(original, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    return
                raise
            end = os.lseek(original, start, os.SEEK_HOLE)
            _copy_range(original, copy, start, end)


def copy_attributes(original: int, copy: int) -> None:
    """Copy a file's or directory's extended attributes, but for overlayfs' private notes.

    What overlayfs notes about a file's place below (`origin`, `impure`, ...) is not true of
    its copy. Opaqueness is the business of whoever merges directories.
    """
    for name in os.listxattr(original):
        if name.startswith(_OVERLAY) and not name.startswith(_ESCAPED):
            continue
        value = os.getxattr(original, name)
        if name.startswith("user."):
            os.setxattr(copy, name, value)
        else:
            # File capabilities and access lists can be kept. Labels of security modules
            # are not a sandbox's to set.
            with contextlib.suppress(OSError):
                os.setxattr(copy, name, value)


def _copy_range(original: int, copy: int, start: int, end: int) -> None:
    os.lseek(original, start, os.SEEK_SET)
    os.lseek(copy, start, os.SEEK_SET)
    in_kernel = True
    while start < end:
        wanted = min(end - start, _CHUNK)
        if in_kernel:
            try:
                count = os.copy_file_range(original, copy, wanted)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                in_kernel = False
                continue
        else:
            data = os.read(original, min(wanted, _SMALL))
            _write_all(copy, data)
            count = len(data)
        if not count:
            return  # it became shorter
        start += count


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
