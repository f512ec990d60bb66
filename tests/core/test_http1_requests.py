"""Requests over HTTP/1.1: their bytes, their phases, and answers that come early."""

from __future__ import annotations

import pytest

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.machines.http1 import IN_PLACE_BYTES
from sandbox_proto.wire.http import StreamedBody

from ._helpers import make_request
from ._http import Exchange, chunked, response

LOST = Fault(FaultKind.DISCONNECTED, "reset")


def streamed(length=None):
    return make_request("POST", body=StreamedBody(None, length))


# --- bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (make_request(), b"GET /path HTTP/1.1\r\nhost: host.test\r\n\r\n"),
        (
            make_request("DELETE", "http://h:81/x?y=1", headers={"x-a": "caf\u00e9"}),
            b"DELETE /x?y=1 HTTP/1.1\r\nhost: h:81\r\nx-a: caf\xe9\r\n\r\n",
        ),
        (
            make_request("POST", "https://[::1]/x"),
            b"POST /x HTTP/1.1\r\nhost: [::1]\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            make_request("POST", body=(b"ab", bytearray(b"c"), memoryview(b"de"))),
            b"POST /path HTTP/1.1\r\nhost: host.test\r\ncontent-length: 5\r\n\r\nabcde",
        ),
        (
            make_request("GET", body=(b"x",)),
            b"GET /path HTTP/1.1\r\nhost: host.test\r\ncontent-length: 1\r\n\r\nx",
        ),
    ],
)
def test_the_bytes_of_a_request(request_, sent):
    assert Exchange(request_).sent == sent


def test_a_small_request_is_one_write_and_a_large_body_is_not_copied():
    head_and_body = Exchange(make_request("POST", body=(b"x",)), flush=False)
    assert len(head_and_body.machine.data_to_send()) == 1
    large = bytes(1024 * 1024)
    output = Exchange(make_request("POST", body=(large,)), flush=False).machine.data_to_send()
    assert any(piece is large for piece in output)


def test_output_is_handed_over_once():
    exchange = Exchange()
    assert exchange.machine.data_to_send() == []


# --- streamed bodies ------------------------------------------------------------------


def test_a_streamed_body_of_unknown_length_is_chunked():
    exchange = Exchange(streamed())
    exchange.machine.send_body(b"abc", now=0)
    exchange.machine.send_body(b"de", now=0)
    exchange.machine.end_request(now=0)
    exchange.flush()
    head = b"POST /path HTTP/1.1\r\nhost: host.test\r\ntransfer-encoding: chunked\r\n\r\n"
    assert exchange.sent == head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert exchange.feed(response(200, b"ok")).body == b"ok"
    assert exchange.machine.reusable


@pytest.mark.parametrize("pieces", [[b"abcde"], [b"ab", b"cde"], []])
def test_a_streamed_body_of_known_length_is_framed_by_it(pieces):
    size = sum(map(len, pieces))
    exchange = Exchange(streamed(size))
    for piece in pieces:
        exchange.machine.send_body(piece, now=0)
    exchange.machine.end_request(now=0)
    exchange.flush()
    head = f"POST /path HTTP/1.1\r\nhost: host.test\r\ncontent-length: {size}\r\n\r\n"
    assert exchange.sent == head.encode() + b"".join(pieces)
    assert exchange.machine.phase is Phase.SENT


def test_a_body_longer_than_announced_is_the_applications_mistake():
    exchange = Exchange(streamed(3))
    exchange.machine.send_body(b"ab", now=0)
    with pytest.raises(LocalProtocolError, match="longer than its announced length"):
        exchange.machine.send_body(b"cd", now=0)


def test_a_body_shorter_than_announced_is_the_applications_mistake():
    exchange = Exchange(streamed(3))
    exchange.machine.send_body(b"ab", now=0)
    with pytest.raises(LocalProtocolError, match="shorter than its announced length"):
        exchange.machine.end_request(now=0)


# --- phases ---------------------------------------------------------------------------


