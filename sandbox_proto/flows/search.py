"""Finding files by name and by content (protocol/05 sections 5 and 6)."""

from __future__ import annotations

from typing import Any

from ..errors import ResourceNotFoundError
from ..plans.retry import Repeatability
from ..wire.error_bodies import data_plane_error
from ..wire.file_models import GlobResult, GrepResult
from ..wire.http import Request, json_body
from ..wire.urls import Url
from .control import HeaderLayer
from .effects import Flow, FlowContext, Perform, Performed, perform
from .files import transfer_timeouts


def glob_files(
    context: FlowContext,
    base: str,
    pattern: str,
    path: str,
    *,
    limit: int | None,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[GlobResult]:
    """``POST /glob``.

    :param base: the data plane's base URL.
    """
    body = {"pattern": pattern, "path": path, "limit": limit}
    done = yield from _search(context, base + "/glob", body, timeout, headers)
    return done.read(GlobResult.from_dict)


def grep_files(
    context: FlowContext,
    base: str,
    pattern: str,
    path: str,
    *,
    glob: str | None,
    limit: int | None,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[GrepResult]:
    """``POST /grep``."""
    body = {"pattern": pattern, "path": path, "glob": glob, "limit": limit}
    done = yield from _search(context, base + "/grep", body, timeout, headers)
    return done.read(GrepResult.from_dict)


def _search(
    context: FlowContext, url: str, body: dict[str, Any], timeout: float, headers: HeaderLayer
) -> Flow[Performed]:
    request = Request(
        "POST",
        Url.parse(url),
        context.config.request_headers({"content-type": "application/json"}, headers),
        json_body({name: value for name, value in body.items() if value is not None}),
    )
    done = yield from perform(
        context, Perform(request, transfer_timeouts(timeout)), Repeatability.SAFE
    )
    if done.response.status == 404:
        message = f"there is no directory {body['path']!r} in the sandbox"
        raise done.blame(ResourceNotFoundError(message, "file"))
    if not done.response.successful:
        raise done.blame(data_plane_error(request, done.response))
    return done
