"""The tables of states that stand in the machines' own texts, read, and held against what happens.

A table has three columns: a state, what happens in it, and what comes then. An empty first
column is the state above; `any` is every state. What comes then names states, and says more
in between; names of ends, which have no row, are given here.
"""

from __future__ import annotations

import contextlib
import enum
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

import sandbox_proto.host.commands
import sandbox_proto.host.lifecycle
import sandbox_proto.machines.exec_session
import sandbox_proto.machines.tunnel_session
import sandbox_proto.machines.yamux
import sandbox_proto.plans.pool
from sandbox_proto.host.commands import Command
from sandbox_proto.machines.exec_session import ExecSession
from sandbox_proto.plans.pool import Slot

ANY = "any"


@attrs.frozen
class Row:
    state: str
    on: str
    then: str


@attrs.frozen
class Table:
    """One table.

    :ivar ends: states from which nothing follows.
    """

    name: str
    rows: tuple[Row, ...]
    ends: tuple[str, ...]

    @property
    def states(self) -> list[str]:
        """In order of appearance, ends last; without `any`."""
        begun = dict.fromkeys(row.state for row in self.rows if row.state != ANY)
        return [*begun, *self.ends]

    def targets(self, row: Row) -> list[str]:
        """The states that may come after a row."""
        spelled = "|".join(re.escape(state) for state in sorted(self.states, key=len)[::-1])
        return list(dict.fromkeys(re.findall(rf"(?<!\w)(?:{spelled})(?!\w)", row.then)))

    @property
    def steps(self) -> set[tuple[str, str]]:
        """From which state to which other one it may go."""
        steps = set()
        for row in self.rows:
            going_on = [state for state in self.states if state not in self.ends]
            begun = going_on if row.state == ANY else [row.state]
            steps |= {(state, target) for state in begun for target in self.targets(row)}
        return steps


def read_table(module: Any, ends: tuple[str, ...] = ()) -> Table:
    """The one table in a module's text."""
    lines = (module.__doc__ or "").splitlines()
    [rule] = [n for n, line in enumerate(lines) if re.fullmatch(r" {4}-+ +-+ +-+", line)]
    begins = [found.start() for found in re.finditer("-+", lines[rule])]
    rows: list[Row] = []
    for line in lines[rule + 1 :]:
        if not line.strip():
            break
        cells = [line[begins[0] : begins[1]], line[begins[1] : begins[2]], line[begins[2] :]]
        state, on, then = (cell.strip() for cell in cells)
        assert all(line[begin - 1] == " " for begin in begins if begin < len(line)), line
        rows.append(Row(state or rows[-1].state, on, then))
    return Table(module.__name__, tuple(rows), ends)


TABLES = {
    "A command's session": read_table(sandbox_proto.machines.exec_session, ("finished", "failed")),
    "A stream to a port": read_table(sandbox_proto.machines.tunnel_session, ("refused", "ended")),
    "A yamux stream": read_table(sandbox_proto.machines.yamux, ("gone",)),
    "A pooled connection": read_table(sandbox_proto.plans.pool, ("CLOSED",)),
    "A command at the host": read_table(sandbox_proto.host.commands, ("forgotten",)),
    "A sandbox at the host": read_table(sandbox_proto.host.lifecycle),
}

Step = tuple[str, str]


@attrs.frozen
class Watched:
    """A class whose instances keep to a table.

    :ivar names: what its state is called in the table; some have several names.
    """

    owner: type
    attribute: str
    table: Table
    names: Callable[[enum.Enum], tuple[str, ...]] = lambda state: (state.name,)


def _session_names(state: enum.Enum) -> tuple[str, ...]:
    return ("finished", "failed") if state.name == "OVER" else (state.name,)


WATCHED = (
    Watched(ExecSession, "_state", TABLES["A command's session"], _session_names),
    Watched(Slot, "state", TABLES["A pooled connection"]),
    Watched(Command, "state", TABLES["A command at the host"]),
)


@contextlib.contextmanager
def watching(watched: Watched) -> Iterator[set[Step]]:
    """Hold every change of state to the table. Yields the changes that were seen."""
    owner, attribute = watched.owner, watched.attribute
    slot = owner.__dict__.get(attribute)
    seen: set[Step] = set()

    def get(self: Any) -> Any:
        if slot is not None:
            return slot.__get__(self, owner)
        return self.__dict__[attribute]

    def put(self: Any, state: enum.Enum) -> None:
        try:
            before = get(self)
        except (AttributeError, KeyError):
            before = state  # just made
        if before is not state:
            steps = {(a, b) for a in watched.names(before) for b in watched.names(state)}
            allowed = steps & watched.table.steps
            assert allowed, f"{watched.table.name}: no row leads from {before} to {state}"
            seen.update(allowed)
        if slot is not None:
            slot.__set__(self, state)
        else:
            self.__dict__[attribute] = state

    setattr(owner, attribute, property(get, put))
    try:
        yield seen
    finally:
        if slot is not None:
            setattr(owner, attribute, slot)
        else:
            delattr(owner, attribute)
