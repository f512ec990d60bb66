"""Snapshots on the control plane (protocol/02 sections 9 and 12, 04 section 5).

A snapshot has no key of its own before it exists, so a create or capture is only
repeated when it provably was not carried out. When its answer is lost, the newest
snapshot of that name tells: if it is younger than our request and made of the same
thing, it is ours.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import (
    ResourceCreationError,
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxClientError,
)
from ..plans.retry import Repeatability, outcome_is_unknown
from ..plans.timeouts import Timeouts
from ..wire.http import Request
from ..wire.ids import is_uuid
from ..wire.models import Snapshot, SnapshotTag
from ..wire.times import CLOCK_TOLERANCE, server_age
from ..wire.urls import quote_reference, quote_segment
from .control import HeaderLayer, box_path, call_control, control_request, require_success
from .effects import Attempts, Flow, FlowContext, Perform, exchange, wait_until
from .paging import Listing, filters, list_page, read_items
from .sandboxes import no_such_sandbox

POLL_INTERVAL = 2.0

SNAPSHOTS: Listing[Snapshot] = Listing(
    "/snapshots", "snapshots", Snapshot.from_dict, lambda snapshot: snapshot.id, "snapshots"
)


def _no_such_snapshot(reference: str) -> ResourceNotFoundError:
    return ResourceNotFoundError(f"there is no snapshot {reference!r}", "snapshot")


def get_snapshot(
    context: FlowContext, reference: str, headers: HeaderLayer = None
) -> Flow[Snapshot]:
    """``GET /snapshots/{reference}``: id, ``name`` or ``name:tag``."""
    snapshot, _ = yield from _get(context, reference, headers)
    return snapshot


def _get(
    context: FlowContext, reference: str, headers: HeaderLayer
) -> Flow[tuple[Snapshot, float]]:
    path = f"/snapshots/{quote_reference(reference)}"
    request = control_request(context, "GET", path, headers=headers)
    done = yield from call_control(context, request, Repeatability.SAFE)
    require_success(done, not_found=_no_such_snapshot(reference))
    return done.read(Snapshot.from_dict), done.now


def delete_snapshot(
    context: FlowContext, reference: str, headers: HeaderLayer = None
) -> Flow[None]:
    """``DELETE /snapshots/{reference}``; by a bare name it is never asked for twice."""
    path = f"/snapshots/{quote_segment(reference)}"
    request = control_request(context, "DELETE", path, headers=headers)
    # Once it is gone, a bare name means the next of that name (protocol/02 section 12.3).
    names_one = ":" in reference or is_uuid(reference)
    repeat = Repeatability.KEYED if names_one else Repeatability.UNSAFE
    done = yield from call_control(context, request, repeat)
    if done.response.status == 404 and done.may_have_run:
        return  # an earlier attempt, whose answer was lost, deleted it
    require_success(done, not_found=_no_such_snapshot(reference))


def list_tags(
    context: FlowContext, name: str, headers: HeaderLayer = None
) -> Flow[list[SnapshotTag]]:
    """``GET /snapshots-by-name/{name}``."""
    path = f"/snapshots-by-name/{quote_segment(name)}"
    request = control_request(context, "GET", path, headers=headers)
    done = yield from call_control(context, request, Repeatability.SAFE)
    require_success(done, not_found=_no_such_snapshot(name))
    what = f"the list of tags of {name!r}"
    return done.read(lambda body: read_items(body, ("tags",), SnapshotTag.from_dict, what))


def wait_for_snapshot(
    context: FlowContext,
    snapshot_id: str,
    *,
    timeout: float,
    poll_interval: float,
    headers: HeaderLayer = None,
) -> Flow[Snapshot]:
    """Poll a snapshot until it is ready; at least once, and once more after the last wait.

    :raises ResourceCreationError: it failed.
    :raises ResourceTimeoutError: it was not ready in time.
    """
    deadline = context.now + timeout
    while True:
        snapshot, now = yield from _get(context, snapshot_id, headers)
        if snapshot.status == "ready":
            return snapshot
        if snapshot.status == "failed":
            reason = snapshot.status_message or f"snapshot {snapshot.name!r} failed to build"
            raise ResourceCreationError(reason, "snapshot")
        if now >= deadline:
            message = f"snapshot {snapshot.name!r} was not ready within {timeout:g} s"
            raise ResourceTimeoutError(message, "snapshot", snapshot.status)
        yield from wait_until(min(now + poll_interval, deadline))


def create_snapshot(
    context: FlowContext,
    body: Mapping[str, Any],
    *,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[Snapshot]:
    """``POST /snapshots`` from an image, then wait until it is ready."""
    request = control_request(context, "POST", "/snapshots", json=dict(body), headers=headers)

    def made_of_it(snapshot: Snapshot) -> bool:
        return bool(snapshot.raw.get("docker_image") == body["docker_image"])

    snapshot = yield from _make(context, request, body["name"], made_of_it, headers)
    ready = yield from wait_for_snapshot(
        context, snapshot.id, timeout=timeout, poll_interval=POLL_INTERVAL, headers=headers
    )
    return ready


def capture_snapshot(
    context: FlowContext,
    sandbox: str,
    body: Mapping[str, Any],
    *,
    timeout: float,
    sandbox_id: str | None = None,
    headers: HeaderLayer = None,
) -> Flow[Snapshot]:
    """``POST /boxes/{name}/snapshot``, then wait until it is ready."""
    path = box_path(sandbox, "snapshot")
    request = control_request(context, "POST", path, json=dict(body), headers=headers)

    def made_of_it(snapshot: Snapshot) -> bool:
        source = snapshot.raw.get("source_sandbox_id")
        return bool(source == sandbox_id if sandbox_id else source)

    snapshot = yield from _make(
        context, request, body["name"], made_of_it, headers, not_found=no_such_sandbox(sandbox)
    )
    ready = yield from wait_for_snapshot(
        context, snapshot.id, timeout=timeout, poll_interval=POLL_INTERVAL, headers=headers
    )
    return ready


def _make(
    context: FlowContext,
    request: Request,
    name: str,
    made_of_it: Callable[[Snapshot], bool],
    headers: HeaderLayer,
    *,
    not_found: SandboxClientError | None = None,
) -> Flow[Snapshot]:
    """Ask for a snapshot once; ask again only when it provably was not made.

    :param made_of_it: whether a snapshot is of what this one is to be made of.
    """
    attempts = Attempts(context)
    effect = Perform(request, Timeouts.of(context.config.timeout))
    while True:
        outcome = yield from exchange(effect)
        repeat = Repeatability.UNSAFE
        if outcome_is_unknown(outcome.result):
            answer = yield from _find_own(context, name, made_of_it, headers)
            if isinstance(answer, Snapshot):
                return answer
            if answer is _Unfound.NOT_THERE:
                repeat = Repeatability.KEYED  # it was not made, and may be asked for again
        when = attempts.next_after(outcome, repeat)
        if when is None:
            break
        yield from wait_until(when)
    done = attempts.performed(request, outcome)
    require_success(done, not_found=not_found)
    return done.read(Snapshot.from_dict)


class _Unfound(enum.Enum):
    """What the server says of a snapshot that it may have made for us."""

    NOT_THERE = enum.auto()
    UNCLEAR = enum.auto()


def _find_own(
    context: FlowContext,
    name: str,
    made_of_it: Callable[[Snapshot], bool],
    headers: HeaderLayer,
) -> Flow[Snapshot | _Unfound]:
    """The snapshot that a request, whose answer was lost, has made; if it has."""
    query = filters(name_contains=name, sort_by="created_at", sort_order="desc")
    try:
        page = yield from list_page(context, SNAPSHOTS, query, headers)
    except SandboxClientError:
        return _Unfound.UNCLEAR  # what is reported is the trouble with the request itself
    oldest = page.now - context.now + CLOCK_TOLERANCE
    verdict = _Unfound.NOT_THERE
    for snapshot in page.items:
        if snapshot.name != name or not made_of_it(snapshot):
            continue
        age = server_age(snapshot.created_at, page.answered_at)
        if age is None:
            verdict = _Unfound.UNCLEAR
        elif age <= oldest:
            return snapshot
    return verdict
