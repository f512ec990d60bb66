"""Sandboxes on the control plane: get, list, delete, status, wait (protocol/02, 04)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import (
    ResourceCreationError,
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxProtocolError,
)
from ..plans.retry import Repeatability
from ..wire.models import ResourceStatus, SandboxRecord
from ..wire.urls import with_query
from .control import (
    HeaderLayer,
    box_path,
    call_control,
    control_request,
    require_success,
    wrong_endpoint,
)
from .effects import Flow, FlowContext, Performed, wait_until


def no_such_sandbox(name: str) -> ResourceNotFoundError:
    return ResourceNotFoundError(f"there is no sandbox {name!r}", "sandbox")


def get_sandbox(
    context: FlowContext, name: str, headers: HeaderLayer = None
) -> Flow[SandboxRecord]:
    """``GET /boxes/{name}``."""
    done = yield from _get(context, box_path(name), headers)
    require_success(done, not_found=no_such_sandbox(name))
    return done.read(SandboxRecord.parse)


def get_status(
    context: FlowContext, name: str, headers: HeaderLayer = None
) -> Flow[ResourceStatus]:
    """``GET /boxes/{name}/status``."""
    status, _ = yield from _poll_status(context, name, headers)
    return status


def _poll_status(
    context: FlowContext, name: str, headers: HeaderLayer
) -> Flow[tuple[ResourceStatus, float]]:
    done = yield from _get(context, box_path(name, "status"), headers)
    require_success(done, not_found=no_such_sandbox(name))
    return done.read(ResourceStatus.from_dict), done.now


def _get(context: FlowContext, path: str, headers: HeaderLayer) -> Flow[Performed]:
    request = control_request(context, "GET", path, headers=headers)
    done = yield from call_control(context, request, Repeatability.SAFE)
    return done


def list_sandboxes(context: FlowContext, headers: HeaderLayer = None) -> Flow[list[SandboxRecord]]:
    """``GET /boxes``, every page of it."""
    found: dict[str, SandboxRecord] = {}
    query: dict[str, str] | None = {}
    seen: set[str] = set()
    while query is not None:
        page, query = yield from _list_page(context, query, headers)
        for record in page:
            # Offset pages shift when sandboxes come and go: the same one may come twice.
            found.setdefault(record.id or record.name, record)
        position = str(query)
        if position in seen:
            raise SandboxProtocolError(f"the list of sandboxes leads back to the page at {query}")
        seen.add(position)
    return list(found.values())


def _list_page(
    context: FlowContext, query: Mapping[str, str], headers: HeaderLayer
) -> Flow[tuple[list[SandboxRecord], dict[str, str] | None]]:
    """One page, and the query for the next one."""
    done = yield from _get(context, with_query("/boxes", query), headers)
    if done.response.status == 404:
        raise done.blame(wrong_endpoint(done))
    require_success(done)
    return done.read(_read_page)


def _read_page(body: object) -> tuple[list[SandboxRecord], dict[str, str] | None]:
    if not isinstance(body, Mapping):
        raise SandboxProtocolError("the list of sandboxes is not a JSON object")
    records = body.get("items") or body.get("sandboxes") or []
    if not isinstance(records, list):
        raise SandboxProtocolError("the list of sandboxes holds no list")
    return [SandboxRecord.parse(record) for record in records], _next_query(body)


def _next_query(body: Mapping[str, Any]) -> dict[str, str] | None:
    """Where the next page is (protocol/02 section 17): by cursor, or on old servers by offset."""
    if "next_cursor" in body:
        cursor = body["next_cursor"]
        return {"cursor": cursor} if isinstance(cursor, str) and cursor else None
    offset = body.get("offset")
    return {"offset": str(offset)} if isinstance(offset, int) and offset > 0 else None


def delete_sandbox(context: FlowContext, name: str, headers: HeaderLayer = None) -> Flow[None]:
    """``DELETE /boxes/{name}``."""
    request = control_request(context, "DELETE", box_path(name), headers=headers)
    done = yield from call_control(context, request, Repeatability.KEYED)
    if done.response.status == 404 and done.may_have_run:
        return  # an earlier attempt, whose answer was lost, deleted it
    require_success(done, not_found=no_such_sandbox(name))


def wait_for_sandbox(
    context: FlowContext,
    name: str,
    *,
    timeout: float,
    poll_interval: float,
    headers: HeaderLayer = None,
) -> Flow[SandboxRecord]:
    """Poll the status until the sandbox is ready (protocol/04 section 4).

    At least one status request is made, and one more after the last wait.

    :raises ResourceCreationError: it failed.
    :raises ResourceTimeoutError: it was not ready `timeout` seconds after the flow began.
    """
    deadline = context.now + timeout
    while True:
        status, now = yield from _poll_status(context, name, headers)
        if status.status == "ready":
            record = yield from get_sandbox(context, name, headers)
            return record
        if status.status == "failed":
            reason = status.status_message or f"sandbox {name!r} failed to start"
            raise ResourceCreationError(reason, "sandbox")
        if now >= deadline:
            message = f"sandbox {name!r} was not ready within {timeout:g} s"
            raise ResourceTimeoutError(message, "sandbox", status.status)
        yield from wait_until(min(now + poll_interval, deadline))
