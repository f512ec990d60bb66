"""The server's end of an exec WebSocket: text in, messages out (protocol/06 sections 3 and 6)."""

from __future__ import annotations

import re

import pytest

from sandbox_proto.host.boxes import Box
from sandbox_proto.host.environment import RunSettings, run_settings
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import (
    CloseStdin,
    ExecError,
    Exit,
    Input,
    Kill,
    Reconnect,
    Started,
)

from ._commands import BOX, ID, Wire, execute, started


@pytest.fixture
def wire():
    return Wire()


def test_execute_spawns_once_and_attaches_ever_after(wire):
    first = started(wire)
    second = wire.socket(execute(command="other"))
    assert first.to_spawn is first.command
    assert second.to_spawn is None
    assert second.command is first.command
    assert wire.told(second) == [Started(ID, 7)]


def test_the_end_is_the_last_message(wire):
    socket = started(wire)
    socket.command.output("stdout", b"x", now=0.0)
    socket.command.exited(3, now=0.0)
    for name in ("stdout", "stderr"):
        socket.command.output_ended(name, now=0.0)
    assert wire.told(socket) == [Started(ID, 7), OutputChunk("stdout", "x", 0), Exit(3)]
    assert socket.finished
    wire.hear(socket, Kill())
    assert wire.told(socket) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, execute()),
        (
            {
                "timeout_seconds": 5,
                "shell": "/bin/sh",
                "idle_timeout_seconds": -1,
                "kill_on_disconnect": True,
                "ttl_seconds": -1,
                "env": {"A": "1"},
                "cwd": "/w",
                "close_stdin": True,
                "pty": True,
            },
            execute(
                timeout_seconds=5,
                shell="/bin/sh",
                idle_timeout_seconds=-1,
                kill_on_disconnect=True,
                ttl_seconds=-1,
                env={"A": "1"},
                cwd="/w",
                close_stdin=True,
                pty=True,
            ),
        ),
        ({"run_config": {"user": "u"}}, execute(run_config={"user": "u"})),
        ({"timeout_seconds": 0, "ttl_seconds": 0}, execute(timeout_seconds=0, ttl_seconds=0)),
        ({"shell": None, "timeout_seconds": None, "pty": None}, execute()),
        ({"unknown": 1}, execute()),
    ],
)
def test_the_fields_of_execute_and_their_defaults(wire, fields, expected):
    socket = wire.socket({"type": "execute", "command": "work", "command_id": ID, **fields})
    message = socket.to_spawn.message
    assert {**message.to_json(), "cwd": message.cwd or None} == {
        **expected.to_json(),
        "cwd": expected.cwd,
    }


@pytest.mark.parametrize("fields", [{}, {"command_id": ""}, {"command_id": None}])
def test_a_command_without_an_id_gets_one(wire, fields):
    socket = wire.socket({"type": "execute", "command": "work", **fields})
    assert re.fullmatch(r"[0-9a-f]{12}7[0-9a-f]{19}", socket.command.id)


@pytest.mark.parametrize(
    "name", ["a" * 32, "01890a5d-ac96-774b-bcce-b302099a8057", "caller's own \u20ac"]
)
def test_any_string_is_an_id(wire, name):
    assert wire.socket(execute(command_id=name)).command.id == name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ({"type": "execute"}, "needs a 'command' string"),
        ({"type": "execute", "command": 5}, "needs a 'command' string"),
        ({"type": "execute", "command": "x", "command_id": 5}, "command_id"),
        ({"type": "execute", "command": "x", "timeout_seconds": -1}, "timeout_seconds"),
        ({"type": "execute", "command": "x", "timeout_seconds": "5"}, "timeout_seconds"),
        ({"type": "execute", "command": "x", "timeout_seconds": 1.5}, "timeout_seconds"),
        ({"type": "execute", "command": "x", "timeout_seconds": True}, "timeout_seconds"),
        ({"type": "execute", "command": "x", "idle_timeout_seconds": -2}, "idle_timeout_seconds"),
        ({"type": "execute", "command": "x", "ttl_seconds": -2}, "ttl_seconds"),
        ({"type": "execute", "command": "x", "shell": ["sh"]}, "shell"),
        ({"type": "execute", "command": "x", "pty": 1}, "pty"),
        ({"type": "execute", "command": "x", "env": {"A": 1}}, "environment"),
        ({"type": "execute", "command": "x", "env": ["A=1"]}, "environment"),
        ({"type": "execute", "command": "x", "run_config": "root"}, "run_config"),
        ({"type": "execute", "command": "x", "run_config": {"env_vars": {"A": 1}}}, "environment"),
        (
            {"type": "execute", "command": "x", "run_config": {"user": "u"}, "cwd": "/"},
            "cannot be combined",
        ),
        ({"type": "reconnect", "command_id": 5}, "command_id"),
        ({"type": "reconnect", "command_id": "x", "stdout_offset": "0"}, None),
        ({"type": "kill"}, "first message"),
        ({"type": "input", "data": "x"}, "first message"),
        ({"type": "other"}, "first message"),
        ({}, "first message"),
        ("nope", "not JSON"),
        ("[]", "not an object"),
        (b"\xff", "not JSON"),
    ],
)
def test_a_bad_opening_is_answered_with_command_error(wire, text, complaint):
    socket = wire.socket(text)
    [error] = wire.told(socket)
    assert isinstance(error, ExecError)
    if complaint is not None:
        assert error.error_type == "CommandError"
        assert complaint in error.error
    assert socket.finished
    assert socket.to_spawn is None
    assert wire.table.of_box(BOX) == []


