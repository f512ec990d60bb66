"""Input, kill and time limits of a command (06 sections 7 and 11, design section 7)."""

from __future__ import annotations

import pytest

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.errors import (
    CommandTimeoutError,
    LocalProtocolError,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxTimeoutError,
)
from sandbox_proto.machines.exec_events import (
    CommandExited,
    CommandFailed,
    CommandStarted,
    InputInDoubt,
)
from sandbox_proto.wire.exec_messages import Exit, Reconnect

from ._exec import ID, START, STARTED, Line, execute, stdout, types


def running(*messages, opening=None, **more):
    line = Line(opening or execute(), **more).start()
    line.say(*messages)
    return line


# --- input ----------------------------------------------------------------------------


def test_input_is_sent_at_once_when_attached():
    line = running()
    line.session.send_input("a\n", now=line.now)
    line.session.close_input(now=line.now)
    assert line.hear() == [{"type": "input", "data": "a\n"}, {"type": "close_stdin"}]


@pytest.mark.parametrize("stage", ["connecting", "opening", "waiting"])
def test_input_is_kept_until_the_command_is_there(stage):
    line = Line()
    if stage == "opening":
        line.connect()
    elif stage == "waiting":
        line.refuse()
    line.session.send_input("1", now=line.now)
    line.session.send_input("2", now=line.now)
    line.session.close_input(now=line.now)
    assert line.hear() == []
    if stage == "opening":
        line.accept()
    else:
        if stage == "waiting":
            line.wait()
        line.open()
    # Sent with the opening it would be in doubt whenever that is lost.
    line.say(STARTED)
    heard = line.hear()
    assert types(heard)[-3:] == ["input", "input", "close_stdin"]
    assert [message["data"] for message in heard[-3:-1]] == ["1", "2"]


def pong(line):
    """The server answers the pings it has got."""
    line.feed(bytes([0x8A, 1]) + str(line.session._link._wire._wire._marks).encode())


def test_input_that_was_on_its_way_when_the_connection_was_lost_is_in_doubt():
    line = running()
    line.session.send_input("x", now=line.now)
    line.hear()
    line.cut()
    assert line.of(InputInDoubt) == [InputInDoubt()]
    line.wait()
    assert types(line.open()) == ["reconnect"], "sent again it could be there twice"


def test_input_that_has_arrived_is_not():
    line = running()
    line.session.send_input("x", now=line.now)
    line.session.send_input("y", now=line.now)
    line.hear()
    pong(line)
    line.cut()
    assert line.of(InputInDoubt) == []


def test_a_command_whose_input_is_to_be_whole_fails_with_it():
    line = Line(input_is_whole=True)
    line.session.send_input("all of it", now=line.now)
    line.session.close_input(now=line.now)
    line.start()
    assert types(line.hear()) == ["input", "close_stdin"]
    line.cut()
    assert type(line.error) is SandboxConnectionError
    assert "whether the command got all of its input is unknown" in str(line.error)
    assert line.may_be_running


@pytest.mark.parametrize("when", ["before the start", "after its arrival"])
def test_unless_nothing_of_it_is_in_doubt(when):
    line = Line(input_is_whole=True)
    line.session.send_input("all of it", now=line.now)
    line.session.close_input(now=line.now)
    if when == "before the start":
        line.open()
    else:
        line.start()
        line.hear()
        pong(line)
    line.cut()
    line.wait()
    line.open()
    line.say(STARTED)
    if when == "before the start":
        assert types(line.hear()) == ["input", "close_stdin"]
    line.say(Exit(0))
    assert line.exit_code == 0


def test_input_given_while_unattached_is_sent_once():
    line = running()
    line.cut()
    line.session.send_input("x", now=line.now)
    line.wait()
    assert types(line.open()) == ["reconnect"]
    line.say(STARTED)
    assert types(line.hear()) == ["input"]
    line.cut()
    line.wait()
    assert types(line.open()) == ["reconnect"]


