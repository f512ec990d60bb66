"""yamux: the frames that are exchanged, flow control, ends, and peers that break the rules."""

from __future__ import annotations

import tracemalloc

import attrs
import pytest

from sandbox_proto.errors import LocalProtocolError, SandboxProtocolError
from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.yamux import Yamux
from sandbox_proto.machines.yamux_events import (
    PeerGoesAway,
    StreamAccepted,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    Violation,
)
from sandbox_proto.machines.yamux_frames import GoAwayCode

from ._helpers import bytewise
from ._yamux import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    KIB,
    PING,
    PLAIN,
    RST,
    SYN,
    WINDOW,
    WINDOW_BYTES,
    Side,
    frame,
    pair,
    read_frames,
    settle,
)

# --- byte for byte --------------------------------------------------------------------


def test_a_whole_exchange_is_the_one_of_the_protocol_paper() -> None:
    """protocol/09 section 3: what a server sees of one stream."""
    client = Side()
    stream = client.open()
    assert client.said() == [(WINDOW, SYN, 1, 0)]
    client.send(stream, b"\x01\x15\x38")
    assert client.flush() == b"\0\0\0\0\0\0\0\1\0\0\0\3\x01\x15\x38"
    assert client.feed(frame(WINDOW, ACK, 1, 0)) == [StreamAccepted(1)]
    assert client.feed(frame(DATA, 0, 1, b"\0answer")) == [StreamData(1, b"\0answer")]
    client.machine.send_eof(stream, now=0)
    assert client.said() == [(WINDOW, FIN, 1, 0)]
    assert client.feed(frame(DATA, FIN, 1, b"last")) == [StreamData(1, b"last"), StreamEnded(1)]
    client.machine.go_away()
    assert client.said() == [(GO_AWAY, 0, 0, 0)]
    assert client.machine.drained


@pytest.mark.parametrize("role", ["client", "server"])
def test_ids_are_odd_for_clients_and_even_for_servers(role: str) -> None:
    side = Side(role)  # type: ignore[arg-type]
    first = 1 if role == "client" else 2
    assert [side.open() for _ in range(3)] == [first, first + 2, first + 4]


def test_a_larger_window_is_granted_with_the_frame_that_opens_or_accepts() -> None:
    limits = attrs.evolve(PLAIN, first_window=1024 * KIB, max_window=1024 * KIB)
    client, server = pair(limits)
    client.open()
    opening = client.flush()
    assert read_frames(opening) == [(WINDOW, SYN, 1, 768 * KIB)]
    assert server.feed(opening) == [StreamOpened(1)]
    assert server.said() == [(WINDOW, ACK, 1, 768 * KIB)]


def test_data_frames_fill_messages_of_64_kib_and_streams_take_turns() -> None:
    client = Side()
    first, second = client.open(), client.open()
    client.flush()
    client.send(first, bytes(150_000))
    client.send(second, b"me too")
    sizes = [(stream, len(data)) for _, _, stream, data in client.said()]  # type: ignore[arg-type]
    assert sizes == [(1, 65_524), (3, 6), (1, 65_524), (1, 150_000 - 2 * 65_524)]


def test_the_opening_may_come_with_data_and_with_the_end() -> None:
    server = Side("server")
    assert server.feed(frame(DATA, SYN | FIN, 1, b"all of it")) == [
        StreamOpened(1),
        StreamData(1, b"all of it"),
        StreamEnded(1),
    ]
    assert server.said() == [(WINDOW, ACK, 1, 0)]


def test_frames_are_read_whatever_the_split() -> None:
    server = Side("server")
    server.feed(*bytewise(frame(WINDOW, SYN, 1, 0) + frame(DATA, FIN, 1, b"hello")))
    assert server.inbox == {1: b"hello"}
    assert server.ended == {1}


# --- flow control ---------------------------------------------------------------------


def test_a_sender_stops_at_the_window_and_goes_on_with_the_credit() -> None:
    client = Side()
    stream = client.open()
    client.flush()
    assert client.send(stream, bytes(300 * KIB)) == 256 * KIB, "more is not taken"
    assert client.machine.room(stream) == 0
    assert sum(len(data) for *_, data in client.said()) == WINDOW_BYTES  # type: ignore[arg-type]
    assert client.send(stream, bytes(44 * KIB)) == 44 * KIB
    assert client.said() == []
    client.feed(frame(WINDOW, 0, 1, 10))
    assert client.said() == [(DATA, 0, 1, bytes(10))]
    assert client.machine.unsent(stream) == 44 * KIB - 10


