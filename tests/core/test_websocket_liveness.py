"""Pings, silence and peers that do not read (protocol/06 section 2)."""

from __future__ import annotations

import pytest

from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.websocket import Closed, Message, WebSocketLimits

from ._ws import CLOSE, PING, PONG, TEXT, Socket, close_frame, frame

LIMITS = WebSocketLimits(ping_interval=30.0, pong_timeout=60.0, write=20.0)


def socket(limits=LIMITS, **more):
    return Socket(limits=limits, now=1000.0, **more)


def test_silence_is_broken_by_a_ping_and_then_ends_the_socket():
    talk = socket()
    assert talk.machine.next_deadline() == 1030.0
    talk.at(1029.9)
    assert talk.said() == []
    talk.at(1030.0)
    assert [opcode for opcode, _ in talk.said()] == [PING]
    assert talk.machine.next_deadline() == 1090.0
    assert talk.at(1089.9) == []
    talk.at(1090.0)
    fault = talk.fault
    assert (fault.kind, fault.seconds) == (FaultKind.LIVENESS, 60.0)
    assert fault.message == "the peer answered no ping for 60 s"


@pytest.mark.parametrize(
    "sign",
    [frame(PONG), frame(PONG, b"other"), frame(PING), frame(TEXT, b"x"), frame(TEXT, b"x")[:1]],
)
def test_any_byte_is_a_sign_of_life(sign):
    talk = socket()
    talk.at(1030.0)
    talk.now = 1080.0
    talk.feed(sign)
    talk.said()
    assert talk.machine.next_deadline() == 1080.0 + 30.0
    talk.at(1090.0)
    assert talk.end is None


def test_a_lively_peer_is_never_pinged():
    talk = socket()
    for second in range(1, 100):
        talk.now = 1000.0 + 29 * second
        talk.feed(frame(TEXT, b"x"))
        talk.at(talk.now)
    assert talk.said() == []


def test_silence_while_the_driver_did_not_read_is_not_the_peers():
    talk = socket()
    talk.at(1030.0)
    talk.flush()
    talk.machine.resume(now=5000.0)
    assert talk.machine.next_deadline() == 5060.0
    assert talk.at(5059.9) == []


def test_resuming_a_socket_that_awaits_no_pong_changes_nothing():
    talk = socket()
    talk.machine.resume(now=1010.0)
    assert talk.machine.next_deadline() == 1030.0


@pytest.mark.parametrize(
    ("limits", "deadline"),
    [
        (WebSocketLimits(ping_interval=None), None),
        (WebSocketLimits(ping_interval=5.0), 1005.0),
    ],
)
def test_without_an_interval_nothing_is_sent(limits, deadline):
    assert socket(limits).machine.next_deadline() == deadline


def test_without_a_pong_timeout_silence_is_allowed():
    talk = socket(WebSocketLimits(ping_interval=5.0, pong_timeout=None))
    talk.at(1005.0)
    talk.said()
    assert talk.machine.next_deadline() is None
    assert talk.at(1e9) == []


def test_early_wake_ups_are_harmless():
    talk = socket()
    for second in range(1000, 1030):
        talk.at(float(second))
    assert (talk.said(), talk.events) == ([], [])


# --- peers that do not read -----------------------------------------------------------


def test_a_peer_that_takes_no_data_is_a_write_timeout():
    talk = socket()
    talk.machine.send_text("x", now=1005.0)
    talk.machine.data_to_send()
    assert talk.machine.next_deadline() == 1025.0
    assert talk.at(1024.9) == []
    talk.at(1025.0)
    assert (talk.fault.kind, talk.fault.seconds) == (FaultKind.WRITE_TIMEOUT, 20.0)


def test_each_byte_taken_moves_the_write_limit():
    talk = socket()
    talk.machine.send_bytes(bytes(100), now=1000.0)
    talk.machine.data_to_send()
    talk.machine.data_sent(10, now=1019.0)
    assert talk.machine.next_deadline() == 1030.0
    talk.machine.data_sent(96, now=1020.0)
    assert talk.at(1029.0) == [], "all is out, so no write limit runs"


def test_more_output_does_not_give_a_stuck_peer_more_time():
    talk = socket()
    talk.machine.send_text("x", now=1000.0)
    talk.machine.send_text("y", now=1019.0)
    talk.at(1020.0)
    assert talk.fault.kind is FaultKind.WRITE_TIMEOUT


def test_a_flood_of_pings_is_not_answered_without_bound():
    talk = socket()
    flood = frame(PING, bytes(125)) * 100
    for _ in range(100):
        talk.feed(flood)
    output = b"".join(bytes(piece) for piece in talk.machine.data_to_send())
    assert 60_000 < len(output) < 70_000
    assert talk.events == []
    talk.machine.data_sent(len(output), now=1001.0)
    talk.feed(frame(PING, b"again"))
    assert talk.said() == [(PONG, b"again")]


def test_pings_are_answered_with_their_payload_as_long_as_the_socket_is_open():
    talk = socket()
    talk.feed(frame(PING), frame(PING, b"payload"))
    assert talk.said() == [(PONG, b""), (PONG, b"payload")]
    talk.machine.close(now=1000.0)
    talk.feed(frame(PING, b"late"))
    assert talk.said()[2:] == [(CLOSE, b"\x03\xe8")]


# --- ends -----------------------------------------------------------------------------


def test_what_arrived_before_the_transport_was_lost_is_delivered():
    talk = socket()
    talk.machine.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b")[:2], now=1000.0)
    talk.machine.connection_lost(Fault(FaultKind.DISCONNECTED, "reset"), now=1001.0)
    assert talk.take()[0] == Message("a")
    assert (talk.fault.kind, talk.fault.message) == (FaultKind.DISCONNECTED, "reset")


def test_a_lost_transport_gets_no_more_output():
    talk = socket()
    talk.machine.send_text("x", now=1000.0)
    talk.machine.connection_lost(Fault(FaultKind.DISCONNECTED, "reset"), now=1001.0)
    assert talk.machine.data_to_send() == []


@pytest.mark.parametrize("role", ["client", "server"])
def test_both_roles_close_each_other_in_order(role):
    near, far = socket(role=role), socket(role="server" if role == "client" else "client")
    near.machine.close(1001, "bye", now=1000.0)
    far.feed(near.flush())
    assert far.events == [Closed(1001, "bye")]
    near.feed(far.flush())
    assert near.events == [Closed(1001, "bye")]


def test_both_sides_may_close_at_once():
    client, server = socket(), socket(role="server")
    client.machine.close(1000, now=1000.0)
    server.machine.close(1001, now=1000.0)
    to_server, to_client = client.flush(), server.flush()
    client.feed(to_client)
    server.feed(to_server)
    assert (client.events, server.events) == ([Closed(1001, "")], [Closed(1000, "")])
    assert (client.flush(), server.flush()) == (b"", b"")


def test_a_server_refuses_unmasked_frames():
    talk = socket(role="server")
    talk.feed(frame(TEXT, b"x"))
    assert talk.fault.kind is FaultKind.PROTOCOL
    assert talk.flush() == close_frame(1002)
