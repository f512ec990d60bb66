"""Files on the data plane: upload and download (protocol/05)."""

from __future__ import annotations

from ..errors import (
    DataplaneNotConfiguredError,
    ResourceNotFoundError,
    SandboxProtocolError,
)
from ..plans.retry import Repeatability
from ..plans.timeouts import Timeouts
from ..wire.error_bodies import data_plane_error
from ..wire.http import Buffer, Request
from ..wire.multipart import file_form
from ..wire.urls import Url, with_query
from .control import HeaderLayer
from .effects import Flow, FlowContext, Perform, perform


def dataplane(url: str | None, name: str) -> str:
    """The data plane's base URL, if the sandbox has one.

    :raises DataplaneNotConfiguredError: it has none.
    :raises SandboxProtocolError: what the server gave is no URL.
    """
    if not url:
        raise DataplaneNotConfiguredError(
            f"sandbox {name!r} has no dataplane_url, so nothing can be run or read in it; "
            "it may still be provisioning: wait_for_sandbox() returns it with its URL"
        )
    try:
        Url.parse(url)
    except ValueError as error:
        raise SandboxProtocolError(f"the dataplane_url of sandbox {name!r} is {error}") from None
    return url


def transfer_timeouts(timeout: float) -> Timeouts:
    """A file may take as long as it needs, provided it keeps moving."""
    return Timeouts(connect=timeout, read=timeout, write=timeout, pool=timeout)


def write_file(
    context: FlowContext,
    base: str,
    path: str,
    content: Buffer,
    *,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[None]:
    """``POST /upload``: the whole file from memory, replacing what was there.

    :param base: the data plane's base URL.
    :param path: where in the sandbox; its missing parents are made.
    """
    content_type, body = file_form(content, context.entropy)
    request = Request(
        "POST",
        Url.parse(with_query(base + "/upload", {"path": path})),
        context.config.request_headers({"content-type": content_type}, headers),
        body,
    )
    effect = Perform(request, transfer_timeouts(timeout))
    done = yield from perform(context, effect, Repeatability.KEYED)
    if not done.response.successful:
        raise done.blame(data_plane_error(request, done.response))


def read_file(
    context: FlowContext,
    base: str,
    path: str,
    *,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[bytes]:
    """``GET /download``: the whole file into memory."""
    request = Request(
        "GET",
        Url.parse(with_query(base + "/download", {"path": path})),
        context.config.request_headers(headers),
    )
    effect = Perform(request, transfer_timeouts(timeout), max_body_bytes=None)
    done = yield from perform(context, effect, Repeatability.SAFE)
    if done.response.status == 404:
        raise done.blame(ResourceNotFoundError(f"there is no file {path!r} in the sandbox", "file"))
    if not done.response.successful:
        raise done.blame(data_plane_error(request, done.response))
    return done.response.body
