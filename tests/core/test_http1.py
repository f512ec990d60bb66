"""Answers over HTTP/1.1: framing, any split, reuse of the connection."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.machines.body import BodyBuffer
from sandbox_proto.machines.http1 import IN_PLACE_BYTES, Http1Client

from ._helpers import bytewise, cut, cut_points, make_request
from ._http import NO_LIMITS, Exchange, chunked, response

SMALL = b"small body"
LARGE = random.Random(1).randbytes(IN_PLACE_BYTES + 4321)
HEAD = make_request("HEAD")


def _eof_framed(body):
    return b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n" + body


# (bytes, request, ended by EOF, status, body, reusable)
ANSWERS = {
    "length": (response(200, SMALL), None, False, 200, SMALL, True),
    "length zero": (response(201), None, False, 201, b"", True),
    "past h11": (response(200, LARGE), None, False, 200, LARGE, True),
    "error past h11": (response(500, LARGE), None, False, 500, LARGE, True),
    "chunked": (
        chunked([b"ab", b"c" * 300, b"d"]),
        None,
        False,
        200,
        b"ab" + b"c" * 300 + b"d",
        True,
    ),
    "chunked large": (chunked([LARGE, LARGE]), None, False, 200, LARGE * 2, True),
    "chunked empty": (chunked([]), None, False, 200, b"", True),
    "trailers": (chunked([b"x"], trailer=b"A: 1\r\n"), None, False, 200, b"x", True),
    "eof": (_eof_framed(SMALL), None, True, 200, SMALL, False),
    "eof large": (_eof_framed(LARGE), None, True, 200, LARGE, False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", None, False, 204, b"", True),
    "304": (response(304, length=500), None, False, 304, b"", True),
    "304 large": (response(304, length=10**9), None, False, 304, b"", True),
    "head": (response(200, length=500), HEAD, False, 200, b"", True),
    "head large": (response(200, length=10**9), HEAD, False, 200, b"", True),
    "close": (response(200, SMALL, "Connection: close"), None, False, 200, SMALL, False),
    "close past h11": (response(200, LARGE, "Connection: close"), None, False, 200, LARGE, False),
    "http 1.0": (response(200, SMALL).replace(b"1.1", b"1.0"), None, False, 200, SMALL, False),
    "1.0 past h11": (response(200, LARGE).replace(b"1.1", b"1.0"), None, False, 200, LARGE, False),
    "after 1xx": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + response(200, SMALL),
        None,
        False,
        200,
        SMALL,
        True,
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", None, False, 200, b"x", True),
    "length twice": (response(200, b"x", "Content-Length: 1"), None, False, 200, b"x", True),
}
each_answer = pytest.mark.parametrize("name", ANSWERS)


def check(name, pieces, *, stream=False, direct=False, slow=False):
    _, request, eof, status, body, reusable = ANSWERS[name]
    exchange = Exchange(request, stream=stream, machine=Http1Client(through_h11=slow))
    outcome = exchange.feed(*pieces, direct=direct)
    if eof:
        assert outcome.body is None, "the end of the body is the end of the stream"
        outcome = exchange.eof()
    assert outcome.fault is None
    assert (outcome.status, outcome.whole) == (status, body)
    assert exchange.machine.reusable == reusable
    assert exchange.machine.finished != reusable
    return exchange


@each_answer
@pytest.mark.parametrize("stream", [False, True], ids=["gathered", "streamed"])
@pytest.mark.parametrize("direct", [False, True], ids=["received", "direct"])
def test_an_answer_in_one_piece(name, stream, direct):
    check(name, [ANSWERS[name][0]], stream=stream, direct=direct)


@each_answer
def test_an_answer_byte_by_byte(name):
    data = ANSWERS[name][0]
    # The inside of a large body is all alike; its borders are what matters.
    head = cut(data, range(1, 400)) if len(data) > 2000 else bytewise(data)
    check(name, [*head[:-1], *cut(head[-1], range(len(head[-1]) - 300, len(head[-1])))])


@settings(max_examples=250)
@given(st.sampled_from(sorted(ANSWERS)), st.data(), st.booleans(), st.booleans(), st.booleans())
def test_an_answer_in_any_pieces(name, data, stream, direct, slow):
    """Past h11 and (slow) through it comes to the same."""
    whole = ANSWERS[name][0]
    pieces = cut(whole, data.draw(cut_points(len(whole))))
    check(name, pieces, stream=stream, direct=direct, slow=slow)


@each_answer
@pytest.mark.parametrize("slow", [False, True], ids=["past h11", "through h11"])
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_an_answer_that_is_cut_short_fails_both_ways(name, slow, missing):
    data, request, eof, *_ = ANSWERS[name]
    exchange = Exchange(request, machine=Http1Client(through_h11=slow))
    exchange.feed(data[:-missing])
    outcome = exchange.eof()
    assert exchange.machine.finished
    assert eof or outcome.fault is not None or outcome.body is not None


@each_answer
def test_a_connection_serves_the_next_request_or_refuses_it(name):
    exchange = check(name, [ANSWERS[name][0]])
    if exchange.machine.reusable:
        second = Exchange(make_request(url="http://host.test/2"), machine=exchange.machine)
        assert second.sent == b"GET /2 HTTP/1.1\r\nhost: host.test\r\n\r\n"
        assert second.feed(response(200, b"second")).body == b"second"
    else:
        with pytest.raises(LocalProtocolError, match="cannot begin a request"):
            exchange.machine.send_request(make_request(), NO_LIMITS, now=0)


def test_many_exchanges_follow_each_other_on_one_connection():
    machine = Http1Client()
    bodies = [SMALL, LARGE, b"", LARGE, SMALL]
    for body in bodies:
        outcome = Exchange(machine=machine).feed(response(200, body))
        assert outcome.body == body
        assert outcome.order == ["ResponseHead", "ExchangeDone"]


def test_the_headers_of_an_answer_are_in_order_with_lower_case_names():
    head = Exchange().feed(response(200, b"", "X-A: 1", "Set-B: \xe9", "X-A:  2 ")).head
    assert head.reason == "Fine"
    assert head.headers == (
        ("content-length", "0"),
        ("x-a", "1"),
        ("set-b", "\u00c3\u00a9"),
        ("x-a", "2"),
    )


# --- streaming ------------------------------------------------------------------------


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("status", "streamed"), [(200, True), (206, True), (404, False), (304, None)]
)
def test_only_successes_are_streamed_and_errors_are_gathered(body, status, streamed):
    exchange = Exchange(stream=True)
    outcome = exchange.feed(response(status, body) if status != 304 else response(304, length=9))
    assert exchange.machine.streaming == bool(streamed)
    assert bool(outcome.streamed) == bool(streamed)
    assert outcome.body == (body if streamed is False else b"")


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a_streamed_body_comes_as_it_arrives(body):
    exchange = Exchange(stream=True)
    data = response(200, body)
    outcome = exchange.feed(data[:-5])
    assert outcome.streamed == body[:-5]
    assert exchange.machine.receive_buffer() is None, "a streamed body has no place of its own"
    assert exchange.feed(data[-5:]).streamed == body


def test_what_was_not_read_of_an_answer_is_not_taken_for_the_next():
    """It came whole, so that its connection serves on although its reader went away."""
    machine = Http1Client()
    machine.send_request(make_request(), NO_LIMITS, now=0, stream=True)
    for piece in machine.data_to_send():
        machine.data_sent(len(piece), now=0)
    machine.receive_data(response(200, b"the first"), now=0)
    assert machine.reusable
    assert type(machine.next_event()).__name__ == "ResponseHead"
    outcome = Exchange(machine=machine).feed(response(200, b"the second"))
    assert (outcome.order, outcome.body) == (["ResponseHead", "ExchangeDone"], b"the second")


# --- what ends a connection -----------------------------------------------------------


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_what_follows_an_answer_unasked_ends_the_connection_but_not_the_answer(body, extra):
    exchange = Exchange()
    outcome = exchange.feed(response(200, body) + extra)
    assert (outcome.body, outcome.fault) == (body, None)
    assert not exchange.machine.reusable
    assert exchange.machine.finished


def test_bytes_on_an_idle_connection_break_it_without_an_event():
    exchange = Exchange()
    exchange.feed(response())
    assert exchange.machine.reusable
    exchange.machine.receive_data(b"HTTP/1.1 408 Timeout\r\n\r\n", now=0)
    assert not exchange.machine.reusable
    assert exchange.machine.next_event() is None
    assert Http1Client().reusable, "a fresh one is reusable, to be sure"


@pytest.mark.parametrize("how", ["eof", "lost"])
def test_an_idle_connection_that_ends_is_of_no_further_use(how):
    exchange = Exchange()
    exchange.feed(response())
    if how == "eof":
        exchange.machine.receive_eof(now=0)
    else:
        exchange.machine.connection_lost(Fault(FaultKind.DISCONNECTED, "reset"), now=0)
    assert (exchange.machine.reusable, exchange.machine.finished) == (False, True)
    assert exchange.machine.next_event() is None


def test_one_exchange_at_a_time():
    exchange = Exchange()
    with pytest.raises(LocalProtocolError):
        exchange.machine.send_request(make_request(), NO_LIMITS, now=0)


def test_an_empty_read_is_the_drivers_mistake():
    with pytest.raises(LocalProtocolError, match="receive_eof"):
        Exchange().machine.receive_data(b"", now=0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nothing", b""),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-"),
        ("only 1xx", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("no body", response(200, length=10)),
        ("short body", response(200, b"12345", length=10)),
        ("short large body", response(200, LARGE)[:-1]),
        ("large body without a byte", response(200, length=IN_PLACE_BYTES * 2)),
        ("chunk cut", chunked([b"abc"])[:-6]),
        ("no last chunk", chunked([b"abc"])[:-5]),
    ],
)
@pytest.mark.parametrize("how", ["eof", "lost"])
def test_an_answer_cut_short_fails_and_never_passes_for_a_whole_one(name, data, how):
    exchange = Exchange()
    exchange.feed(*([data] if data else []))
    if how == "eof":
        outcome = exchange.eof()
    else:
        exchange.machine.connection_lost(Fault(FaultKind.DISCONNECTED, "reset"), now=0)
        outcome = exchange.take()
    begun = Phase.RESPONSE_BEGUN if outcome.head else Phase.SENT
    assert (outcome.body, outcome.fault.kind, outcome.fault.phase) == (
        None,
        FaultKind.DISCONNECTED,
        begun,
    )
    assert outcome.order.count("ExchangeFailed") == 1
    assert exchange.machine.finished


def test_the_fault_of_the_transport_is_passed_on_with_the_phase_of_the_request():
    exchange = Exchange()
    exchange.machine.connection_lost(Fault(FaultKind.TLS, "bad record", seconds=2.0), now=0)
    assert exchange.take().fault == Fault(FaultKind.TLS, "bad record", Phase.SENT, 2.0)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
@pytest.mark.parametrize("split", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_what_is_not_http_is_a_protocol_fault(data, split):
    exchange = Exchange()
    outcome = exchange.feed(*split(data))
    assert outcome.fault.kind is FaultKind.PROTOCOL
    assert outcome.order[-1] == "ExchangeFailed"
    assert (exchange.machine.finished, exchange.machine.reusable) == (True, False)
    exchange.machine.receive_data(b"more", now=0)
    exchange.machine.receive_eof(now=0)
    assert exchange.machine.next_event() is None, "an exchange fails once"


# --- the buffer of large bodies -------------------------------------------------------


def test_a_lying_content_length_costs_no_memory():
    exchange = Exchange()
    tracemalloc.start()
    try:
        exchange.feed(response(200, b"tiny", length=2**40))
        view = exchange.machine.receive_buffer()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert view is not None
    view.release()
    assert peak < 20 * 1024 * 1024


def test_a_large_body_is_held_once():
    size = 24 * 1024 * 1024
    exchange = Exchange()
    exchange.feed(response(200, length=size))
    piece = bytes(256 * 1024)
    tracemalloc.start()
    try:
        for _ in range(size // len(piece)):
            outcome = exchange.feed(piece, direct=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(outcome.body) == size
    assert peak < 1.7 * size


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=30)), max_size=20))
def test_a_body_buffer_keeps_every_byte_however_it_is_filled(pieces):
    expected = b"".join(data for _, data in pieces)
    buffer = BodyBuffer(len(expected))
    for direct, data in pieces:
        if direct:
            view = buffer.writable()
            view[: len(data)] = data
            view.release()
            buffer.filled(len(data))
        else:
            buffer.append(data)
    assert len(buffer) == len(expected)
    assert buffer.take() == expected
    assert (len(buffer), buffer.take()) == (0, b"")
