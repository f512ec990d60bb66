"""What a peer may not do over HTTP/1.1: be slow, drip, send too much, talk for ever."""

from __future__ import annotations

import pytest

from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.machines.http1 import (
    IN_PLACE_BYTES,
    MAX_HEAD_BYTES,
    MAX_INFORMATIONAL,
    ExchangeLimits,
)
from sandbox_proto.wire.http import StreamedBody

from ._helpers import bytewise, make_request
from ._http import NO_LIMITS, Exchange, chunked, response

LIMITS = ExchangeLimits(read=10.0, write=4.0, total=100.0)
READ, WRITE, DEADLINE = FaultKind.READ_TIMEOUT, FaultKind.WRITE_TIMEOUT, FaultKind.DEADLINE


def exchange(limits=LIMITS, **more):
    return Exchange(limits=limits, now=1000.0, **more)


def silence(talk):
    """Wait for as long as the machine does. Returns when, and what came of it."""
    deadline = talk.machine.next_deadline()
    assert talk.at(deadline - 0.001).fault is None, "it gave up too early"
    outcome = talk.at(deadline)
    assert talk.machine.next_deadline() is None
    return deadline - 1000.0, outcome.fault


# --- time -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "phase", "text"),
    [
        (b"", Phase.SENT, "no answer within 10 s"),
        (b"HTTP/1.1 200 OK\r\nContent-", Phase.SENT, "no answer within 10 s"),
        (b"HTTP/1.1 100 Go\r\n\r\n", Phase.SENT, "no answer within 10 s"),
        (response(200, length=5), Phase.RESPONSE_BEGUN, "no more of the answer within 10 s"),
        (
            response(200, length=IN_PLACE_BYTES * 2),
            Phase.RESPONSE_BEGUN,
            "no more of the answer within 10 s",
        ),
    ],
)
def test_silence_is_a_read_timeout(data, phase, text):
    talk = exchange()
    talk.feed(*([data] if data else []))
    when, fault = silence(talk)
    assert when == 10.0
    assert (fault.kind, fault.phase, fault.seconds, fault.message) == (READ, phase, 10.0, text)


def test_a_drip_of_the_head_does_not_count_as_progress():
    talk = exchange()
    for second, byte in enumerate(bytewise(response())[:9], start=1):
        talk.now = 1000.0 + second
        talk.feed(byte)
    assert silence(talk)[0] == 10.0


