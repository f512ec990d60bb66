"""Walking directory trees that a sandbox has made: of any depth, with any mode, full of links.

No path is ever put together. A place is held by one descriptor, and left by `..`, which
must lead back to where one came from.

Standard library only: this runs in children of the zygote, as the files' owner.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

OPAQUE: Final = "user.overlay.opaque"
"""The mark of a directory that hides what lies below it, as overlayfs writes it."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_parent(state: str, name: str) -> tuple[int, str]:
    """A handle on the directory that holds `name`, a plain relative path below `state`.

    Returns it with the path's last part. No link is followed below `state`.

    :raises OSError: there is no such directory, or the path leads over a link or out.
    """
    *parents, last = name.split("/")
    if not last or {"", ".", ".."} & {*parents, last}:
        raise PermissionError(errno.EPERM, "not a plain path below the state directory", name)
    directory = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for parent in parents:
        try:
            below = os.open(parent, _HANDLE, dir_fd=directory)
        finally:
            os.close(directory)
        directory = below
    return directory, last


def open_below(state: str, name: str) -> int:
    """Open the directory `name`, a plain relative path below the directory `state`.

    :raises OSError: as `open_parent`.
    """
    parent, last = open_parent(state, name)
    try:
        return os.open(last, _DIRECTORY, dir_fd=parent)
    finally:
        os.close(parent)


class Place:
    """A directory somewhere in a tree. Owns its descriptor.

    :ivar descriptor: the directory, open for reading; changes with every step.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._way: list[tuple[int, int]] = []

    def enter(self, name: str) -> None:
        """Step down. Never over a link."""
        below = os.open(name, _DIRECTORY, dir_fd=self.descriptor)
        here = os.fstat(self.descriptor)
        self._way.append((here.st_dev, here.st_ino))
        os.close(self.descriptor)
        self.descriptor = below

    def leave(self) -> None:
        """Step back up.

        :raises OSError: the directory has been moved meanwhile.
        """
        above = os.open("..", _DIRECTORY, dir_fd=self.descriptor)
        there = os.fstat(above)
        if (there.st_dev, there.st_ino) != self._way.pop():
            os.close(above)
            raise OSError(errno.ESTALE, "a directory was moved while it was read")
        os.close(self.descriptor)
        self.descriptor = above

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """What is in the directory."""
        with os.scandir(self.descriptor) as entries:
            yield from entries

    def status(self, name: str) -> os.stat_result | None:
        """Of one entry, itself and not what it leads to; None if there is no such entry."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_opaque(self, name: str) -> bool:
        """Whether a subdirectory hides what lies below it."""
        descriptor = os.open(name, _DIRECTORY, dir_fd=self.descriptor)
        try:
            return is_opaque(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry means "nothing, whatever lies below", as overlayfs writes it."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int) -> bool:
    """Whether a directory hides what lies below it."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def disk_usage(top: int) -> int:
    """The bytes a tree takes up on its disk, each hard-linked file counted once."""
    place = Place(os.dup(top))
    counted: set[tuple[int, int]] = set()
    blocks = os.fstat(top).st_blocks
    pending: list[list[str]] = []
    try:
        while True:
            below = []
            for entry in place.entries():
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                elif status.st_nlink > 1:
                    identity = (status.st_dev, status.st_ino)
                    if identity in counted:
                        continue
                    counted.add(identity)
                blocks += status.st_blocks
            pending.append(below)
            while not pending[-1]:
                pending.pop()
                if not pending:
                    return blocks * 512
                place.leave()
            place.enter(pending[-1].pop())
    finally:
        place.close()
