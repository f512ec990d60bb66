"""The server's end of an exec event stream (protocol/07)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.host.exec_stream import HEARTBEAT_SECONDS
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import ExecError, Exit, Reconnect, Started, encode
from sandbox_proto.wire.sse import SseParser, decode_event

from ._commands import BOX, ID, STARTED, Wire, execute, started
from ._helpers import bytewise
from ._host import refusal_of
from ._streams import Streams, ended, output_of
from ._streams import out_of as out

TEXT = "aé€😀\n" * 4
SHUTDOWN = ExecError("the host is shutting down", "ServerShuttingDown")


# --- the request ----------------------------------------------------------------------


def test_what_starts_a_command_and_that_its_input_is_closed():
    stream = Streams().new()
    fields = {
        "command": "work",
        "command_id": ID,
        "timeout_seconds": 5,
        "shell": "/bin/sh",
        "idle_timeout_seconds": -1,
        "ttl_seconds": -1,
        "env": {"A": "1"},
        "cwd": "/w",
    }
    stream.start({**fields, "pty": True, "kill_on_disconnect": True}, now=0.0, wall=1.7e9)
    assert stream.to_spawn.message == execute(**fields, close_stdin=True)
    assert stream.to_spawn.stdin_closed


def test_only_the_command_is_needed():
    stream = Streams().new()
    stream.start({"command": "work", "run_config": {}}, now=0.0, wall=1.7e9)
    message = stream.to_spawn.message
    assert len(message.command_id) == 32
    assert (message.timeout_seconds, message.idle_timeout_seconds) == (60, 300)
    assert (message.ttl_seconds, message.shell) == (600, "/bin/bash")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "CommandError"),
        ({"command": ["ls"]}, "CommandError"),
        ({"command": "x", "timeout_seconds": -1}, "CommandError"),
        ({"command": "x", "env": {"A": 1}}, "CommandError"),
        ({"command": "x", "shell": 5}, "CommandError"),
        ({"command": "\ud800"}, "CommandError"),
        ({"command": "x", "run_config": {"user": "u"}, "env": {"A": "1"}}, "InvalidRequest"),
        ({"command": "x", "run_config": {"user": "u"}, "cwd": "/"}, "InvalidRequest"),
    ],
)
def test_a_bad_start_is_refused_before_anything_begins(fields, error):
    streams = Streams()
    stream = streams.new()
    refused = refusal_of(lambda: stream.start(fields, now=0.0, wall=1.7e9))
    assert (refused.status, refused.type) == (400, error)
    assert streams.table.of_box(BOX) == []


@pytest.mark.parametrize("fields", [{"command_id": 5}, {"stdout_offset": "0"}])
def test_a_bad_resume_is_refused(fields):
    streams = Streams()
    streams.start()
    refused = refusal_of(lambda: streams.resume(**fields))
    assert (refused.status, refused.type) == (400, "CommandError")


def test_the_same_id_is_spawned_once_and_told_from_the_start():
    streams = Streams()
    first = streams.start()
    streams.write("all of it")
    second = streams.start(command="something else")
    assert first.to_spawn is first.command is second.command
    assert second.to_spawn is None
    assert streams.told(second) == [STARTED, out("all of it", 0)]


def test_an_unknown_command_is_not_found():
    refused = refusal_of(Streams().resume)
    assert (refused.status, refused.type) == (404, "CommandNotFound")
    assert refused.response().payload["detail"]["error"] == "CommandNotFound"


def test_a_forgotten_command_is_told_of_in_an_event():
    streams = Streams(ttl_seconds=10)
    streams.start().disconnected(now=0.0)
    streams.exit()
    streams.at(10.0)
    stream = streams.resume()
    [error] = streams.told(stream)
    assert (error.error_type, stream.finished, stream.command) == ("SessionExpired", True, None)
    stream.disconnected(now=10.0)


# --- the response ---------------------------------------------------------------------


def test_a_whole_response_as_it_travels():
    streams = Streams()
    stream = streams.start()
    streams.write("é")
    streams.exit(3)
    assert b"".join(streams.raw(stream)) == (
        b'event: started\ndata: {"command_id":"cmd","pid":7}\n\n'
        b'event: stdout\ndata: {"offset":0,"data":"w6k="}\n\n'
        b'event: stream_end\ndata: {"stream":"stdout","offset":2}\n\n'
        b'event: stream_end\ndata: {"stream":"stderr","offset":0}\n\n'
        b'event: exit\ndata: {"exit_code":3}\n\n'
    )
    assert stream.finished
    assert streams.raw(stream) == []


def test_nothing_is_told_before_it_started():
    streams = Streams()
    stream = streams.start(spawn=False)
    assert streams.told(stream) == []
    streams.command.spawned(7, now=0.0)
    streams.write("x")
    assert streams.told(stream) == [STARTED, out("x", 0)]


def test_a_spawn_failure_is_all_there_is():
    streams = Streams()
    stream = streams.start(spawn=False)
    streams.command.spawn_failed("no such shell", now=0.0)
    error = ExecError("no such shell", "CommandError")
    assert streams.told(stream) == [error]
    assert streams.told(streams.resume()) == [error]


def test_a_time_limit_is_told_behind_the_output():
    streams = Streams(timeout_seconds=5)
    stream = streams.start()
    streams.write("x")
    streams.at(5.0)
    streams.exit(137)
    error = ExecError("command timed out after 5 s", "CommandTimeout")
    assert streams.told(stream) == [STARTED, out("x", 0), *ended(1, 0, error)]


def test_a_stream_that_ends_early_is_told_of_once():
    streams = Streams()
    stream = streams.start()
    streams.write(b"x\xe2\x82")
    streams.command.output_ended("stdout", now=0.0)
    first, second = ended(4, 1)
    assert streams.told(stream) == [STARTED, out("x\ufffd", 0), first]
    streams.write("y", "stderr")
    streams.exit()
    assert streams.told(stream) == [out("y", 0, "stderr"), second, Exit(0)]


def test_a_stream_that_something_still_holds_ends_with_the_command():
    streams = Streams()
    stream = streams.start()
    streams.command.exited(0, now=0.0)
    streams.write("late")
    streams.at(1.0)
    assert streams.told(stream) == [STARTED, out("late", 0), *ended(4, 0, Exit(0))]


def test_output_comes_in_pieces_of_32_kib_at_most():
    streams = Streams()
    stream = streams.start()
    streams.write("€" * 30_000)
    messages = streams.told(stream)
    assert all(30_000 < len(each.data) <= 32 * 1024 for each in messages[1:-1])
    assert output_of(messages, "stdout").decode() == "€" * 30_000


@pytest.mark.parametrize("times", [1, 3])
def test_the_end_of_a_finished_command_is_repeated(times):
    streams = Streams()
    streams.start().disconnected(now=0.0)
    streams.write("out")
    streams.write("err", "stderr")
    streams.exit(3)
    for _ in range(times):
        assert streams.told(streams.resume(3, 3)) == [STARTED, *ended(3, 3, Exit(3))]
    told = streams.told(streams.resume(1, 3))
    assert told == [STARTED, out("ut", 1), *ended(3, 3, Exit(3))]


SIZE = len(TEXT.encode())


@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize("offset", range(-1, SIZE + 3))
def test_a_resume_goes_on_from_every_offset(offset, over):
    streams = Streams()
    streams.start().disconnected(now=0.0)
    streams.write(TEXT)
    if over:
        streams.exit()
    messages = streams.told(streams.resume(offset))
    rest = TEXT.encode()[max(offset, 0) :]
    whole = rest.decode(errors="ignore").encode()  # inside a character: from the next one on
    assert output_of(messages, "stdout") == whole
    if whole:
        assert messages[1].offset == SIZE - len(whole)
    if over:
        assert messages[-3:] == ended(SIZE, 0, Exit(0))


def test_what_is_gone_is_skipped_and_the_offset_tells():
    streams = Streams(ring=8)
    streams.start().disconnected(now=0.0)
    streams.write("0123456789€")
    assert streams.told(streams.resume()) == [STARTED, out("56789€", 5)]


# --- both transports ------------------------------------------------------------------


PIECES = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=12)), max_size=12
)


@given(PIECES, st.integers(1, 60), st.booleans())
def test_an_event_stream_says_what_a_socket_says(pieces, window, end):
    streams = Streams()
    stream = streams.start(window=window)
    wire = Wire()
    wire.table = streams.table
    socket = wire.socket(execute())
    for name, data in pieces:
        streams.write(data, name)
    if end:
        streams.exit(3)
    responses = streams.to_the_end(stream, window)
    heard = wire.told(socket)
    assert all(response[0] == heard[0] == STARTED for response in responses)
    messages = [message for response in responses for message in response]
    for name in ("stdout", "stderr"):
        said = [each for each in heard if isinstance(each, OutputChunk) and each.stream == name]
        assert output_of(messages, name).decode() == "".join(each.data for each in said)
    assert not end or messages[-1] == heard[-1] == Exit(3)


def test_events_are_understood_in_every_split():
    streams = Streams()
    stream = streams.start(window=10)
    streams.write(TEXT)
    data = b"".join(streams.raw(stream))
    whole = [decode_event(*event) for event in SseParser().feed(data)]
    parser = SseParser()
    events = [event for piece in bytewise(data) for event in parser.feed(piece)]
    assert [decode_event(*event) for event in events] == whole


def test_a_command_of_one_transport_goes_on_over_the_other():
    streams = Streams()
    streams.start().disconnected(now=0.0)
    streams.write(b"a\xff\xe2\x82\xac")
    wire = Wire()
    wire.table = streams.table
    chunk = OutputChunk("stdout", "\ufffd€", 1)
    assert wire.told(wire.socket(Reconnect(ID, 1))) == [Started(ID, 7), chunk]
    other = Wire()
    command = started(other).command
    command.output("stdout", b"a\xff\xe2\x82\xac", now=0.0)
    streams.table = other.table
    assert streams.told(streams.resume(1)) == [STARTED, out("\ufffd€", 1)]
    assert not command.stdin_closed, "it is its starter's"


def test_a_client_of_another_transport_may_hold_input_open():
    streams = Streams()
    streams.start()
    wire = Wire()
    wire.table = streams.table
    wire.hear(wire.socket(execute()), json.loads(encode(execute(close_stdin=False))))
    assert streams.command.stdin_closed


# --- silence --------------------------------------------------------------------------


def test_silence_is_broken_by_signs_of_life():
    streams = Streams()
    stream = streams.start(spawn=False)
    for count in (1, 2):
        deadline = count * HEARTBEAT_SECONDS
        assert stream.next_deadline() == deadline
        stream.handle_timeout(now=deadline - 0.1)
        assert streams.raw(stream) == []
        streams.now = deadline
        stream.handle_timeout(now=deadline)
        assert stream.next_deadline() is None
        assert streams.told(stream) == [None]
        assert streams.told(stream) == []


def test_whatever_is_sent_is_a_sign_of_life():
    streams = Streams()
    stream = streams.start()
    streams.now = 10.0
    streams.told(stream)
    assert stream.next_deadline() == 10.0 + HEARTBEAT_SECONDS
    streams.now = 25.0
    stream.handle_timeout(now=25.0)
    streams.write("x")
    assert streams.told(stream) == [out("x", 0)]
    assert stream.next_deadline() == 25.0 + HEARTBEAT_SECONDS


def test_a_response_that_ended_waits_for_nothing():
    streams = Streams()
    stream = streams.start()
    streams.exit()
    streams.told(stream)
    assert stream.next_deadline() is None
    stream.handle_timeout(now=1e9)
    assert streams.raw(stream) == []


# --- the end of the host --------------------------------------------------------------


@pytest.mark.parametrize("stage", ["starting", "running", "told"])
def test_a_host_that_ends_says_so(stage):
    streams = Streams()
    stream = streams.start(spawn=stage != "starting")
    if stage == "told":
        streams.told(stream)
    stream.drain()
    assert streams.told(stream) == [SHUTDOWN]
    assert stream.finished


def test_a_response_that_ended_is_not_ended_again():
    streams = Streams()
    stream = streams.start()
    streams.exit()
    streams.told(stream)
    stream.drain()
    assert streams.raw(stream) == []


@pytest.mark.parametrize(("told", "code"), [(True, 1001), (False, 1000)])
def test_a_socket_is_closed_as_its_client_understands(told, code):
    wire = Wire()
    socket = started(wire)
    if told:
        wire.told(socket)
    socket.drain()
    assert wire.told(socket) == []
    assert (socket.finished, socket.close_code) == (True, code)


def test_a_socket_that_ended_stays_as_it_was():
    wire = Wire()
    socket = started(wire)
    socket.command.exited(0, now=0.0)
    for name in ("stdout", "stderr"):
        socket.command.output_ended(name, now=0.0)
    wire.told(socket)
    socket.drain()
    assert socket.close_code == 1000
