"""Snapshots on the control plane (protocol/02 sections 9 and 12, 04 section 5).

A snapshot has no key of its own before it exists, so a create or capture is only
repeated when it provably was not carried out. When its answer is lost, the newest
snapshot of that name tells: if it is younger than our request and made of the same
thing, it is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import (
    ResourceCreationError,
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxClientError,
)
from ..plans.retry import Repeatability, outcome_is_unknown, retry_delay
from ..plans.timeouts import Timeouts
from ..wire.http import Request
from ..wire.models import Snapshot, SnapshotTag
from ..wire.times import CLOCK_TOLERANCE, server_age
from ..wire.urls import quote_reference, quote_segment
from .control import HeaderLayer, box_path, call_control, control_request, require_success
from .effects import (
    Broke,
    Flow,
    FlowContext,
    Perform,
    Performed,
    connection_error,
    exchange,
    wait_until,
)
from .paging import Listing, filters, list_page
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
    """``DELETE /snapshots/{reference}``."""
    path = f"/snapshots/{quote_segment(reference)}"
    request = control_request(context, "DELETE", path, headers=headers)
    done = yield from call_control(context, request, Repeatability.KEYED)
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
    return done.read(lambda body: [SnapshotTag.from_dict(tag) for tag in body.get("tags") or []])


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
    made_of = {"docker_image": body["docker_image"]}
    snapshot = yield from _make(context, request, body["name"], made_of, headers)
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
    made_of = {"source_sandbox_id": sandbox_id} if sandbox_id else {}
    snapshot = yield from _make(
        context, request, body["name"], made_of, headers, not_found=no_such_sandbox(sandbox)
    )
    ready = yield from wait_for_snapshot(
        context, snapshot.id, timeout=timeout, poll_interval=POLL_INTERVAL, headers=headers
    )
    return ready


def _make(
    context: FlowContext,
    request: Request,
    name: str,
    made_of: Mapping[str, str],
    headers: HeaderLayer,
    *,
    not_found: SandboxClientError | None = None,
) -> Flow[Snapshot]:
    """Ask for a snapshot once; ask again only when it provably was not made."""
    attempt = 0
    effect = Perform(request, Timeouts.of(context.config.timeout))
    while True:
        outcome = yield from exchange(effect)
        result = outcome.fault if isinstance(outcome, Broke) else outcome.response
        repeat = Repeatability.UNSAFE
        if outcome_is_unknown(result):
            found = yield from _find_own(context, name, made_of, headers)
            if found is not None:
                return found
            # The server does not know it, so it was not made, and may be asked for again.
            repeat = Repeatability.KEYED
        delay = retry_delay(
            result,
            repeat,
            attempt=attempt,
            policy=context.config.retry,
            random=context.random,
            elapsed=outcome.now - context.now,
        )
        if delay is None:
            break
        yield from wait_until(outcome.now + delay)
        attempt += 1
    if isinstance(outcome, Broke):
        raise connection_error(request, outcome.fault, attempts=attempt + 1)
    done = Performed(request, outcome.response, outcome.now, attempt + 1)
    require_success(done, not_found=not_found)
    return done.read(Snapshot.from_dict)


def _find_own(
    context: FlowContext, name: str, made_of: Mapping[str, str], headers: HeaderLayer
) -> Flow[Snapshot | None]:
    """The snapshot that a request, whose answer was lost, has made; if it has."""
    query = filters(name_contains=name, sort_by="created_at", sort_order="desc")
    try:
        page = yield from list_page(context, SNAPSHOTS, query, headers)
    except SandboxClientError:
        return None
    oldest = page.now - context.now + CLOCK_TOLERANCE
    for snapshot in page.items:
        fits = all(snapshot.raw.get(key) == value for key, value in made_of.items())
        age = server_age(snapshot.created_at, page.answered_at)
        if snapshot.name == name and fits and age is not None and age <= oldest:
            return snapshot
    return None
