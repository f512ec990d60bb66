"""Requests and responses as data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs

from .. import errors
from .urls import Url

Buffer = bytes | bytearray | memoryview
Headers = tuple[tuple[str, str], ...]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def merge_headers(*layers: Mapping[str, str] | None) -> dict[str, str]:
    """Lay header maps over each other; later ones win, names compare without case.

    This is the merge of protocol/01 section 6.1: names come out in lower case.

    :raises ValueError: a name or value cannot travel in a header.
    """
    merged: dict[str, str] = {}
    for layer in layers:
        for name, value in (layer or {}).items():
            if not isinstance(value, str):
                raise ValueError(
                    f"the value of header {name!r} must be a string, not {type(value).__name__}"
                )
            merged[_checked_name(name)] = _checked_value(name, value)
    return merged


# These follow from the request's URL and body; a second opinion would only contradict.
_DERIVED = frozenset({"host", "content-length", "transfer-encoding"})


@lru_cache(maxsize=256)
def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name")
    lower = name.lower()
    if lower in _DERIVED:
        raise ValueError(f"the header {name!r} is not yours to set: it follows from the request")
    return lower


@lru_cache(maxsize=256)
def _checked_value(name: str, value: str) -> str:
    stripped = value.strip(" \t")
    if any((c < " " and c != "\t") or c == "\x7f" or c > "\xff" for c in stripped):
        raise ValueError(f"the value of header {name!r} holds characters that no header may hold")
    return stripped


@attrs.frozen
class StreamedBody:
    """A request body that the application feeds in pieces.

    :ivar length: its size in bytes when known (sent as Content-Length), else None (chunked).
    :ivar source: the driver's handle for the pieces; opaque to the core.
    """

    source: object
    length: int | None = None


@attrs.frozen
class Request:
    """One HTTP request, complete but for the connection it travels on.

    :ivar method: in capitals.
    :ivar url: absolute.
    :ivar headers: without Host, Content-Length and Transfer-Encoding, which follow from the rest.
    :ivar body: pieces sent one after the other, or a stream; an empty tuple is no body.
    """

    method: str
    url: Url
    headers: Mapping[str, str] = attrs.field(repr=False)  # holds the API key
    body: tuple[Buffer, ...] | StreamedBody = attrs.field(default=(), repr=False)


@attrs.frozen
class Response:
    """One HTTP response.

    :ivar status: the final status, 200 to 999.
    :ivar headers: names in lower case, in order of arrival.
    :ivar body: the whole body, unless it is being streamed.
    :ivar reason: the reason phrase, possibly empty.
    :ivar stream: the driver's handle for a body that is still to be read; opaque to the core.
    """

    status: int
    headers: Headers
    body: bytes = b""
    reason: str = ""
    stream: object = None

    @property
    def successful(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        """The first header of this (lower-case) name, or None."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body parsed as JSON.

        :raises SandboxProtocolError: it is not JSON in UTF-8.
        """
        try:
            return _DECODER.decode(self.body.decode())
        except (ValueError, RecursionError) as error:
            raise errors.SandboxProtocolError(
                f"the server answered {self.status} with a body that is not JSON: "
                f"{error} (it begins {self.body[:60]!r})"
            ) from None


_DECODER = json.JSONDecoder()


def json_body(value: object) -> tuple[bytes]:
    """A JSON request body, compact, in UTF-8."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return (text.encode(),)