def test_closing_input_twice_says_so_once():
    line = running()
    for _ in range(3):
        line.session.close_input(now=line.now)
    assert types(line.hear()) == ["close_stdin"]
    assert line.session.stdin_closed


def test_a_close_that_may_have_been_lost_is_said_again():
    line = running()
    line.session.close_input(now=line.now)
    line.hear()
    for _ in range(2):
        line.cut()
        line.wait()
        assert types(line.open()) == ["reconnect"]
        line.say(STARTED)
        assert types(line.hear()) == ["close_stdin"]


@pytest.mark.parametrize(
    ("opening", "more"),
    [
        (execute(close_stdin=True), {}),
        (Reconnect(ID), {"stdin_closed": True}),
    ],
)
def test_input_closed_from_the_start_refuses_more_and_needs_no_message(opening, more):
    line = running(opening=opening, **more)
    with pytest.raises(SandboxOperationError) as caught:
        line.session.send_input("x", now=line.now)
    assert caught.value.operation == "send_input"
    line.session.close_input(now=line.now)
    line.cut()
    line.wait()
    assert types(line.open()) == ["reconnect"]


def test_after_closing_input_more_of_it_is_refused():
    line = running()
    line.session.close_input(now=line.now)
    with pytest.raises(SandboxOperationError):
        line.session.send_input("x", now=line.now)


@pytest.mark.parametrize(
    ("opening", "more"), [(execute(pty=True), {}), (Reconnect(ID), {"pty": True})]
)
def test_the_input_of_a_terminal_is_never_closed(opening, more):
    line = running(opening=opening, **more)
    line.session.close_input(now=line.now)
    line.session.send_input("\x04", now=line.now)
    assert line.hear() == [{"type": "input", "data": "\x04"}]


@pytest.mark.parametrize("end", [Exit(0), {"type": "error", "error": "e"}])
def test_input_and_kill_for_a_command_that_is_over_are_dropped(end):
    line = running(end)
    line.hear()
    line.session.send_input("x", now=line.now)
    line.session.close_input(now=line.now)
    line.session.kill(now=line.now)
    assert line.hear() == []


def test_input_into_a_closing_socket_is_no_mistake():
    line = running()
    line.session.receive_data(b"\x88\x02\x03\xe8", now=line.now)  # its close, not yet taken
    line.session.send_input("x", now=line.now)
    line.take()


# --- kill -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["connecting", "opening", "waiting"])
def test_a_command_that_was_never_asked_for_is_simply_not_started(stage):
    line = Line()
    if stage == "opening":
        line.connect()
    elif stage == "waiting":
        line.refuse()
    line.session.kill(now=line.now)
    assert type(line.error) is SandboxOperationError
    assert line.error.operation == "command"
    assert not line.may_be_running
    assert line.session.connection_wanted is None
    assert line.hear() == []


@pytest.mark.parametrize("started", [False, True])
def test_a_kill_is_sent_once_and_read_on_to_the_exit(started):
    line = Line()
    line.open()
    if started:
        line.say(STARTED)
    line.session.kill(now=line.now)
    line.session.kill(now=line.now)
    assert types(line.hear()) == ["kill"]
    if not started:
        line.say(STARTED)
    line.say(stdout("last words", 0), Exit(137))
    assert line.output[0] == "last words"
    assert line.exit_code == 137


@pytest.mark.parametrize("arrived", [False, True])
def test_a_kill_does_not_queue_up_behind_input_that_may_be_stuck(arrived):
    """A server that is held back by a command which reads nothing would not hear it."""
    line = running()
    line.session.send_input("said", now=line.now)
    line.hear()
    if arrived:
        pong(line)
    line.session.kill(now=line.now)
    if arrived:
        assert line.session.connection_wanted is None
        assert types(line.hear()) == ["kill"]
    else:
        assert line.session.connection_wanted is not None
        assert types(line.open()) == ["reconnect", "kill"]
        line.say(STARTED)
    line.say(Exit(137))
    assert line.exit_code == 137
    assert not [event for event in line.events if isinstance(event, InputInDoubt)]


