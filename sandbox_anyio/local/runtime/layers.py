"""Layers of a runtime that isolates. See `Layers` for what each operation promises.

The work is done by children of the zygote, in directories that are no layers yet; only
the last step, a rename, is taken here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio

from . import zstd
from .base import (
    MAX_BYTES,
    MAX_ENTRIES,
    ExtractedTar,
    LayerError,
    RunningSandbox,
    RuntimeUnavailableError,
    System,
)
from .directories import (
    StateDirectory,
    move_directory,
    remove_leftovers,
    require_new,
    unfinished,
)
from .feeding import fed
from .forking import Errand, Zygote
from .layer_tasks import STAGING, TREE

_TIDY_SECONDS: Final = 20


async def remove_tree(zygote: Zygote, state: StateDirectory, path: Path) -> None:
    """Delete a directory below the state directory.

    :raises ValueError: it is not below the state directory.
    :raises OSError: something in it could not be removed.
    """
    name = state.name_of(path)
    state.give_what_was_begun(state.locate(path))
    async with zygote.errand({"do": "remove", "name": name}) as errand:
        answer = await errand.answer()
    _finish_removal(path, answer)


def _finish_removal(path: Path, answer: Mapping[str, Any]) -> None:
    if "error" in answer and path.exists():
        raise OSError(answer.get("errno") or 0, str(answer["error"]))
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()  # what is left if its parent is this process's alone


class BubblewrapLayers:
    """What can be done to the layers below a state directory.

    :param bases: the lowest layer of all sandboxes, by their system.
    :param is_in_use: whether a sandbox writes to this directory.
    """

    def __init__(
        self,
        zygote: Zygote,
        state: StateDirectory,
        bases: Mapping[str, Path],
        is_in_use: Callable[[Path], bool],
    ) -> None:
        self._zygote = zygote
        self._state = state
        self._bases = bases
        self._is_in_use = is_in_use

    async def capture_stopped(self, upper: Path, layer: Path) -> None:
        """Make a destroyed sandbox's writable layer a layer."""
        self._state.name_of(upper)
        self._state.name_of(layer)
        upper, layer = self._state.locate(upper), self._state.locate(layer)
        if self._is_in_use(upper):
            raise ValueError(f"{upper} is being written to by a sandbox that is running")
        self._state.let_enter(layer)
        move_directory(upper, layer)

    async def capture_running(self, sandbox: RunningSandbox, upper: Path, layer: Path) -> float:
        """Copy a running sandbox's writable layer; returns the seconds it stood still."""
        async with (
            self._new_layer(layer) as result,
            self._merging(result, [upper], None, wait=True) as errand,
        ):
            await _expect(errand, "waiting")
            began = anyio.current_time()
            async with sandbox.standstill():
                errand.tell({"go": True})
                await _expect(errand, "copied")
            pause = anyio.current_time() - began
            await _expect(errand, "done")
        return pause

    async def flatten(
        self,
        layers: Sequence[Path],
        target: Path,
        *,
        below: Sequence[Path] = (),
        system: System = "host",
    ) -> None:
        """Merge layers, topmost first, into one that shows and hides the same."""
        if not layers:
            raise ValueError("there are no layers to merge")
        under = [*below, self._bases[system]]
        async with (
            self._new_layer(target) as result,
            self._merging(result, layers, under, wait=False) as errand,
        ):
            await _expect(errand, "done")

    async def extract_tar(
        self,
        archive: Path | int,
        layer: Path,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> ExtractedTar:
        """Make a layer of one layer's archive."""
        async with contextlib.AsyncExitStack() as stack:
            descriptor = stack.enter_context(_opened(archive))
            if zstd.is_compressed(descriptor):
                decompress = zstd.decompressor(descriptor)
                descriptor = await stack.enter_async_context(fed(decompress))
            result = await stack.enter_async_context(self._new_layer(layer))
            request = {
                "do": "layer",
                "task": "extract",
                "result": result,
                "entries": max_entries,
                "size": max_bytes,
            }
            async with self._zygote.errand(request, [descriptor]) as errand:
                answer = await _expect(errand, "done")
            return ExtractedTar(answer["digest"], answer["entries"], answer["size"])

    async def usage(self, path: Path) -> int:
        """The bytes a directory takes up on its disk."""
        request = {"do": "layer", "task": "measure", "name": self._state.name_of(path)}
        async with self._zygote.errand(request) as errand:
            return int((await _expect(errand, "done"))["bytes"])

    async def remove(self, layer: Path) -> None:
        """Delete a layer, whose name is free at once."""
        self._state.name_of(layer)
        doomed = unfinished(self._state.locate(layer))
        move_directory(layer, doomed)
        await remove_tree(self._zygote, self._state, doomed)

    async def clean(self, directory: Path) -> None:
        """Remove what was begun in a directory and never became a layer, or was one."""
        for entry in remove_leftovers(self._state.locate(directory)):
            await remove_tree(self._zygote, self._state, entry)

    # --- Work in progress ----------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _new_layer(self, layer: Path) -> AsyncIterator[str]:
        """A place to make a layer in, by its name; it becomes one when the block ends well."""
        self._state.name_of(layer)
        layer = self._state.locate(layer)
        require_new(layer)
        work = unfinished(layer)
        try:
            self._state.prepare(work / TREE, 0o755)
            self._state.prepare(work / STAGING, 0o700)
            yield self._state.name_of(work)
            move_directory(work / TREE, layer)
        finally:
            with (
                anyio.move_on_after(_TIDY_SECONDS, shield=True),
                contextlib.suppress(OSError, RuntimeUnavailableError),
            ):
                await self._tidy(work)

    async def _tidy(self, work: Path) -> None:
        if not _remove_empty(work / STAGING, work):
            await remove_tree(self._zygote, self._state, work)

    @contextlib.asynccontextmanager
    async def _merging(
        self, result: str, layers: Sequence[Path], below: Sequence[Path] | None, *, wait: bool
    ) -> AsyncIterator[Errand]:
        request = {
            "do": "layer",
            "task": "merge",
            "result": result,
            "layers": [self._state.name_of(layer) for layer in layers],
            "below": None if below is None else [self._state.name_of(layer) for layer in below],
            "wait": wait,
        }
        async with self._zygote.errand(request) as errand:
            yield errand


def _remove_empty(*directories: Path) -> bool:
    """Remove directories if nothing is left in them, as is usual."""
    try:
        for directory in directories:
            directory.rmdir()
    except OSError:
        return False
    return True


async def _expect(errand: Errand, word: str) -> dict[str, Any]:
    """Wait for a certain answer.

    :raises LayerError: what was to be unpacked is damaged.
    :raises OSError: the process failed, or was ended.
    """
    answer = await errand.answer()
    if word in answer:
        return answer
    message = str(answer.get("error", "a process of this host's sent nonsense"))
    if answer.get("damaged"):
        raise LayerError(message)
    raise OSError(answer.get("errno") or 0, message)


@contextlib.contextmanager
def _opened(archive: Path | int) -> Iterator[int]:
    if isinstance(archive, int):
        yield archive
        return
    descriptor = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
