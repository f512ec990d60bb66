"""Commands over event streams (protocol/07): start, resume, acknowledge, end."""

from __future__ import annotations

import itertools

import pytest

from sandbox_proto import errors
from sandbox_proto.config import ExecTimeouts
from sandbox_proto.machines.exec_events import OutputLost, Reattaching
from sandbox_proto.machines.exec_output import OutputCollector
from sandbox_proto.machines.exec_transports import Transport
from sandbox_proto.wire.command_models import MissingOutput, OutputChunk
from sandbox_proto.wire.exec_messages import ExecError, Exit, Reconnect, Started
from sandbox_proto.wire.sse import (
    HEARTBEAT,
    AckRequired,
    MalformedMessage,
    RawOutput,
    SseParser,
    StreamEnd,
    decode_event,
    encode_event,
)

from ._exec import HEADERS, ID, STARTED, execute
from ._exec_http import HEAD, LAST_CHUNK, HttpLine, chunked, err, out

TEXT = "h\u00e9llo \u20ac \U0001f600\n"
RAW = TEXT.encode() + b"\xff\xf0\x9f" + "\u00fc".encode()
SHOWN = TEXT + "\ufffd\ufffd\u00fc"


def started(**more) -> HttpLine:
    line = HttpLine(execute(**more))
    line.begin()
    line.tell(STARTED)
    return line


# --- the request ----------------------------------------------------------------------


def test_what_is_asked_at_the_start():
    line = HttpLine(execute(env={"A": "b"}, close_stdin=True))
    assert line.begin() == {
        "command": "work",
        "timeout_seconds": 60,
        "shell": "/bin/bash",
        "idle_timeout_seconds": 300,
        "ttl_seconds": 600,
        "command_id": ID,
        "env": {"A": "b"},
    }
    [request] = line.requests
    assert (request.method, request.target) == ("POST", "/sb/execute/stream/start")
    assert {name: request.headers[name] for name in HEADERS} == HEADERS
    assert request.headers["accept"] == "text/event-stream"


def test_attaching_asks_to_resume():
    line = HttpLine(Reconnect(ID, 5, 7))
    assert line.begin() == {"command_id": ID, "stdout_offset": 5, "stderr_offset": 7}
    assert line.requests[0].target == "/sb/execute/stream/resume"
    line.tell(STARTED, out(b"abc", 5), Exit(0))
    assert line.output == ("abc", "")
    assert (line.exit_code, line.session.last_stdout_offset) == (0, 8)


# --- output ---------------------------------------------------------------------------


def test_output_is_bytes_and_text():
    line = started()
    line.tell(out(b"one\n", 0), err(b"two\n", 0), out(b"three\n", 4), Exit(3))
    chunks = line.of(OutputChunk)
    assert [(c.stream, c.data, c.offset, c.raw) for c in chunks] == [
        ("stdout", "one\n", 0, b"one\n"),
        ("stderr", "two\n", 0, b"two\n"),
        ("stdout", "three\n", 4, b"three\n"),
    ]
    assert line.exit_code == 3


def read_in_pieces(*cuts: int) -> tuple[str, bytes, list[int]]:
    """Text, bytes and text offsets of RAW, received in events cut at these places."""
    line = started()
    borders = [0, *sorted(cuts), len(RAW)]
    for start, end in itertools.pairwise(borders):
        line.tell(out(RAW[start:end], start))
    line.tell(StreamEnd("stdout", len(RAW)), Exit(0))
    chunks = line.of(OutputChunk)
    position = 0
    for chunk in chunks:
        assert chunk.offset == position
        position += len(chunk.raw)
    text = "".join(chunk.data for chunk in chunks)
    return text, b"".join(chunk.raw for chunk in chunks), [chunk.offset for chunk in chunks]


def test_characters_are_put_together_wherever_they_were_cut():
    for cuts in itertools.combinations(range(1, len(RAW)), 2):
        text, raw, _ = read_in_pieces(*cuts)
        assert (text, raw) == (SHOWN, RAW), cuts


