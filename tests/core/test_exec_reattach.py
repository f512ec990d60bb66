"""After a command has started: its output is not lost with a connection (06 section 10)."""

from __future__ import annotations

import pytest

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.errors import (
    CommandTimeoutError,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxProtocolError,
)
from sandbox_proto.faults import FaultKind
from sandbox_proto.machines.exec_events import CommandStarted, OutputLost, Reattaching
from sandbox_proto.wire.command_models import MissingOutput
from sandbox_proto.wire.exec_messages import Exit, Reconnect, Started

from ._exec import HEADERS, ID, START, STARTED, Line, execute, repeat, stderr, stdout, types

EXACT = [0.5, 1.0, 2.0, 4.0, 8.0]


def running(*messages, **more):
    # No limit of the command's own, so that only those of the attachment count.
    line = Line(execute(timeout_seconds=0), **more).start()
    line.say(*messages)
    return line


def reopened_then(end):
    def trouble(line):
        line.open()
        end(line)

    return trouble


def silent_upgrade(line):
    line.connect()
    line.at(line.session.next_deadline())


TROUBLES = {
    "close 1000": reopened_then(lambda line: line.close(1000)),
    "close without code": reopened_then(lambda line: line.close(None)),
    "close 1011": reopened_then(lambda line: line.close(1011)),
    "close 1012": reopened_then(lambda line: line.close(1012)),
    "reset": reopened_then(Line.cut),
    "eof": reopened_then(Line.eof),
    "refused connection": Line.refuse,
    "tls": lambda line: line.refuse(FaultKind.TLS),
    "silent upgrade": silent_upgrade,
    **{
        f"rejected with {status}": lambda line, status=status: line.reject(status, retry_after="60")
        for status in (401, 403, 404, 429, 500, 503)
    },
}


@pytest.mark.parametrize("name", TROUBLES)
def test_five_reattachments_in_a_row_without_jitter_or_retry_after_and_then_the_end(name):
    line = running(stdout("x", 0), chance=0.0)
    line.cut()
    line.wait()
    assert repeat(line, TROUBLES[name]) == 5
    assert line.delays == EXACT
    assert type(line.error) is SandboxConnectionError
    assert str(line.error).startswith("lost the command's output: ")
    assert str(line.error).endswith("(6 attempts)")
    assert line.may_be_running


def test_a_reload_reattaches_at_once():
    line = running()
    line.close(1001)
    line.wait()
    assert repeat(line, reopened_then(lambda line: line.close(1001))) == 5
    assert line.delays == [0.0] * 5
    assert line.now == START


def test_a_reload_counts_as_an_attempt_and_the_backoff_goes_on_behind_it():
    line = running()
    line.close(1001)
    line.wait()
    TROUBLES["reset"](line)
    assert line.delays == [0.0, 1.0]


def test_a_peer_that_falls_silent_is_left_and_reattached():
    line = running()
    while not line.of(Reattaching):
        line.wait()
        line.hear()
    assert line.now == START + 30 + 60
    line.wait()
    assert types(line.open()) == ["reconnect"]


# --- what is sent ---------------------------------------------------------------------


def test_reattaching_asks_for_what_comes_next_and_keeps_the_headers_of_the_call():
    line = running(stdout("h\u00e9", 0), stderr("\u20ac", 0), stdout("!", 3))
    line.cut()
    line.wait()
    assert line.open() == [
        {"type": "reconnect", "command_id": ID, "stdout_offset": 4, "stderr_offset": 3}
    ]
    first, second = line.upgrades
    assert first.target == second.target == "/sb/execute/ws"
    for request in (first, second):
        assert {name: request.headers[name] for name in HEADERS} == HEADERS
    assert first.upgrade_key != second.upgrade_key


def test_a_command_that_has_started_is_never_asked_for_again():
    line = running()
    for _ in range(4):
        line.cut()
        line.wait()
        line.open()
    assert types(line.heard) == ["execute"] + ["reconnect"] * 4


def test_attaching_to_a_known_command_begins_at_the_offsets_given():
    line = Line(Reconnect(ID, 10, 20))
    assert line.open() == [
        {"type": "reconnect", "command_id": ID, "stdout_offset": 10, "stderr_offset": 20}
    ]
    line.say(STARTED, stdout("a", 10), stderr("b", 20))
    line.cut()
    line.wait()
    [message] = line.open()
    assert (message["stdout_offset"], message["stderr_offset"]) == (11, 21)


# --- what refills the budget ----------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [STARTED, stdout("x", 0), stderr("x", 0), stdout("", 0), Started("", 7)],
    ids=["started", "stdout", "stderr", "empty output", "started without id"],
)
def test_every_sign_of_the_command_refills_the_attempts(message):
    line = running()
    for _ in range(12):
        line.cut()
        line.wait()
        line.open()
        line.say(message)
    assert line.delays == [0.5] * 12


@pytest.mark.parametrize(
    "message",
    [None, Started("b" * 32, 9), {"type": "news"}],
    ids=["nothing", "another id", "unknown"],
)
def test_nothing_else_does(message):
    line = running()
    for _ in range(5):
        line.cut()
        line.wait()
        line.open()
        line.say(*([] if message is None else [message]))
    line.cut()
    assert line.delays == EXACT
    assert type(line.error) is SandboxConnectionError


def test_a_start_of_another_command_is_not_told():
    line = running(Started("b" * 32, 9))
    assert line.of(CommandStarted) == [CommandStarted(ID, 7)]


# --- output across attachments --------------------------------------------------------


