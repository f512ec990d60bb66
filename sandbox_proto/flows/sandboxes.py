"""Sandboxes on the control plane, all but their creation (protocol/02, 04)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import (
    ResourceCreationError,
    ResourceNameConflictError,
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxNotReadyError,
)
from ..plans.retry import Repeatability
from ..wire.error_bodies import read_detail
from ..wire.models import ResourceStatus, SandboxRecord
from .control import (
    HeaderLayer,
    box_path,
    call_control,
    control_request,
    require_success,
)
from .effects import Flow, FlowContext, Performed, wait_until
from .paging import Listing, Pages

RecordT = TypeVar("RecordT", bound=SandboxRecord)


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


SANDBOXES: Listing[SandboxRecord] = Listing(
    "/boxes",
    "sandboxes",
    SandboxRecord.parse,
    lambda record: record.id or record.name,
    "sandboxes",
)


def list_sandboxes(context: FlowContext, headers: HeaderLayer = None) -> Flow[list[SandboxRecord]]:
    """``GET /boxes``, every page of it."""
    records = yield from list_sandboxes_as(context, SandboxRecord.parse, headers)
    return records


def list_sandboxes_as(
    context: FlowContext, parse: Callable[[Any], RecordT], headers: HeaderLayer = None
) -> Flow[list[RecordT]]:
    """The same as objects of the driver's own, made at once instead of out of records.

    :param parse: makes one of its JSON.
    """
    listing = Listing(SANDBOXES.path, SANDBOXES.legacy_field, parse, SANDBOXES.key, SANDBOXES.what)
    records = yield from Pages(listing).rest(context, headers)
    return records


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


def update_sandbox(
    context: FlowContext,
    name: str,
    changes: Mapping[str, Any],
    headers: HeaderLayer = None,
) -> Flow[SandboxRecord]:
    """``PATCH /boxes/{name}``; the mapping of errors is that of protocol/02 section 4.

    :param changes: the fields to change, as the API names them; none is allowed.
    :raises ResourceNameConflictError: the new name is taken.
    :raises SandboxNotReadyError: the proxy rules of a sandbox that is not ready cannot be changed.
    """
    request = control_request(context, "PATCH", box_path(name), json=dict(changes), headers=headers)
    done = yield from call_control(context, request, Repeatability.KEYED)
    new_name = changes.get("name")
    if done.response.status == 404 and done.may_have_run and new_name:
        # An earlier attempt, whose answer was lost, may have renamed it.
        record = yield from get_sandbox(context, new_name, headers)
        return record
    if not done.response.successful:
        detail = read_detail(done.request, done.response)
        if done.response.status == 409:
            conflict = detail.message
            if new_name:
                conflict = f"sandbox {name!r} cannot be renamed: the name {new_name!r} is taken"
            raise done.blame(ResourceNameConflictError(conflict, "sandbox"))
        wants_proxy = done.response.status == 400 and "proxy_config" in changes
        if wants_proxy and detail.type == "InvalidRequest":
            raise done.blame(SandboxNotReadyError(detail.message))
    require_success(done, not_found=no_such_sandbox(name))
    return done.read(SandboxRecord.parse)


def start_sandbox(
    context: FlowContext, name: str, *, timeout: float, headers: HeaderLayer = None
) -> Flow[SandboxRecord]:
    """``POST /boxes/{name}/start``, then wait until it is ready."""
    yield from _act(context, name, "start", headers)
    record = yield from wait_for_sandbox(
        context, name, timeout=timeout, poll_interval=1.0, headers=headers
    )
    return record


def stop_sandbox(context: FlowContext, name: str, headers: HeaderLayer = None) -> Flow[None]:
    """``POST /boxes/{name}/stop``; its files stay, if it is persistent."""
    yield from _act(context, name, "stop", headers)


def _act(context: FlowContext, name: str, action: str, headers: HeaderLayer) -> Flow[None]:
    request = control_request(context, "POST", box_path(name, action), json={}, headers=headers)
    # Starting what runs and stopping what is stopped have no effect: repeat freely.
    done = yield from call_control(context, request, Repeatability.KEYED)
    require_success(done, not_found=no_such_sandbox(name))
