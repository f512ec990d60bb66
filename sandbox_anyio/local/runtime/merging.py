"""Layers made into one: what overlayfs would show of them, written down as a single layer.

The result hides of the layers below it exactly what the originals did: whiteouts and the
marks of opaque directories stay where there is something below to hide, and only there.
(A whiteout that hides nothing can be listed as a broken entry by overlayfs.)

Merging a single layer copies it. Standard library only: this runs in a child of the zygote.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import copying, trees
from .trees import Place


class _Directory(NamedTuple):
    """A directory of the result that is being filled.

    :ivar sources: those layers, topmost first, that have it; their places are in it.
    :ivar below: those layers under the result that show through it, likewise; None if it is
        not known what lies there.
    :ivar opaque: it must hide what is below.
    :ivar todo: the subdirectories still to come.
    """

    sources: Sequence[Place]
    below: Sequence[Place] | None
    opaque: bool
    todo: list[str]


def merge(
    layers: Sequence[int], below: Sequence[int] | None, target: int, staging: int
) -> Callable[[], None]:
    """Merge directories into an empty one.

    Returns what is left to do, once the originals may change again.

    :param layers: topmost first.
    :param below: the layers that will lie under the result, topmost first; None if that is
        not known, and whatever hides something must stay.
    :param staging: another empty directory, for the time being.
    """
    sources = [Place(os.dup(layer)) for layer in layers]
    under = None if below is None else [Place(os.dup(layer)) for layer in below]
    written = Place(os.dup(target))
    copier = copying.Copier(staging)
    try:
        _Merge(written, copier).run(sources, under)
    finally:
        for place in (*sources, *(under or ()), written):
            place.close()
    return copier.finish


class _Merge:
    """Merges directory by directory. All places always stand in the same one."""

    def __init__(self, written: Place, copier: copying.Copier) -> None:
        self._written = written
        self._copier = copier

    def run(self, sources: Sequence[Place], below: Sequence[Place] | None) -> None:
        # Of a root overlayfs asks no marks: roots are always merged.
        open_directories = [self._begin(sources, below, opaque=False)]
        while open_directories:
            directory = open_directories[-1]
            if directory.todo:
                open_directories.append(self._descend(directory, directory.todo.pop()))
                continue
            self._complete(directory)
            open_directories.pop()
            if open_directories:
                for place in (*directory.sources, *(directory.below or ()), self._written):
                    place.leave()

    def _begin(
        self, sources: Sequence[Place], below: Sequence[Place] | None, *, opaque: bool
    ) -> _Directory:
        """Copy what is in a directory but no directory itself."""
        todo: list[str] = []
        seen: set[str] = set()
        only_one = len(sources) == 1
        for source in sources:
            for entry in source.entries():
                name = entry.name
                if not only_one:
                    if name in seen:
                        continue
                    seen.add(name)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(name)
                elif entry.is_file(follow_symlinks=False) or not _hides_nothing(
                    source, below, name
                ):
                    self._copier.copy(source.descriptor, name, self._written.descriptor)
        return _Directory(sources, below, opaque, todo)

    def _descend(self, directory: _Directory, name: str) -> _Directory:
        """Step into a subdirectory with all the layers that have a part in it."""
        sources, goes_on = _merged(name, directory.sources)
        below = None if directory.below is None else _merged(name, directory.below)[0]
        opaque = False
        if not goes_on:
            opaque = below is None or bool(below)  # only directories would be merged
            below = []
        os.mkdir(name, 0o700, dir_fd=self._written.descriptor)
        for place in (*sources, *(below or ()), self._written):
            place.enter(name)
        return self._begin(sources, below, opaque=opaque)

    def _complete(self, directory: _Directory) -> None:
        """The topmost layer decides what a directory is like; its times come last of all."""
        original, copy = directory.sources[0].descriptor, self._written.descriptor
        status = os.fstat(original)
        copying.copy_attributes(original, copy)
        if directory.opaque:
            os.setxattr(copy, trees.OPAQUE, b"y")
        os.fchmod(copy, stat.S_IMODE(status.st_mode))
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def _merged(name: str, places: Sequence[Place]) -> tuple[list[Place], bool]:
    """Which of these have a part in the directory `name`; and whether what is below has, too."""
    parts: list[Place] = []
    for place in places:
        status = place.status(name)
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            return parts, False
        parts.append(place)
        if place.is_opaque(name):
            return parts, False
    return parts, True


def _hides_nothing(source: Place, below: Sequence[Place] | None, name: str) -> bool:
    """Whether an entry is a whiteout for something that is not there anyway."""
    if below is None:
        return False
    status = source.status(name)
    if status is None or not trees.is_whiteout(status):
        return False
    for place in below:
        hidden = place.status(name)
        if hidden is not None:
            return trees.is_whiteout(hidden)
    return True
