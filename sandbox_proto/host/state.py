"""What a host knows: its records in memory, and how they are found, stored and dated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..wire.ids import Entropy, uuid4_text
from ..wire.times import parse_timestamp
from .boxes import Box, timestamp
from .effects import DropLayers, HostFlow, Kind, Record, Save
from .messages import HostError
from .snapshots import SYSTEM_ID, SnapshotRecord, resolve_reference, system_snapshot

_TICK = 1e-6


@attrs.frozen(kw_only=True)
class HostSettings:
    """What is decided once per host.

    :ivar api_keys: the keys that are accepted; empty: everybody is.
    :ivar secret: what tokens are signed with.
    :ivar wall_offset: wall-clock seconds minus the driver's monotonic clock.
    :ivar commands_keep_awake: whether a command that nobody is attached to counts as activity.
    """

    api_keys: tuple[str, ...] = attrs.field(default=(), repr=False)
    secret: bytes = attrs.field(default=b"", repr=False)
    wall_offset: float = 0.0
    commands_keep_awake: bool = True


class HostState:
    """The records.

    :ivar boxes: sandboxes by id.
    :ivar snapshots: by id; the system's own among them, which is never stored.
    :ivar tags: (name, tag) -> snapshot id.
    :ivar registries: documents by name.
    :ivar grants: documents of how ports can be reached, by (box id, port).
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        entropy: Entropy,
        records: Iterable[Record] = (),
    ) -> None:
        """
        :param records: what `Save` stored earlier.
        """
        self.settings = settings
        self.entropy = entropy
        self._last_stamp = 0.0
        self.boxes: dict[str, Box] = {}
        self.snapshots: dict[str, SnapshotRecord] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.registries: dict[str, dict[str, Any]] = {}
        self.grants: dict[tuple[str, int], dict[str, Any]] = {}
        for record in records:
            if record.document is not None:
                self._load(record.kind, record.key, record.document)
        self.snapshots[SYSTEM_ID] = system_snapshot(timestamp(settings.wall_offset))

    def _load(self, kind: Kind, key: str, document: Mapping[str, Any]) -> None:
        match kind:
            case "box":
                self.boxes[key] = Box.from_document(document)
            case "snapshot":
                self.snapshots[key] = SnapshotRecord.from_document(document)
            case "tag":
                self.tags[document["name"], document["tag"]] = document["snapshot_id"]
            case "registry":
                self.registries[key] = dict(document)
            case "grant":
                self.grants[document["box_id"], document["port"]] = dict(document)

    # --- time and ids -----------------------------------------------------------------

    def stamp(self, now: float) -> str:
        """A timestamp later than every one before it, so that newest-first is an order."""
        self._last_stamp = max(now + self.settings.wall_offset, self._last_stamp + _TICK)
        return timestamp(self._last_stamp)

    def moment(self, stamp: str | None) -> float | None:
        """A timestamp on the driver's monotonic clock."""
        seconds = parse_timestamp(stamp)
        return None if seconds is None else seconds - self.settings.wall_offset

    def new_id(self) -> str:
        """A fresh UUID."""
        return uuid4_text(self.entropy)

    # --- finding ----------------------------------------------------------------------

    def find_box(self, reference: str) -> Box:
        """A sandbox by id or name.

        :raises HostError: there is none.
        """
        box = self.boxes.get(reference) or self.box_named(reference)
        if box is None:
            raise no_box(reference)
        return box

    def box_named(self, name: str) -> Box | None:
        """A sandbox by name."""
        return next((box for box in self.boxes.values() if box.name == name), None)

    def find_snapshot(self, reference: str) -> SnapshotRecord:
        """A snapshot by id, ``name:tag`` or name.

        :raises HostError: there is none.
        """
        snapshot = resolve_reference(reference, self.snapshots, self.all_tags)
        if snapshot is None:
            raise HostError(404, "NotFound", f"there is no snapshot {reference!r:.300}")
        return snapshot

    @property
    def all_tags(self) -> dict[tuple[str, str], str]:
        """The tags, with the system's own."""
        system = self.snapshots[SYSTEM_ID]
        return {**self.tags, (system.name, "latest"): SYSTEM_ID}

    def tags_of(self, snapshot_id: str) -> list[str]:
        """The tags that point at a snapshot."""
        return [tag for (_, tag), target in self.all_tags.items() if target == snapshot_id]

    # --- storing ----------------------------------------------------------------------

    def save_box(self, box: Box) -> HostFlow[None]:
        """Store a sandbox's record, unless it was deleted meanwhile and must stay so."""
        if self.boxes.get(box.id) is box:
            yield Save((box_record(box),))

    def drop_unused(self, candidates: Iterable[str]) -> HostFlow[None]:
        """Delete those of some layers that nothing uses any more."""
        used = self.layers_in_use()
        unused = tuple(layer for layer in candidates if layer not in used)
        if unused:
            yield DropLayers(unused)

    def layers_in_use(self) -> set[str]:
        """Every layer that a sandbox or snapshot stands on."""
        used = {layer for snapshot in self.snapshots.values() for layer in snapshot.layers}
        for box in self.boxes.values():
            used.update(box.layers)
            if box.pending_layer is not None:
                used.add(box.pending_layer)
        return used


def no_box(reference: str) -> HostError:
    """The answer for a sandbox that is not there."""
    return HostError(404, "NotFound", f"there is no sandbox {reference!r:.80}")


def box_record(box: Box) -> Record:
    """What is stored of a sandbox."""
    return Record("box", box.id, box.document())


def snapshot_record(snapshot: SnapshotRecord) -> Record:
    """What is stored of a snapshot."""
    return Record("snapshot", snapshot.id, snapshot.document())


def tag_record(name: str, tag: str, snapshot_id: str | None) -> Record:
    """What is stored of a tag; None forgets it."""
    document = None
    if snapshot_id is not None:
        document = {"name": name, "tag": tag, "snapshot_id": snapshot_id}
    return Record("tag", f"{name}:{tag}", document)
