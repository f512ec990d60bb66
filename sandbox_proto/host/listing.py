"""Pages of lists (protocol/02 section 17): by cursor, by offset, or all at once.

A cursor names the last item of the page before, by its sort key and id, so that a list
stays complete and in order while others come and go.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs

import attrs

from .messages import HostError

T = TypeVar("T")

DEFAULT_PAGE = 20
MAX_PAGE = 100
DEFAULT_LIMIT = 50


@attrs.frozen
class Query:
    """A list request's query, parsed.

    :ivar values: every name with all its values.
    """

    values: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str) -> Query:
        """From a raw query string."""
        return cls(parse_qs(text, keep_blank_values=True))

    def get(self, name: str) -> str | None:
        """The first value, or None."""
        return next(iter(self.values.get(name, ())), None)

    def all(self, name: str) -> Sequence[str]:
        """Every value."""
        return self.values.get(name, ())

    def number(self, name: str, least: int, most: int) -> int | None:
        """A whole number, or None if it is not given.

        :raises HostError: it is none, or out of range.
        """
        text = self.get(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise HostError(400, "InvalidRequest", f"{name} must be {least} to {most}")
        return int(text)


@attrs.frozen
class Sorting(Generic[T]):
    """How a list can be sorted: name of the order -> what is compared (a string or a number)."""

    keys: Mapping[str, Callable[[T], str | float]]
    default: str
    id: Callable[[T], str]


@attrs.frozen
class ListPage(Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None
    offset: int

    def payload(self, legacy_field: str, show: Callable[[T], Any]) -> dict[str, Any]:
        """The answer, with the list under both its names."""
        shown = [show(item) for item in self.items]
        return {
            "items": shown,
            legacy_field: shown,
            "next_cursor": self.next_cursor,
            "offset": self.offset,
        }


def list_page(
    items: Iterable[T], query: Query, sorting: Sorting[T], *, max_limit: int = 10_000
) -> ListPage[T]:
    """The page that a query asks for.

    :raises HostError: the query is out of range, or its cursor is not one of ours.
    """
    order = query.get("sort_by") or sorting.default
    if order not in sorting.keys:
        raise HostError(400, "InvalidRequest", f"sort_by must be one of {', '.join(sorting.keys)}")
    direction = query.get("sort_order") or query.get("sort_direction") or "desc"
    if direction not in ("asc", "desc"):
        raise HostError(400, "InvalidRequest", "sort_order must be asc or desc")
    compared = sorting.keys[order]

    def position(item: T) -> tuple[str | float, str]:
        return compared(item), sorting.id(item)

    ordered = sorted(items, key=position, reverse=direction == "desc")
    size = query.number("page_size", 1, MAX_PAGE)
    cursor = query.get("cursor")
    if size is not None or cursor is not None:
        return _cursor_page(ordered, position, direction, cursor, size or DEFAULT_PAGE)
    limit, offset = query.number("limit", 1, max_limit), query.number("offset", 0, 10**9)
    if limit is None and offset is None:
        return ListPage(ordered, None, 0)
    start, count = offset or 0, limit or DEFAULT_LIMIT
    following = start + count if start + count < len(ordered) else 0
    return ListPage(ordered[start : start + count], None, following)


def _cursor_page(
    ordered: list[T],
    position: Callable[[T], tuple[str | float, str]],
    direction: str,
    cursor: str | None,
    size: int,
) -> ListPage[T]:
    if cursor:
        after = _read_cursor(cursor)
        try:
            ordered = [
                item
                for item in ordered
                if (position(item) > after if direction == "asc" else position(item) < after)
            ]
        except TypeError:  # a cursor of another order
            raise _bad_cursor() from None
    page = ordered[:size]
    more = len(ordered) > size
    return ListPage(page, _write_cursor(position(page[-1])) if more else None, 0)


def _write_cursor(position: tuple[str | float, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _read_cursor(cursor: str) -> tuple[Any, str]:
    try:
        value, identity = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError):
        raise _bad_cursor() from None
    if not isinstance(identity, str) or not isinstance(value, (str, int, float)):
        raise _bad_cursor()
    return value, identity


def _bad_cursor() -> HostError:
    return HostError(400, "InvalidRequest", "the cursor is not one that this list gave")
