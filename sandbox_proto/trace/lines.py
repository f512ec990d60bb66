"""The lines of a trace file; `FORMAT.md` beside this file describes them.

A trace is JSON Lines: a header, then one line for each crossing of the boundary: what an
actor (a machine, a flow, or the network) was told, with what came of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Self

import attrs

from ..errors import SandboxClientError

VERSION = 1
NETWORK = "network"
# What stands in the place of the client's configuration, which the header holds.
THE_CONFIG = {"type": "the config"}
_FOR_EVER = 1e12  # seconds, which are more than anybody records
_INVISIBLE = re.compile("[\x7f-\x9f\u2028\u2029]")


class TraceError(SandboxClientError):
    """A trace cannot be used: it is malformed, or of another version."""


@attrs.define
class Line:
    """One crossing of the boundary.

    :ivar actor: whose.
    :ivar at: when, in seconds since the recording began.
    :ivar call: what the actor was told; ``new`` makes it, None only goes on with `then`.
    :ivar made: for ``new``: the class or flow.
    :ivar given: the arguments by name, encoded.
    :ivar then: what came of it, in order: each an object of one key.
    :ivar number: the line's number in its file, from 1; 0 if it is in none.
    """

    actor: str
    at: float
    call: str | None = None
    made: str | None = None
    given: dict[str, Any] = attrs.field(factory=dict)
    then: list[dict[str, Any]] = attrs.field(factory=list)
    number: int = 0

    def to_data(self) -> dict[str, Any]:
        """As an object for JSON, keys in the order of reading."""
        data: dict[str, Any] = {"at": self.at, "actor": self.actor}
        if self.made is not None:
            data["new"] = self.made
        elif self.call is not None:
            data["call"] = self.call
        if self.given:
            data["with"] = self.given
        if self.then:
            data["then"] = self.then
        return data

    @classmethod
    def from_data(cls, data: Any, number: int) -> Self:
        """The reverse of `to_data`.

        :raises TraceError: the data is none of a line.
        """
        match data:
            case {"at": int() | float() as at, "actor": str(actor)} if 0 <= at < _FOR_EVER:
                made = data.get("new")
                given, then = data.get("with", {}), data.get("then", [])
                call = data.get("call") if made is None else "new"
                well_formed = (
                    isinstance(made, str | None)
                    and isinstance(call, str | None)
                    and isinstance(given, dict)
                    and isinstance(then, list)
                    and all(isinstance(item, dict) and len(item) == 1 for item in then)
                )
                if well_formed:
                    return cls(actor, float(at), call, made, given, then, number)
        raise TraceError(f"line {number} is no line of a trace: {json.dumps(data):.120}")


@attrs.frozen
class Trace:
    """A whole trace.

    :ivar header: what the first line says.
    """

    header: dict[str, Any]
    lines: list[Line]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """From the lines of a file.

        :raises TraceError: it is no trace, or of a version that this code does not know.
        """
        numbered = enumerate(_objects(texts), start=1)
        _, header = next(numbered, (0, None))
        match header:
            case {"sandbox-trace": int(version)} if version == VERSION and isinstance(header, dict):
                return cls(header, [Line.from_data(data, number) for number, data in numbered])
            case {"sandbox-trace": version}:
                raise TraceError(
                    f"this trace has version {version!r}, and this code reads version {VERSION}: "
                    "record it anew, or use the version of sandbox-proto that recorded it"
                )
        raise TraceError('this is no trace: its first line does not say "sandbox-trace"')

    def actors(self) -> dict[str, list[Line]]:
        """The lines of each actor, in the order in which the actors appear."""
        actors: dict[str, list[Line]] = {}
        for line in self.lines:
            actors.setdefault(line.actor, []).append(line)
        return actors


def _objects(texts: Iterable[str]) -> Iterator[Any]:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            yield json.loads(text)
        except ValueError as error:
            raise TraceError(f"line {number} is not JSON: {error}") from None


def header_line(config: Any) -> str:
    """The first line of a file.

    :param config: the client's configuration, encoded.
    """
    return dump({"sandbox-trace": VERSION, "config": config})


def dump(data: Any) -> str:
    """One line of JSON. Control characters are escaped, letters of all languages are not."""
    text = json.dumps(data, ensure_ascii=False, separators=(", ", ": "))
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"
