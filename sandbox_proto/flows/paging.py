"""Lists that come in pages (protocol/02 section 17)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from ..errors import SandboxClientError, SandboxProtocolError
from ..plans.retry import Repeatability
from ..wire.urls import with_query
from .control import HeaderLayer, call_control, control_request, require_success, wrong_endpoint
from .effects import Flow, FlowContext

T = TypeVar("T")
Query = Mapping[str, str | Iterable[str]]


@attrs.frozen
class Listing(Generic[T]):
    """What is listed, and how to read it.

    :ivar path: of the list endpoint.
    :ivar legacy_field: where old servers put what is now in ``items``.
    :ivar parse: makes an item of its JSON.
    :ivar key: what tells one item from another.
    :ivar what: for people, in the plural.
    :ivar not_found: the error for a 404; None: there is no such list, the endpoint is wrong.
    """

    path: str
    legacy_field: str
    parse: Callable[[Any], T]
    key: Callable[[T], str]
    what: str
    not_found: SandboxClientError | None = None


@attrs.frozen
class Page(Generic[T]):
    """One page.

    :ivar following: the query of the next page; None if this is the last.
    :ivar now: the driver's clock when it arrived.
    :ivar answered_at: the server's clock then: the answer's ``Date``.
    """

    items: list[T]
    following: Query | None
    now: float
    answered_at: str | None


def list_page(
    context: FlowContext, listing: Listing[T], query: Query, headers: HeaderLayer = None
) -> Flow[Page[T]]:
    """One page of a list.

    :raises SandboxAPIError: there is no such list (404): the endpoint is wrong.
    :raises ResourceNotFoundError: there is none (404) of what the listing says it belongs to.
    """
    path = with_query(listing.path, query)
    request = control_request(context, "GET", path, headers=headers)
    done = yield from call_control(context, request, Repeatability.SAFE)
    if done.response.status == 404 and listing.not_found is None:
        raise done.blame(wrong_endpoint(done))
    require_success(done, not_found=listing.not_found)
    items, following = done.read(lambda body: _read_page(listing, query, body))
    return Page(items, following, done.now, done.response.header("date"))


def _read_page(listing: Listing[T], query: Query, body: object) -> tuple[list[T], Query | None]:
    what = f"the list of {listing.what}"
    items = read_items(body, ("items", listing.legacy_field), listing.parse, what)
    assert isinstance(body, Mapping)
    return items, _following(query, body, what)


def read_items(
    body: object, fields: Iterable[str], parse: Callable[[Any], T], what: str
) -> list[T]:
    """The items of an answer, in the first of these fields that has any.

    :raises SandboxProtocolError: there is something else than a list; the text says `what`.
    """
    if not isinstance(body, Mapping):
        raise SandboxProtocolError(f"{what} is not a JSON object")
    records: object = next((body[field] for field in fields if body.get(field)), [])
    if not isinstance(records, list):
        raise SandboxProtocolError(f"{what} holds no list")
    return [parse(record) for record in records]


def _following(query: Query, body: Mapping[str, Any], what: str) -> Query | None:
    """Where the next page is: by cursor, or on old servers by offset. The filters stay."""
    if "next_cursor" in body:
        cursor = body["next_cursor"]
        if not isinstance(cursor, str | None):
            raise SandboxProtocolError(f"{what} goes on at {cursor!r:.50}, which is no cursor")
        kept = {key: value for key, value in query.items() if key not in ("limit", "offset")}
        return {**kept, "cursor": cursor} if cursor else None
    offset = body.get("offset")
    if not isinstance(offset, int | None):
        raise SandboxProtocolError(f"{what} goes on at {offset!r:.50}, which is no offset")
    return {**query, "offset": str(offset)} if offset and offset > 0 else None


class Pages(Generic[T]):
    """Walks through the pages of a list: every item once, and never in circles."""

    def __init__(self, listing: Listing[T], query: Query | None = None) -> None:
        self._listing = listing
        self._query: Query | None = dict(query or {})
        self._walked: set[str] = set()
        self._seen: set[str] = set()

    @property
    def finished(self) -> bool:
        """Whether the last page was read."""
        return self._query is None

    def next_page(self, context: FlowContext, headers: HeaderLayer = None) -> Flow[list[T]]:
        """The items of the next page that were not on an earlier one; possibly none.

        A page that failed may be asked for again.

        :raises SandboxProtocolError: the server leads back to a page that was read already.
        """
        if self._query is None:
            return []
        query = self._query
        position = str(sorted(query.items()))
        if position in self._walked:
            what = self._listing.what
            raise SandboxProtocolError(f"the list of {what} leads back to the page at {query}")
        page = yield from list_page(context, self._listing, query, headers)
        self._walked.add(position)
        self._query = page.following
        # Offset pages shift when things come and go: the same one may come twice.
        fresh: dict[str, T] = {}
        for item in page.items:
            if (key := self._listing.key(item)) not in self._seen:
                fresh.setdefault(key, item)
        self._seen.update(fresh)
        return list(fresh.values())

    def rest(self, context: FlowContext, headers: HeaderLayer = None) -> Flow[list[T]]:
        """All items from here to the end."""
        items: list[T] = []
        while not self.finished:
            page = yield from self.next_page(context, headers)
            items += page
        return items


def filters(**values: object) -> Query:
    """A query of the filters that are set; numbers and truth values as the API spells them."""
    query: dict[str, str | Iterable[str]] = {}
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool):
            query[name] = "true" if value else "false"
        elif isinstance(value, (list, tuple)):
            query[name] = [str(item) for item in value]
        else:
            query[name] = str(value)
    return query


def label_filters(labels: Mapping[str, str | None] | None) -> list[str] | None:
    """Labels as the list filter wants them: ``key=value``, or ``key`` for mere presence (None)."""
    if not labels:
        return None
    return [key if value is None else f"{key}={value}" for key, value in labels.items()]
