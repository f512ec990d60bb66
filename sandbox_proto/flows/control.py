"""Requests to the control plane, and what their failures mean."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import SandboxAPIError, SandboxClientError
from ..plans.retry import Repeatability
from ..plans.timeouts import Timeouts
from ..wire.error_bodies import control_plane_error, read_detail
from ..wire.http import Request, json_body
from ..wire.urls import Url, quote_segment
from .effects import Flow, FlowContext, Perform, Performed, perform

HeaderLayer = Mapping[str, str] | None


def control_request(
    context: FlowContext,
    method: str,
    path: str,
    *,
    json: object = None,
    headers: HeaderLayer = None,
) -> Request:
    """A request to the control plane; `path` begins with a slash and is already quoted."""
    own = None if json is None else {"content-type": "application/json"}
    return Request(
        method,
        Url.parse(context.config.api_endpoint + path),
        context.config.request_headers(own, headers),
        () if json is None else json_body(json),
    )


def box_path(name: str, action: str = "") -> str:
    """The path of one sandbox, or of an action on it.

    :raises ValueError: the name is empty or cannot be part of a path.
    """
    return f"/boxes/{quote_segment(name)}{'/' + action if action else ''}"


def call_control(
    context: FlowContext,
    request: Request,
    repeat: Repeatability,
    *,
    timeouts: Timeouts | None = None,
) -> Flow[Performed]:
    """Make a control-plane request under the default time limits; any status is returned."""
    timeouts = timeouts or Timeouts.of(context.config.timeout)
    done = yield from perform(context, Perform(request, timeouts), repeat)
    return done


def require_success(done: Performed, *, not_found: SandboxClientError | None = None) -> None:
    """Raise what protocol/03 section 3.1 says for an unsuccessful answer.

    :param not_found: what a 404 means for this call, if something better than the general rule.
    """
    if done.response.successful:
        return
    if done.response.status == 404 and not_found is not None:
        raise done.blame(not_found)
    raise done.blame(control_plane_error(done.request, done.response))


def wrong_endpoint(done: Performed) -> SandboxAPIError:
    """A list call that is not found means that the endpoint is no Sandbox API."""
    detail = read_detail(done.request, done.response)
    return SandboxAPIError(
        f"there is no Sandbox API at {done.request.url.without_query()} ({detail.message}); "
        "check api_endpoint or LANGSMITH_ENDPOINT"
    )
