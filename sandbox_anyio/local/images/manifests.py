"""What registries and layouts say about an image: read with care, since anybody wrote it.

OCI's and Docker's documents of the same purpose are alike enough to be read as one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from .errors import ImageError
from .references import is_digest

MAX_DOCUMENT: Final = 8 * 1024 * 1024
"""The largest manifest, index or configuration, in bytes."""

_MAX_LAYERS: Final = 1024
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_USUAL_VARIANTS: Final = ("", "v1", "v8")

INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@attrs.frozen
class Platform:
    """What programs are built for, in the words of images."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of_this_machine(cls) -> Platform:
        """What runs here."""
        machine = os.uname().machine
        return cls("linux", _MACHINES.get(machine, machine))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@attrs.frozen
class Descriptor:
    """A pointer to a blob, which must have this digest and this many bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Index:
    """One image for several platforms."""

    manifests: tuple[Descriptor, ...]

    def choose(self, wanted: Platform, what: str) -> Descriptor:
        """The manifest for a platform.

        :raises ImageError: there is none.
        """
        if len(self.manifests) == 1 and self.manifests[0].platform is None:
            return self.manifests[0]  # its configuration will tell
        fitting = [
            (manifest.platform.variant not in _USUAL_VARIANTS, manifest.platform.variant, number)
            for number, manifest in enumerate(self.manifests)
            if manifest.platform is not None
            and (manifest.platform.os, manifest.platform.architecture)
            == (wanted.os, wanted.architecture)
        ]
        if not fitting:
            raise ImageError(f"{what} is not there for {wanted}: {self._offer()}")
        return self.manifests[min(fitting)[2]]

    def _offer(self) -> str:
        names = {str(manifest.platform) for manifest in self.manifests if manifest.platform}
        names.discard("unknown/unknown")  # signatures and the like
        return f"it is for {', '.join(sorted(names))}" if names else "it names no platform"


@attrs.frozen
class Manifest:
    """One image for one platform. Its layers come lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@attrs.frozen(kw_only=True)
class ImageConfig:
    """How an image wants to be run.

    :ivar user: ``name``, ``uid``, ``name:group`` or ``uid:gid``; None if it does not say.
    :ivar work_dir: where commands start; None if it does not say.
    :ivar exposed_ports: TCP ports it serves on.
    """

    user: str | None = None
    work_dir: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict)
    exposed_ports: tuple[int, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Configuration:
    """An image's configuration document.

    :ivar platform: what it was built for; None if it does not say.
    :ivar diff_ids: the digests of its layers, uncompressed, lowest first.
    """

    config: ImageConfig
    platform: Platform | None
    diff_ids: tuple[str, ...]

    def require(self, wanted: Platform, what: str) -> None:
        """Refuse an image that was built for something else.

        :raises ImageError: it was.
        """
        if self.platform is not None and (self.platform.os, self.platform.architecture) != (
            wanted.os,
            wanted.architecture,
        ):
            raise ImageError(f"{what} is not there for {wanted}: it is for {self.platform}")


def parse_manifest(data: bytes, what: str, media_type: str | None = None) -> Index | Manifest:
    """Read a manifest, or an index of several.

    :param media_type: what its sender calls it, if the document itself does not say.
    :raises ImageError: it is neither.
    """
    document = _parse(data, what)
    kind = document.get("mediaType") or media_type
    if kind in INDEX_TYPES or (kind not in MANIFEST_TYPES and "manifests" in document):
        manifests = _list(document.get("manifests"), what)
        return Index(tuple(_descriptor(entry, what) for entry in manifests))
    if document.get("schemaVersion") == 1:
        raise ImageError(f"{what} is in the format of 2014 (schema 1), which is not supported")
    if "config" not in document or "layers" not in document:
        raise ImageError(f"{what} is no container image")
    layers = _list(document["layers"], what)
    if len(layers) > _MAX_LAYERS:
        raise ImageError(f"{what} has more than {_MAX_LAYERS} layers")
    return Manifest(
        _descriptor(document["config"], what), tuple(_descriptor(layer, what) for layer in layers)
    )


def parse_configuration(data: bytes, what: str) -> Configuration:
    """Read an image's configuration.

    :raises ImageError: it is none.
    """
    document = _parse(data, what)
    config = document.get("config") or {}
    rootfs = document.get("rootfs")
    if not isinstance(config, dict) or not isinstance(rootfs, dict):
        raise ImageError(f"{what} is no container image: its configuration is of another kind")
    diff_ids = _strings(rootfs.get("diff_ids"))
    if not all(is_digest(diff_id) for diff_id in diff_ids):
        raise ImageError(f"{what} is damaged: the digest of a layer is none")
    platform = None
    if document.get("os") and document.get("architecture"):
        platform = _platform(document)
    return Configuration(_config(config), platform, diff_ids)


def _config(config: Mapping[str, Any]) -> ImageConfig:
    env = {
        name: value
        for name, equals, value in (text.partition("=") for text in _strings(config.get("Env")))
        if name and equals
    }
    labels = config.get("Labels")
    return ImageConfig(
        user=_text(config.get("User")),
        work_dir=_text(config.get("WorkingDir")),
        env=env,
        exposed_ports=_ports(config.get("ExposedPorts")),
        entrypoint=_strings(config.get("Entrypoint")),
        cmd=_strings(config.get("Cmd")),
        labels={str(key): str(value) for key, value in labels.items()}
        if isinstance(labels, dict)
        else {},
    )


def _ports(value: object) -> tuple[int, ...]:
    """``{"80/tcp": {}, "8000-8003": {}}``; UDP is left out."""
    ports: set[int] = set()
    for text in value if isinstance(value, dict) else ():
        numbers, _, protocol = str(text).partition("/")
        first, _, last = numbers.partition("-")
        if protocol in ("", "tcp") and first.isdecimal() and (last or "0").isdecimal():
            found = range(int(first), int(last or first) + 1)
            if found and found[0] > 0 and found[-1] < 65536:
                ports.update(found)
    return tuple(sorted(ports))


def _descriptor(value: object, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageError(f"{what} is damaged: its manifest is malformed")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ImageError(f"{what} is damaged, or uses digests other than sha256")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"{what} is damaged: a size in its manifest is none")
    platform, annotations = value.get("platform"), value.get("annotations")
    return Descriptor(
        str(value.get("mediaType", "")),
        digest,
        size,
        _platform(platform) if isinstance(platform, dict) else None,
        {str(key): str(text) for key, text in annotations.items()}
        if isinstance(annotations, dict)
        else {},
    )


def _platform(value: Mapping[str, Any]) -> Platform:
    return Platform(
        str(value.get("os", "")),
        str(value.get("architecture", "")),
        str(value.get("variant") or ""),
    )


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageError(f"{what} is damaged: a document that belongs to it is no JSON object")
    return document


def _list(value: object, what: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise ImageError(f"{what} is damaged: its manifest is malformed")
    return value


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
