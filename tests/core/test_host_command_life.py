"""The clocks, the end and the input of a command on a host (06 section 6, 13 section 4)."""

from __future__ import annotations

import pytest

from sandbox_proto.host.commands import (
    DRAIN_GRACE,
    LAG_PATIENCE,
    TOMBSTONE_SECONDS,
    CommandState,
)
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import ExecError, Exit

from ._commands import BOX, ID, STARTED, Desk

# --- time -----------------------------------------------------------------------------


@pytest.mark.parametrize("attached", [True, False])
def test_the_time_limit_kills_and_is_told_every_time(attached):
    desk = Desk(timeout_seconds=5)
    if attached:
        client = desk.attach()
    desk.spawn()
    desk.at(4.9)
    assert not desk.command.wants_kill
    desk.at(5.0)
    assert desk.command.wants_kill
    desk.write("last words")
    desk.exit(137)
    error = ExecError("command timed out after 5 s", "CommandTimeout")
    if attached:
        assert desk.told(client) == [STARTED, OutputChunk("stdout", "last words", 0), error]
    for _ in range(2):
        assert desk.told(desk.attach())[-1] == error


@pytest.mark.parametrize("seconds", [0, 60])
def test_without_or_before_the_limit_nothing_is_killed(seconds):
    desk = Desk(timeout_seconds=seconds, idle_timeout_seconds=-1).spawn()
    desk.attach()
    assert desk.table.next_deadline() == (seconds or None)
    desk.exit(1)
    assert desk.command.ending == Exit(1)


def test_a_command_nobody_is_attached_to_is_killed_after_its_idle_time():
    desk = Desk(idle_timeout_seconds=300).spawn()
    client = desk.attach()
    assert desk.table.next_deadline() is None
    desk.now = 100.0
    desk.command.detach(client, now=100.0)
    assert desk.wait() == 400.0
    assert desk.command.wants_kill
    desk.exit(137)
    assert desk.told(desk.attach())[-1] == Exit(137)


def test_every_attachment_stops_the_idle_clock_and_the_last_to_leave_starts_it_anew():
    desk = Desk(idle_timeout_seconds=300).spawn()
    assert desk.table.next_deadline() == 300.0
    first, second = desk.attach(), desk.attach()
    desk.command.detach(first, now=50.0)
    assert desk.table.next_deadline() is None
    desk.command.detach(second, now=60.0)
    desk.command.detach(second, now=70.0)
    assert desk.table.next_deadline() == 360.0


@pytest.mark.parametrize("idle", [-1, 0, 5])
def test_the_idle_time_may_be_none_at_all_or_for_ever(idle):
    desk = Desk(idle_timeout_seconds=idle).spawn()
    assert desk.table.next_deadline() == (None if idle < 0 else float(idle))


@pytest.mark.parametrize("early", [True, False], ids=["before the start", "after the start"])
def test_kill_on_disconnect_kills_when_the_last_client_leaves(early):
    desk = Desk(kill_on_disconnect=True)
    first, second = desk.attach(), desk.attach()
    if not early:
        desk.spawn()
    desk.command.detach(first, now=1.0)
    assert not desk.command.wants_kill
    desk.command.detach(second, now=2.0)
    if early:
        desk.spawn()
    assert desk.command.wants_kill


@pytest.mark.parametrize(
    ("ttl", "held_until"), [(600, 600.0), (0, 0.0), (-1, None)], ids=["ttl", "at once", "for ever"]
)
def test_a_finished_command_is_kept_for_its_time_to_live(ttl, held_until):
    desk = Desk(ttl_seconds=ttl, idle_timeout_seconds=-1).spawn()
    desk.exit()
    assert desk.table.next_deadline() == held_until
    if held_until:
        desk.at(held_until - 1)
        assert desk.find() is desk.command
    desk.at(held_until if held_until is not None else 1e9)
    assert (desk.find() is desk.command) == (held_until is None)


def test_a_forgotten_command_is_expired_for_an_hour_and_then_unknown():
    desk = Desk(ttl_seconds=10).spawn()
    assert desk.table.find(BOX, "other").error_type == "CommandNotFound"
    assert desk.table.find("other", ID).error_type == "CommandNotFound"
    desk.exit()
    desk.at(10.0)
    assert desk.find().error_type == "SessionExpired"
    desk.at(10.0 + TOMBSTONE_SECONDS - 1)
    assert desk.find().error_type == "SessionExpired"
    desk.at(10.0 + TOMBSTONE_SECONDS)
    assert desk.find().error_type == "CommandNotFound"


def test_a_forgotten_id_runs_anew():
    desk = Desk(ttl_seconds=0).spawn()
    desk.exit()
    desk.at(0.0)
    command, new = desk.table.get_or_create(BOX, desk.message)
    assert new
    assert desk.find() is command


def test_who_is_attached_gets_the_end_before_it_is_forgotten():
    desk = Desk(ttl_seconds=0).spawn()
    client = desk.attach()
    desk.write("x")
    desk.exit()
    desk.at(0.0)
    assert desk.find() is desk.command
    assert desk.told(client)[-1] == Exit(0)
    assert desk.table.next_deadline() is None, "time changes nothing while it is attached"
    desk.command.detach(client, now=0.5)
    desk.at(0.5)
    assert isinstance(desk.find(), ExecError), "not a moment longer than asked for"


