"""The records of snapshots, and how references find them (protocol/02 section 12)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..wire.ids import is_uuid
from .layered import GIB, LayeredRecord
from .messages import HostError

SYSTEM_NAME = "system/default"
SYSTEM_ID = "00000000-0000-4000-8000-000000000001"
SYSTEM_NAMESPACE = "system/"
DEFAULT_TAG = "latest"
# Lookups in an overlay grow with its layers; beyond this they are merged into one.
MAX_LAYERS = 64

_NAME = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@attrs.define(kw_only=True)
class SnapshotRecord(LayeredRecord):
    """One snapshot's record.

    :ivar included: the groups of settings that were carried along.
    :ivar settings: these settings, as fields of a create request.
    :ivar pending_tag: points at it once it is ready.
    """

    status: str = "building"
    fs_used_bytes: int | None = None
    docker_image: str | None = None
    image_digest: str | None = None
    registry_id: str | None = None
    source_sandbox_id: str | None = None
    description: str | None = None
    included: list[str] = attrs.field(factory=list)
    settings: dict[str, Any] = attrs.field(factory=dict)
    pending_tag: str | None = None

    def public(self, tags: list[str]) -> dict[str, Any]:
        """The Snapshot object of protocol/02 section 12.1."""
        view = self.document()
        for internal in ("layers", "system", "pending_tag", "settings"):
            view.pop(internal)
        return view | {"tags": sorted(tags), "created_by": None, "memory_snapshot_size_bytes": None}


def system_snapshot(at: str) -> SnapshotRecord:
    """What every sandbox comes from that names nothing else: this host's own system."""
    return SnapshotRecord(
        id=SYSTEM_ID,
        name=SYSTEM_NAME,
        status="ready",
        created_at=at,
        updated_at=at,
        description="the system directories of this machine, read-only, under a writable root",
        fs_capacity_bytes=GIB,
        fs_used_bytes=0,
    )


def check_snapshot_name(name: object) -> str:
    """A name that a snapshot can be published under.

    :raises HostError: it is none (422), or in the read-only namespace (403).
    """
    if not isinstance(name, str) or len(name) > 255 or not _NAME.fullmatch(name):
        raise HostError.invalid(
            "name",
            "a snapshot's name has lower-case components of letters and digits, joined inside "
            f"by '.', '_' or '-' and among each other by '/'; {name!r:.80} is not one",
        )
    if (name + "/").startswith(SYSTEM_NAMESPACE):
        raise HostError(403, "Forbidden", f"the namespace {SYSTEM_NAMESPACE!r} is read-only")
    return name


def check_tag(tag: object) -> str:
    """A tag.

    :raises HostError: it is none.
    """
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise HostError.invalid(
            "tag", f"a tag has 1 to 128 letters, digits, '_', '.' and '-', not {tag!r:.80}"
        )
    return tag


def tag_of_image(reference: str) -> str:
    """The tag in an image's reference, else ``latest``."""
    _, _, last = reference.rpartition("/")
    _, separator, tag = last.partition(":")
    return tag if separator and "@" not in last and _TAG.fullmatch(tag) else DEFAULT_TAG


def resolve_reference(
    reference: str,
    snapshots: Mapping[str, SnapshotRecord],
    tags: Mapping[tuple[str, str], str],
) -> SnapshotRecord | None:
    """The snapshot a reference means (protocol/02 section 12.3, 13 number 37).

    An id; ``name:tag``; or a bare name: its ``latest``, else the newest ready one without a
    tag, else (ours) the newest ready one at all.
    """
    if is_uuid(reference):
        return snapshots.get(reference.lower())
    name, separator, tag = reference.rpartition(":")
    if separator:
        return snapshots.get(tags.get((name, tag), ""))
    if (latest := snapshots.get(tags.get((reference, DEFAULT_TAG), ""))) is not None:
        return latest
    ready = [
        snapshot
        for snapshot in snapshots.values()
        if snapshot.name == reference and snapshot.status == "ready"
    ]
    tagged = set(tags.values())
    return _newest(one for one in ready if one.id not in tagged) or _newest(ready)


def _newest(snapshots: Iterable[SnapshotRecord]) -> SnapshotRecord | None:
    return max(snapshots, key=lambda snapshot: snapshot.created_at, default=None)