def test_credit_is_given_for_what_was_consumed_and_for_nothing_else() -> None:
    server = Side("server", consumes=False)
    server.feed(frame(WINDOW, SYN, 1, 0), frame(DATA, 0, 1, bytes(WINDOW_BYTES)))
    assert server.said() == [(WINDOW, ACK, 1, 0)]
    server.machine.consumed(1, 60 * KIB, now=0)
    assert server.said() == [], "small amounts are saved up"
    server.machine.consumed(1, 4 * KIB, now=0)
    server.machine.consumed(1, 64 * KIB, now=0)
    assert server.said() == [(WINDOW, 0, 1, 128 * KIB)], "two grants travel as one"


def test_a_window_that_does_not_last_four_round_trips_grows_within_the_budget() -> None:
    limits = attrs.evolve(
        PLAIN, ping_interval=30.0, max_window=4096 * KIB, window_budget=1024 * KIB
    )
    server = Side("server", limits)
    assert server.said() == [(PING, SYN, 0, 1)]
    server.now = 0.020
    server.feed(frame(PING, ACK, 0, 1), frame(WINDOW, SYN, 1, 0))
    assert server.machine.round_trip == pytest.approx(0.020)
    granted = 0
    for _ in range(100):
        server.now += 0.005
        server.feed(frame(DATA, 0, 1, bytes(64 * KIB)))
        granted += sum(length for *_, length in server.said() if isinstance(length, int))
    window = WINDOW_BYTES + granted - 100 * 64 * KIB
    assert 1024 * KIB <= window <= 1280 * KIB, "the budget and the first window, not 4 MiB"


def test_a_window_does_not_grow_for_a_stream_that_is_slower() -> None:
    server = Side("server", attrs.evolve(PLAIN, ping_interval=30.0, max_window=4096 * KIB))
    server.now = 0.020
    server.feed(frame(PING, ACK, 0, 1), frame(WINDOW, SYN, 1, 0))
    granted = 0
    for _ in range(100):
        server.now += 0.050
        server.feed(frame(DATA, 0, 1, bytes(64 * KIB)))
        granted += sum(length for kind, *_, length in server.said() if kind == WINDOW and length)  # type: ignore[misc]
    assert granted <= 100 * 64 * KIB


def test_the_budget_comes_back_with_the_stream() -> None:
    limits = attrs.evolve(
        PLAIN, first_window=1024 * KIB, max_window=1024 * KIB, window_budget=768 * KIB
    )
    client = Side(limits=limits)
    for number in range(3):
        stream = client.open()
        assert client.said() == [(WINDOW, SYN, stream, 768 * KIB)], number
        client.machine.reset(stream, now=0)
        client.flush()
    first, second = client.open(), client.open()
    assert client.said() == [(WINDOW, SYN, first, 768 * KIB), (WINDOW, SYN, second, 0)]


# --- ends -----------------------------------------------------------------------------


def test_half_a_stream_can_end_while_the_other_goes_on() -> None:
    client, server = pair()
    stream = client.open()
    client.send(stream, b"question")
    client.machine.send_eof(stream, now=0)
    settle(client, server)
    assert (server.inbox, server.ended) == ({1: b"question"}, {1})
    server.send(stream, b"answer")
    server.machine.send_eof(stream, now=0)
    settle(client, server)
    assert (client.inbox, client.ended) == ({1: b"answer"}, {1})
    assert client.machine.streams == server.machine.streams == 0
    with pytest.raises(LocalProtocolError):
        other = client.open()
        client.machine.send_eof(other, now=0)
        client.send(other, b"too late")


def test_a_reset_ends_both_directions_and_late_frames_are_ignored() -> None:
    client, server = pair()
    stream = client.open()
    settle(client, server)
    server.send(stream, b"on its way")
    late = server.flush()
    client.machine.reset(stream, now=0)
    assert client.feed(late, frame(WINDOW, 0, stream, 5), frame(DATA, FIN, stream, b"")) == []
    settle(client, server)
    assert server.reset == {stream}
    assert client.machine.streams == server.machine.streams == 0
    assert server.send(stream, b"nobody is there") == 0


def test_what_was_sent_before_close_arrives_and_what_comes_after_resets() -> None:
    client, server = pair()
    stream = client.open()
    client.send(stream, b"last words")
    client.machine.close(stream, now=0)
    settle(client, server)
    assert server.inbox == {1: b"last words"}
    assert server.ended == {1}
    server.send(stream, b"are you there?")
    settle(client, server)
    assert server.reset == {1}
    assert client.inbox == {}


def test_a_closed_stream_does_not_wait_for_ever_for_the_peers_end() -> None:
    client, server = pair(attrs.evolve(PLAIN, linger=5))
    stream = client.open()
    client.machine.close(stream, now=0)
    settle(client, server)
    assert client.machine.next_deadline() == 5
    client.at(4.9)
    assert client.machine.streams == 1
    client.at(5)
    settle(client, server)
    assert server.reset == {1}


