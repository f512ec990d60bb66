"""Files and what is found in them, as users see them (protocol/12 section 5, protocol/05)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

import attrs

from ..errors import SandboxProtocolError
from .converters import structure
from .http import Response

_EXTENT = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@attrs.define
class FileChunk:
    """A part of a file, as it was when it was read.

    :ivar content: the bytes.
    :ivar etag: the file's validator: it changes with every change of the file.
    :ivar total_bytes: the size of the whole file, where the server told it.
    :ivar start: offset of the first byte.
    :ivar partial: only the part that was asked for; else the whole file, from its beginning.
    :ivar unchanged: the file is still the one of ``if_none_match``, so nothing was read.
    :ivar last_modified: an HTTP date.
    """

    content: bytes = attrs.field(repr=False)
    etag: str | None = None
    total_bytes: int | None = None
    start: int = 0
    partial: bool = False
    unchanged: bool = False
    last_modified: str | None = None

    @property
    def end(self) -> int:
        """Offset of the first byte after the content."""
        return self.start + len(self.content)

    @classmethod
    def of_response(cls, response: Response) -> Self:
        """From the answer to a ranged read, 2xx or 304."""
        etag, modified = response.header("etag"), response.header("last-modified")
        if response.status == 304:
            return cls(b"", etag, unchanged=True, last_modified=modified)
        if response.status != 206:
            size = len(response.body)
            return cls(response.body, etag, size, last_modified=modified)
        extent = content_range(response)
        return cls(
            response.body,
            etag,
            extent.total,
            0 if extent.first is None else extent.first,
            partial=True,
            last_modified=modified,
        )


@attrs.frozen
class Extent:
    """What ``Content-Range`` says; None is what it does not say.

    :ivar first: offset of the first byte of the answer.
    :ivar last: offset of its last byte.
    :ivar total: the size of the whole file.
    """

    first: int | None = None
    last: int | None = None
    total: int | None = None


def content_range(response: Response) -> Extent:
    """The extent of an answer; an empty one where the header is missing or malformed."""
    found = _EXTENT.fullmatch(response.header("content-range") or "")
    if found is None:
        return Extent()
    return Extent(*(int(text) if text and text != "*" else None for text in found.groups()))


@attrs.define
class FileStat:
    """What is known of a file without reading it.

    :ivar size_bytes: its size; 0 if the server did not tell.
    :ivar etag: its validator: it changes with every change of the file.
    :ivar last_modified: an HTTP date.
    """

    size_bytes: int
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None

    @classmethod
    def of_response(cls, response: Response) -> Self:
        """From the answer to a ``HEAD``."""
        size = response.header("content-length") or ""
        return cls(
            int(size) if size.isascii() and size.isdigit() else 0,
            response.header("etag"),
            response.header("last-modified"),
            response.header("content-type"),
        )


@attrs.define
class FileInfo:
    """One entry of a directory.

    :ivar path: absolute.
    :ivar size_bytes: 0 for directories.
    :ivar modified_at: as RFC 3339.
    """

    path: str
    is_dir: bool = False
    size_bytes: int = 0
    modified_at: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of one match of ``POST /glob``."""
        return structure(_filled(data, path=""), cls, what="a file")


@attrs.define
class GlobResult:
    """What a pattern matched. It is iterable, and has a length.

    :ivar matches: in the order of their paths.
    :ivar truncated: there are more.
    """

    matches: list[FileInfo] = attrs.field(factory=list)
    truncated: bool = False

    def __iter__(self) -> Iterator[FileInfo]:
        return iter(self.matches)

    def __len__(self) -> int:
        return len(self.matches)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of ``POST /glob``."""
        matches = [FileInfo.from_dict(each) for each in _matches(data)]
        return cls(matches, bool(data.get("truncated")))


@attrs.define
class GrepMatch:
    """One line that holds the text that was searched for.

    :ivar path: of the file, absolute.
    :ivar line: its number; the first is 1.
    :ivar text: the line without its end; the server may cut it.
    """

    path: str
    line: int
    text: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of one match of ``POST /grep``."""
        return structure(_filled(data, path="", line=0, text=""), cls, what="a line")


@attrs.define
class GrepResult:
    """The lines that were found. It is iterable, and has a length.

    :ivar matches: in the order in which they were found.
    :ivar truncated: there may be more.
    """

    matches: list[GrepMatch] = attrs.field(factory=list)
    truncated: bool = False

    def __iter__(self) -> Iterator[GrepMatch]:
        return iter(self.matches)

    def __len__(self) -> int:
        return len(self.matches)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of ``POST /grep``."""
        matches = [GrepMatch.from_dict(each) for each in _matches(data)]
        return cls(matches, bool(data.get("truncated")))


def _matches(data: object) -> list[Any]:
    matches = (data.get("matches") or []) if isinstance(data, Mapping) else None
    if not isinstance(matches, list):
        raise SandboxProtocolError("the server's answer to a search has no list of matches")
    return matches


def _filled(data: object, **defaults: object) -> object:
    """With something in place of what is absent or null."""
    if not isinstance(data, Mapping):
        return data
    return {**defaults, **{key: value for key, value in data.items() if value is not None}}
