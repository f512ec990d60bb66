"""Before a command has started: what is tried again, how often, after how long (06 section 8)."""

from __future__ import annotations

import json

import pytest

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.errors import (
    CommandTimeoutError,
    SandboxConnectionError,
    SandboxConnectTimeoutError,
    SandboxOperationError,
    SandboxProtocolError,
    SandboxRetryableConnectionError,
    SandboxServerReloadError,
    SandboxTimeoutError,
)
from sandbox_proto.faults import FaultKind
from sandbox_proto.machines.exec_events import CommandStarted, Reattaching
from sandbox_proto.wire.exec_messages import Reconnect

from ._exec import ID, START, STARTED, Line, execute, repeat, stdout, types


def opened_then(end):
    """The socket opens, `execute` arrives, and then..."""

    def trouble(line):
        assert types(line.open()) == ["execute"]
        end(line)

    return trouble


def silent_upgrade(line):
    line.connect()
    line.at(line.session.next_deadline())


def ended_upgrade(line):
    line.connect()
    line.eof()


EXACT = [0.5, 1.0, 2.0, 4.0, 8.0]
JITTERED = [0.45, 0.9, 1.8, 3.6, 7.2]  # 80 to 100 per cent, with a chance of one half

RETRIED = {
    "close 1000": (opened_then(lambda line: line.close(1000)), EXACT, SandboxOperationError),
    "close without code": (
        opened_then(lambda line: line.close(None)),
        EXACT,
        SandboxOperationError,
    ),
    "close 1001": (opened_then(lambda line: line.close(1001)), EXACT, SandboxServerReloadError),
    "close 1011": (
        opened_then(lambda line: line.close(1011)),
        JITTERED,
        SandboxRetryableConnectionError,
    ),
    "close 1012": (
        opened_then(lambda line: line.close(1012)),
        JITTERED,
        SandboxRetryableConnectionError,
    ),
    "close 4000": (
        opened_then(lambda line: line.close(4000)),
        JITTERED,
        SandboxRetryableConnectionError,
    ),
    "reset": (opened_then(Line.cut), JITTERED, SandboxRetryableConnectionError),
    "eof": (opened_then(Line.eof), JITTERED, SandboxRetryableConnectionError),
    "refused connection": (Line.refuse, JITTERED, SandboxConnectTimeoutError),
    "connect timeout": (
        lambda line: line.refuse(FaultKind.CONNECT_TIMEOUT),
        JITTERED,
        SandboxConnectTimeoutError,
    ),
    "eof instead of an answer": (ended_upgrade, JITTERED, SandboxConnectTimeoutError),
    **{
        f"rejected with {status}": (
            lambda line, status=status: line.reject(status),
            JITTERED,
            SandboxRetryableConnectionError,
        )
        for status in (429, 500, 502, 503, 504)
    },
}


@pytest.mark.parametrize("name", RETRIED)
def test_six_attempts_with_five_delays_and_then_the_last_error(name):
    trouble, delays, error = RETRIED[name]
    line = Line()
    assert repeat(line, trouble) == 6
    assert line.delays == delays
    assert type(line.error) is error
    assert "(6 attempts)" in str(line.error)
    assert line.now - START == pytest.approx(sum(delays))


@pytest.mark.parametrize("name", RETRIED)
def test_a_command_that_was_never_asked_for_cannot_run(name):
    line = Line()
    repeat(line, RETRIED[name][0])
    asked = bool(line.heard)
    assert line.may_be_running == asked
    assert asked == (name.startswith("close") or name in ("reset", "eof"))


@pytest.mark.parametrize("name", RETRIED)
def test_a_later_attempt_may_succeed_with_the_same_message(name):
    line = Line()
    for _ in range(5):
        RETRIED[name][0](line)
        line.wait()
    line.start()
    assert line.of(CommandStarted) == [CommandStarted(ID, 7)]
    assert {json.dumps(message) for message in line.heard} == {json.dumps(execute().to_json())}
    ids = {request.headers["x-call"] for request in line.upgrades}
    assert ids == {"kept"}


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (0.999999, 1.0), (0.25, 0.85)])
def test_the_jitter_takes_off_up_to_a_fifth(chance, factor):
    line = Line(chance=chance)
    repeat(line, Line.refuse)
    assert line.delays == [pytest.approx(backoff * factor, rel=1e-5) for backoff in EXACT]


def test_every_attempt_has_a_key_of_its_own():
    line = Line()
    repeat(line, ended_upgrade)
    assert len({request.upgrade_key for request in line.upgrades}) == 6


# --- Retry-After ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("header", "delay"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("0.25", 0.25),
        ("-1", 0.45),
        ("nan", 0.45),
        ("inf", 0.45),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0.45),
        ("soon", 0.45),
        ("500", 120.0),  # what is left of the budget
    ],
)
def test_retry_after_replaces_the_backoff_if_it_is_a_sane_number(status, header, delay):
    line = Line()
    line.reject(status, retry_after=header)
    assert line.delays == [delay]


def test_the_final_rejection_tells_what_the_server_asked_for():
    line = Line()
    repeat(line, lambda line: line.reject(503, retry_after="1"))
    assert line.error.retry_after == 1.0


# --- what is final --------------------------------------------------------------------


def garbage(line):
    line.connect()
    line.feed(b"SSH-2.0-OpenSSH_9\r\n\r\n")


def wrong_accept(line):
    line.connect()
    line.feed(
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IGl0\r\n\r\n"
    )


FINAL = {
    **{
        f"rejected with {s}": lambda line, s=s: line.reject(s)
        for s in (301, 400, 401, 403, 404, 410)
    },
    "garbage": garbage,
    "wrong accept": wrong_accept,
    # The vendor repeats this one, too; a certificate does not become better (see plans.retry).
    "tls": lambda line: line.refuse(FaultKind.TLS),
}


