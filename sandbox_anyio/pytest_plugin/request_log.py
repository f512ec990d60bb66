"""The requests that clients made, as they went over the wire."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

_SHOWN_TARGET = 72
_BEFORE_BOXES = re.compile(r"^.*/(?=boxes\b)")


@attrs.define(eq=False)
class Request:
    """One request.

    :ivar method: ``GET``, ...; ``WebSocket`` for an upgrade.
    :ivar target: path and query, as sent.
    :ivar connection: the number of the connection, from 1 on.
    :ivar place: where in the test.
    :ivar in_call: whether the test's function ran; else it was a fixture's.
    :ivar status: of the answer; None: there was none (yet).
    """

    method: str
    target: str
    connection: int
    place: str
    in_call: bool
    status: int | None = None

    def __str__(self) -> str:
        path, has_query, _ = self.target.partition("?")  # queries may hold signatures
        path = _BEFORE_BOXES.sub("", path) + ("?..." if has_query else "")
        if len(path) > _SHOWN_TARGET:
            path = path[: _SHOWN_TARGET - 3] + "..."
        status = "-" if self.status is None else str(self.status)
        return f"{self.connection:>4}  {self.method:<9} {path:<{_SHOWN_TARGET}} {status:>4}"


class RequestLog:
    """What the clients of a test asked for: ``len(log)``, iteration, ``log.connections``.

    Upgrades to WebSockets count; repetitions count. Only what the test's function does counts,
    not its fixtures: see `everything`.
    """

    def __init__(self) -> None:
        self.everything: list[Request] = []
        self._connected: list[bool] = []

    def __len__(self) -> int:
        return len(self._of_call())

    def __iter__(self) -> Iterator[Request]:
        return iter(self._of_call())

    def _of_call(self) -> list[Request]:
        return [request for request in self.everything if request.in_call]

    @property
    def connections(self) -> int:
        """How many connections were opened by the test's function."""
        return sum(self._connected)

    def add_connection(self, *, in_call: bool) -> int:
        """One more; returns its number."""
        self._connected.append(in_call)
        return len(self._connected)

    def table(self) -> str:
        """All requests of the test's function, one a line."""
        head = f"conn  {'method':<9} {'path':<{_SHOWN_TARGET}} code"
        lines = [f"{request}  {request.place}".rstrip() for request in self]
        return "\n".join([head, *(lines or ["(none)"])])


def budget_complaint(log: RequestLog, requests: int | None, connections: int | None) -> str | None:
    """What to say of a test that did more than it may."""
    complaints = [
        f"{count} {what}, and {limit} are allowed"
        for what, count, limit in (
            ("requests", len(log), requests),
            ("connections", log.connections, connections),
        )
        if limit is not None and count > limit
    ]
    if not complaints:
        return None
    return f"the test made {'; '.join(complaints)} (sandbox_budget)\n\n{log.table()}"