@pytest.mark.parametrize("size", [1000, IN_PLACE_BYTES * 2], ids=["small", "in place"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_drip_of_the_body_does_not_count_as_progress(size, direct):
    talk = exchange()
    talk.feed(response(200, length=size))
    for second in range(1, 10):
        talk.now = 1000.0 + second
        talk.feed(b"x", direct=direct)
    assert silence(talk)[0] == 10.0


@pytest.mark.parametrize("size", [100_000, IN_PLACE_BYTES * 2], ids=["small", "in place"])
@pytest.mark.parametrize("direct", [False, True])
def test_each_kibibyte_of_the_body_does(size, direct):
    talk = exchange()
    talk.feed(response(200, length=size))
    for second in range(9, 46, 9):
        talk.now = 1000.0 + second
        talk.feed(bytes(1024), direct=direct)
    when, fault = silence(talk)
    assert (when, fault.kind) == (45 + 10.0, READ)


def test_what_was_due_first_is_told_however_late_it_is_noticed():
    """A driver that was held up must not blame the total for a silence."""
    talk = exchange()
    talk.now = 1_000_000.0
    talk.machine.handle_timeout(now=talk.now)
    failed = talk.machine.next_event()
    assert (failed.fault.kind, failed.fault.seconds) == (READ, 10.0)


def test_a_streamed_body_may_come_in_small_pieces():
    talk = exchange(stream=True)
    talk.feed(response(200, length=1000))
    for second in range(9, 46, 9):
        talk.now = 1000.0 + second
        talk.feed(b"x")
    assert silence(talk)[0] == 45 + 10.0


def test_time_in_which_the_driver_did_not_read_is_not_the_peers():
    talk = exchange(stream=True)
    talk.feed(response(200, length=1000))
    talk.machine.resume(now=1050.0)
    assert silence(talk)[0] == 60.0


@pytest.mark.parametrize("pace", [1.0, 9.9])
def test_the_total_ends_even_an_answer_that_keeps_coming(pace):
    talk = exchange()
    talk.feed(response(200, length=10**6))
    while talk.now + pace < 1100.0:
        talk.now += pace
        assert talk.feed(bytes(1024)).fault is None
    when, fault = silence(talk)
    assert when == 100.0
    assert (fault.kind, fault.seconds) == (DEADLINE, 100.0)
    assert fault.message == "no complete answer within 100 s"


def test_a_peer_that_takes_nothing_is_a_write_timeout():
    talk = exchange(flush=False)
    talk.machine.data_to_send()
    when, fault = silence(talk)
    assert when == 4.0
    assert (fault.kind, fault.phase, fault.seconds) == (WRITE, Phase.NOTHING_SENT, 4.0)
    assert fault.message == "the peer took no more of the request for 4 s"


def test_each_byte_taken_moves_the_write_limit_and_then_the_read_limit_begins():
    body = (bytes(100),)
    talk = exchange(request=make_request("POST", body=body), flush=False)
    talk.flush(10)
    for _ in range(3):
        talk.now += 3.0
        talk.machine.data_sent(1, now=talk.now)
    assert talk.machine.next_deadline() == 1009.0 + 4.0
    left = len(talk.sent) - 13
    talk.now += 1.0
    talk.machine.data_sent(left, now=talk.now)
    assert talk.machine.next_deadline() == 1010.0 + 10.0
    assert silence(talk)[1].phase is Phase.SENT


def test_a_peer_that_stops_in_the_middle_of_a_request_is_a_write_timeout_partly_sent():
    talk = exchange(request=make_request("POST", body=(bytes(100),)), flush=False)
    talk.flush(10)
    _, fault = silence(talk)
    assert (fault.kind, fault.phase) == (WRITE, Phase.PARTLY_SENT)


def test_while_the_application_feeds_the_body_slowly_only_the_total_runs():
    request = make_request("POST", body=StreamedBody(None))
    talk = exchange(request=request)
    assert talk.machine.next_deadline() == 1100.0
    talk.now = 1050.0
    talk.machine.send_body(b"piece", now=talk.now)
    assert talk.machine.next_deadline() == 1054.0, "now it is the peer's turn to take it"
    talk.flush()
    assert talk.machine.next_deadline() == 1100.0
    talk.machine.end_request(now=1055.0)
    talk.flush()
    assert talk.machine.next_deadline() == 1050.0 + 10.0


@pytest.mark.parametrize(
    ("limits", "deadline"),
    [
        (NO_LIMITS, None),
        (ExchangeLimits(read=None, write=None, total=5), 1005.0),
        (ExchangeLimits(read=7, write=None), 1007.0),
        (ExchangeLimits(read=7, total=3), 1003.0),
    ],
)
def test_limits_that_are_none_do_not_run(limits, deadline):
    talk = exchange(limits)
    assert talk.machine.next_deadline() == deadline
    if deadline is None:
        assert talk.at(1e9).fault is None


@pytest.mark.parametrize("finish", [response(), b"garbage\r\n\r\n"], ids=["done", "failed"])
def test_no_limit_runs_without_an_exchange(finish):
    talk = exchange()
    talk.feed(finish)
    assert talk.machine.next_deadline() is None
    events = list(talk.outcome.order)
    assert talk.at(1e9).order == events


def test_the_limits_are_those_of_the_present_exchange():
    first = exchange()
    first.now = 1090.0
    first.at(1009.0)
    first.feed(response())
    second = Exchange(limits=ExchangeLimits(read=1.0), machine=first.machine, now=2000.0)
    assert second.machine.next_deadline() == 2001.0


# --- size -----------------------------------------------------------------------------


def _limited(size, **more):
    return Exchange(limits=ExchangeLimits(None, None, None, size), **more)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("make", "announced"),
    [
        (lambda body: response(200, body), True),
        (lambda body: chunked([body]), False),
        (lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body, False),
    ],
    ids=["length", "chunked", "eof"],
)
def test_a_body_over_the_limit_is_cut_off(make, announced, stream):
    talk = _limited(1000, stream=stream)
    outcome = talk.feed(make(bytes(1001)))
    assert (outcome.body, outcome.fault.kind) == (None, FaultKind.TOO_LARGE)
    assert talk.machine.finished
    assert outcome.streamed == b"" or not announced


@pytest.mark.parametrize("make", [lambda body: response(200, body), lambda body: chunked([body])])
def test_a_body_of_just_the_limit_passes(make):
    assert _limited(1000).feed(make(bytes(1000))).body == bytes(1000)


def test_an_announced_size_over_the_limit_is_refused_before_any_of_it_comes():
    outcome = _limited(IN_PLACE_BYTES * 2).feed(response(200, length=IN_PLACE_BYTES * 2 + 1))
    assert outcome.fault.kind is FaultKind.TOO_LARGE
    assert outcome.status == 200


def test_an_endless_chunked_body_is_bounded():
    talk = _limited(1000)
    talk.feed(chunked([b"x"])[:-5])
    fed = 0
    while talk.machine.wants_read:
        talk.feed(b"64\r\n" + bytes(100) + b"\r\n")
        fed += 100
    assert fed == 1000
    assert talk.outcome.fault.kind is FaultKind.TOO_LARGE


@pytest.mark.parametrize(
    "line", [b"X-%d: " + b"v" * 100 + b"\r\n", b"a"], ids=["many headers", "one endless line"]
)
def test_a_head_that_never_ends_is_bounded(line):
    talk = Exchange()
    talk.feed(b"HTTP/1.1 200 OK\r\n")
    fed = 0
    while talk.machine.wants_read:
        piece = line % fed if b"%" in line else line * 1000
        talk.feed(piece)
        fed += len(piece)
        assert fed < 2 * MAX_HEAD_BYTES
    fault = talk.outcome.fault
    assert (fault.kind, fault.phase) == (FaultKind.TOO_LARGE, Phase.SENT)
    assert fault.message == "the answer's head exceeds 64 KiB"


def test_a_head_below_the_bound_passes():
    filler = "X: " + "v" * (MAX_HEAD_BYTES - 1000)
    assert Exchange().feed(*bytewise(response(200, b"", filler))[:10]).fault is None
    assert Exchange().feed(response(200, b"ok", filler)).body == b"ok"


def test_endless_interim_answers_are_bounded():
    talk = Exchange()
    interim = b"HTTP/1.1 103 Hints\r\n\r\n"
    for _ in range(MAX_INFORMATIONAL):
        assert talk.feed(interim).fault is None
    assert talk.feed(interim).fault.kind is FaultKind.PROTOCOL


def test_interim_answers_are_counted_per_exchange():
    talk = Exchange()
    for _ in range(3):
        answer = b"HTTP/1.1 103 Hints\r\n\r\n" * 10 + response()
        outcome = talk.feed(answer)
        assert outcome.fault is None
        talk = Exchange(machine=talk.machine)