@pytest.mark.parametrize("seen_running", [False, True])
def test_a_kill_in_a_backoff_reattaches_at_once_and_never_executes_again(seen_running):
    line = Line()
    line.open()
    if seen_running:
        line.say(STARTED)
    line.cut()
    line.session.kill(now=line.now)
    assert line.session.connection_wanted is not None
    assert types(line.open()) == ["reconnect", "kill"]
    line.say(STARTED, Exit(137))
    assert line.exit_code == 137


def test_a_kill_while_reattaching_follows_the_reconnect():
    line = running()
    line.cut()
    line.wait()
    line.connect()
    line.session.kill(now=line.now)
    line.accept()
    assert types(line.hear()) == ["reconnect", "kill"]


def test_a_kill_that_may_have_been_lost_is_said_again():
    line = running()
    line.session.kill(now=line.now)
    line.hear()
    line.cut()
    line.wait()
    assert types(line.open()) == ["reconnect", "kill"]


def test_a_kill_of_a_command_the_server_never_heard_of_ends_with_its_word():
    line = Line()
    line.open()
    line.cut()
    line.session.kill(now=line.now)
    line.open()
    line.at(line.now + 1.0)  # till then what asked for it may still be on its way
    line.say({"type": "error", "error": "no such command", "error_type": "CommandNotFound"})
    assert line.error.error_type == "CommandNotFound"
    assert not line.may_be_running


@pytest.mark.parametrize("stage", ["attached", "waiting", "connecting", "opening"])
def test_a_kill_that_nobody_confirms_fails_after_its_limit(stage):
    line = running(timeouts=ExecTimeouts(kill=5.0, ping_interval=None))
    line.session.kill(now=line.now)
    if stage != "attached":
        line.cut()
    if stage in ("connecting", "opening"):
        line.at(line.now + 0.5)
    if stage == "opening":
        line.connect()
    line.at(START + 4.9)
    assert not line.session.over
    assert line.session.next_deadline() <= START + 5.0
    line.at(START + 5.0)
    error = line.error
    assert type(error) is SandboxTimeoutError
    assert (error.limit, error.seconds) == ("kill", 5.0)
    assert line.may_be_running


def test_a_kill_cuts_the_time_for_opening_a_connection():
    line = running()
    line.cut()
    line.session.kill(now=line.now)
    assert line.session.next_deadline() == START + 5.0


# --- the command's own limit ----------------------------------------------------------


def alive_until(line, moment):
    """The server keeps answering pings, and says nothing, until this moment."""
    while line.now < moment and not line.session.over:
        deadline = line.session.next_deadline()
        assert deadline is not None
        line.at(min(max(deadline, line.now), moment))
        line.hear()
        line.feed(b"\x8a\x00")


def overdue() -> Line:
    """A command whose server has not reported its end, 30 s after its limit."""
    line = running(stdout("x", 0))
    line.now = START
    alive_until(line, START + 89.9)
    assert "kill" not in types(line.heard)
    line.at(START + 90.0)
    return line


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_command_that_is_overdue_is_killed_over_a_fresh_connection(confirmed):
    line = overdue()
    line.open()
    assert types(line.heard)[-2:] == ["reconnect", "kill"]
    if confirmed:
        line.say(STARTED, Exit(137))
    else:
        alive_until(line, START + 200)
        assert line.now == START + 95.0
    error = line.error
    assert type(error) is CommandTimeoutError
    assert error.timeout == 60
    assert "60 s" in str(error) and "30 s later" in str(error)
    assert line.may_be_running == (not confirmed)


def test_an_end_that_was_told_to_a_dead_connection_is_heard_on_the_fresh_one():
    line = overdue()
    line.open()
    line.say(STARTED, stdout("rest", 1), Exit(3))
    assert line.exit_code == 3


def test_an_overdue_command_whose_host_is_away_is_given_up():
    line = overdue()
    line.at(START + 95.0)
    assert type(line.error) is CommandTimeoutError
    assert line.may_be_running