def test_the_commands_of_a_sandbox_go_with_it():
    desk = Desk().spawn()
    desk.table.forget_box(BOX, now=0.0)
    assert desk.find().error_type == "SessionExpired"
    assert desk.table.of_box(BOX) == []


# --- the end of a process -------------------------------------------------------------


@pytest.mark.parametrize("held", ["stdout", "stderr"])
def test_a_background_process_that_holds_a_stream_does_not_block_the_end(held):
    desk = Desk(ttl_seconds=-1).spawn()
    client = desk.attach()
    other = "stderr" if held == "stdout" else "stdout"
    desk.exit(0, drained=False)
    desk.command.output_ended(other, now=0.0)
    desk.write("late", held)
    assert desk.told(client)[-1] == OutputChunk(held, "late", 0)
    assert desk.wait() == DRAIN_GRACE
    assert desk.told(client) == [Exit(0)]


def test_the_end_waits_for_both_streams_and_for_the_process():
    desk = Desk().spawn()
    desk.end_streams()
    assert desk.command.state is CommandState.RUNNING
    desk.command.exited(4, now=1.0)
    assert desk.command.ending == Exit(4)


@pytest.mark.parametrize("stage", ["starting", "running"])
def test_a_kill_is_passed_on_and_its_exit_told(stage):
    desk = Desk()
    client = desk.attach()
    if stage == "running":
        desk.spawn()
    desk.command.kill()
    assert desk.command.wants_kill
    if stage == "starting":
        desk.spawn()
    desk.exit(137)
    assert desk.told(client) == [STARTED, Exit(137)]


def test_a_kill_of_what_is_over_does_nothing():
    desk = Desk().spawn()
    desk.exit()
    desk.command.kill()
    assert not desk.command.wants_kill


# --- input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "closed"),
    [({}, False), ({"close_stdin": True}, True), ({"close_stdin": True, "pty": True}, False)],
)
def test_input_is_closed_from_the_start_if_asked_but_never_on_a_terminal(fields, closed):
    desk = Desk(**fields).spawn()
    assert desk.command.stdin_closed == closed
    desk.command.write_input("h\u00e9")
    assert desk.command.pending_input == ([] if closed else ["h\u00e9".encode()])


def test_input_after_the_close_or_the_end_is_ignored():
    desk = Desk().spawn()
    desk.command.write_input("a")
    desk.command.close_stdin()
    desk.command.write_input("b")
    assert (desk.command.pending_input, desk.command.input_backlog) == ([b"a"], 1)
    over = Desk().spawn()
    over.exit()
    over.command.write_input("c")
    assert over.command.pending_input == []


# --- back-pressure (13 number 70) -----------------------------------------------------


def test_a_process_is_held_back_while_a_client_lags_but_drains():
    desk = Desk(ring=100).spawn()
    client = desk.attach()
    assert desk.command.wants_output("stdout", now=0.0)
    desk.write("x" * 100)
    assert not desk.command.wants_output("stdout", now=0.0)
    assert desk.command.wants_output("stderr", now=0.0), "each stream by itself"
    desk.told(client)
    assert desk.command.wants_output("stdout", now=0.0)


def test_a_client_that_drained_nothing_for_half_a_minute_is_not_waited_for():
    desk = Desk(ring=100).spawn()
    client = desk.attach()
    desk.now = 50.0
    desk.write("x")
    desk.told(client)
    desk.write("x" * 100)
    assert not desk.command.wants_output("stdout", now=50.0 + LAG_PATIENCE - 0.1)
    assert desk.command.wants_output("stdout", now=50.0 + LAG_PATIENCE)


def test_one_lagging_client_is_enough_to_hold_it_back():
    desk = Desk(ring=100).spawn()
    lagging, quick = desk.attach(), desk.attach()
    desk.write("x" * 100)
    desk.told(quick)
    assert not desk.command.wants_output("stdout", now=0.0)
    desk.command.detach(lagging, now=0.0)
    assert desk.command.wants_output("stdout", now=0.0)


def test_without_clients_the_oldest_is_dropped():
    desk = Desk(ring=100).spawn()
    desk.write("x" * 500)
    assert desk.command.wants_output("stdout", now=0.0)


def test_every_change_is_told_to_the_driver():
    desk = Desk()
    changes, timers = [], []
    desk.command.on_change = lambda: changes.append(1)
    desk.command.on_timer = lambda: timers.append(1)
    steps = [
        desk.spawn,
        lambda: desk.write("x"),
        lambda: desk.command.write_input("x"),
        desk.command.close_stdin,
        desk.command.kill,
        lambda: desk.command.detach(desk.attach(), now=0.0),
        lambda: desk.command.output_ended("stdout", now=0.0),
        lambda: desk.exit(0, drained=False),
        lambda: desk.command.output_ended("stderr", now=0.0),
    ]
    for count, step in enumerate(steps, start=1):
        step()
        assert len(changes) >= count
    assert len(timers) >= 3, "start, detach and end move deadlines"
