"""Snapshots on the control plane of a host (protocol/02 sections 9 and 12, 13 section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from .box_routes import matches_labels
from .boxes import Box, check_run_config, lay_run_config
from .carried import carried_settings, included_groups
from .effects import (
    AwaitChange,
    Capture,
    FetchedImage,
    FetchImage,
    Flatten,
    HostDone,
    HostFlow,
    Launch,
    Record,
    Save,
)
from .lifecycle import SETTLE_PATIENCE, Lifecycle
from .listing import Query, Sorting, list_page
from .messages import HostError, HostRequest, HostResponse
from .snapshots import (
    DEFAULT_TAG,
    MAX_LAYERS,
    SYSTEM_ID,
    SnapshotRecord,
    check_snapshot_name,
    check_tag,
    tag_of_image,
)
from .state import snapshot_record, tag_record

MAX_LIST_LIMIT = 500
_MAX_DESCRIPTION = 1024

_SORTING: Sorting[SnapshotRecord] = Sorting(
    {
        "name": lambda snapshot: snapshot.name,
        "status": lambda snapshot: snapshot.status,
        "created_at": lambda snapshot: snapshot.created_at,
    },
    "created_at",
    lambda snapshot: snapshot.id,
)


class SnapshotRoutes(Lifecycle):
    """See the module's text. Each public method is the flow of one route."""

    def create_snapshot(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        body = request.json()
        image = body.get("docker_image")
        if not isinstance(image, str) or not image.strip():
            raise HostError.invalid("docker_image", "docker_image must name an image")
        tag = body.get("tag")
        snapshot = self._new_snapshot(
            body,
            tag_of_image(image) if tag is None else check_tag(tag),
            now,
            docker_image=image,
            registry_id=self._registry_id(body),
            run_config=check_run_config(body.get("run_config")),
            labels=_labels(body),
        )
        if not isinstance(body.get("fs_capacity_bytes"), int):
            raise HostError.invalid("fs_capacity_bytes", "fs_capacity_bytes is required")
        yield from self._announce(snapshot)
        return (yield from self._begin(snapshot, self._build_from_image(snapshot, now), now))

    def capture_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        box = self.find_box(name)
        body = request.json()
        _refuse_captures(box, body)
        own = check_run_config(body.get("run_config"))
        settings = carried_settings(box, body)
        snapshot = self._new_snapshot(
            body,
            check_tag(body.get("tag") or DEFAULT_TAG),
            now,
            source_sandbox_id=box.id,
            run_config=lay_run_config(box.run_config, own),
            labels=settings.pop("labels", {}) | _labels(body),
            included=included_groups(body),
            settings=settings,
            system=box.system,
        )
        if body.get("fs_capacity_bytes") is None:
            snapshot.fs_capacity_bytes = box.fs_capacity_bytes
        yield from self._announce(snapshot)
        return (yield from self._begin(snapshot, self._capture(snapshot, box), now))

    def list_snapshots(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        query = Query.parse(request.query)
        found = [snapshot for snapshot in self.snapshots.values() if _matches(snapshot, query)]
        page = list_page(found, query, _SORTING, max_limit=MAX_LIST_LIMIT)
        return HostResponse(200, page.payload("snapshots", self._show))

    def get_snapshot(
        self, request: HostRequest, reference: str, *, now: float
    ) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, self._show(self.find_snapshot(reference)))

    def delete_snapshot(
        self, request: HostRequest, reference: str, *, now: float
    ) -> HostFlow[HostResponse]:
        snapshot = self.find_snapshot(reference)
        if snapshot.id == SYSTEM_ID:
            raise HostError(403, "Forbidden", "the system's own snapshot cannot be deleted")
        del self.snapshots[snapshot.id]
        gone = [key for key, target in self.tags.items() if target == snapshot.id]
        for key in gone:
            del self.tags[key]
        forgotten = [tag_record(name, tag, None) for name, tag in gone]
        yield Save((Record("snapshot", snapshot.id, None), *forgotten))
        yield from self.drop_unused(snapshot.layers)
        return HostResponse(204)

    def list_tags(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        if ":" in name:
            message = f"{name!r:.300} carries a tag; ask for the name alone"
            raise HostError(400, "InvalidRequest", message)
        if all(snapshot.name != name for snapshot in self.snapshots.values()):
            message = f"nothing was published under the name {name!r:.300}"
            raise HostError(404, "NotFound", message)
        tags = [
            {"tag": tag, "snapshot_id": target}
            for (owner, tag), target in sorted(self.all_tags.items())
            if owner == name
        ]
        return HostResponse(200, {"name": name, "tags": tags})

    # --- making -----------------------------------------------------------------------

    def _new_snapshot(
        self, body: Mapping[str, Any], tag: str, now: float, **fields: Any
    ) -> SnapshotRecord:
        name = check_snapshot_name(body.get("name"))
        at = self.stamp(now)
        snapshot = SnapshotRecord(
            id=self.new_id(), name=name, created_at=at, updated_at=at, pending_tag=tag, **fields
        )
        capacity = body.get("fs_capacity_bytes")
        if capacity is not None:
            if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity <= 0:
                message = f"fs_capacity_bytes must be a positive integer, not {capacity!r:.40}"
                raise HostError.invalid("fs_capacity_bytes", message)
            snapshot.fs_capacity_bytes = capacity
        description = body.get("description")
        if description is not None:
            if not isinstance(description, str) or len(description) > _MAX_DESCRIPTION:
                message = f"description must be a string of at most {_MAX_DESCRIPTION} characters"
                raise HostError.invalid("description", message)
            snapshot.description = description
        return snapshot

    def _announce(self, snapshot: SnapshotRecord) -> HostFlow[None]:
        self.snapshots[snapshot.id] = snapshot
        yield Save((snapshot_record(snapshot),))

    def _begin(
        self, snapshot: SnapshotRecord, making: HostFlow[None], now: float
    ) -> HostFlow[HostResponse]:
        """Begin to make a snapshot, and answer: it is done already, or will be."""
        yield Launch(making)
        deadline = now + SETTLE_PATIENCE
        while snapshot.status == "building" and snapshot.id in self.snapshots and now < deadline:
            now = (yield AwaitChange(snapshot.id, deadline)).now
        return HostResponse(201, self._show(snapshot))

    def _registry_id(self, body: Mapping[str, Any]) -> str | None:
        wanted = body.get("registry_id")
        if wanted is None:
            return None
        if all(registry["id"] != wanted for registry in self.registries.values()):
            raise HostError(400, "NotFound", f"there is no registry with the id {wanted!r:.80}")
        return str(wanted)

    def _build_from_image(self, snapshot: SnapshotRecord, now: float) -> HostFlow[None]:
        assert snapshot.docker_image is not None
        credentials = self._credentials(snapshot.registry_id)
        done = yield FetchImage(snapshot.docker_image, credentials)
        if done.failure is not None:
            yield from self._fail_snapshot(snapshot, done)
            return
        image: FetchedImage = done.result
        snapshot.layers = list(image.layers)
        snapshot.system = "layers"
        snapshot.image_digest = image.digest
        snapshot.fs_used_bytes = image.size
        snapshot.run_config = lay_run_config(image.config, snapshot.run_config)
        if image.size > snapshot.fs_capacity_bytes:
            message = f"the image has {image.size} bytes, more than fs_capacity_bytes allows"
            yield from self._fail_snapshot(snapshot, HostDone(done.now, message))
            return
        yield from self._publish(snapshot, done.now)

    def _credentials(self, registry_id: str | None) -> tuple[str, str] | None:
        for registry in self.registries.values():
            if registry["id"] == registry_id and registry.get("username"):
                return registry["username"], registry.get("password") or ""
        return None

    def _capture(self, snapshot: SnapshotRecord, box: Box) -> HostFlow[None]:
        # One after the other: only the last one's files would be found again after a crash.
        while box.pending_layer is not None and box.id in self.boxes:
            yield AwaitChange(box.id, inf)
        layer = f"capture-{snapshot.id}"
        snapshot.layers = list(box.layers)  # in use from now on, whatever becomes of the sandbox
        moved = box.status != "ready"
        if moved:
            # Written down first: the files move in one step, and must not be lost between.
            box.pending_layer = layer
            yield from self.save_box(box)
        done = yield Capture(box.id, layer, moved)
        snapshot.layers = list(box.layers)
        if done.result is not None:
            snapshot.layers.insert(0, layer)
        if moved:
            box.pending_layer = None
            box.layers = list(snapshot.layers)
            yield from self.save_box(box)
        if done.result is None and done.failure is None and box.id not in self.boxes:
            done = HostDone(done.now, "the sandbox was deleted meanwhile")
        if done.failure is not None:
            yield from self._fail_snapshot(snapshot, done)
            return
        snapshot.fs_used_bytes = done.result or 0
        if len(snapshot.layers) > MAX_LAYERS:
            yield from self._flatten(snapshot)
        yield from self._publish(snapshot, done.now)

    def _flatten(self, snapshot: SnapshotRecord) -> HostFlow[None]:
        merged = f"merged-{snapshot.id}"
        before = tuple(snapshot.layers)
        done = yield Flatten(before, merged)
        if done.failure is None:  # else it stays deep, which is slower but right
            snapshot.layers = [merged]
            yield from self.drop_unused(before)

    def _publish(self, snapshot: SnapshotRecord, now: float) -> HostFlow[None]:
        """It is ready: and its tag points at it, from this very moment."""
        if self.snapshots.get(snapshot.id) is not snapshot:  # deleted meanwhile
            yield from self.drop_unused(snapshot.layers)
            return
        snapshot.status, snapshot.updated_at = "ready", self.stamp(now)
        records = [snapshot_record(snapshot)]
        if snapshot.pending_tag is not None:
            self.tags[snapshot.name, snapshot.pending_tag] = snapshot.id
            records.append(tag_record(snapshot.name, snapshot.pending_tag, snapshot.id))
        yield Save(tuple(records))

    def _fail_snapshot(self, snapshot: SnapshotRecord, done: HostDone) -> HostFlow[None]:
        layers, snapshot.layers = snapshot.layers, []
        if self.snapshots.get(snapshot.id) is snapshot:
            snapshot.status, snapshot.status_message = "failed", done.failure
            snapshot.updated_at = self.stamp(done.now)
            yield Save((snapshot_record(snapshot),))
        yield from self.drop_unused(layers)

    def _show(self, snapshot: SnapshotRecord) -> dict[str, Any]:
        return snapshot.public(self.tags_of(snapshot.id))


def _refuse_captures(box: Box, body: Mapping[str, Any]) -> None:
    if body.get("docker_image"):
        message = "the sandboxes of this host have no Docker daemon to export an image from"
        raise HostError.invalid("docker_image", message)
    for field in ("include_memory", "checkpoint"):
        if body.get(field):
            raise HostError.invalid(field, "this host cannot keep the memory of a sandbox")
    if any((body.get("image_config") or {}).values()):
        message = "commands here are started by a shell, not by an image's entrypoint"
        raise HostError.invalid("image_config", message)
    if not box.persistent:
        message = "what is written in a sandbox that is not persistent cannot be captured"
        raise HostError.invalid("name", message)
    if box.status not in ("ready", "stopped"):
        raise HostError(409, "Conflict", f"sandbox {box.name!r} is {box.status}")


def _labels(body: Mapping[str, Any]) -> dict[str, str]:
    labels = body.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise HostError.invalid("labels", "labels must be an object with string values")
    return labels


def _matches(snapshot: SnapshotRecord, query: Query) -> bool:
    part = query.get("name_contains")
    if part is not None and part.lower() not in snapshot.name.lower():
        return False
    if (status := query.get("status")) is not None and status != snapshot.status:
        return False
    return matches_labels(snapshot.labels, query)
