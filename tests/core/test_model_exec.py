"""Commands over plain HTTP against the model host, byte by byte and in virtual time."""

from __future__ import annotations

import json

import pytest

from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.effects import Perform
from sandbox_proto.machines.http1_server import Http1Server
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.testing import ModelHost, World
from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.exec_messages import ExecError, Exit, Started
from sandbox_proto.wire.http import Request, json_body
from sandbox_proto.wire.sse import AckRequired, SseParser, decode_event
from sandbox_proto.wire.urls import Url

from ._http import Exchange
from ._streams import ended, out_of, output_of

PATIENT = Timeouts(connect=1, read=None, write=None, pool=1)
SPLITS = pytest.mark.parametrize("split", [None, 1, 7])


class Story:
    """A world with one sandbox in it, asked by hand."""

    def __init__(self, split=None, **scripts):
        self.host = ModelHost()
        for command, script in scripts.items():
            self.host.on_command(command, **script)
        self.world = World(self.host, split=split)
        creation = Creation(self.world.context(), CreationSpec(), timeout=30, wait_for_ready=True)
        self.box = self.world.drive(creation.run())

    def request(self, path, **body):
        url = Url.parse(f"{self.box.dataplane_url}/{path}")
        headers = {"x-api-key": self.host.api_key, "content-type": "application/json"}
        return Request("POST", url, headers, json_body(body))

    def ask(self, path, **body):
        effect = Perform(self.request(path, **body), PATIENT, False)
        return self.world.exchange(effect).response

    def stream(self, path, **body):
        response = self.ask(f"execute/stream/{path}", **body)
        assert response.status == 200, response.body
        parser = SseParser()
        events = [decode_event(*event) for event in parser.feed(response.body)]
        return events, response.body


WORK = {"stdout": "out€", "stderr": "err", "exit_code": 3, "duration": 50.0}
NAMES = {"command": "work", "command_id": "cmd"}


@SPLITS
def test_an_event_stream_has_everything_and_signs_of_life(split):
    story = Story(split, work=WORK)
    events, body = story.stream("start", **NAMES)
    assert events[0] == Started("cmd", 100)
    assert output_of(events, "stdout") == "out€".encode()
    assert output_of(events, "stderr") == b"err"
    assert events[-3:] == ended(6, 3, Exit(3))
    assert body.count(b": still here") == 3
    assert story.world.now == 50.0
    assert story.stream("resume", command_id="cmd", stdout_offset=3)[0][1:] == [
        out_of("€", 3),
        out_of("err", 0, "stderr"),
        *ended(6, 3, Exit(3)),
    ]


@SPLITS
def test_windows_are_resumed_until_the_end(split):
    text = "é" * (900_000 if split is None else 1000)
    story = Story(split, work={"stdout": text})
    events, _ = story.stream("start", **NAMES)
    got, asked = output_of(events, "stdout"), 0
    while isinstance(again := events[-1], AckRequired):
        asked += 1
        assert again.stdout_offset == len(got)
        events, _ = story.stream("resume", command_id="cmd", stdout_offset=len(got))
        got += output_of(events, "stdout")
    assert got.decode() == text
    assert asked == (1 if split is None else 0)
    assert story.host.runs == ["work"]


@SPLITS
def test_a_blocking_request_has_everything_at_once(split):
    story = Story(split, work=WORK)
    response = story.ask("execute", command="work")
    expected = {"stdout": "out€", "stderr": "err", "exit_code": 3}
    assert (response.status, json.loads(response.body)) == (200, expected)
    assert story.world.now == 50.0


def test_a_command_that_is_a_list_is_scripted_as_its_text():
    story = Story(**{"ls 'a b'": {"stdout": "listed"}})
    response = story.ask("execute", command=["ls", "a b"])
    assert json.loads(response.body)["stdout"] == "listed"


def test_a_blocking_request_over_its_limit():
    response = Story(work=WORK).ask("execute", command="work", timeout=5)
    assert response.status == 408


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("execute", {}, 400, "CommandError"),
        ("execute/stream/start", {}, 400, "CommandError"),
        ("execute/stream/resume", {"command_id": "none"}, 404, "CommandNotFound"),
    ],
)
def test_refusals_are_whole_answers(path, body, status, error):
    response = Story().ask(path, **body)
    assert (response.status, response.json()["detail"]["error"]) == (status, error)


def test_a_time_limit_ends_the_event_stream():
    events, _ = Story(work=WORK).stream("start", **NAMES, timeout_seconds=5)
    assert events[-1] == ExecError("command timed out after 5 s", "CommandTimeout")


def test_one_connection_carries_one_stream_after_the_other():
    story = Story(work={"stdout": "x"})
    connection = story.host.connect()
    exchange = Exchange(story.request("execute/stream/start", **NAMES))
    resume = Exchange(story.request("execute/stream/resume", command_id="cmd"))
    connection.receive_data(exchange.sent + resume.sent, now=0.0)  # the second must wait
    answers = b"".join(bytes(piece) for piece in connection.data_to_send(now=0.0))
    answers += b"".join(bytes(piece) for piece in connection.data_to_send(now=0.0))
    assert answers.count(b"event: exit") == answers.count(b"event: started") == 2


@pytest.mark.parametrize("how", ["eof", "loss"])
def test_who_leaves_a_stream_is_detached_and_who_leaves_a_request_ends_it(how):
    story = Story(work=WORK)
    for path in ("execute/stream/start", "execute"):
        connection = story.host.connect()
        connection.receive_data(Exchange(story.request(path, **NAMES)).sent, now=0.0)
        connection.data_to_send(now=0.0)
        if how == "eof":
            connection.receive_eof(now=0.0)
        else:
            connection.abandon(now=0.0)
    streamed, requested = story.host.commands.of_box(story.box.id)
    assert (streamed.attachments, streamed.wants_kill) == ([], False)
    assert (requested.attachments, requested.wants_kill) == ([], True)
    assert story.host.streams == set()


# --- the server's half of HTTP --------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"a", b"bc", b"d" * 1000]])
def test_an_answer_may_come_in_pieces(pieces):
    exchange, server = Exchange(), Http1Server()
    server.receive_data(exchange.sent)
    assert server.next_event() is not None
    server.begin_response(200, {"x-a": "1"})
    for piece in pieces:
        server.send_body(piece)
        exchange.feed(*map(bytes, server.data_to_send()))
    assert exchange.outcome.body is None
    server.end_response()
    exchange.feed(*map(bytes, server.data_to_send()))
    assert exchange.outcome.body == b"".join(pieces)
    assert exchange.machine.reusable
    assert not server.finished
