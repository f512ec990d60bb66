"""What the flows of a host ask of their driver, and what it answers."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Literal, TypeVar

import attrs

Kind = Literal["box", "snapshot", "tag", "registry", "grant"]


@attrs.frozen
class Record:
    """A record to be stored; a document of None forgets it."""

    kind: Kind
    key: str
    document: Mapping[str, Any] | None


@attrs.frozen
class Save:
    """Store the records durably, all or none, before anything else is answered."""

    records: tuple[Record, ...]


@attrs.frozen
class Launch:
    """Carry out another flow beside this one."""

    flow: HostFlow[None]


@attrs.frozen
class BuildSandbox:
    """Build the sandbox from its layers; may fail."""

    box_id: str


@attrs.frozen
class Halt:
    """End every process of the sandbox; its files stay."""

    box_id: str


@attrs.frozen
class Discard:
    """Delete what was written in the sandbox; it is halted."""

    box_id: str


@attrs.frozen
class Demolish:
    """End every process of the sandbox and delete its files."""

    box_id: str


@attrs.frozen
class Capture:
    """Make a layer of what was written in the sandbox; may fail.

    The result is its size in bytes; None: nothing was ever written, and there is no layer.

    :ivar moved: the sandbox is stopped: its files become the layer, and it begins anew on
        top of it. Else the sandbox is frozen, its files copied, and it goes on.
    :ivar layer: the new layer's name.
    """

    box_id: str
    layer: str
    moved: bool


@attrs.frozen
class Flatten:
    """Merge layers (topmost first) into one; may fail."""

    layers: tuple[str, ...]
    target: str


@attrs.frozen
class FetchImage:
    """Get an image's layers; may fail. The result is a `FetchedImage`.

    :ivar credentials: user name and password for the registry, or None.
    """

    reference: str
    credentials: tuple[str, str] | None


@attrs.frozen
class FetchedImage:
    """An image that is here now.

    :ivar layers: names of its layers, topmost first.
    :ivar config: its ``user``, ``work_dir`` and ``env_vars``, where it has them.
    """

    digest: str
    layers: tuple[str, ...]
    config: Mapping[str, Any]
    size: int


@attrs.frozen
class DropLayers:
    """Delete layers that nothing uses any more."""

    layers: tuple[str, ...]


@attrs.frozen
class AwaitChange:
    """Wait until any record with this key has changed, or until `deadline`."""

    key: str
    deadline: float


HostEffect = (
    Save
    | Launch
    | BuildSandbox
    | Halt
    | Discard
    | Demolish
    | Capture
    | Flatten
    | FetchImage
    | DropLayers
    | AwaitChange
)


@attrs.frozen
class HostDone:
    """The effect was carried out.

    :ivar now: the driver's monotonic clock.
    :ivar failure: for those that may fail: why they did, as a sentence.
    :ivar result: for those that have one.
    """

    now: float
    failure: str | None = None
    result: Any = None


T = TypeVar("T")
HostFlow = Generator[HostEffect, HostDone, T]