def test_a_bad_offset_is_a_bad_message(wire):
    started(wire)
    socket = wire.socket({"type": "reconnect", "command_id": ID, "stdout_offset": "0"})
    [error] = wire.told(socket)
    assert error.error_type == "CommandError"


def test_a_reconnect_to_an_unknown_command_is_answered_with_an_error(wire):
    assert wire.told(wire.socket(Reconnect("nobody")))[0].error_type == "CommandNotFound"


def test_a_reconnect_is_confirmed_and_goes_on_from_its_offsets(wire):
    first = started(wire)
    first.command.output("stdout", b"0123", now=0.0)
    first.command.output("stderr", b"4567", now=0.0)
    second = wire.socket(Reconnect(ID, 2, 3))
    assert wire.told(second) == [
        Started(ID, 7),
        OutputChunk("stdout", "23", 2),
        OutputChunk("stderr", "7", 3),
    ]


@pytest.mark.parametrize("opening", [Reconnect(ID), execute()])
def test_a_close_of_input_ahead_of_the_opening_is_remembered(wire, opening):
    command = started(wire).command
    socket = wire.socket(CloseStdin())
    assert wire.told(socket) == []
    assert not command.stdin_closed
    wire.hear(socket, opening)
    assert command.stdin_closed
    assert wire.told(socket) == [Started(ID, 7)]


def test_control_messages_reach_the_command(wire):
    socket = started(wire)
    wire.hear(
        socket, Input("a"), Input(""), {"type": "news"}, {"no": "type"}, CloseStdin(), Input("b")
    )
    assert b"".join(socket.command.pending_input) == b"a"
    assert socket.command.stdin_closed
    assert not socket.command.wants_kill
    wire.hear(socket, Kill())
    assert socket.command.wants_kill


def test_several_clients_may_write_in_order_of_arrival(wire):
    first = started(wire)
    second = wire.socket(Reconnect(ID))
    for count in range(3):
        wire.hear(first, Input(f"a{count}"))
        wire.hear(second, Input(f"b{count}"))
    assert b"".join(first.command.pending_input) == b"a0b0a1b1a2b2"


@pytest.mark.parametrize("message", [{"type": "input", "data": 5}, "nope"])
def test_a_bad_message_ends_the_attachment_but_not_the_command(wire, message):
    socket = started(wire)
    wire.told(socket)
    wire.hear(socket, message, Kill())
    [error] = wire.told(socket)
    assert error.error_type == "CommandError"
    assert not socket.command.wants_kill, "nothing behind a bad message counts"


def test_a_client_that_leaves_is_detached(wire):
    socket = started(wire, kill_on_disconnect=True)
    socket.disconnected(now=0.0)
    assert socket.command.wants_kill
    wire.socket("nope").disconnected(now=0.0)


# --- what a process gets (protocol/02 section 10) -------------------------------------


@pytest.mark.parametrize(
    ("box", "message", "expected"),
    [
        ({}, {}, RunSettings({"PATH": "/bin", "HOME": "/h"}, None, None)),
        (
            {},
            {"pty": True},
            RunSettings({"PATH": "/bin", "HOME": "/h", "TERM": "xterm-256color"}, None, None),
        ),
        (
            {
                "run_config": {
                    "user": "box",
                    "work_dir": "/box",
                    "env_vars": {"A": "box", "HOME": "/b"},
                }
            },
            {},
            RunSettings({"PATH": "/bin", "HOME": "/b", "A": "box"}, "box", "/box"),
        ),
        (
            {"run_config": {"env_vars": {"A": "config", "B": "config"}}, "env_vars": {"B": "box"}},
            {"env": {"C": "command"}},
            RunSettings(
                {"PATH": "/bin", "HOME": "/h", "A": "config", "B": "box", "C": "command"},
                None,
                None,
            ),
        ),
        (
            {"run_config": {"user": "box", "work_dir": "/box"}},
            {"run_config": {"user": "me", "env_vars": {"A": "1"}}},
            RunSettings({"PATH": "/bin", "HOME": "/h", "A": "1"}, "me", "/box"),
        ),
        (
            {"run_config": {"work_dir": "/box"}},
            {"cwd": "/here"},
            RunSettings({"PATH": "/bin", "HOME": "/h"}, None, "/here"),
        ),
    ],
)
def test_layers_lie_over_each_other(box, message, expected):
    record = Box(id="i", name="n", created_at="", updated_at="", **box)
    base = {"PATH": "/bin", "HOME": "/h"}
    assert run_settings(record, execute(**message), base) == expected
    assert base == {"PATH": "/bin", "HOME": "/h"}