@pytest.mark.parametrize("name", FINAL)
def test_a_definite_refusal_is_raised_at_once(name):
    line = Line()
    assert repeat(line, FINAL[name]) == 1
    assert type(line.error) is SandboxConnectionError
    assert "attempts" not in str(line.error)
    assert not line.may_be_running


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b"", "there is no exec endpoint at http://d.test/sb/execute/ws (404)"),
        (403, b"", "the exec WebSocket was refused with 403"),
        (403, b'{"detail": {"message": "mine"}}', "the exec WebSocket was refused with 403: mine"),
        (
            401,
            b'{"detail": {"message": "who?", "error_id": "e1"}}',
            "the exec WebSocket was refused with 401: who? (error_id=e1)",
        ),
        (
            401,
            b'{"detail": {"error_id": "e1"}}',
            "the exec WebSocket was refused with 401 (error_id=e1)",
        ),
        (401, b'{"detail": "text"}', "the exec WebSocket was refused with 401"),
        (401, b"[1]", "the exec WebSocket was refused with 401"),
        (401, b"<html>", "the exec WebSocket was refused with 401"),
        (404, b'{"detail": {"message": "x"}}', "execute/ws (404): x"),
    ],
)
def test_a_refusal_shows_the_servers_words(status, body, text):
    line = Line()
    line.reject(status, body)
    assert str(line.error).endswith(text)


@pytest.mark.parametrize(
    ("first", "error", "text"),
    [
        (stdout("x", 0), SandboxOperationError, "before the command's start"),
        ({"type": "exit", "exit_code": 0}, SandboxOperationError, "before the command's start"),
        ("not json", SandboxProtocolError, "not JSON"),
        ('{"type":"started","command_id":5}', SandboxProtocolError, "command_id"),
        (
            {"type": "error", "error": "no such user", "error_type": "CommandError"},
            SandboxOperationError,
            "no such user",
        ),
        (
            {"type": "error", "error": "slow", "error_type": "CommandTimeout"},
            CommandTimeoutError,
            "slow",
        ),
    ],
)
def test_a_first_message_other_than_started_is_final(first, error, text):
    line = Line()
    line.open()
    line.say(first)
    assert type(line.error) is error
    assert text in str(line.error)
    assert line.of(Reattaching) == []
    line.hear()
    assert line.closed_with == 1011
    said_by_server = isinstance(first, dict) and first["type"] == "error"
    assert line.may_be_running != said_by_server


def test_unknown_types_before_the_start_are_tolerated():
    line = Line()
    line.open()
    line.say({"type": "welcome"}, STARTED)
    assert line.of(CommandStarted) == [CommandStarted(ID, 7)]


@pytest.mark.parametrize("name", ["", ID])
def test_the_start_may_be_told_without_an_id(name):
    line = Line()
    line.open()
    line.say({"type": "started", "command_id": name, "pid": None})
    assert line.of(CommandStarted) == [CommandStarted(ID, None)]


# --- budgets --------------------------------------------------------------------------


def test_one_connection_may_take_as_long_as_the_open_limit():
    line = Line(timeouts=ExecTimeouts(open=5.0))
    assert line.session.next_deadline() == START + 5
    line.now += 2
    line.connect()
    line.at(START + 4.9)
    assert line.events == []
    line.at(START + 5)
    assert line.delays == [0.45]


def test_the_open_limit_is_cut_to_what_is_left_of_the_budget():
    line = Line(timeouts=ExecTimeouts(open=30.0, connect_budget=40.0))
    silent_upgrade(line)
    line.wait()
    assert line.session.next_deadline() == START + 40


def test_delays_are_cut_to_what_is_left_of_the_budget_and_nothing_is_tried_after_it():
    line = Line()
    attempts = repeat(line, lambda line: line.reject(503, retry_after="50"))
    assert line.delays == [50.0, 50.0, 20.0]
    assert attempts == 3
    assert line.now == START + 120
    error = line.error
    assert type(error) is SandboxTimeoutError
    assert (error.limit, error.seconds) == ("connect", 120.0)


def test_trouble_after_the_budget_is_raised():
    line = Line(timeouts=ExecTimeouts(open=None, connect_budget=10.0))
    line.now = START + 10
    line.refuse()
    assert type(line.error) is SandboxConnectTimeoutError


def test_a_server_that_never_says_started_is_left_when_the_budget_ends():
    line = Line()
    line.open()
    while not line.session.over:
        line.wait()
        line.hear()
        line.feed(b"\x8a\x00")  # it is alive, but says nothing
    assert line.now == START + 120
    assert line.error.limit == "connect"
    assert line.may_be_running


def test_without_a_budget_the_number_of_attempts_still_ends_it():
    line = Line(timeouts=ExecTimeouts(connect_budget=None))
    assert repeat(line, lambda line: line.reject(503, retry_after="1000")) == 6
    assert line.delays == [1000.0] * 5


def test_without_an_open_limit_only_the_budget_runs():
    line = Line(timeouts=ExecTimeouts(open=None))
    assert line.session.next_deadline() == START + 120


def test_the_budget_counts_from_the_first_attempt_and_ends_with_the_start():
    line = Line()
    line.refuse()
    line.wait()
    line.start()
    line.at(START + 121)
    assert not line.session.over


def test_attaching_to_a_command_has_no_budget_for_all_attempts_together():
    line = Line(Reconnect(ID))
    assert line.session.next_deadline() == START + 30
    for _ in range(5):
        silent_upgrade(line)
        line.wait()
    assert line.now > START + 150
    assert not line.session.over