def test_the_phase_moves_with_what_the_transport_took():
    exchange = Exchange(make_request("POST", body=(b"x" * 100,)), flush=False)
    machine = exchange.machine
    assert machine.phase is Phase.NOTHING_SENT
    size = len(exchange.flush(1))
    assert machine.phase is Phase.PARTLY_SENT
    machine.data_sent(size - 2, now=0)
    assert machine.phase is Phase.PARTLY_SENT
    machine.data_sent(1, now=0)
    assert machine.phase is Phase.SENT
    exchange.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert machine.phase is Phase.SENT
    exchange.feed(response(200, length=5))
    assert machine.phase is Phase.RESPONSE_BEGUN


def test_a_streamed_request_is_sent_only_when_its_end_is():
    exchange = Exchange(streamed(4))
    assert exchange.machine.phase is Phase.PARTLY_SENT
    exchange.machine.send_body(b"data", now=0)
    exchange.flush()
    assert exchange.machine.phase is Phase.PARTLY_SENT
    exchange.machine.end_request(now=0)
    assert exchange.machine.phase is Phase.SENT


def test_each_exchange_begins_with_nothing_sent():
    exchange = Exchange()
    exchange.feed(response())
    second = Exchange(machine=exchange.machine, flush=False)
    assert second.machine.phase is Phase.NOTHING_SENT


@pytest.mark.parametrize(
    ("taken", "phase"),
    [(0, Phase.NOTHING_SENT), (5, Phase.PARTLY_SENT), (None, Phase.SENT)],
)
def test_a_fault_says_how_far_the_request_had_got(taken, phase):
    exchange = Exchange(make_request("POST", body=(b"x" * 10,)), flush=False)
    exchange.flush(taken)
    exchange.machine.connection_lost(LOST, now=0)
    assert exchange.take().fault.phase is phase


# --- early answers --------------------------------------------------------------------

LARGE = bytes(IN_PLACE_BYTES + 1)


@pytest.mark.parametrize(
    "answer",
    [response(413, b"too big"), response(413, LARGE), chunked([b"no"]), response(200, b"fine")],
    ids=["length", "past h11", "chunked", "success"],
)
def test_an_answer_before_the_body_is_out_ends_the_exchange_and_the_connection(answer):
    exchange = Exchange(streamed(1000))
    exchange.machine.send_body(bytes(400), now=0)
    exchange.flush(100)
    assert exchange.machine.wants_body
    outcome = exchange.feed(answer)
    assert (outcome.fault, outcome.body) == (
        None,
        answer.partition(b"\r\n\r\n")[2] if b"Content-Length" in answer else b"no",
    )
    assert not exchange.machine.wants_body
    assert (exchange.machine.reusable, exchange.machine.finished) == (False, True)
    # The driver may not have noticed yet; what it does is harmless.
    exchange.machine.data_sent(300, now=0)
    exchange.machine.send_body(bytes(400), now=0)
    exchange.machine.end_request(now=0)
    assert exchange.machine.data_to_send() == []
    assert exchange.machine.next_event() is None


@pytest.mark.parametrize("answer", [response(413, b"x"), response(413, LARGE)])
def test_an_answer_before_the_last_byte_was_taken_costs_the_connection(answer):
    exchange = Exchange(make_request("POST", body=(bytes(1000),)), flush=False)
    exchange.flush(500)
    assert exchange.feed(answer).status == 413
    assert not exchange.machine.reusable


def test_the_head_of_an_early_answer_does_not_yet_stop_the_body():
    exchange = Exchange(streamed(10))
    exchange.feed(response(200, length=5))
    assert exchange.machine.wants_body
    exchange.machine.send_body(b"0123456789", now=0)
    exchange.machine.end_request(now=0)
    exchange.flush()
    assert exchange.feed(b"12345").body == b"12345"
    assert exchange.machine.reusable


def test_an_interim_answer_does_not_stop_the_body():
    exchange = Exchange(streamed(3))
    exchange.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert exchange.machine.wants_body
    assert exchange.machine.phase is Phase.PARTLY_SENT
