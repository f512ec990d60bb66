"""From a reference to layers: the way every image takes, wherever it comes from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import attrs

from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.route import RoutePlan

from ...anyio_network import AnyioNetwork
from ...http import HttpPool
from ..runtime.base import LayerError, RuntimeUnavailableError
from .challenges import Credentials
from .errors import ImageError
from .manifests import (
    Configuration,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    parse_configuration,
    parse_manifest,
)
from .references import (
    PathReference,
    RegistryReference,
    SkopeoReference,
    parse_reference,
)
from .registry import Patience, Registry
from .skopeo import copied_layout
from .sources import (
    LayoutSource,
    RegistrySource,
    Source,
    plain_archive,
    read_docker_archive,
    tree_archive,
)
from .store import ImageStore, StoredLayer

_MAX_NESTING: Final = 3  # of indexes in indexes
_AT_A_TIME: Final = 3
_MAX_DOWNLOAD: Final = 64 << 30

# Makes the archive of one layer available.
_Opener = Callable[[], AbstractAsyncContextManager[int]]


@attrs.frozen(kw_only=True)
class FetchSettings:
    """How images are fetched.

    :ivar platform: what they must be built for; None is this machine.
    :ivar plain_http: registries, ``host[:port]``, that are spoken to without encryption;
        those of this machine always are.
    :ivar local_files: whether references may name files and directories of this machine.
    :ivar max_download: the bytes of an image's compressed layers together, at most.
    :ivar patience: with registries.
    """

    platform: Platform | None = None
    plain_http: frozenset[str] = frozenset()
    local_files: bool = True
    max_download: int = _MAX_DOWNLOAD
    patience: Patience = attrs.field(factory=Patience)


@attrs.frozen
class Image:
    """An image that is on this machine.

    :ivar reference: what it was asked for by.
    :ivar digest: ``sha256:...``: what it can be asked for by again in a registry; of an
        archive the digest of its configuration, of a tree the one of its only layer.
    :ivar layers: directories, topmost first; for `SandboxSpec` with ``system="layers"``.
    :ivar config: how it wants to be run.
    :ivar size: the bytes of all files in the layers.
    """

    reference: str
    digest: str
    layers: tuple[Path, ...]
    config: ImageConfig
    size: int


async def fetch_image(
    reference: str,
    store: ImageStore,
    *,
    pool: HttpPool | None = None,
    credentials: Credentials | None = None,
    settings: FetchSettings | None = None,
) -> Image:
    """Get an image; what is here already is not fetched again.

    Cancelling this leaves complete layers behind, or none.

    :param reference: see `references`.
    :param pool: connections to use; None makes some, with the proxies that the environment
        names.
    :param credentials: for the registry, and for whom it names to give out tokens.
    :raises ImageError: it cannot be had; the message says why.
    """
    try:
        async with AsyncExitStack() as stack:
            if pool is None:
                pool = HttpPool(AnyioNetwork(), RoutePlan.from_env(os.environ), PoolLimits())
                stack.callback(pool.close)
            fetch = _Fetch(reference, store, pool, credentials, settings or FetchSettings())
            return await fetch.run()
    except ImageError:
        raise
    except (LayerError, RuntimeUnavailableError, ValueError) as error:
        raise ImageError(f"{reference!r} cannot be used: {error}") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise ImageError(f"{reference!r} cannot be stored here: {why}") from error


class _Fetch:
    """One image on its way."""

    def __init__(
        self,
        text: str,
        store: ImageStore,
        pool: HttpPool,
        credentials: Credentials | None,
        settings: FetchSettings,
    ) -> None:
        self._text = text
        self._what = repr(text)
        self._store = store
        self._pool = pool
        self._credentials = credentials
        self._settings = settings
        self._platform = settings.platform or Platform.of_this_machine()

    async def run(self) -> Image:
        reference = parse_reference(self._text, plain_http=self._settings.plain_http)
        if isinstance(reference, RegistryReference):
            registry = Registry(self._pool, reference, self._credentials, self._settings.patience)
            data, media_type, digest = await registry.manifest(reference.version)
            source = RegistrySource(registry, self._store)
            return await self._described(source, data, media_type, digest)
        if not self._settings.local_files:
            raise ImageError(f"{self._what} names files of this machine, which is not allowed")
        if isinstance(reference, SkopeoReference):
            async with copied_layout(reference, self._platform) as (path, tag):
                return await self._from_layout(path, tag)
        return await self._from_path(reference)

    async def _from_path(self, reference: PathReference) -> Image:
        path = reference.path
        if reference.kind == "oci":
            return await self._from_layout(path, reference.tag)
        if reference.kind == "docker-archive":
            return await self._from_docker_archive(path, reference.tag)
        async with AsyncExitStack() as stack:
            if reference.kind == "tar":
                archive = stack.enter_context(plain_archive(path, self._what))
            else:
                archive = await stack.enter_async_context(tree_archive(path, self._what))
            layer = await self._store.add(archive, None)
        return self._assemble(layer.digest, [layer], ImageConfig())

    async def _from_layout(self, path: Path, tag: str | None) -> Image:
        source = LayoutSource(path, self._what)
        found = await anyio.to_thread.run_sync(source.find, tag)
        data = await source.manifest(found)
        return await self._described(source, data, found.media_type, found.digest)

    async def _from_docker_archive(self, path: Path, tag: str | None) -> Image:
        archived = await anyio.to_thread.run_sync(read_docker_archive, path, tag, self._what)
        configuration = self._configuration(archived.configuration, len(archived.layers))

        def opener(number: int) -> _Opener:
            return lambda: archived.archive(number)

        layers = await self._fetch_layers(
            configuration.diff_ids, [opener(number) for number in range(len(archived.layers))]
        )
        digest = "sha256:" + hashlib.sha256(archived.configuration).hexdigest()
        return self._assemble(digest, layers, configuration.config)

    async def _described(
        self, source: Source, data: bytes, media_type: str | None, digest: str
    ) -> Image:
        """An image that has manifests."""
        manifest = await self._choose(source, parse_manifest(data, self._what, media_type))
        size = sum(layer.size for layer in manifest.layers)
        if size > self._settings.max_download:
            raise ImageError(f"{self._what} is too large: its layers have {size} bytes")
        configuration = self._configuration(
            await source.configuration(manifest.config), len(manifest.layers)
        )

        def opener(blob: Descriptor) -> _Opener:
            return lambda: source.archive(blob)

        layers = await self._fetch_layers(
            configuration.diff_ids, [opener(layer) for layer in manifest.layers]
        )
        return self._assemble(digest, layers, configuration.config)

    async def _choose(self, source: Source, found: Index | Manifest) -> Manifest:
        for _ in range(_MAX_NESTING):
            if isinstance(found, Manifest):
                return found
            chosen = found.choose(self._platform, self._what)
            data = await source.manifest(chosen)
            found = parse_manifest(data, self._what, chosen.media_type)
        raise ImageError(f"{self._what} is an index of indexes of indexes")

    def _configuration(self, data: bytes, layers: int) -> Configuration:
        configuration = parse_configuration(data, self._what)
        configuration.require(self._platform, self._what)
        if len(configuration.diff_ids) != layers:
            raise ImageError(f"{self._what} is damaged: its layers are not those it says it has")
        return configuration

    # --- Layers -----------------------------------------------------------------------

    async def _fetch_layers(
        self, digests: Sequence[str], openers: Sequence[_Opener]
    ) -> list[StoredLayer]:
        """Have all of these layers here, a few at a time; in the same order."""
        wanted = dict(zip(digests, openers, strict=True))
        found: dict[str, StoredLayer] = {}
        failure: Exception | None = None
        limiter = anyio.Semaphore(_AT_A_TIME)

        async def fetch(digest: str, opener: _Opener) -> None:
            nonlocal failure
            try:
                async with limiter, self._store.claim(digest) as present:
                    found[digest] = present or await self._fetch_layer(digest, opener)
            except (ImageError, LayerError, RuntimeUnavailableError, OSError) as error:
                failure = failure or error
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for digest, opener in wanted.items():
                tasks.start_soon(fetch, digest, opener)
        if failure is not None:
            raise failure
        return [found[digest] for digest in digests]

    async def _fetch_layer(self, digest: str, opener: _Opener) -> StoredLayer:
        async with opener() as archive:
            return await self._store.add(archive, digest)

    def _assemble(self, digest: str, layers: Sequence[StoredLayer], config: ImageConfig) -> Image:
        # A layer that comes twice has its say at the top; one mount cannot have it twice.
        stack: dict[str, StoredLayer] = {}
        for layer in reversed(layers):
            stack.setdefault(layer.digest, layer)
            if layer.hides_all:
                break
        return Image(
            self._text,
            digest,
            tuple(layer.path for layer in stack.values()),
            config,
            sum(layer.size for layer in stack.values()),
        )
