"""The state directory: where all that sandboxes are made of is kept, and whose it is.

If the host is root, the directory itself stays root's; what is in it for sandboxes belongs
to the identity that builds them, and so do the directories that lead there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import attrs

from .identity import Identity

_UNFINISHED: Final = ".unfinished-"


@attrs.frozen
class StateDirectory:
    """The state directory.

    :ivar path: absolute, without links.
    :ivar as_given: absolute, as its user names it.
    :ivar identity: the owner of sandboxes if the host is root, else None.
    """

    path: Path
    as_given: Path
    identity: Identity | None

    def locate(self, path: Path) -> Path:
        """The absolute path, without the links that lead to the state directory."""
        absolute = path.absolute()
        if absolute.is_relative_to(self.as_given):
            return self.path / absolute.relative_to(self.as_given)
        return absolute

    def name_of(self, path: Path) -> str:
        """A path relative to the state directory, as the zygote's children take it.

        :raises ValueError: it is not below the state directory.
        """
        located = self.locate(path)
        if not located.is_relative_to(self.path) or located == self.path or ".." in located.parts:
            raise ValueError(f"{located} is not below the state directory {self.path}")
        return str(located.relative_to(self.path))

    def prepare(self, path: Path, mode: int) -> None:
        """Make a directory that the sandboxes' owner can use, and own the way to it."""
        self.let_enter(path)
        if not path.is_dir():
            path.mkdir(mode=0o700)
            path.chmod(mode)
        self._give_to_owner(path)

    def let_enter(self, path: Path) -> None:
        """Give the directories between the state directory and `path` to the owner."""
        if not path.is_relative_to(self.path):
            return
        below = path.relative_to(self.path).parents
        for parent in reversed([self.path / part for part in below][:-1]):
            parent.mkdir(mode=0o700, exist_ok=True)
            self._give_to_owner(parent)

    def give_what_was_begun(self, path: Path) -> None:
        """Give a directory and those in it to the owner: a host may have died before it did."""
        for directory in (path, *path.glob("*")):
            if directory.is_dir() and not directory.is_symlink():
                self._give_to_owner(directory)

    def _give_to_owner(self, path: Path) -> None:
        if self.identity is not None and path.lstat().st_uid == 0:
            os.chown(path, self.identity.user, self.identity.group, follow_symlinks=False)


def require_new(path: Path) -> None:
    """Refuse to make something under a name that is taken.

    :raises FileExistsError: it is.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")


def move_directory(source: Path, target: Path) -> None:
    """Rename a directory, whatever its mode.

    :raises FileExistsError: something has the new name already.
    """
    require_new(target)
    try:
        source.rename(target)
    except PermissionError:
        # To change its parent a directory must be writable, which a sandbox may have taken
        # from its root. The owner can give it back.
        mode = stat.S_IMODE(source.lstat().st_mode)
        if mode & 0o200:
            raise
        source.chmod(mode | 0o700)
        try:
            source.rename(target)
        except BaseException:
            with contextlib.suppress(OSError):
                source.chmod(mode)
            raise
        target.chmod(mode)


def unfinished(layer: Path) -> Path:
    """A new name beside a layer's, for what is not a layer yet or not any more."""
    return layer.with_name(f"{layer.name}{_UNFINISHED}{secrets.token_hex(8)}")


def remove_leftovers(directory: Path) -> list[Path]:
    """What has such a name: files are removed at once, directories are returned."""
    left = sorted(directory.glob(f"*{_UNFINISHED}*"))
    for entry in left:
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
    return [entry for entry in left if entry.is_dir()]