def test_replayed_output_is_delivered_once():
    line = running(stdout("h\u00e9llo", 0), stderr("oops", 0))
    line.cut()
    line.wait()
    line.open()
    line.say(STARTED, stdout("h\u00e9llo", 0), stderr("oops", 0), stdout("h\u00e9llo world", 0))
    line.say(stderr("s!", 3), Exit(0))
    assert line.output == ("h\u00e9llo world", "oops!")
    assert line.of(OutputLost) == []
    assert line.exit_code == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_gap_is_told_before_the_output_behind_it(stream):
    line = running({"type": stream, "data": "abc", "offset": 0})
    line.cut()
    line.wait()
    line.open()
    line.say({"type": stream, "data": "xyz", "offset": 10}, Exit(0))
    kinds = [type(event).__name__ for event in line.events]
    assert kinds == [
        "CommandStarted",
        "OutputChunk",
        "Reattaching",
        "OutputLost",
        "OutputChunk",
        "CommandExited",
    ]
    assert line.of(OutputLost) == [OutputLost(MissingOutput(stream, 3, 10))]


def test_offsets_are_accounted_for_across_a_gap():
    line = running(stdout("a", 100))
    assert (line.session.last_stdout_offset, line.session.last_stderr_offset) == (101, 0)


@pytest.mark.parametrize("offset", [{}, {"offset": None}])
def test_output_without_an_offset_follows_the_output_before_it(offset):
    line = running(stdout("ab", 0), {"type": "stdout", "data": "cd", **offset}, stdout("ef", 4))
    assert line.output[0] == "abcdef"
    assert line.of(OutputLost) == []
    assert [chunk.offset for chunk in line.events[1:]] == [0, 2, 4]


def test_a_cut_inside_a_character_loses_no_more_than_that():
    line = running(stdout("\u20ac", 0))
    line.say(stdout("\u20acb", 1))  # a server that miscounts
    assert line.output[0] == "\u20acb"
    assert line.session.last_stdout_offset == 5


def test_output_before_the_confirmation_of_a_reattachment_counts():
    line = running()
    line.cut()
    line.wait()
    line.open()
    line.say(stdout("early", 0))
    assert line.output[0] == "early"


# --- what ends it ---------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 137, -9])
def test_an_exit_ends_it_and_is_answered_with_1000(code):
    line = running(Exit(code))
    assert line.exit_code == code
    line.hear()
    assert line.closed_with == 1000
    assert line.session.finished
    assert line.session.next_deadline() is None
    line.feed(b"\x81\x00")
    line.cut()
    assert line.session.connection_wanted is None


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "exit"}, "no 'exit_code'"),
        ({"type": "exit", "exit_code": "0"}, "exit_code"),
        ({"type": "stdout", "data": 5, "offset": 0}, "data"),
        ("nonsense", "not JSON"),
        ("[]", "not an object"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_left_for_good(message, text):
    line = running()
    line.say(message)
    assert type(line.error) is SandboxProtocolError
    assert str(line.error).startswith("the server broke the protocol: ")
    assert text in str(line.error)
    assert line.may_be_running
    line.hear()
    assert line.closed_with == 1011


# protocol/03 section 3.7
@pytest.mark.parametrize(
    ("fields", "error", "type_", "text"),
    [
        (
            {"error": "too slow", "error_type": "CommandTimeout"},
            CommandTimeoutError,
            "CommandTimeout",
            "too slow [CommandTimeout]",
        ),
        (
            {"error": "gone", "error_type": "CommandNotFound"},
            SandboxOperationError,
            "CommandNotFound",
            "{id}gone [CommandNotFound]",
        ),
        (
            {"error": "old", "error_type": "SessionExpired"},
            SandboxOperationError,
            "SessionExpired",
            "{id}old [SessionExpired]",
        ),
        (
            {"error": "down", "error_type": "ServerShuttingDown"},
            SandboxOperationError,
            "ServerShuttingDown",
            "down [ServerShuttingDown]",
        ),
        ({"error": "bad"}, SandboxOperationError, "CommandError", "bad [CommandError]"),
        ({}, SandboxOperationError, "CommandError", "Unknown error [CommandError]"),
    ],
)
@pytest.mark.parametrize("attaching", [False, True], ids=["run", "reconnect"])
def test_error_messages_end_it_at_once_as_what_they_say(fields, error, type_, text, attaching):
    line = Line(Reconnect(ID) if attaching else execute()).start()
    line.say({"type": "error", **fields})
    assert type(line.error) is error
    assert line.error.error_type == type_
    assert str(line.error) == text.format(id=f"command {ID}: " if attaching else "")
    timed_out = error is CommandTimeoutError
    assert line.error.operation == ("reconnect" if attaching and not timed_out else "command")
    if timed_out:
        assert line.error.timeout == (None if attaching else 60)
    assert line.of(Reattaching) == []
    assert not line.may_be_running
    line.hear()
    assert line.closed_with == 1011


def test_leaving_a_command_ends_the_session_without_an_event():
    line = running(stdout("x", 0))
    events = list(line.events)
    line.session.detach(now=line.now)
    assert line.take() == []
    assert line.events == events
    assert line.session.over
    line.hear()
    assert line.closed_with == 1000
    assert "kill" not in types(line.heard)


def test_limits_of_reattachment_are_not_those_of_the_start():
    line = running(timeouts=ExecTimeouts(connect_budget=1.0))
    for _ in range(3):
        line.cut()
        line.wait()
    assert not line.session.over