def test_the_cursor_counts_bytes_that_are_no_text_yet():
    line = started()
    line.tell(out(b"a\xf0\x9f", 0))
    assert line.output == ("a", "")
    assert line.session.last_stdout_offset == 3
    line.lose()
    line.wait_for_connection()
    assert line.begin()["stdout_offset"] == 3
    line.tell(STARTED, out(b"\x98\x80b", 3), Exit(0))
    assert line.output == ("a\U0001f600b", "")


def test_replayed_bytes_are_dropped_and_gaps_are_told():
    line = started()
    line.tell(out("\u20ac\u20ac".encode(), 0), out("\u20ac\u20ac!".encode(), 0), out(b"x", 10))
    line.tell(StreamEnd("stderr", 4), Exit(0))
    assert line.output == ("\u20ac\u20ac!x", "")
    assert [event.missing for event in line.of(OutputLost)] == [
        MissingOutput("stdout", 7, 10),
        MissingOutput("stderr", 0, 4),
    ]


def test_half_a_character_before_a_gap_is_no_character():
    line = started()
    line.tell(out(b"a\xe2\x82", 0), out(b"b", 5), Exit(0))
    assert line.output == ("a\ufffdb", "")
    assert [event.missing for event in line.of(OutputLost)] == [MissingOutput("stdout", 3, 5)]


def test_half_a_character_at_the_end_is_shown_as_what_it_is():
    line = started()
    line.tell(out(b"a\xe2\x82", 0), Exit(0))
    assert line.output == ("a\ufffd", "")


def test_a_result_has_the_bytes_if_they_are_wanted():
    line = started()
    line.tell(out(RAW, 0), Exit(0))
    for keep in (True, False):
        collector = OutputCollector(keep_bytes=keep)
        for chunk in line.of(OutputChunk):
            collector.add(chunk)
        result = collector.result(0)
        assert result.stdout == SHOWN
        assert (result.stdout_bytes, result.stderr_bytes) == ((RAW, b"") if keep else (None, None))


# --- events ---------------------------------------------------------------------------


def test_what_is_unknown_or_no_json_is_ignored():
    line = started()
    for event in (
        b"event: progress\ndata: {}\n\n",
        b"data: {}\n\n",
        b"event: stdout\ndata: {nonsense\n\n",
        b"event: stdout\ndata: []\n\n",
        b": comment\n\n",
        b"id: 7\nretry: 9\n\n",
    ):
        line.feed(chunked(event))
    line.tell(out(b"a", 0))
    line.feed(chunked(b"event: exit\ndata:\n\n"))
    assert (line.output, line.exit_code) == (("a", ""), -1)


@pytest.mark.parametrize(
    "event",
    [
        b'event: stdout\ndata: {"data": "YQ=="}\n\n',
        b'event: stdout\ndata: {"data": "***", "offset": 0}\n\n',
        b'event: stdout\ndata: {"data": 5, "offset": 0}\n\n',
        b'event: exit\ndata: {"exit_code": "0"}\n\n',
        b'event: stream_end\ndata: {"stream": "stdout"}\n\n',
        b'event: ack_required\ndata: {"stdout_offset": 1}\n\n',
    ],
)
def test_a_malformed_event_is_a_protocol_error(event):
    line = started()
    line.feed(chunked(event))
    assert type(line.error) is errors.SandboxProtocolError
    assert line.may_be_running


