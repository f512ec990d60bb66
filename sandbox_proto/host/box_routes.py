"""Sandboxes on the control plane of a host (protocol/02 sections 1 to 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..wire.ids import sandbox_name
from .boxes import Box, change_box, check_name, new_box
from .carried import over_carried
from .effects import HostFlow
from .lifecycle import SETTLE_PATIENCE, Lifecycle
from .listing import Query, Sorting, list_page
from .messages import HostError, HostRequest, HostResponse
from .snapshots import SnapshotRecord

DEFAULT_CREATE_TIMEOUT = 30.0

_SORTING: Sorting[Box] = Sorting(
    {
        "name": lambda box: box.name,
        "status": lambda box: box.status,
        "created_at": lambda box: box.created_at,
        "stopped_at": lambda box: box.stopped_at or "",
        "idle_ttl_seconds": lambda box: box.idle_ttl_seconds,
        "delete_after_stop_seconds": lambda box: box.delete_after_stop_seconds,
    },
    "created_at",
    lambda box: box.id,
)


class BoxRoutes(Lifecycle):
    """See the module's text. Each method is the flow of one route."""

    def create_box(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        body = request.json()
        generated = not body.get("name")
        name = sandbox_name(self.entropy) if generated else check_name(body["name"])
        if self.box_named(name) is not None:
            raise HostError(409, "Conflict", f"there is a sandbox {name!r} already")
        patience = _patience(body) if body.get("wait_for_ready") else None
        snapshot = self._boot_source(body)
        body = over_carried(snapshot.settings, body)
        box = new_box(
            body, snapshot, id=self.new_id(), name=name, generated=generated, at=self.stamp(now)
        )
        self.boxes[box.id] = box
        yield from self.start(box, now=now)
        if patience is not None:
            yield from self._await_ready(box, now + patience)
        return HostResponse(201, box.public(request.origin))

    def _boot_source(self, body: Mapping[str, Any]) -> SnapshotRecord:
        """The snapshot a create asks for; none is the system's.

        :raises HostError: it asks for two different ones, or for one that is not there or ready.
        """
        by_id, by_name = body.get("snapshot_id"), body.get("snapshot") or body.get("snapshot_name")
        if by_id and by_name:
            raise HostError(
                400, "InvalidRequest", "give snapshot_id or a snapshot's name, not both"
            )
        if body.get("snapshot") and body.get("snapshot_name") not in (None, "", body["snapshot"]):
            raise HostError(400, "InvalidRequest", "snapshot and snapshot_name differ")
        reference = by_id or by_name or "system/default"
        if not isinstance(reference, str):
            raise HostError(400, "InvalidRequest", "a snapshot is named by a string")
        try:
            snapshot = self.find_snapshot(reference)
        except HostError as error:
            raise HostError(400, "NotFound", error.message) from None
        if snapshot.status != "ready":
            message = f"snapshot {reference!r:.300} is {snapshot.status}"
            raise HostError(400, "InvalidRequest", message)
        return snapshot

    def _await_ready(self, box: Box, deadline: float) -> HostFlow[None]:
        """Hold a create request until its sandbox is ready.

        :raises HostError: it failed or took too long; then no record stays that nobody can name.
        """
        yield from self.await_built(box, now=float("-inf"), deadline=deadline)
        if box.id not in self.boxes:
            raise HostError(409, "Conflict", f"sandbox {box.name!r} was deleted meanwhile")
        if box.status == "failed":
            reason = box.status_message or "the sandbox could not be started"
            yield from self.remove(box)
            raise HostError(422, "SandboxConfig", reason)
        if box.status == "provisioning":
            if box.generated_name:
                yield from self.remove(box)
            raise HostError(408, "Timeout", f"sandbox {box.name!r} was not ready in time")

    def list_boxes(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        query = Query.parse(request.query)
        found = [box for box in self.boxes.values() if _matches(box, query)]
        page = list_page(found, query, _SORTING)
        return HostResponse(200, page.payload("sandboxes", lambda box: box.public(request.origin)))

    def get_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, self.find_box(name).public(request.origin))

    def get_status(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, self.find_box(name).public_status)

    def update_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        box = self.find_box(name)
        body = request.json()
        new_name = body.get("name")
        if new_name and new_name != box.name:
            check_name(new_name)
            if self.box_named(new_name) is not None:
                raise HostError(409, "Conflict", f"there is a sandbox {new_name!r} already")
        if body:
            change_box(box, body, at=self.stamp(now))
            yield from self.save_box(box)
        return HostResponse(200, box.public(request.origin))

    def delete_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from self.remove(self.find_box(name))
        return HostResponse(204)

    def delete_boxes(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        names = request.json().get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise HostError.invalid("names", "names must be a list of sandbox names or ids")
        deleted, skipped = [], []
        for name in names:
            try:
                yield from self.remove(self.find_box(name))
                deleted.append(name)
            except HostError as error:
                skipped.append({"name": name, "reason": error.message})
        return HostResponse(200, {"deleted": deleted, "skipped": skipped})

    def start_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        box = self.find_box(name)
        if box.status in ("stopped", "failed"):
            yield from self.start(box, now=now)
            yield from self.await_built(box, now=now, deadline=now + SETTLE_PATIENCE)
        return HostResponse(202, box.public(request.origin))

    def stop_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        box = self.find_box(name)
        if box.status not in ("ready", "stopped"):
            message = f"sandbox {box.name!r} is {box.status}; only a ready one can be stopped"
            raise HostError(409, "Conflict", message)
        yield from self.stop(box, now=now)
        return HostResponse(204)

    def usage(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        boxes = list(self.boxes.values())
        running = [box for box in boxes if box.status == "ready"]
        return HostResponse(
            200,
            {
                "sandboxes_used": len(boxes),
                "sandboxes_limit": None,
                "sandbox_running_count": len(running),
                "sandbox_stopped_count": sum(box.status == "stopped" for box in boxes),
                "cpu_used_millicores": int(sum(box.vcpus * 1000 for box in running)),
                "cpu_limit_millicores": None,
                "memory_used_bytes": sum(box.mem_bytes for box in running),
                "memory_limit_bytes": None,
                "snapshots_count": len(self.snapshots),
                "registries_count": len(self.registries),
            },
        )

    def usage_costs(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, {"items": [], "next_cursor": None})


def _matches(box: Box, query: Query) -> bool:
    if (part := query.get("name_contains")) is not None and part not in box.name:
        return False
    if (status := query.get("status")) is not None and status != box.status:
        return False
    return matches_labels(box.labels, query)


def matches_labels(labels: Mapping[str, str], query: Query) -> bool:
    """Whether all ``label`` filters hold: ``key`` is presence, ``key=value`` equality."""
    for wanted in query.all("label"):
        key, separator, value = wanted.partition("=")
        if key not in labels or (separator and labels[key] != value):
            return False
    return True


def _patience(body: Mapping[str, Any]) -> float:
    value = body.get("timeout")
    if value is None:
        return DEFAULT_CREATE_TIMEOUT
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 86400:
        raise HostError.invalid("timeout", f"timeout must be seconds, 0 to 86400, not {value!r}")
    return float(value)
