"""What is seen of requests on their way: what was asked, and which sandboxes came and went."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Protocol
from urllib.parse import unquote

from .request_log import Request

_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")
_ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3})")
_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*websocket", re.IGNORECASE)
_ID = re.compile(rb'"id"\s*:\s*"([^"]+)"')
_BOX = re.compile(r"/boxes(?:/([^/]+))?$")
_KEPT = 64 * 1024
_SWITCHED = 101


class Told(Protocol):
    """Who wants to know."""

    def request_made(self, method: str, target: str, connection: int) -> Request:
        """A request begins."""

    def sandbox_asked_for(self, name: str) -> None:
        """A sandbox of this name may be made now."""

    def sandbox_known(self, name: str, other: str) -> None:
        """It has another name, too, or an id."""

    def sandbox_gone(self, name: str) -> None:
        """It was deleted, or never made."""


class WireWatch:
    """Reads along on one connection.

    A client says something new only when it has heard the answer to what it said before. So a
    request begins with the first bytes after those of an answer, and nowhere else.
    """

    def __init__(self, told: Told, connection: int) -> None:
        self._told, self._connection = told, connection
        self._may_begin, self._upgraded = True, False
        self._request: Request | None = None
        self._box: re.Match[str] | None = None  # the path, if it is that of a sandbox or of all
        self._said, self._heard = bytearray(), bytearray()

    def said(self, data: memoryview) -> None:
        """The client sent this."""
        if self._upgraded:
            return
        if self._may_begin and (match := _REQUEST.match(data)):
            target = bytes(match[2]).decode("latin-1")
            method = "WebSocket" if _UPGRADE.search(data) else bytes(match[1]).decode()
            self._request = self._told.request_made(method, target, self._connection)
            self._box = _BOX.search(target.partition("?")[0])
            self._said, self._heard = bytearray(), bytearray()
            self._may_begin = False
        if self._box is not None:
            self._said += data[: _KEPT - len(self._said)]
            name = self._body().get("name")
            if self._is_creation and isinstance(name, str):
                self._told.sandbox_asked_for(name)  # whatever the answer is, or becomes of it

    def heard(self, data: memoryview) -> None:
        """The client received this."""
        request = self._request
        if request is None or self._upgraded:
            return
        self._may_begin = True
        if request.status is None and (match := _ANSWER.match(data)):
            status = int(match[1])
            if status >= 200 or status == _SWITCHED:
                request.status = status
                self._upgraded = status == _SWITCHED
        if self._box is not None:
            self._heard += data[: _KEPT - len(self._heard)]
            self._conclude(request, self._box)

    @property
    def _is_creation(self) -> bool:
        request, box = self._request, self._box
        return (
            request is not None and box is not None and (request.method, box[1]) == ("POST", None)
        )

    def _body(self) -> dict[str, Any]:
        _, _, body = bytes(self._said).partition(b"\r\n\r\n")
        with contextlib.suppress(ValueError):
            if isinstance(data := json.loads(body), dict):
                return data
        return {}

    def _conclude(self, request: Request, box: re.Match[str]) -> None:
        """What is known now; may be done again when more is."""
        status, other = request.status or 0, self._body().get("name")
        named = None if box[1] is None else unquote(box[1])
        done = 200 <= status < 300
        if named is None and self._is_creation and isinstance(other, str):
            if 400 <= status < 500:
                self._told.sandbox_gone(other)
            elif done and (match := _ID.search(self._heard)):
                self._told.sandbox_known(other, match[1].decode())
        elif named is not None and request.method == "PATCH" and done and isinstance(other, str):
            self._told.sandbox_known(named, other)
        elif named is not None and request.method == "DELETE" and (done or status == 404):
            self._told.sandbox_gone(named)