MESSAGES = [
    Started(ID, None),
    RawOutput("stdout", bytes(range(256)), 3),
    RawOutput("stderr", b"", 0),
    StreamEnd("stderr", 9),
    AckRequired(1, 2),
    Exit(-9),
    ExecError("caf\u00e9 \u2028", "CommandError"),
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_survive_every_split_and_every_end_of_line(end):
    data = b"".join(encode_event(message) for message in MESSAGES) + HEARTBEAT
    assert data.isascii()
    data = data.replace(b"\n", end)
    for cut in range(len(data) + 1):
        parser = SseParser()
        pieces = [piece for piece in (data[:cut], data[cut:]) if piece]
        events = [event for piece in pieces for event in parser.feed(piece)]
        assert [decode_event(name, text) for name, text in events] == MESSAGES
        assert parser.finish() == []


def test_an_event_that_lacks_only_its_blank_line_counts():
    parser = SseParser()
    assert parser.feed(b"event: a\ndata: x\ndata:  y\nevent: b") == []
    assert parser.finish() == [("b", b"x\n y")]


def test_an_endless_event_is_refused():
    parser = SseParser()
    with pytest.raises(MalformedMessage, match="exceeds"):
        for _ in range(20):
            parser.feed(b"data: " + b"x" * 1024 * 1024)
    parser = SseParser()
    with pytest.raises(MalformedMessage, match="exceeds"):
        for _ in range(20):
            parser.feed(b"data: " + b"x" * 1024 * 1024 + b"\n")


# --- acknowledging --------------------------------------------------------------------


def test_an_acknowledgement_goes_out_on_the_same_connection():
    line = started()
    line.tell(out(b"abc", 0), AckRequired(3, 0), end=True)
    assert line.session.connection_wanted is None
    assert line.ask(connect=False) == {"command_id": ID, "stdout_offset": 3, "stderr_offset": 0}
    line.feed(HEAD)
    line.tell(STARTED, out(b"d", 3), Exit(0))
    assert (line.output, line.exit_code) == (("abcd", ""), 0)
    assert line.of(Reattaching) == []


@pytest.mark.parametrize("way", ["open", "lost", "eof"])
def test_or_on_a_new_one_if_that_did_not_end_in_order(way):
    line = started()
    line.tell(out(b"abc", 0), AckRequired(3, 0))
    assert line.session.connection_wanted is None
    if way == "open":
        assert line.wait() == 0.25
    elif way == "lost":
        line.lose()
    else:
        line.eof()
    assert line.begin() == {"command_id": ID, "stdout_offset": 3, "stderr_offset": 0}
    line.tell(STARTED, Exit(0))
    assert line.exit_code == 0
    assert line.of(Reattaching) == []


@pytest.mark.parametrize("claimed", [1, 9])
def test_a_server_that_miscounts_loses_and_doubles_nothing(claimed):
    line = started()
    line.tell(out(b"abc", 0), AckRequired(claimed, 0), end=True)
    assert line.ask(connect=False)["stdout_offset"] == 3
    line.feed(HEAD)
    line.tell(STARTED, out(b"bcd", 1), Exit(0))
    assert line.output == ("abcd", "")


def test_any_number_of_acknowledgements_costs_no_attempt():
    line = started()
    for number in range(30):
        line.tell(AckRequired(0, 0), end=True)
        assert line.ask(connect=False)["command_id"] == ID, number
        line.feed(HEAD)
        line.tell(STARTED)
    line.tell(Exit(0))
    assert line.exit_code == 0


# --- trouble --------------------------------------------------------------------------


def end(line: HttpLine) -> None:
    line.feed(LAST_CHUNK)


def shut_down(line: HttpLine) -> None:
    line.tell(ExecError("going down", "ServerShuttingDown"))


@pytest.mark.parametrize("trouble", [HttpLine.lose, HttpLine.eof, end, shut_down])
def test_whatever_ends_a_stream_it_is_resumed_where_it_stood(trouble):
    line = started()
    line.tell(out(b"abc", 0), err(b"d", 0))
    trouble(line)
    assert line.delays == [0.45]
    assert line.wait_for_connection() == pytest.approx(0.45)
    assert line.begin() == {"command_id": ID, "stdout_offset": 3, "stderr_offset": 1}
    line.tell(STARTED, Exit(0))
    assert line.exit_code == 0


def test_silence_is_trouble_and_a_heartbeat_is_none():
    line = started(timeout_seconds=0)
    for _ in range(5):
        line.at(line.now + 59)
        line.feed(chunked(HEARTBEAT))
    assert line.of(Reattaching) == []
    line.at(line.now + 59)
    line.at(line.now + 1.5)
    [reattaching] = line.of(Reattaching)
    assert "60 s" in reattaching.reason


def test_silence_may_be_allowed():
    line = HttpLine(timeouts=ExecTimeouts(sse_read=None), opening=execute(timeout_seconds=0))
    line.begin()
    line.tell(STARTED)
    line.at(line.now + 10**6)
    assert line.of(Reattaching) == []


def test_a_stream_that_only_ever_starts_is_given_up():
    line = HttpLine(chance=1.0)
    began = line.now
    for number in range(6):
        if number:
            line.wait_for_connection()
        line.begin()
        line.tell(STARTED, end=True)
    assert type(line.error) is errors.SandboxConnectionError
    assert line.delays == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert line.now - began == pytest.approx(15.5)
    assert line.may_be_running


def test_output_refills_the_budget():
    line = HttpLine(chance=1.0)
    for number in range(12):
        if number:
            line.wait_for_connection()
        line.begin()
        line.tell(STARTED, out(b"x", number), end=True)
    assert line.delays == [0.5] * 12


def test_before_the_start_it_is_asked_for_with_the_same_id():
    line = HttpLine()
    first = line.ask()
    line.lose()
    line.wait_for_connection()
    assert line.ask() == first
    line.feed(HEAD)
    line.tell(STARTED, Exit(0))
    assert line.exit_code == 0


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(status):
    line = HttpLine()
    line.ask()
    line.answer(status, {"detail": {"error": "X", "message": "busy"}}, retry_after="2.5")
    assert line.delays == [2.5]
    line.wait_for_connection()
    line.begin()
    line.tell(STARTED, Exit(0))
    assert line.exit_code == 0


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "NotReady", errors.SandboxNotReadyError),
        (400, "CommandError", errors.SandboxOperationError),
        (401, "Unauthorized", errors.SandboxClientError),
        (403, "Forbidden", errors.SandboxOperationError),
        (409, "SandboxFailed", errors.SandboxClientError),
        (500, "InternalError", errors.SandboxClientError),
        (302, "X", errors.SandboxClientError),
    ],
)
def test_a_refusal_is_final(status, kind, error):
    line = HttpLine()
    line.ask()
    line.answer(status, {"detail": {"error": kind, "message": "why"}})
    assert type(line.error) is error
    assert "why" in str(line.error)
    assert (line.error.status, line.error.context.method) == (status, "POST")
    assert not line.may_be_running


