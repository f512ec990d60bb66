"""Uploads and downloads: bytes between an HTTP body and a file in a sandbox."""

from __future__ import annotations

import os
import posixpath
import sys
from email.utils import formatdate
from typing import Self
from urllib.parse import quote

import anyio
import anyio.lowlevel
import attrs

from sandbox_proto.host.file_ranges import FileFacts, answer_file
from sandbox_proto.host.files import entity_tag, file_error, requested_path
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse
from sandbox_proto.host.service_routes import DownloadGrant

from .asgi_types import Receive, Send, send_head
from .runtime.base import PendingFile, RunningSandbox, SandboxPathError

_CHUNK_BYTES = 256 * 1024


async def store_upload(
    request: HostRequest, sandbox: RunningSandbox, receive: Receive
) -> HostResponse:
    """``POST /upload``: one part of a form becomes one file, in place when it is complete.

    :raises HostError: the form or the path is not as it should be, or the file cannot be written.
    """
    path = requested_path(request.query, await sandbox.home(), "write")
    pending: PendingFile | None = None
    try:
        pending = await sandbox.create_file(path)
        form = _FileForm(request.headers.get("content-type", ""), pending.fd)
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise HostError(400, "WriteError", "the upload was cut short")
            form.feed(event.get("body", b""))
            if not event.get("more_body"):
                break
            await anyio.lowlevel.checkpoint()
        form.finish()
        await pending.commit()
    except SandboxPathError as error:
        raise file_error(error.errno, path, "write") from None
    except OSError as error:
        raise file_error(error.errno, path, "write") from None
    finally:
        if pending is not None:
            with anyio.CancelScope(shield=True):
                await pending.abort()
    return HostResponse(200, {"path": path, "written": form.written})


class _FileForm:
    """A multipart form that holds exactly one file, written to a descriptor as it comes.

    :ivar written: bytes of the file so far.
    """

    def __init__(self, content_type: str, descriptor: int) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise HostError(400, "WriteError", "an upload is multipart/form-data with one file")
        self._descriptor = descriptor
        self.written = 0
        self._parts = 0
        self._ended = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._on_part,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """The next bytes of the body.

        :raises HostError: they are no form, or a form with a second part.
        :raises OSError: the file cannot be written.
        """
        from python_multipart.exceptions import FormParserError

        if not data:
            return
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise HostError(400, "WriteError", f"the form is malformed: {error}") from None

    def finish(self) -> None:
        """The body is complete.

        :raises HostError: the form is not.
        """
        if not self._ended or self._parts != 1:
            raise HostError(400, "WriteError", "the form must hold exactly one complete file")

    def _on_part(self) -> None:
        self._parts += 1
        if self._parts > 1:
            raise HostError(400, "WriteError", "the form must hold exactly one file")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        view = memoryview(data)[start:end]
        while view:
            written = os.write(self._descriptor, view)
            self.written += written
            view = view[written:]

    def _on_end(self) -> None:
        self._ended = True


@attrs.frozen
class FileLook:
    """Which file is sent, and how it is shown.

    :ivar headers: further headers of the answer.
    """

    path: str
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_query(cls, query: str) -> Self:
        """As the data plane sends files: as they are.

        :raises HostError: the query names no file.
        """
        return cls(requested_path(query, "", "read"), "application/octet-stream")

    @classmethod
    def of_grant(cls, grant: DownloadGrant) -> Self:
        """As a download link says."""
        headers = []
        if grant.disposition is not None:
            name = quote(posixpath.basename(grant.path))
            headers.append(("content-disposition", f"{grant.disposition}; filename*=UTF-8''{name}"))
        if grant.policy is not None:
            headers.append(("content-security-policy", grant.policy))
        kind = grant.content_type or "application/octet-stream"
        return cls(grant.path, kind, (("x-content-type-options", "nosniff"), *headers))


async def send_file(
    request: HostRequest, sandbox: RunningSandbox, send: Send, look: FileLook
) -> None:
    """``GET`` and ``HEAD`` of a file.

    :raises HostError: the file cannot be read.
    """
    path = posixpath.join(await sandbox.home(), look.path)
    try:
        descriptor = await sandbox.open_file(path)
    except SandboxPathError as error:
        raise file_error(error.errno, path, "read") from None
    try:
        answer = answer_file(request.method, request.headers, _facts_of(descriptor))
        await send_head(
            send,
            answer.status,
            [("content-type", look.content_type), *answer.headers, *look.headers],
        )
        os.lseek(descriptor, answer.first, os.SEEK_SET)
        left = sys.maxsize if answer.count is None else answer.count
        while left:
            data = os.read(descriptor, min(_CHUNK_BYTES, left))
            if not data:
                if answer.count is not None:
                    return  # it shrank: the connection ends short of what was announced
                break
            left -= len(data)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        os.close(descriptor)


def _facts_of(descriptor: int) -> FileFacts:
    status = os.fstat(descriptor)
    size: int | None = status.st_size
    if not size and os.pread(descriptor, 1, 0):
        size = None  # a file of the kernel's, which is made while it is read
    etag = entity_tag(status.st_mtime_ns, status.st_size, status.st_ino)
    return FileFacts(size, etag, formatdate(status.st_mtime, usegmt=True))
