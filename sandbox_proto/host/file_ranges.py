"""Which bytes of a file answer a request, and with which status (protocol/05 section 4.2).

The order is that of RFC 9110: ``If-None-Match`` first, then ``If-Range``, then ``Range``.
``If-Modified-Since`` is not looked at: a date has a resolution of one second, and would call
a file unchanged that was written twice within it. For the same reason a date in ``If-Range``
never matches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from ..wire.http import Headers
from .messages import HostError

_RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?("[^"]*")')


@attrs.frozen
class FileFacts:
    """A file as it is when it is opened.

    :ivar size: in bytes; None if only reading can tell.
    :ivar etag: its strong validator, in quotes.
    :ivar modified: when it was changed last, as an HTTP date.
    """

    size: int | None
    etag: str
    modified: str


@attrs.frozen
class FileAnswer:
    """What to answer: a head, and a stretch of the file.

    :ivar first: the first byte to send.
    :ivar count: how many to send; None is all there are, of unknown length.
    """

    status: int
    headers: Headers
    first: int
    count: int | None


def answer_file(method: str, headers: Mapping[str, str], facts: FileFacts) -> FileAnswer:
    """The answer to a ``GET`` or ``HEAD`` of a file.

    :param headers: of the request, names in lower case.
    :raises HostError: 416, the range lies behind the file's end.
    """
    validators: Headers = (("etag", facts.etag), ("last-modified", facts.modified))
    if _names_tag(headers.get("if-none-match"), facts.etag):
        return FileAnswer(304, validators, 0, 0)
    if facts.size is None:
        return FileAnswer(200, validators, 0, 0 if method == "HEAD" else None)
    validators = (*validators, ("accept-ranges", "bytes"))
    wanted = None
    # A HEAD has no use for a range, and RFC 9110 gives it none.
    if method == "GET" and headers.get("if-range", facts.etag).strip() == facts.etag:
        wanted = _range_in(headers.get("range"), facts.size)
    if wanted is None:
        length = ("content-length", str(facts.size))
        return FileAnswer(200, (*validators, length), 0, 0 if method == "HEAD" else facts.size)
    first, count = wanted
    extent = f"bytes {first}-{first + count - 1}/{facts.size}"
    more = (("content-range", extent), ("content-length", str(count)))
    return FileAnswer(206, (*validators, *more), first, count)


def _names_tag(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names this tag; the weak comparison, as RFC 9110 has it."""
    if header is None:
        return False
    return header.strip() == "*" or etag in _TAG.findall(header)


def _range_in(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and count of the one range that is asked for; None: the whole file.

    Several ranges, other units and what is no range at all are ignored, as RFC 9110 allows.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        count = min(int(found[2]), size)
        if int(found[2]) and not size:
            return None  # the last bytes of nothing: the whole, which no range can express
        if not count:
            raise _unsatisfiable(size)
        return size - count, count
    first, last = int(found[1]), int(found[2] or size - 1)
    if found[2] and last < first:
        return None
    if first >= size:
        raise _unsatisfiable(size)
    return first, min(last, size - 1) - first + 1


def _unsatisfiable(size: int) -> HostError:
    message = f"the range lies behind the end of the file, which has {size} bytes"
    return HostError(416, "InvalidRange", message, headers={"content-range": f"bytes */{size}"})
