"""Layers without isolation: whole directories, since nothing is laid over anything."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.to_thread

from .base import (
    MAX_BYTES,
    MAX_ENTRIES,
    ExtractedTar,
    RunningSandbox,
    RuntimeUnavailableError,
    System,
)
from .directories import move_directory, remove_leftovers, require_new, unfinished


class PlainLayers:
    """What can be done to sandboxes' directories without isolation: keeping them.

    A captured layer holds everything that its sandbox had, and so hides all layers below.
    """

    async def capture_stopped(self, upper: Path, layer: Path) -> None:
        """Make a destroyed sandbox's directory a layer."""
        layer.parent.mkdir(parents=True, exist_ok=True)
        move_directory(upper, layer)

    async def capture_running(self, sandbox: RunningSandbox, upper: Path, layer: Path) -> float:
        """Copy a running sandbox's directory; returns the seconds it stood still."""
        require_new(layer)
        copy = unfinished(layer)
        began = anyio.current_time()
        try:
            async with sandbox.standstill():
                await anyio.to_thread.run_sync(_copy, upper, copy)
            pause = anyio.current_time() - began
            move_directory(copy, layer)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        return pause

    async def flatten(
        self,
        layers: Sequence[Path],
        target: Path,
        *,
        below: Sequence[Path] = (),
        system: System = "host",
    ) -> None:
        """Not possible.

        :raises RuntimeUnavailableError: always.
        """
        _refuse("merging layers")

    async def extract_tar(
        self,
        archive: Path | int,
        layer: Path,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> ExtractedTar:
        """Not possible.

        :raises RuntimeUnavailableError: always.
        """
        _refuse("unpacking images")

    async def usage(self, path: Path) -> int:
        """The bytes a directory takes up on its disk."""
        return await anyio.to_thread.run_sync(_usage, path)

    async def remove(self, layer: Path) -> None:
        """Delete a layer, whose name is free at once."""
        doomed = unfinished(layer)
        move_directory(layer, doomed)
        await anyio.to_thread.run_sync(shutil.rmtree, doomed)

    async def clean(self, directory: Path) -> None:
        """Remove what was begun in a directory and never became a layer."""
        await anyio.to_thread.run_sync(_clean, directory)


def refuse_images() -> NoReturn:
    """Refuse to build a sandbox that brings a system of its own.

    :raises RuntimeUnavailableError: always.
    """
    _refuse("running images")


def _refuse(what: str) -> NoReturn:
    raise RuntimeUnavailableError(
        f"{what} needs isolation, and this host runs without: start it with isolation 'auto'"
    )


def _clean(directory: Path) -> None:
    for entry in remove_leftovers(directory):
        shutil.rmtree(entry)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=_special_files)


def _special_files(directory: str, names: list[str]) -> list[str]:
    """What cannot be copied: FIFOs, sockets and devices."""
    ordinary = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    return [
        name
        for name in names
        if stat.S_IFMT(os.lstat(f"{directory}/{name}").st_mode) not in ordinary
    ]


def _usage(path: Path) -> int:
    blocks = {(path.lstat().st_dev, path.lstat().st_ino): path.lstat().st_blocks}
    for directory, directories, files in os.walk(path):
        for name in (*directories, *files):
            status = os.lstat(f"{directory}/{name}")
            blocks[status.st_dev, status.st_ino] = status.st_blocks
    return 512 * sum(blocks.values())
