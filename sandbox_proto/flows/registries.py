"""Image registries (protocol/02 section 14), at absolute paths of the API's root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ResourceNameConflictError, ResourceNotFoundError
from ..plans.retry import Repeatability
from ..plans.timeouts import Timeouts
from ..wire.http import Request, json_body
from ..wire.models import Registry
from ..wire.urls import Url, quote_segment, with_query
from .control import HeaderLayer, call_control, require_success
from .effects import Flow, FlowContext, Performed
from .paging import Query, read_items

_PATH = "/api/v2/sandboxes/registries"


def call_registries(
    context: FlowContext,
    method: str,
    name: str | None = None,
    *,
    body: Mapping[str, Any] | None = None,
    query: Query | None = None,
    headers: HeaderLayer = None,
    timeout: float | None = None,
) -> Flow[Any]:
    """One call; returns the answer's JSON, or None where there is none.

    :raises ResourceNotFoundError: there is no registry of this name.
    :raises ResourceNameConflictError: the name is taken.
    """
    path = _PATH if name is None else f"{_PATH}/{quote_segment(name)}"
    own = None if body is None else {"content-type": "application/json"}
    request = Request(
        method,
        Url.parse(with_query(context.config.api_root + path, query or {})),
        context.config.request_headers(own, headers),
        () if body is None else json_body(dict(body)),
    )
    repeat = {"GET": Repeatability.SAFE, "POST": Repeatability.UNSAFE}.get(
        method, Repeatability.KEYED
    )
    timeouts = None if timeout is None else Timeouts.uniform(timeout)
    done = yield from call_control(context, request, repeat, timeouts=timeouts)
    new_name = (body or {}).get("name")
    if done.response.status == 404 and done.may_have_run:
        # An earlier attempt, whose answer was lost, may have been carried out.
        if method == "DELETE":
            return None
        if new_name and new_name != name:
            renamed = yield from call_registries(
                context, "GET", new_name, headers=headers, timeout=timeout
            )
            return renamed
    _require_success(done, name, new_name)
    return None if not done.response.body else done.read(lambda answer: answer)


def _require_success(done: Performed, name: str | None, taken: str | None) -> None:
    if done.response.status == 409 and taken:
        error = ResourceNameConflictError(f"there is a registry {taken!r} already", "registry")
        raise done.blame(error)
    not_found = None
    if name is not None:
        not_found = ResourceNotFoundError(f"there is no registry {name!r}", "registry")
    require_success(done, not_found=not_found)


def parse_registries(answer: Any) -> list[Registry]:
    """The registries of a list answer.

    :raises SandboxProtocolError: it is none.
    """
    return read_items(answer, ("items", "registries"), Registry.from_dict, "the list of registries")
