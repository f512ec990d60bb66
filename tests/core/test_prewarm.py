"""Sockets that stand open: how many, where, how long; and what a command does with one."""

from __future__ import annotations

import pytest

from sandbox_proto.machines.exec_events import CommandExited, CommandStarted
from sandbox_proto.machines.exec_transports import Transport
from sandbox_proto.plans.prewarm import (
    BUSY,
    MOST,
    MOST_TOGETHER,
    PAUSE,
    READY,
    Destination,
    PrewarmPlan,
)
from sandbox_proto.wire.exec_messages import Exit

from ._exec import ID, STARTED, Line, types

HERE, THERE = Destination("http://d.test/a", ()), Destination("http://d.test/b", ())
BOTH = (Transport.SSE, Transport.WEBSOCKET)


@pytest.mark.parametrize("count", [-1, MOST + 1, 1.0, True, "2", None])
def test_a_number_that_makes_no_sense(count: object) -> None:
    with pytest.raises(ValueError, match=f"prewarm must be a whole number from 0 to {MOST}"):
        PrewarmPlan(count)  # type: ignore[arg-type]


def test_they_are_opened_where_commands_begin() -> None:
    plan = PrewarmPlan(2)
    assert plan.openings(now=0.0) == [] and plan.next_deadline(now=0.0) is None
    assert plan.take(HERE, now=0.0) is None
    plan.used(HERE, now=0.0)
    assert plan.openings(now=0.0) == [HERE, HERE]
    assert plan.openings(now=0.0) == []
    first, second = plan.opened(HERE, now=1.0), plan.opened(HERE, now=2.0)
    assert plan.openings(now=2.0) == [] and plan.take(THERE, now=2.0) is None
    assert plan.take(HERE, now=2.0) == second
    assert plan.openings(now=2.0) == [HERE]
    assert plan.take(HERE, now=2.0) == first
    assert plan.take(HERE, now=2.0) is None


def test_they_are_closed_when_their_time_is_over() -> None:
    plan = PrewarmPlan(1)
    plan.used(HERE, now=0.0)
    plan.openings(now=0.0)
    number = plan.opened(HERE, now=1.0)
    assert plan.next_deadline(now=1.0) == 1.0 + READY
    assert plan.expired(now=READY) == []
    assert plan.take(HERE, now=1.0 + READY) is None
    assert plan.expired(now=1.0 + READY) == [number]
    assert plan.openings(now=1.0 + READY) == [HERE]  # it is still busy
    plan.opened(HERE, now=BUSY - 1)
    plan.expired(now=BUSY + READY)
    assert plan.openings(now=BUSY + READY) == [] and plan.next_deadline(now=BUSY + READY) is None


def test_a_server_that_will_not_is_left_in_peace() -> None:
    plan = PrewarmPlan(1)
    plan.used(HERE, now=0.0)
    plan.openings(now=0.0)
    plan.failed(HERE, now=1.0)
    plan.used(HERE, now=2.0)
    assert plan.openings(now=2.0) == []
    assert plan.next_deadline(now=2.0) == 1.0 + PAUSE
    assert plan.openings(now=1.0 + PAUSE) == [HERE]


def test_there_are_never_too_many() -> None:
    plan = PrewarmPlan(MOST)
    for number in range(10):
        plan.used(Destination(f"http://d.test/{number}", ()), now=0.0)
    assert len(plan.openings(now=0.0)) == MOST_TOGETHER


@pytest.mark.parametrize("transports", [(Transport.WEBSOCKET,), BOTH])
def test_a_command_begins_at_once(transports: tuple[Transport, ...]) -> None:
    line = Line(transports=transports)
    assert line.session.takes_opened == Destination(
        "http://d.test/sb", (("x-api-key", "k"), ("x-call", "kept"))
    )
    assert types(line.connect_opened()) == ["execute"]
    line.say(STARTED, {"type": "stdout", "data": "x", "offset": 0}, Exit(3))
    assert isinstance(line.events[0], CommandStarted)
    assert isinstance(line.events[-1], CommandExited) and line.exit_code == 3
    assert line.output == ("x", "")


@pytest.mark.parametrize("end", [Line.cut, Line.eof, lambda line: line.close(1000)])
def test_one_that_was_dead_already_costs_nothing(end: object) -> None:
    line = Line(transports=BOTH)
    line.connect_opened()
    end(line)  # type: ignore[operator]
    assert line.session.takes_opened is None
    (again,) = line.open()  # without a pause, on a fresh connection
    assert (again["type"], again["command_id"]) == ("execute", ID)
    line.say(STARTED)
    end(line)  # type: ignore[operator]
    assert line.delays  # but this one was alive


def test_a_kill_takes_one_too() -> None:
    line = Line().start()
    line.session.kill(now=line.now)
    line.cut()
    if line.session.connection_wanted is None:
        line.wait()
    assert types(line.connect_opened()) == ["reconnect", "kill"]


def test_where_it_may_not() -> None:
    assert Line(transports=(Transport.SSE,)).session.takes_opened is None
