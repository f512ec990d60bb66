"""Commands by one request that waits for the end (protocol/08), and which transport is chosen."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.config import ClientConfig, ExecTimeouts
from sandbox_proto.faults import FaultKind
from sandbox_proto.flows.commands import (
    CommandSpec,
    attach_to_command,
    choose_transports,
    start_command,
)
from sandbox_proto.machines.exec_events import CommandStarted, Reattaching
from sandbox_proto.machines.exec_transports import Transport
from sandbox_proto.wire.exec_messages import Reconnect

from ._exec import ID, execute
from ._exec_http import HttpLine
from ._helpers import make_context


def blocking(**more) -> HttpLine:
    timeouts = more.pop("timeouts", None)
    return HttpLine(execute(**more), timeouts, transports=(Transport.HTTP,))


# --- one request ----------------------------------------------------------------------


def test_it_is_asked_in_both_dialects():
    line = blocking(env={"A": "b"}, cwd="/w", close_stdin=True)
    assert line.ask() == {
        "command": "work",
        "timeout": 60,
        "timeout_seconds": 60,
        "shell": "/bin/bash",
        "env": {"A": "b"},
        "cwd": "/w",
    }
    assert line.requests[0].target == "/sb/execute"


def test_the_answer_is_the_result():
    line = blocking()
    line.ask()
    line.at(line.now + 50)
    line.answer(200, {"stdout": "caf\u00e9", "stderr": "e", "exit_code": 3})
    assert (line.output, line.exit_code) == (("caf\u00e9", "e"), 3)
    assert line.of(CommandStarted) == [CommandStarted(ID, None)]


def test_what_is_absent_has_its_defaults():
    line = blocking()
    line.ask()
    line.answer(200, {})
    assert (line.output, line.exit_code) == (("", ""), -1)


@pytest.mark.parametrize("payload", [None, [], "text", {"stdout": 5}, {"exit_code": "0"}])
def test_what_is_no_result_is_a_protocol_error(payload):
    line = blocking()
    line.ask()
    line.answer(200, payload)
    assert type(line.error) is errors.SandboxProtocolError
    assert line.may_be_running


@pytest.mark.parametrize(
    ("status", "kind", "error", "may_run"),
    [
        (400, "NotReady", errors.SandboxNotReadyError, False),
        (400, "CommandError", errors.SandboxOperationError, False),
        (403, "Forbidden", errors.SandboxOperationError, False),
        (500, "InternalError", errors.SandboxClientError, False),
        (502, "ConnectionError", errors.SandboxConnectionError, True),
        (503, "ServiceUnavailable", errors.SandboxNotReadyError, True),
        (504, "X", errors.SandboxClientError, True),
    ],
)
def test_no_refusal_makes_it_run_twice(status, kind, error, may_run):
    line = blocking()
    line.ask()
    line.answer(status, {"detail": {"error": kind, "message": "why"}})
    assert type(line.error) is error
    assert (line.error.status, line.may_be_running) == (status, may_run)


def test_a_command_over_its_limit_is_told_as_such():
    line = blocking(timeout_seconds=5)
    line.ask()
    line.answer(408, {"detail": {"error": "CommandError", "message": "after 5 s"}})
    assert type(line.error) is errors.CommandTimeoutError
    assert (line.error.timeout, str(line.error)) == (5, "after 5 s [CommandTimeout]")


@pytest.mark.parametrize("trouble", [HttpLine.lose, HttpLine.eof])
def test_a_lost_answer_is_not_asked_for_again(trouble):
    line = blocking()
    line.ask()
    trouble(line)
    assert type(line.error) is errors.SandboxConnectionError
    assert line.may_be_running


@pytest.mark.parametrize("kind", [FaultKind.UNREACHABLE, FaultKind.CONNECT_TIMEOUT])
def test_what_never_went_out_is_repeated(kind):
    line = blocking()
    line.refuse(kind)
    assert len(line.of(Reattaching)) == 1
    line.wait_for_connection()
    line.ask()
    line.answer(429, {"detail": {"message": "busy"}}, retry_after="3")
    assert line.delays[-1] == 3.0
    line.wait_for_connection()
    line.ask()
    line.answer(200, {"exit_code": 0})
    assert line.exit_code == 0


def test_an_answer_that_never_comes_ends_with_the_limit_and_the_grace():
    line = blocking(timeout_seconds=300, timeouts=ExecTimeouts(grace=7, connect_budget=1))
    line.ask()
    assert line.wait() == 307.0
    assert type(line.error) is errors.CommandTimeoutError
    assert line.may_be_running


def test_a_command_without_a_limit_is_waited_for():
    line = blocking(timeout_seconds=0)
    line.ask()
    assert line.session.next_deadline() is None


def test_a_kill_hangs_up():
    line = blocking()
    line.ask()
    line.session.kill(now=line.now)
    assert type(line.error) is errors.SandboxOperationError
    assert (line.error.operation, line.may_be_running) == ("kill", True)
    assert line.session.finished


# --- the choice -----------------------------------------------------------------------

WS, SSE, HTTP = Transport.WEBSOCKET, Transport.SSE, Transport.HTTP


def config(choice="auto", *features) -> ClientConfig:
    return ClientConfig(
        api_endpoint="http://h", exec_transport=choice, features=frozenset(features)
    )


@pytest.mark.parametrize(
    ("configuration", "needs", "text", "transports"),
    [
        (config(), None, True, (WS, SSE, HTTP)),
        (config(), "input", True, (WS,)),
        (config(), None, False, (SSE,)),
        (config("auto", "sandbox_sse_exec"), None, True, (SSE, WS, HTTP)),
        (config("auto", "sandbox_sse_exec"), "pty=True", True, (WS,)),
        (config("websocket", "sandbox_sse_exec"), None, True, (WS,)),
        (config("sse"), None, True, (SSE,)),
        (config("sse"), None, False, (SSE,)),
        (config("http"), None, True, (HTTP,)),
    ],
)
def test_the_transports_to_try(configuration, needs, text, transports):
    assert choose_transports(configuration, needs, text=text) == transports


@pytest.mark.parametrize(
    ("choice", "settings", "said"),
    [
        ("sse", {"pty": True}, "exec_transport='sse' cannot do pty=True"),
        ("sse", {"close_input": False}, "exec_transport='sse' cannot do close_input=False"),
        ("http", {"kill_on_disconnect": True}, "cannot do kill_on_disconnect=True"),
        ("http", {"input": "x"}, "exec_transport='http' cannot do input"),
        ("websocket", {"text": False}, "text=False needs an event stream"),
        ("auto", {"text": False, "pty": True}, "cannot go with pty=True"),
    ],
)
def test_a_choice_that_cannot_do_it_is_refused_before_anything_is_sent(choice, settings, said):
    context = make_context(exec_transport=choice)
    with pytest.raises(ValueError, match=said):
        start_command(context, "http://d", CommandSpec(command="x", **settings), unix_seconds=0)


def test_one_request_cannot_attach():
    with pytest.raises(ValueError, match="cannot attach"):
        attach_to_command(make_context(exec_transport="http"), "http://d", Reconnect(ID))
    attach_to_command(make_context(exec_transport="sse"), "http://d", Reconnect(ID))


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, websocket, sse, http"):
        config("quic")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("echo $HOME", "echo $HOME"),
        (["echo", "$HOME"], "echo '$HOME'"),
        (("a b", "it's", "", "*"), "'a b' 'it'\"'\"'s' '' '*'"),
    ],
)
def test_a_list_is_quoted_for_the_shell(command, line):
    assert CommandSpec(command=command).execute(ID).command == line


def test_input_keeps_standard_input_open_until_it_was_sent():
    assert not CommandSpec(command="x", input="a").execute(ID).close_stdin
    assert CommandSpec(command="x").execute(ID).close_stdin
