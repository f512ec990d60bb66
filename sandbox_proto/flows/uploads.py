"""Uploads that are never in memory as a whole (protocol/05 section 1)."""

from __future__ import annotations

from typing import Protocol

from ..plans.retry import Repeatability
from ..wire.error_bodies import data_plane_error
from ..wire.http import Request, StreamedBody
from ..wire.multipart import file_form_frame
from ..wire.urls import Url, with_query
from .control import HeaderLayer
from .effects import Flow, FlowContext, Perform, perform
from .files import transfer_timeouts


class UploadSource(Protocol):
    """Where the content of a file comes from: the driver's business, but for two facts.

    :ivar length: its size in bytes, where that is known (sent as Content-Length).
    :ivar repeatable: whether it can be read a second time.
    """

    length: int | None
    repeatable: bool

    def framed(self, head: bytes, tail: bytes) -> object:
        """The driver's handle for a body: `head`, the content, `tail`."""


def upload_file(
    context: FlowContext,
    base: str,
    path: str,
    source: UploadSource,
    *,
    timeout: float,
    headers: HeaderLayer = None,
) -> Flow[None]:
    """``POST /upload``: a file from a stream, replacing what was there.

    What can be read twice is sent again after a lost connection, from its beginning.
    """
    content_type, head, tail = file_form_frame(context.entropy)
    length = None if source.length is None else len(head) + source.length + len(tail)
    request = Request(
        "POST",
        Url.parse(with_query(base + "/upload", {"path": path})),
        context.config.request_headers({"content-type": content_type}, headers),
        StreamedBody(source.framed(head, tail), length),
    )
    repeat = Repeatability.KEYED if source.repeatable else Repeatability.UNSAFE
    done = yield from perform(context, Perform(request, transfer_timeouts(timeout)), repeat)
    if not done.response.successful:
        raise done.blame(data_plane_error(request, done.response))