def test_a_peer_that_ended_a_stream_and_grants_nothing_is_gone_after_a_while() -> None:
    """Some clients say no more than that when they leave in the middle of a download."""
    server = Side("server", attrs.evolve(PLAIN, stall=300))
    server.feed(OPEN, frame(WINDOW, FIN, 1, 0))
    server.send(1, bytes(WINDOW_BYTES))
    server.flush()
    server.send(1, b"more")
    server.at(299)
    server.feed(frame(WINDOW, 0, 1, 1))
    server.flush()
    server.at(400)
    assert not server.reset, "it does grant something"
    server.at(599)
    assert server.reset == {1}
    assert server.said() == [(WINDOW, RST, 1, 0)]


def test_going_away_lets_open_streams_finish_and_refuses_new_ones() -> None:
    client, server = pair()
    stream = client.open()
    settle(client, server)
    server.machine.go_away()
    server.machine.go_away()
    crossing = client.open()
    server.feed(client.flush())
    assert client.feed(server.flush()) == [PeerGoesAway(), StreamReset(crossing)]
    assert not client.machine.can_open
    with pytest.raises(LocalProtocolError):
        client.open()
    client.send(stream, b"still here")
    client.machine.send_eof(stream, now=0)
    server.machine.send_eof(stream, now=0)
    assert not server.machine.drained
    settle(client, server)
    assert server.inbox == {1: b"still here"}
    assert client.machine.drained
    assert server.machine.drained


@pytest.mark.parametrize(
    ("code", "kind"), [(1, FaultKind.PROTOCOL), (2, FaultKind.DISCONNECTED), (7, None)]
)
def test_going_away_for_an_error_ends_the_session(code: int, kind: FaultKind | None) -> None:
    client = Side()
    client.open()
    client.feed(frame(GO_AWAY, 0, 0, code))
    assert client.failure.violation is None
    assert client.failure.fault.kind is (kind or FaultKind.DISCONNECTED)
    assert f"code {code}" in client.failure.fault.message
    assert client.machine.streams == 0


def test_a_lost_connection_ends_every_stream() -> None:
    client = Side()
    client.open()
    lost = Fault(FaultKind.DISCONNECTED, "gone")
    client.machine.connection_lost(lost)
    client.take()
    assert client.failure.fault is lost
    assert client.said() == []


def test_ids_run_out() -> None:
    client = Side()
    client.machine._next_id = 0xFFFFFFFF  # nobody waits for two thousand million streams
    assert client.open() == 0xFFFFFFFF
    assert not client.machine.can_open


# --- pings ----------------------------------------------------------------------------


def test_pings_are_answered_and_asked_and_silence_ends_the_session() -> None:
    client = Side(limits=attrs.evolve(PLAIN, ping_interval=30.0, pong_timeout=60.0))
    assert client.said() == [(PING, SYN, 0, 1)]
    client.feed(frame(PING, SYN, 0, 4711))
    assert client.said() == [(PING, ACK, 0, 4711)]
    client.now = 0.5
    client.feed(frame(PING, ACK, 0, 1))
    assert client.machine.round_trip == 0.5
    assert client.machine.next_deadline() == 30.5
    client.at(30.5)
    assert client.said() == [(PING, SYN, 0, 2)]
    client.now = 80.0
    client.feed(frame(PING, SYN, 0, 1))  # any byte is a sign of life
    assert client.machine.next_deadline() == 140.0
    client.at(140.0)
    assert client.failure.fault.kind is FaultKind.LIVENESS
    assert client.failure.fault.seconds == 60.0
    assert client.machine.next_deadline() is None


def test_a_mark_is_passed_when_its_pong_comes() -> None:
    client, server = pair()
    first, second = client.machine.mark(now=0), client.machine.mark(now=0)
    client.feed(frame(PING, ACK, 0, 7))
    assert not client.machine.passed(first), "nobody asked with a 7"
    settle(client, server)
    assert client.machine.passed(first)
    assert client.machine.passed(second)


def test_silence_does_not_count_while_nobody_listened() -> None:
    client = Side(limits=attrs.evolve(PLAIN, ping_interval=30.0, pong_timeout=60.0))
    client.machine.resume(now=1000.0)
    client.at(1000.0)
    assert not client.machine.failed
    assert client.machine.next_deadline() == 1060.0


# --- peers that break the rules -------------------------------------------------------

