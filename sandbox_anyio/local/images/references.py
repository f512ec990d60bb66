"""What a user calls an image: taken apart, and never guessed at.

python:3.12                         Docker Hub
ghcr.io/owner/name:tag              any registry; localhost:5000/name, name@sha256:...
oci:/path/to/layout[:tag]           a directory as `skopeo copy ... oci:` makes it
docker-archive:/path/image.tar      a file as `docker save` makes it
dir:/path/to/rootfs                 a directory tree
tar:/path/rootfs.tar                the same in an archive
docker-daemon:name:tag              a daemon's, got with `skopeo`
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

import attrs

from .errors import ImageError

_HUB: Final = "registry-1.docker.io"
_HUB_NAMES: Final = ("docker.io", "index.docker.io", _HUB)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_MAX_REPOSITORY: Final = 255

_PATH_KINDS: Final = ("oci", "docker-archive", "dir", "tar")
_SKOPEO_KINDS: Final = ("docker-daemon", "containers-storage", "oci-archive")


@attrs.frozen
class RegistryReference:
    """An image in a registry.

    :ivar scheme: ``https``, or ``http`` for hosts that are trusted so far.
    :ivar host: with its port, if it is not the scheme's own.
    :ivar tag: ``latest`` if neither it nor a digest was named.
    """

    text: str
    scheme: str
    host: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def version(self) -> str:
        """What the registry is asked for: a digest, else a tag."""
        return self.digest or self.tag or "latest"

    @property
    def registry(self) -> str:
        """The registry's name for people."""
        return "docker.io" if self.host == _HUB else self.host


@attrs.frozen
class PathReference:
    """An image in files of this machine.

    :ivar tag: which of several images in one layout or archive.
    """

    text: str
    kind: Literal["oci", "docker-archive", "dir", "tar"]
    path: Path
    tag: str | None


@attrs.frozen
class SkopeoReference:
    """An image in a place that only `skopeo` knows how to read."""

    text: str


Reference = RegistryReference | PathReference | SkopeoReference


def parse_reference(text: str, *, plain_http: Collection[str] = ()) -> Reference:
    """Take a reference apart.

    :param plain_http: hosts, with their ports, that are spoken to without encryption; those
        of this machine always are.
    :raises ImageError: it is none.
    """
    kind, _, rest = text.partition(":")
    if kind in _PATH_KINDS and rest.startswith("/"):
        return _parse_path(text, kind, rest)
    if kind in _SKOPEO_KINDS and rest:
        return SkopeoReference(text)
    return _parse_registry(text, plain_http)


def is_digest(text: str) -> bool:
    """Whether this is a digest of the only kind in use."""
    return _DIGEST.fullmatch(text) is not None


def _parse_path(text: str, kind: str, rest: str) -> PathReference:
    if kind in ("dir", "tar"):  # one image each, and any character may stand in the path
        return PathReference(text, kind, Path(rest), None)  # type: ignore[arg-type]  # checked
    path, _, tag = rest.partition(":")
    return PathReference(text, kind, Path(path), tag or None)  # type: ignore[arg-type]  # checked


def _parse_registry(text: str, plain_http: Collection[str]) -> RegistryReference:
    name = text.removeprefix("docker://")
    scheme = None
    for prefix in ("https", "http"):
        if name.startswith(f"{prefix}://"):
            scheme, name = prefix, name.removeprefix(f"{prefix}://")
    name, at, digest = name.partition("@")
    if at and not is_digest(digest):
        raise ImageError(f"{text!r} is no image reference: what follows @ is no sha256 digest")
    host, slash, repository = name.partition("/")
    if not slash or not (scheme or "." in host or ":" in host or host == "localhost"):
        host, repository = _HUB, name
    tag: str | None = None
    if ":" in repository:
        repository, _, tag = repository.rpartition(":")
    if host in _HUB_NAMES:
        host = _HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    if not _HOST.fullmatch(host):
        raise ImageError(f"{text!r} is no image reference: {host!r} is no host")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _MAX_REPOSITORY:
        raise ImageError(
            f"{text!r} is no image reference: a name consists of lower-case letters, digits "
            "and . _ - between them"
        )
    if tag is not None and not _TAG.fullmatch(tag):
        raise ImageError(f"{text!r} is no image reference: {tag!r} is no tag")
    if scheme is None:
        scheme = "http" if host in plain_http or _is_this_machine(host) else "https"
    if tag is None and not digest:
        tag = "latest"
    return RegistryReference(text, scheme, host, repository, tag, digest or None)


def _is_this_machine(host: str) -> bool:
    name = re.sub(r":[0-9]+$", "", host).strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
