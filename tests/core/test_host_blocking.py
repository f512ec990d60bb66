"""The server's end of a blocking execution (protocol/08)."""

from __future__ import annotations

import pytest

from sandbox_proto.host.commands import CommandState
from sandbox_proto.host.exec_blocking import BlockingExec

from ._commands import BOX
from ._host import refusal_of
from ._streams import Requests, finish


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"timeout_seconds": 60, "shell": "/bin/bash"}),
        ({"timeout": 5}, {"timeout_seconds": 5}),
        ({"timeout_seconds": 5}, {"timeout_seconds": 5}),
        ({"timeout": 0}, {"timeout_seconds": 0}),
        ({"timeout": 9, "timeout_seconds": 5}, {"timeout_seconds": 5}),
        (
            {"timeout": 5, "shell": "/bin/sh", "env": {"A": "b"}, "cwd": "/w"},
            {"shell": "/bin/sh", "env": {"A": "b"}, "cwd": "/w"},
        ),
        ({"env": {}, "run_config": {"user": "u"}}, {"run_config": {"user": "u"}}),
        ({"pty": True, "ttl_seconds": 9, "command_id": "x"}, {"pty": False, "ttl_seconds": 0}),
    ],
)
def test_both_dialects_are_understood(fields, expected):
    command = Requests().ask(**fields).command
    assert {name: getattr(command.message, name) for name in expected} == expected
    assert command.message.command == "work"
    assert command.argv is None
    assert command.stdin_closed
    assert len(command.id) == 32


def test_a_list_is_run_without_a_shell():
    command = Requests().ask(command=["ls", "-l", "a b"]).command
    assert command.argv == ("ls", "-l", "a b")
    assert command.message.command == "ls -l 'a b'"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"command": None}, "CommandError"),
        ({"command": []}, "CommandError"),
        ({"command": ["ls", 5]}, "CommandError"),
        ({"command": 5}, "CommandError"),
        ({"timeout": -1}, "CommandError"),
        ({"timeout": "5"}, "CommandError"),
        ({"timeout_seconds": 1.5}, "CommandError"),
        ({"env": {"A": 1}}, "CommandError"),
        ({"command": ["\ud800"]}, "CommandError"),
        ({"run_config": {"user": "u"}, "env": {"A": "1"}}, "InvalidRequest"),
        ({"run_config": {"user": "u"}, "cwd": "/"}, "InvalidRequest"),
    ],
)
def test_a_bad_request_is_refused_before_anything_begins(fields, error):
    requests = Requests()
    refused = refusal_of(lambda: requests.ask(**fields))
    assert (refused.status, refused.type) == (400, error)
    assert requests.table.of_box(BOX) == []


@pytest.mark.parametrize("code", [0, 3, 137])
def test_the_answer_is_the_output_and_the_exit_code(code):
    blocking = Requests().ask()
    command = blocking.command
    command.output("stdout", b"caf\xc3", now=0.0)
    assert blocking.response(now=0.0) is None
    command.output("stdout", b"\xa9\xff", now=0.0)
    command.output("stderr", b"err\n", now=0.0)
    answer = finish(blocking, code)
    expected = {"stdout": "café\ufffd", "stderr": "err\n", "exit_code": code}
    assert (answer.status, answer.payload) == (200, expected)


def test_output_is_collected_as_it_comes_however_much_it_is():
    blocking = Requests().ask(timeout=0)
    piece = ("é" * 1000).encode()
    for _ in range(3000):
        assert blocking.command.wants_output("stdout", now=0.0)
        blocking.command.output("stdout", piece, now=0.0)
        assert blocking.response(now=0.0) is None
    payload = finish(blocking).payload
    assert payload == {"stdout": "é" * 3_000_000, "stderr": "", "exit_code": 0}


@pytest.mark.parametrize(
    ("out", "err", "kept", "stdout", "stderr"),
    [
        (["12345"], ["12345"], 5, "12345", "12345"),
        (["123456"], [], 5, "12345", "[stdout was cut: the first 5 of its 6 bytes are here]\n"),
        (
            ["123", "45", "6"],
            ["x"],
            5,
            "12345",
            "x\n[stdout was cut: the first 5 of its 6 bytes are here]\n",
        ),
        (
            ["123€", "4"],
            ["x\n"],
            5,
            "123",
            "x\n[stdout was cut: the first 3 of its 7 bytes are here]\n",
        ),
        (
            ["123456"],
            ["12345678"],
            5,
            "12345",
            "12345\n"
            "[stdout was cut: the first 5 of its 6 bytes are here]\n"
            "[stderr was cut: the first 5 of its 8 bytes are here]\n",
        ),
    ],
)
def test_a_cut_is_told_in_the_last_lines(out, err, kept, stdout, stderr):
    blocking = Requests().ask(kept=kept)
    for name, pieces in (("stdout", out), ("stderr", err)):
        for piece in pieces:
            blocking.command.output(name, piece.encode(), now=0.0)
            assert blocking.response(now=0.0) is None
    payload = finish(blocking).payload
    assert payload == {"stdout": stdout, "stderr": stderr, "exit_code": 0}


def test_the_time_limit_is_named():
    blocking = Requests().ask(timeout=5)
    blocking.command.handle_timeout(now=5.0)
    assert blocking.command.wants_kill
    blocking.command.output("stdout", b"x", now=5.0)
    answer = finish(blocking, 137, now=5.0)
    detail = {"error": "CommandError", "message": "command timed out after 5 s"}
    assert (answer.status, answer.payload) == (408, {"detail": detail})


def test_a_command_that_cannot_be_started_is_an_error():
    blocking = Requests().ask(spawn=False)
    assert blocking.response(now=0.0) is None
    blocking.command.spawn_failed("no such shell", now=0.0)
    answer = blocking.response(now=0.0)
    detail = {"error": "CommandError", "message": "no such shell"}
    assert (answer.status, answer.payload) == (400, {"detail": detail})


@pytest.mark.parametrize("early", [True, False], ids=["before the start", "after the start"])
def test_a_request_that_is_given_up_ends_its_command(early):
    blocking = Requests().ask(spawn=not early)
    blocking.disconnected(now=1.0)
    if early:
        blocking.command.spawned(7, now=1.0)
    assert blocking.command.wants_kill


def test_nothing_stays_behind_an_answer():
    requests = Requests()
    blocking = requests.ask()
    finish(blocking)
    requests.table.handle_timeout(now=0.0)
    assert requests.table.of_box(BOX) == [blocking.command]
    blocking.disconnected(now=0.0)
    requests.table.handle_timeout(now=0.0)
    assert requests.table.of_box(BOX) == []


def test_a_host_that_ends_gives_an_answer_that_nobody_repeats():
    blocking = Requests().ask()
    blocking.drain()
    answer = blocking.response(now=0.0)
    assert (answer.status, answer.payload["detail"]["error"]) == (500, "InternalError")
    blocking.disconnected(now=0.0)
    assert blocking.command.wants_kill
    assert blocking.command.state is CommandState.RUNNING


def test_every_request_is_a_command_of_its_own():
    requests = Requests()
    entropy = iter(range(100)).__next__
    ids = set()
    for _ in range(3):
        blocking = BlockingExec(requests.table, BOX, lambda count: bytes([entropy()] * count))
        blocking.start({"command": "work", "command_id": "same"}, now=0.0, wall=1.7e9)
        ids.add(blocking.command.id)
    assert len(ids) == 3
