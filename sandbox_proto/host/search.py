"""Searching a sandbox's files from the host's side (protocol/05 sections 5 and 6, 13 section 5).

What is asked becomes a `Search`, which says in plain data what a walk through the directories
has to look for; the walk is the runtime's. What it finds comes back as lines of JSON, which
`SearchResults` gathers. Who writes those lines runs inside the sandbox, so they are believed
no further than they can be checked.
"""

from __future__ import annotations

import errno
import json
from posixpath import join
from typing import Any, Literal

import attrs

from ..wire.patterns import PathPattern, name_pattern, path_pattern
from .boxes import timestamp
from .messages import HostError, HostRequest, HostResponse

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
SECONDS = 30.0
"""How long a search may take; what it has found by then is the answer."""
MAX_RESULT_BYTES = 16 * 1024 * 1024
MAX_TEXT = 2000
_NANOSECONDS = 1_000_000_000


@attrs.frozen(kw_only=True)
class Search:
    """One search.

    :ivar kind: ``glob`` finds names, ``grep`` finds lines.
    :ivar path: where to begin: absolute, without a slash at its end (but for the root).
    :ivar pattern: which paths below it count; None: all.
    :ivar text: what a line has to hold.
    :ivar limit: how many matches to give at most.
    """

    kind: Literal["glob", "grep"]
    path: str
    pattern: PathPattern | None
    text: str = ""
    limit: int = DEFAULT_LIMIT

    def to_data(self) -> dict[str, Any]:
        """What the walk is told."""
        pattern = self.pattern
        return {
            "kind": self.kind,
            "path": self.path,
            "match": None if pattern is None else pattern.match,
            "descend": None if pattern is None else pattern.descend,
            "directories_only": pattern is not None and pattern.directories_only,
            "text": self.text,
            "limit": self.limit,
            "seconds": SECONDS,
            "max_text": MAX_TEXT,
            "max_bytes": MAX_RESULT_BYTES,
        }


def requested_search(kind: Literal["glob", "grep"], request: HostRequest) -> Search:
    """What a request to ``/glob`` or ``/grep`` asks for.

    :raises HostError: a field is missing, or makes no sense.
    """
    fields = request.json()
    path = _text(fields, "path")
    if not path.startswith("/"):
        raise _invalid("'path' must be an absolute path")
    text = _text(fields, "pattern")
    path, limit = path.rstrip("/") or "/", _limit(fields.get("limit"))
    try:
        if kind == "glob":
            return Search(kind="glob", path=path, pattern=path_pattern(text), limit=limit)
        if "\n" in text:
            raise _invalid("'pattern' holds a line break, and no line does")
        only = fields.get("glob")
        pattern = None if only is None else name_pattern(_text(fields, "glob"))
        return Search(kind="grep", path=path, pattern=pattern, text=text, limit=limit)
    except ValueError as error:
        raise _invalid(str(error)) from None


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise _invalid(f"{name!r} must be a string that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _invalid(f"{name!r} must be text") from None
    return value


def _limit(value: object) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid("'limit' must be a whole number above 0")
    return min(value, MAX_LIMIT)


def _invalid(message: str) -> HostError:
    return HostError(400, "InvalidRequest", message)


def search_error(code: int | None, path: str) -> HostError:
    """What a search that cannot begin is answered with.

    :param code: the errno.
    """
    match code:
        case errno.ENOENT | errno.ENOTDIR:
            return HostError(404, "FileNotFound", f"there is no directory {path!r:.1000}")
        case errno.EACCES | errno.EPERM:
            return HostError(403, "Forbidden", f"no permission to search {path!r:.1000}")
        case errno.EAGAIN:
            wait = {"retry-after": "1"}
            message = "too many searches in this sandbox at a time"
            return HostError(503, "ServiceUnavailable", message, headers=wait)
        case _:
            reason = errno.errorcode.get(code or 0, "unknown error")
            return _invalid(f"cannot search {path!r:.1000}: {reason}")


class SearchResults:
    """What a search has found so far.

    :ivar finished: the walk has said that it is over.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._matches: list[dict[str, Any]] = []
        self._truncated = False
        self._rest = b""
        self._bytes = 0
        self.finished = False

    def receive(self, data: bytes) -> None:
        """Bytes arrived from the walk.

        :raises HostError: it could not begin, or this is nothing that a walk says.
        """
        self._bytes += len(data)
        if self._bytes > 2 * MAX_RESULT_BYTES:
            raise _nonsense()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            word, *facts = json.loads(line)
            if self.finished:
                raise _nonsense()
            match word:
                case "found":
                    self._found(*facts)
                case "end":
                    (self._truncated,) = facts
                    self.finished = True
                case "error":
                    (code,) = facts
                    raise search_error(code, self._search.path)
                case _:
                    raise _nonsense()
        except (ValueError, TypeError, OverflowError, OSError, RecursionError):
            raise _nonsense() from None

    def _found(self, path: str, *facts: Any) -> None:
        if len(self._matches) >= self._search.limit or not isinstance(path, str):
            raise _nonsense()
        whole = join(self._search.path, path) if path else self._search.path
        if self._search.kind == "glob":
            is_dir, size, modified = facts
            self._matches.append(
                {
                    "path": whole,
                    "is_dir": bool(is_dir),
                    "size_bytes": int(size),
                    "modified_at": timestamp(modified / _NANOSECONDS),
                }
            )
        else:
            line, text = facts
            self._matches.append({"path": whole, "line": int(line), "text": str(text)[:MAX_TEXT]})

    def response(self, *, in_time: bool) -> HostResponse:
        """The answer, once nothing more comes.

        :param in_time: whether the end came before the time was up.
        :raises HostError: the walk was ended by somebody.
        """
        if not self.finished and in_time:
            raise HostError(500, "InternalError", "the search was ended from inside the sandbox")
        truncated = bool(self._truncated) or not self.finished
        return HostResponse(200, {"matches": self._matches, "truncated": truncated})


def _nonsense() -> HostError:
    return HostError(500, "InternalError", "what the search said makes no sense")
