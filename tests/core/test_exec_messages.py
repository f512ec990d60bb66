"""The JSON messages of the exec WebSocket (protocol/06 sections 3 and 4)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.flows.commands import CommandSpec
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import (
    NO_OFFSET,
    CloseStdin,
    ExecError,
    Execute,
    Exit,
    Input,
    Kill,
    MalformedMessage,
    Reconnect,
    Started,
    decode_from_server,
    encode,
)
from sandbox_proto.wire.models import RunConfig

# --- client to server -----------------------------------------------------------------

PLAIN = {
    "type": "execute",
    "command": "ls",
    "timeout_seconds": 60,
    "shell": "/bin/bash",
    "idle_timeout_seconds": 300,
    "kill_on_disconnect": False,
    "ttl_seconds": 600,
    "command_id": "id",
}


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, {"close_stdin": True}),
        ({"close_input": True}, {"close_stdin": True}),
        ({"close_input": False}, {}),
        ({"pty": True}, {"pty": True}),
        ({"pty": True, "close_input": True}, {"pty": True}),
        ({"pty": True, "close_input": False}, {"pty": True}),
        ({"timeout": 0}, {"timeout_seconds": 0, "close_stdin": True}),
        ({"shell": "/bin/sh"}, {"shell": "/bin/sh", "close_stdin": True}),
        ({"idle_timeout": -1}, {"idle_timeout_seconds": -1, "close_stdin": True}),
        ({"ttl_seconds": -1}, {"ttl_seconds": -1, "close_stdin": True}),
        ({"kill_on_disconnect": True}, {"kill_on_disconnect": True, "close_stdin": True}),
        ({"env": {"A": "1"}, "cwd": "/w"}, {"env": {"A": "1"}, "cwd": "/w", "close_stdin": True}),
        ({"env": {}, "cwd": ""}, {"close_stdin": True}),
        (
            {"run_config": {"user": "u", "odd": 1}},
            {"run_config": {"user": "u", "odd": 1}, "close_stdin": True},
        ),
        (
            {"run_config": RunConfig(work_dir="/w")},
            {"run_config": {"work_dir": "/w"}, "close_stdin": True},
        ),
        ({"run_config": RunConfig()}, {"close_stdin": True}),
    ],
)
def test_execute_carries_optional_fields_only_where_they_say_something(settings, more):
    message = CommandSpec(command="ls", **settings).execute("id")
    assert json.loads(encode(message)) == {**PLAIN, **more}


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"command": b"ls"}, TypeError, "command must be a string"),
        ({"command": ["ls", 1]}, TypeError, "command must be a string"),
        ({"command": None}, TypeError, "command must be a string"),
        ({"command": []}, ValueError, "must name a program"),
        ({"command": ["ls", "a\0b"]}, ValueError, "NUL"),
        ({"input": b"\xff"}, ValueError, "input must be text in UTF-8"),
        ({"input": "x", "pty": True}, ValueError, "input cannot be combined with pty"),
        ({"input": "x", "close_input": True}, ValueError, "cannot be combined with close_input"),
        ({"env": {"A": "1"}, "run_config": {}}, ValueError, "run_config cannot be combined"),
        ({"cwd": "/w", "run_config": RunConfig()}, ValueError, "run_config cannot be combined"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": 1.5}, ValueError, "timeout"),
        ({"timeout": True}, ValueError, "timeout"),
        ({"timeout": None}, ValueError, "timeout"),
        ({"idle_timeout": -2}, ValueError, "idle_timeout"),
        ({"ttl_seconds": -2}, ValueError, "ttl_seconds"),
        ({"command": "a\0b"}, ValueError, "NUL"),
        ({"shell": "a\0b"}, ValueError, "NUL"),
        ({"cwd": "a\0b"}, ValueError, "NUL"),
    ],
)
def test_a_command_that_could_not_be_run_is_refused_before_anything_is_sent(settings, error, text):
    with pytest.raises(error, match=text):
        CommandSpec(**{"command": "ls", **settings})


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (
            Reconnect("id"),
            {"type": "reconnect", "command_id": "id", "stdout_offset": 0, "stderr_offset": 0},
        ),
        (
            Reconnect("id", 5, 7),
            {"type": "reconnect", "command_id": "id", "stdout_offset": 5, "stderr_offset": 7},
        ),
        (Input("h\u00e9\n\0"), {"type": "input", "data": "h\u00e9\n\0"}),
        (CloseStdin(), {"type": "close_stdin"}),
        (Kill(), {"type": "kill"}),
    ],
)
def test_the_other_messages_of_a_client(message, fields):
    assert json.loads(encode(message)) == fields


@pytest.mark.parametrize(
    "message",
    [
        Input("\ud800"),
        Execute(command="\udfff", command_id="id"),
        Execute(command="x", command_id="id", env={"A": "\ud83d"}),
    ],
)
def test_half_a_character_cannot_be_sent(message):
    with pytest.raises(ValueError, match="surrogates"):
        encode(message)


# --- server to client -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"started","command_id":"a","pid":7}', Started("a", 7)),
        ('{"type":"started","command_id":"a","pid":null}', Started("a", None)),
        ('{"type":"started"}', Started("", None)),
        ('{"type":"stdout","data":"x","offset":3}', OutputChunk("stdout", "x", 3)),
        ('{"type":"stderr","data":"","offset":0}', OutputChunk("stderr", "", 0)),
        ('{"type":"stdout","data":"x"}', OutputChunk("stdout", "x", NO_OFFSET)),
        ('{"type":"stdout","data":"x","offset":null}', OutputChunk("stdout", "x", NO_OFFSET)),
        ('{"type":"exit","exit_code":0}', Exit(0)),
        ('{"type":"exit","exit_code":-9}', Exit(-9)),
        ('{"type":"error","error":"e","error_type":"T"}', ExecError("e", "T")),
        ('{"type":"error"}', ExecError("Unknown error", "CommandError")),
        (
            '{"type":"error","error":null,"error_type":null}',
            ExecError("Unknown error", "CommandError"),
        ),
        ('{"type":"error","error":"","error_type":""}', ExecError("", "")),
        (' \n{"type":"exit","exit_code":0} \r\n', Exit(0)),
        ('{"type":"exit","exit_code":0,"new":{"deep":[1]}}', Exit(0)),
    ],
)
@pytest.mark.parametrize("frame", [str, str.encode], ids=["text", "binary"])
def test_the_messages_of_a_server(text, message, frame):
    assert decode_from_server(frame(text)) == message


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"type":null}',
        '{"type":"resize"}',
        '{"type":5}',
        '{"type":["exit"]}',
        '{"type":"Exit"}',
    ],
)
def test_unknown_types_are_ignored(text):
    assert decode_from_server(text) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("   ", "not JSON"),
        ("nope", "not JSON"),
        ('{"type":', "not JSON"),
        ('{"type":"exit","exit_code":0} x', "not JSON"),
        ('{"type":"exit","exit_code":0}{}', "not JSON"),
        (b"\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"type":"exit","exit_code":' + "9" * 5000 + "}", "not JSON"),
        ("[]", "JSON list, not an object"),
        ('[{"type":"exit","exit_code":0}]', "JSON list, not an object"),
        ("null", "JSON NoneType, not an object"),
        ('"exit"', "JSON str, not an object"),
        ("5", "JSON int, not an object"),
        ('{"type":"exit"}', "the 'exit' message has no 'exit_code'"),
        ('{"type":"exit","exit_code":null}', "'exit_code' of the 'exit' message"),
        ('{"type":"exit","exit_code":"0"}', "'exit_code' of the 'exit' message"),
        ('{"type":"exit","exit_code":0.0}', "'exit_code' of the 'exit' message"),
        ('{"type":"exit","exit_code":true}', "'exit_code' of the 'exit' message"),
        ('{"type":"stdout"}', "the 'stdout' message has no 'data'"),
        ('{"type":"stdout","data":null,"offset":0}', "'data' of the 'stdout' message"),
        ('{"type":"stderr","data":5,"offset":0}', "'data' of the 'stderr' message"),
        ('{"type":"stderr","data":"x","offset":"0"}', "'offset' of the 'stderr' message"),
        ('{"type":"started","command_id":5}', "'command_id' of the 'started' message"),
        ('{"type":"started","command_id":"a","pid":"7"}', "'pid' of the 'started' message"),
        ('{"type":"error","error":{"a":1}}', "'error' of the 'error' message"),
        ('{"type":"error","error_type":5}', "'error_type' of the 'error' message"),
    ],
)
def test_what_the_protocol_does_not_allow_is_malformed_and_says_how(text, complaint):
    with pytest.raises(MalformedMessage, match=complaint):
        decode_from_server(text)


@pytest.mark.parametrize(
    ("escaped", "data"),
    [
        (r"a\ud800b", "a\ufffdb"),
        (r"\udfff", "\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
    ],
)
def test_halves_of_characters_in_output_become_replacement_characters(escaped, data):
    message = decode_from_server('{"type":"stdout","data":"' + escaped + '","offset":0}')
    assert message == OutputChunk("stdout", data, 0)


def test_a_complaint_does_not_quote_megabytes():
    with pytest.raises(MalformedMessage) as caught:
        decode_from_server('{"type":"exit","exit_code":"' + "x" * 1_000_000 + '"}')
    assert len(str(caught.value)) < 200


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SERVER_MESSAGES = st.one_of(
    st.builds(Started, TEXT, st.none() | st.integers(0, 2**31)),
    st.builds(OutputChunk, st.sampled_from(["stdout", "stderr"]), TEXT, st.integers(0, 2**53)),
    st.builds(Exit, st.integers(-(2**31), 2**31)),
    st.builds(ExecError, TEXT, TEXT),
)


@given(SERVER_MESSAGES)
def test_what_a_server_encodes_a_client_decodes(message):
    text = encode(message)
    assert decode_from_server(text) == decode_from_server(text.encode()) == message
    assert "\n" not in text


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_no_text_makes_the_decoder_do_anything_else_than_complain(data):
    try:
        message = decode_from_server(data)
    except MalformedMessage:
        return
    assert message is None or isinstance(message, (Started, OutputChunk, Exit, ExecError))
