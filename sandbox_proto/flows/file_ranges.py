"""Looking at files, and reading parts of them (protocol/05 sections 3 and 4)."""

from __future__ import annotations

from ..errors import (
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxClientError,
    SandboxOperationError,
)
from ..plans.retry import Repeatability
from ..plans.timeouts import Timeouts
from ..wire.error_bodies import data_plane_error
from ..wire.file_models import FileChunk, FileStat
from ..wire.http import Request, Response
from ..wire.urls import Url, with_query
from .control import HeaderLayer
from .effects import Flow, FlowContext, Perform, Performed, perform, wait_until
from .files import transfer_timeouts


def range_header(start: int | None, end: int | None, suffix_bytes: int | None) -> str:
    """The ``Range`` header for one part of a file; both ends are part of it.

    :raises ValueError: the arguments name no part; the message says which.
    """
    if suffix_bytes is not None:
        if start is not None or end is not None:
            raise ValueError("suffix_bytes goes with neither start nor end")
        if suffix_bytes <= 0:
            raise ValueError(f"suffix_bytes must be above 0, not {suffix_bytes!r}")
        return f"bytes=-{suffix_bytes}"
    if start is None:
        raise ValueError("give start (and end, if you like), or suffix_bytes")
    if start < 0:
        raise ValueError(f"start must not be negative: {start!r}")
    if end is None:
        return f"bytes={start}-"
    if end < start:
        raise ValueError(f"end ({end!r}) must not lie before start ({start!r})")
    return f"bytes={start}-{end}"


def stat_file(
    context: FlowContext, base: str, path: str, *, timeout: float, headers: HeaderLayer = None
) -> Flow[FileStat]:
    """``HEAD /download``.

    :param base: the data plane's base URL.
    """
    request = _request(context, "HEAD", base, path, headers)
    done = yield from perform(
        context, Perform(request, transfer_timeouts(timeout)), Repeatability.SAFE
    )
    _require_file(done, path)
    return FileStat.of_response(done.response)


def read_range(
    context: FlowContext,
    base: str,
    path: str,
    *,
    start: int | None,
    end: int | None,
    suffix_bytes: int | None,
    if_range: str | None,
    if_none_match: str | None,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[FileChunk]:
    """``GET /download`` of one range, into memory.

    :raises ValueError: the arguments name no part.
    """
    layer = {"range": range_header(start, end, suffix_bytes)}
    layer |= {"if-range": if_range} if if_range else {}
    layer |= {"if-none-match": if_none_match} if if_none_match else {}
    request = _request(context, "GET", base, path, headers, layer)
    effect = Perform(request, transfer_timeouts(timeout), max_body_bytes=None)
    done = yield from perform(context, effect, Repeatability.SAFE)
    if done.response.status != 304:
        _require_file(done, path)
    return FileChunk.of_response(done.response)


def open_range(
    context: FlowContext,
    base: str,
    path: str,
    *,
    first: int,
    last: int | None,
    if_range: str | None,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[Response]:
    """``GET /download`` from one byte on, with the body still to be read.

    A 416 is an answer like others here: an empty file has no first byte.

    :param last: the last byte that is wanted; None is the file's.
    """
    layer = {"range": range_header(first, last, None)}
    layer |= {"if-range": if_range} if if_range else {}
    request = _request(context, "GET", base, path, headers, layer)
    effect = Perform(request, transfer_timeouts(timeout), stream=True, max_body_bytes=None)
    done = yield from perform(context, effect, Repeatability.SAFE)
    if done.response.status != 416:
        _require_file(done, path)
    return done.response


def await_file(
    context: FlowContext,
    base: str,
    path: str,
    *,
    timeout: float,
    poll_interval: float,
    headers: HeaderLayer = None,
) -> Flow[FileStat]:
    """Ask again and again until there is such a file.

    :param timeout: how long to wait for it, in seconds.
    :raises ResourceTimeoutError: there is none by then.
    """
    deadline = context.now + timeout
    while True:
        request = _request(context, "HEAD", base, path, headers)
        effect = Perform(request, Timeouts.of(context.config.timeout))
        done = yield from perform(context, effect, Repeatability.SAFE)
        if done.response.status != 404:
            _require_file(done, path)
            return FileStat.of_response(done.response)
        if done.now >= deadline:
            message = f"there is still no file {path!r} in the sandbox after {timeout:g} s"
            raise ResourceTimeoutError(message, "file", "missing")
        yield from wait_until(min(done.now + poll_interval, deadline))


def _request(
    context: FlowContext,
    method: str,
    base: str,
    path: str,
    headers: HeaderLayer,
    layer: HeaderLayer = None,
) -> Request:
    url = Url.parse(with_query(base + "/download", {"path": path}))
    return Request(method, url, context.config.request_headers(layer, headers))


def _require_file(done: Performed, path: str) -> None:
    """Raise what protocol/03 section 3.5 says for an unsuccessful answer."""
    response = done.response
    if response.successful:
        return
    error: SandboxClientError
    if response.status == 404:
        error = ResourceNotFoundError(f"there is no file {path!r} in the sandbox", "file")
    elif response.status == 416:
        extent = response.header("content-range") or "of a size the server does not tell"
        error = SandboxOperationError(f"the range lies behind the end of {path!r} ({extent})")
    else:
        error = data_plane_error(done.request, response)
    raise done.blame(error)