def test_trouble_for_good_ends_as_the_last_answer_says():
    line = HttpLine()
    for number in range(6):
        if number:
            line.wait_for_connection()
        line.ask()
        line.answer(503, {"detail": {"error": "ServiceUnavailable", "message": "booting"}})
    assert type(line.error) is errors.SandboxNotReadyError
    assert line.may_be_running, "a gateway may have said so"


def test_an_unknown_command_is_final():
    line = HttpLine(Reconnect(ID, 0, 0))
    line.ask()
    line.answer(404, {"detail": {"error": "CommandNotFound", "message": "no such command"}})
    assert type(line.error) is errors.SandboxOperationError
    assert (line.error.operation, line.error.error_type) == ("reconnect", "CommandNotFound")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("CommandTimeout", errors.CommandTimeoutError),
        ("SessionExpired", errors.SandboxOperationError),
    ],
)
def test_an_error_event_is_final(kind, error):
    line = started()
    line.tell(out(b"so far", 0), ExecError("words", kind))
    assert type(line.error) is error
    assert not line.may_be_running
    assert line.output == ("so far", "")


# --- what an event stream cannot do ---------------------------------------------------


def test_a_kill_goes_over_to_a_websocket():
    line = started()
    line.tell(out(b"caf\xc3\xa9\xff", 0))
    line.session.kill(now=line.now)
    assert line.session.transport is Transport.WEBSOCKET
    line.connect()
    line.accept()
    reconnect, kill = line.hear()
    # The WebSocket counts the text: there the byte that is none has three.
    assert reconnect == {
        "type": "reconnect",
        "command_id": ID,
        "stdout_offset": 8,
        "stderr_offset": 0,
    }
    assert kill == {"type": "kill"}
    line.say(STARTED, Exit(137))
    assert line.exit_code == 137


