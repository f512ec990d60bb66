"""The tables of states: well made, and more than decoration (see `conftest`)."""

from __future__ import annotations

import random

import pytest

from sandbox_proto.host.commands import Command, CommandState
from sandbox_proto.machines.exec_session import _State
from sandbox_proto.plans.pool import PoolLimits, PoolPlan, Slot, SlotState
from sandbox_proto.wire.exec_messages import Execute
from sandbox_proto.wire.urls import Origin

from ._exec import Line
from ._tables import ANY, TABLES, WATCHED, Table, read_table, watching

every_table = pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)


@every_table
def test_every_row_leads_somewhere_and_every_state_is_reached(table: Table) -> None:
    for row in table.rows:
        assert row.on and table.targets(row), f"no state is named in {row}"
    first, *others = table.states
    reached, new = {first}, {first}
    while new:
        new = {target for state, target in table.steps if state in reached} - reached
        reached |= new
    assert reached == {first, *others}
    for state in table.states:
        if state not in table.ends:
            assert any(source == state for source, _ in table.steps if source != ANY)


@pytest.mark.parametrize("watched", WATCHED, ids=lambda watched: watched.owner.__name__)
def test_the_states_of_a_table_are_those_of_the_code(watched) -> None:
    enums = {"ExecSession": _State, "Slot": SlotState, "Command": CommandState}
    coded = {name for state in enums[watched.owner.__name__] for name in watched.names(state)}
    assert coded == {*watched.table.states} - {"forgotten"}


def test_a_step_that_no_row_names_is_refused() -> None:
    line = Line().start()
    with pytest.raises(AssertionError, match=r"no row leads from _State.RUNNING to _State.OPENING"):
        line.session._state = _State.OPENING
    slot = Slot(0, Origin("http", "h", 80), SlotState.CLOSED)
    with pytest.raises(AssertionError, match=r"SlotState.CLOSED to SlotState.IDLE"):
        slot.state = SlotState.IDLE
    command = Command("id", "box", Execute(command="x", command_id="id", timeout_seconds=0))
    with pytest.raises(AssertionError, match=r"STARTING to CommandState.DRAINING"):
        command.state = CommandState.DRAINING


def test_every_step_of_a_pooled_connection_happens(sweep: int) -> None:
    """Anything in any order, until there is nothing that was not seen."""
    [watched] = [each for each in WATCHED if each.owner is Slot]
    chance, here, there = random.Random(1), Origin("http", "h", 80), Origin("http", "i", 80)
    with watching(watched) as seen:
        for _ in range(200 * sweep):
            plan = PoolPlan(PoolLimits(max_connections=2, max_idle=3.0))
            tickets = []
            for now in range(20):
                tickets.append(plan.request(chance.choice([here, there]), now=now))
                for ticket in list(tickets):
                    match ticket.slot and ticket.slot.state, chance.randrange(4):
                        case SlotState.CONNECTING, 0:
                            plan.connected(ticket.slot)
                        case SlotState.HELD, 0:
                            plan.release(ticket.slot, now=now)
                            tickets.remove(ticket)
                        case SlotState.CONNECTING | SlotState.HELD, 1:
                            plan.discard(ticket.slot)
                            tickets.remove(ticket)
                        case _, 2:
                            plan.withdraw(ticket)
                            tickets.remove(ticket)
            plan.shut()
    assert seen == watched.table.steps


def test_a_table_is_read_as_it_stands() -> None:
    class Told:
        """A text."""

    Told.__doc__ = (
        "Text.\n\n"
        "    state    on           then\n"
        "    ------   ----------   -----------------\n"
        "    ASLEEP   alarm        AWAKE, at once\n"
        "             dream        ASLEEP\n"
        "    any      the end      over\n"
        "\nMore.\n"
    )
    Told.__name__ = "told"
    table = read_table(Told, ("AWAKE", "over"))
    assert table.states == ["ASLEEP", "AWAKE", "over"]
    assert [(row.state, row.on) for row in table.rows] == [
        ("ASLEEP", "alarm"),
        ("ASLEEP", "dream"),
        ("any", "the end"),
    ]
    assert table.steps == {("ASLEEP", "AWAKE"), ("ASLEEP", "ASLEEP"), ("ASLEEP", "over")}