OPEN = frame(WINDOW, SYN, 1, 0)
VIOLATIONS = {
    "another version": (frame(PING, SYN, 0, 1, version=1), Violation.VERSION),
    "an unknown type": (frame(4, 0, 0, 0), Violation.TYPE),
    "data for the session": (frame(DATA, 0, 0, b"x"), Violation.SESSION_STREAM),
    "a window for the session": (frame(WINDOW, SYN, 0, 1), Violation.SESSION_STREAM),
    "data for a stream that never was": (frame(DATA, 0, 5, b"x"), Violation.UNKNOWN_STREAM),
    "an end for one that never was": (frame(WINDOW, FIN, 5, 0), Violation.UNKNOWN_STREAM),
    "a reset for one of ours": (frame(WINDOW, RST, 2, 0), Violation.UNKNOWN_STREAM),
    "an opening of one of ours": (frame(WINDOW, SYN, 2, 0), Violation.STREAM_ID),
    "an id that was used": (OPEN + frame(WINDOW, RST, 1, 0) + OPEN, Violation.STREAM_ID),
    "an id that is in use": (OPEN + OPEN, Violation.STREAM_ID),
    "an id far ahead": (frame(WINDOW, SYN, 0xFFFFFFFF, 0), Violation.STREAM_ID),
    "more than the window": (
        OPEN + frame(DATA, 0, 1, bytes(WINDOW_BYTES + 1))[:50],
        Violation.WINDOW_OVERRUN,
    ),
    "gigabytes": (OPEN + b"\0\0\0\0\0\0\0\1\xff\xff\xff\xff", Violation.WINDOW_OVERRUN),
    "gigabytes for a stream that is gone": (
        OPEN + frame(WINDOW, RST, 1, 0) + b"\0\0\0\0\0\0\0\1\xff\xff\xff\xff",
        Violation.WINDOW_OVERRUN,
    ),
    "credit without end": (OPEN + frame(WINDOW, 0, 1, 0xFFFFFFFF), Violation.WINDOW_OVERFLOW),
    "data after the end": (
        OPEN + frame(WINDOW, FIN, 1, 0) + frame(DATA, 0, 1, b"x"),
        Violation.DATA_AFTER_END,
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_ends_the_session_and_says_which(name: str) -> None:
    data, violation = VIOLATIONS[name]
    server = Side("server")
    server.feed(data, OPEN)
    assert server.failure.violation is violation
    assert isinstance(server.failure.fault.to_error(), SandboxProtocolError)
    assert server.said() == [(GO_AWAY, 0, 0, GoAwayCode.PROTOCOL_ERROR)]
    assert server.machine.drained
    assert server.feed(OPEN) == []


def test_ids_may_come_out_of_order_when_streams_are_opened_in_parallel() -> None:
    server = Side("server")
    server.feed(*(frame(WINDOW, SYN, stream, 0) for stream in (5, 1, 7, 3)))
    assert server.opened == [5, 1, 7, 3]


def test_streams_beyond_the_limit_are_reset_and_a_flood_of_them_ends_the_session() -> None:
    server = Side("server", attrs.evolve(PLAIN, peer_streams=2, refusals=10))
    for stream in (1, 3, 5):
        server.feed(frame(WINDOW, SYN, stream, 0))
    assert server.opened == [1, 3]
    assert server.said()[-1] == (WINDOW, RST, 5, 0)
    server.feed(frame(WINDOW, RST, 1, 0), frame(WINDOW, SYN, 7, 0))
    assert server.opened == [1, 3, 7], "one that goes makes room"
    for stream in range(9, 9 + 2 * 11, 2):
        server.feed(frame(WINDOW, SYN, stream, 0))
    assert server.failure.violation is Violation.FLOOD


@pytest.mark.parametrize("asked", ["pings", "openings", "openings and resets"])
def test_a_peer_that_asks_and_does_not_listen_costs_little(asked: str) -> None:
    server = Side("server", attrs.evolve(PLAIN, peer_streams=4))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1, 20_001, 2):
        if asked == "pings":
            server.machine.receive_data(frame(PING, SYN, 0, number), now=0)
        else:
            server.machine.receive_data(frame(WINDOW, SYN, number, 0), now=0)
        if asked == "openings and resets":
            server.machine.receive_data(frame(WINDOW, RST, number, 0), now=0)
        while server.machine.next_event() is not None:
            pass
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1024 * KIB
    assert server.machine.failed is (asked != "pings")


def test_a_frame_that_announces_much_costs_nothing_before_it_comes() -> None:
    limits = attrs.evolve(PLAIN, first_window=16 * 1024 * KIB, max_window=16 * 1024 * KIB)
    server = Side("server", limits)
    tracemalloc.start()
    server.feed(OPEN, b"\0\0\0\0\0\0\0\1\x01\0\0\0", b"x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert server.inbox == {1: b"x"}
    assert peak < 100 * KIB


def test_bytes_that_are_not_there_are_the_drivers_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Yamux("client", PLAIN, now=0).receive_data(b"", now=0)