def test_a_kill_waits_for_the_start_that_is_on_its_way():
    line = HttpLine()
    line.ask()
    line.session.kill(now=line.now)
    assert line.session.transport is Transport.SSE
    line.feed(HEAD)
    line.tell(STARTED)
    assert line.session.transport is Transport.WEBSOCKET
    line.connect()
    line.accept()
    assert [message["type"] for message in line.hear()] == ["reconnect", "kill"]
    line.say(STARTED, Exit(137))
    assert line.exit_code == 137


def test_a_kill_looks_again_for_a_command_whose_request_was_lost_from_sight():
    line = HttpLine()
    line.ask()
    line.session.kill(now=line.now)
    line.lose()
    for _ in range(3):
        line.connect()
        line.accept()
        assert [message["type"] for message in line.hear()] == ["reconnect", "kill"]
        line.say(ExecError("no such command", "CommandNotFound"))
        assert line.wait() == pytest.approx(0.1)
    line.connect()
    line.accept()
    line.say(STARTED, Exit(137))
    assert line.exit_code == 137


def test_but_not_for_long():
    line = HttpLine()
    line.ask()
    line.session.kill(now=line.now)
    line.lose()
    line.connect()
    line.accept()
    line.at(line.now + 1.0)
    line.say(ExecError("no such command", "CommandNotFound"))
    assert type(line.error) is errors.SandboxOperationError
    assert not line.may_be_running


def test_a_kill_that_cannot_be_sent_is_told():
    line = started()
    line.session.kill(now=line.now)
    line.refuse()
    while not line.session.over:
        if line.session.connection_wanted is not None:
            line.refuse()
        line.wait()
    assert type(line.error) is errors.SandboxTimeoutError
    assert (line.error.limit, line.may_be_running) == ("kill", True)


def test_a_command_whose_end_is_never_told_is_killed_and_given_up():
    line = HttpLine(execute(timeout_seconds=10), ExecTimeouts(grace=5, sse_read=None))
    line.begin()
    line.tell(STARTED)
    line.at(line.now + 15)
    assert line.session.transport is Transport.WEBSOCKET
    line.connect()
    line.accept()
    assert [message["type"] for message in line.hear()] == ["reconnect", "kill"]
    line.say(STARTED, Exit(137))
    assert type(line.error) is errors.CommandTimeoutError


# --- falling back ---------------------------------------------------------------------

ALL = (Transport.WEBSOCKET, Transport.SSE, Transport.HTTP)


def test_where_there_is_no_websocket_an_event_stream_is_used():
    line = HttpLine(transports=ALL)
    line.reject(404)
    assert line.session.connection_wanted is not None, "at once"
    line.begin()
    line.tell(STARTED, out(b"\xff", 0), Exit(0))
    assert line.exit_code == 0
    [chunk] = line.of(OutputChunk)
    assert chunk.raw == b"\xff"


@pytest.mark.parametrize("status", [404, 405, 501])
def test_where_there_is_neither_one_request_is_made(status):
    line = HttpLine(transports=ALL)
    line.reject(status)
    line.ask()
    line.answer(status)
    assert line.ask()["command"] == "work"
    assert line.requests[-1].target == "/sb/execute"
    line.answer(200, {"stdout": "out", "stderr": "", "exit_code": 0})
    assert (line.output, line.exit_code) == (("out", ""), 0)


def test_where_there_is_nothing_the_first_refusal_is_told():
    line = HttpLine(transports=ALL)
    line.reject(404)
    for _ in range(2):
        line.ask()
        line.answer(404)
    assert "no exec endpoint at http://d.test/sb/execute/ws (404)" in str(line.error)
    assert not line.may_be_running


@pytest.mark.parametrize("status", [403, 410, 503])
def test_any_other_refusal_is_no_reason_to_change(status):
    line = HttpLine(transports=ALL)
    line.reject(status)
    assert line.session.transport is Transport.WEBSOCKET


def test_once_a_command_may_exist_the_transport_is_kept():
    line = HttpLine(transports=(Transport.SSE, Transport.HTTP))
    line.ask()
    line.lose()
    line.wait_for_connection()
    line.ask()
    line.answer(404)
    assert line.session.over, "a blocking request would run it a second time"
    assert line.may_be_running