def test_the_limit_counts_from_the_start_not_from_the_request():
    line = Line()
    line.open()
    line.at(START + 25)
    line.say(STARTED)
    alive_until(line, START + 114.9)
    assert not line.session.over
    alive_until(line, START + 300)
    assert line.now == START + 25 + 60 + 30 + 5


def test_reattaching_does_not_begin_it_anew():
    line = running()
    for moment in range(10, 90, 10):
        line.at(START + moment)
        line.cut()
        line.wait()
        line.open()
        line.say(STARTED)
    alive_until(line, START + 300)
    assert line.now == START + 95.0


@pytest.mark.parametrize(
    ("opening", "timeouts"),
    [
        (execute(timeout_seconds=0), ExecTimeouts()),
        (execute(), ExecTimeouts(grace=None)),
        (Reconnect(ID), ExecTimeouts()),
    ],
    ids=["no limit", "no grace", "limit unknown"],
)
def test_without_a_known_limit_a_lively_server_is_waited_for(opening, timeouts):
    line = running(opening=opening, timeouts=timeouts)
    alive_until(line, START + 100_000)
    assert not line.session.over
    assert "kill" not in types(line.heard)
    line.say(Exit(0))
    assert line.exit_code == 0


def test_the_servers_own_timeout_comes_first():
    line = running()
    alive_until(line, START + 61)
    line.say(
        {"type": "error", "error": "command timed out after 60 s", "error_type": "CommandTimeout"}
    )
    assert str(line.error) == "command timed out after 60 s [CommandTimeout]"


def test_an_exit_within_the_grace_is_an_exit():
    line = running()
    alive_until(line, START + 80)
    line.say(Exit(0))
    assert line.exit_code == 0


def test_the_end_of_a_kill_by_the_application_is_not_taken_for_the_time_limits():
    line = running()
    alive_until(line, START + 88)
    line.session.kill(now=line.now)
    alive_until(line, START + 91)
    line.say(Exit(137))
    assert line.exit_code == 137


def test_a_host_that_falls_silent_altogether_is_left_in_bounded_time():
    line = running(opening=execute(timeout_seconds=10), timeouts=ExecTimeouts(grace=5.0))
    while not line.session.over:
        line.wait()
        if line.session.connection_wanted is not None:
            line.connect()
        line.hear()
    assert line.now <= START + 10 + 5 + 5
    assert type(line.error) is CommandTimeoutError


# --- the contract with the driver -----------------------------------------------------


def test_a_connection_nobody_wants_is_the_drivers_mistake():
    line = running()
    with pytest.raises(LocalProtocolError, match="no connection is wanted"):
        line.session.connected(now=line.now)


@pytest.mark.parametrize("moment", ["before", "running", "after"])
def test_wants_and_finished_say_what_to_do_with_the_connection(moment):
    line = Line()
    if moment == "before":
        assert (line.session.wants_read, line.session.finished) == (False, True)
        return
    line.start()
    assert (line.session.wants_read, line.session.finished) == (True, False)
    if moment == "after":
        line.cut()
        assert (line.session.wants_read, line.session.finished) == (False, True)


def test_events_come_in_order_and_state_moves_as_they_are_taken():
    line = Line()
    line.open()
    line.session.receive_data(
        b"\x81\x2e" + b'{"type":"started","command_id":"","pid":null}' + b" ", now=line.now
    )
    line.session.receive_data(b"\x81\x1d" + b'{"type":"exit","exit_code":3}', now=line.now)
    assert not line.session.over
    assert isinstance(line.session.next_event(), CommandStarted)
    assert not line.session.over
    assert line.session.next_event() == CommandExited(3)
    assert line.session.over
    assert line.session.next_event() is None


def test_a_session_ends_with_exactly_one_event():
    line = running(Exit(0))
    line.say(Exit(1), {"type": "error"})
    line.cut()
    line.at(START + 1e6)
    assert len(line.of(CommandExited) + line.of(CommandFailed)) == 1
