"""The host's layers, by name: captured ones, merged ones, and those of images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sandbox_proto.host.effects import FetchedImage

from ..log import local_log
from .images import Credentials, ImageError, ImageStore, fetch_image
from .places import Places
from .runtime.base import LayerError, RunningSandbox, Runtime, SandboxDiedError
from .runtime.directories import move_directory, unfinished

# What can go wrong with a layer, and is told to whoever wanted it.
_TROUBLE = (LayerError, SandboxDiedError, OSError, ValueError)


class LayerStore:
    """See the module's text. A layer is there whole, or not at all."""

    def __init__(self, runtime: Runtime, places: Places) -> None:
        self._runtime, self._places = runtime, places
        self._images = ImageStore(runtime, places.images)

    def path(self, name: str) -> Path:
        """Where a layer is."""
        if name.startswith("sha256-"):
            return self._places.images / name
        return self._places.layers / name

    def paths(self, names: Iterable[str]) -> tuple[Path, ...]:
        """Where layers are, in the same order."""
        return tuple(self.path(name) for name in names)

    async def existing(self) -> set[str]:
        """The names of the layers that are there."""
        found: set[str] = set()
        await self._images.clean()
        for directory in (self._places.layers, self._places.images):
            if directory.is_dir():
                await self._runtime.layers.clean(directory)
                found.update(entry.name for entry in directory.iterdir() if entry.is_dir())
        return found

    async def clean(self, *, keep: Collection[str]) -> None:
        """Delete the layers that nothing uses."""
        await self.drop([name for name in await self.existing() if name not in keep])

    async def drop(self, names: Iterable[str]) -> None:
        """Delete layers. They are gone at once, whoever else deletes them or looks for them."""
        doomed = []
        for path in self.paths(names):
            if path.exists():
                doomed.append(unfinished(path))
                move_directory(path, doomed[-1])
        for path in doomed:
            await self._runtime.remove_tree(path)

    async def capture(
        self, upper: Path, name: str, running: RunningSandbox | None
    ) -> tuple[int | None, str | None]:
        """Make a layer of what was written in a sandbox. Returns its size, or why not."""
        layers, target = self._runtime.layers, self.path(name)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            if running is None:
                await layers.capture_stopped(upper, target)
            else:
                pause = await layers.capture_running(running, upper, target)
                local_log.info("a sandbox stood still for %.0f ms to be captured", pause * 1000)
            return await layers.usage(target), None
        except _TROUBLE as error:
            return None, f"the sandbox's files could not be captured: {error}"

    async def flatten(self, names: Sequence[str], target: str) -> str | None:
        """Merge layers, topmost first, into one. Returns why not, if not."""
        try:
            await self._runtime.layers.flatten(self.paths(names), self.path(target))
        except _TROUBLE as error:
            local_log.warning("layers were not merged: %s", error)
            return str(error)
        return None

    async def fetch(
        self, reference: str, credentials: tuple[str, str] | None
    ) -> tuple[FetchedImage | None, str | None]:
        """Get an image. Returns it, or why it cannot be had."""
        who = None if credentials is None else Credentials(*credentials)
        while True:
            try:
                image = await fetch_image(reference, self._images, credentials=who)
            except ImageError as error:
                return None, str(error)
            # A layer that was here at first may have been dropped while the next was fetched.
            if all(path.is_dir() for path in image.layers):
                break
        wishes = image.config
        config = {"user": wishes.user, "work_dir": wishes.work_dir, "env_vars": dict(wishes.env)}
        return FetchedImage(
            image.digest,
            tuple(path.name for path in image.layers),
            {key: value for key, value in config.items() if value},
            image.size,
        ), None
