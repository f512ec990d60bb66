"""Commands over connections that stand: one round trip, and what may go wrong with that."""

from __future__ import annotations

import pytest

from sandbox_proto.flows.commands import choose_transports
from sandbox_proto.machines.exec_events import Reattaching
from sandbox_proto.machines.exec_transports import Transport
from sandbox_proto.machines.http1 import Http1Client
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import ExecError, Exit
from sandbox_proto.wire.sse import AckRequired

from ._exec import STARTED, Line
from ._exec_http import HEAD, LAST_CHUNK, HttpLine, out
from .test_exec_one_request import config

WS, SSE, HTTP = Transport.WEBSOCKET, Transport.SSE, Transport.HTTP


class KeptLine(HttpLine):
    """A line whose first connection has served before."""

    def ask(self, *, connect=True):
        if connect and self.session.takes_kept:
            self.session.connected(now=self.now, kept=True)
            connect = False
        return super().ask(connect=connect)


def _finishes(machine: Http1Client, rest: bytes) -> bool:
    if rest:
        machine.receive_data(rest, now=0.0)
    while machine.next_event() is not None:
        pass
    return machine.reusable


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("last", [Exit(0), ExecError("it was", "CommandTimeout")])
def test_the_connection_of_a_finished_command_may_serve_again(together, last):
    line = KeptLine()
    line.begin()
    line.tell(STARTED, out(b"x", 0), last, end=together)
    assert line.session.over and line.session.finished
    unfinished = line.session.unfinished
    assert unfinished is not None
    assert unfinished.reusable is False or together
    assert _finishes(unfinished, b"" if together else LAST_CHUNK)


def test_what_comes_behind_the_end_spoils_it():
    line = KeptLine()
    line.begin()
    line.tell(STARTED, Exit(0))
    unfinished = line.session.unfinished
    assert unfinished is not None
    assert not _finishes(unfinished, LAST_CHUNK + b"HTTP/1.1 200 OK\r\n")


def test_an_answer_that_goes_on_is_not_waited_for():
    line = KeptLine()
    line.begin()
    line.tell(STARTED, out(b"x", 0))
    line.session.detach(now=line.now)
    assert line.session.unfinished is None


@pytest.mark.parametrize("trouble", [HttpLine.lose, HttpLine.eof])
def test_a_connection_that_was_dead_is_replaced_at_once(trouble):
    line = KeptLine()
    line.ask()
    trouble(line)
    assert line.session.connection_wanted is not None, "at once"
    assert not line.session.takes_kept, "its kin are dead, too"
    assert line.events == [], "nobody's failure"
    assert line.ask()["command_id"] == line.session.command_id
    line.feed(HEAD)
    line.tell(STARTED, Exit(0))
    assert line.exit_code == 0


def test_a_fresh_one_that_dies_is_trouble():
    line = KeptLine()
    line.ask()
    line.lose()
    line.ask()
    line.lose()
    assert [type(event) for event in line.events] == [Reattaching]
    assert line.session.connection_wanted is None


def test_once_the_answer_has_begun_the_end_of_a_kept_one_is_trouble_too():
    line = KeptLine()
    line.begin()
    line.lose()
    assert [type(event) for event in line.events] == [Reattaching]


def test_only_event_streams_take_kept_connections():
    assert not Line().session.takes_kept
    assert not HttpLine(transports=(HTTP,)).session.takes_kept
    assert HttpLine(transports=(SSE, WS)).session.takes_kept


# --- much output ------------------------------------------------------------------------


def _until_much(**more) -> HttpLine:
    """A stream that has asked for two acknowledgements."""
    line = HttpLine(transports=(SSE, WS, HTTP), **more)
    line.begin()
    line.tell(STARTED, out("1€".encode(), 0), AckRequired(4, 0), end=True)
    line.ask(connect=False)
    line.feed(HEAD)
    line.tell(STARTED, out("2\u20ac".encode()[:2], 4), AckRequired(6, 0), end=True)
    return line


def test_for_much_output_an_event_stream_gives_way_to_a_websocket():
    line = _until_much()
    assert line.session.transport is WS
    [opening] = line.open()
    # The half of a character that has come does not count: text has only whole ones.
    assert (opening["type"], opening["stdout_offset"]) == ("reconnect", 5)
    line.say(STARTED, OutputChunk("stdout", "€3", 5), Exit(0))
    assert (line.output, line.exit_code) == (("1€2€3", ""), 0)


@pytest.mark.parametrize("status", [403, 404])
def test_where_there_is_no_websocket_it_goes_on_as_it_was(status):
    line = _until_much()
    line.reject(status)
    assert line.session.transport is SSE
    assert line.ask() == {
        "command_id": line.session.command_id, "stdout_offset": 6, "stderr_offset": 0,
    }  # fmt: skip
    line.feed(HEAD)
    line.tell(STARTED, out("€".encode()[1:] + b"3", 6), AckRequired(9, 0), end=True)
    line.ask(connect=False)  # and does not try again
    line.feed(HEAD)
    line.tell(STARTED, Exit(0))
    assert (line.output, line.exit_code) == (("1€2€3", ""), 0)


def test_where_bytes_are_wanted_it_stays():
    line = HttpLine(transports=(SSE,))
    line.begin()
    for number in range(4):
        line.tell(STARTED, out(b"x", number), AckRequired(number + 1, 0), end=True)
        line.ask(connect=False)
        line.feed(HEAD)
    assert line.session.transport is SSE


# --- the choice -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "needs", "refused", "transports"),
    [
        (config(), None, (), (SSE, WS, HTTP)),
        (config(), None, (SSE,), (WS, HTTP, SSE)),
        (config(), None, (SSE, WS), (HTTP, SSE, WS)),
        (config(), "input", (), (WS,)),
        (config("websocket"), None, (), (WS,)),
        (config("http"), None, (SSE,), (HTTP,)),
        (config("sse"), None, (SSE,), (SSE,)),
    ],
)
def test_a_command_that_is_only_waited_for(configuration, needs, refused, transports):
    assert choose_transports(configuration, needs, waits=True, refused=refused) == transports


def test_what_the_server_does_not_know_is_told():
    line = HttpLine(transports=(SSE, WS, HTTP))
    line.ask()
    line.answer(404)
    assert line.session.refused == {SSE}
    line.open()
    line.say(STARTED, Exit(0))
    assert (line.exit_code, line.session.refused) == (0, {SSE})
