"""Asking for a WebSocket (RFC 6455 section 4, protocol/06 sections 1 and 9)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.machines.http1 import MAX_HEAD_BYTES
from sandbox_proto.machines.upgrade import (
    MAX_REJECTION_BYTES,
    ClientUpgrade,
    Upgraded,
    UpgradeFailed,
    UpgradeRejected,
    accept_token,
)
from sandbox_proto.wire.urls import Url

from ._helpers import bytewise, cut, cut_points

# The example of RFC 6455 section 1.3.
NONCE = base64.b64decode("dGhlIHNhbXBsZSBub25jZQ==")
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def upgrade(url="ws://h.test/execute/ws", headers=None, **more):
    settings = {"nonce": NONCE, "deadline": 30.0, "timeout": 30.0, **more}
    return ClientUpgrade(Url.parse(url), headers or {}, **settings)


def sent(machine):
    output = b"".join(bytes(piece) for piece in machine.data_to_send())
    machine.data_sent(len(output), now=0)
    return output


def talk(*pieces, eof=False, at=None, lost=None):
    """What comes of an upgrade that is answered so."""
    machine = upgrade()
    sent(machine)
    for piece in pieces:
        if machine.wants_read:
            machine.receive_data(piece, now=1)
    if eof:
        machine.receive_eof(now=1)
    if lost is not None:
        machine.connection_lost(lost, now=1)
    if at is not None:
        machine.handle_timeout(now=at)
    event = machine.next_event()
    assert machine.finished == (event is not None)
    assert machine.next_event() is None
    assert (machine.next_deadline() is None) == machine.finished
    return event


def answer(status=101, *lines, body=b"", accept=ACCEPT, connection="Upgrade", upgrade="websocket"):
    head = [f"HTTP/1.1 {status} Words"]
    if status == 101:
        head += [f"Upgrade: {upgrade}", f"Connection: {connection}"]
        head += [f"Sec-WebSocket-Accept: {accept}"] if accept is not None else []
    return "\r\n".join([*head, *lines]).encode() + b"\r\n\r\n" + body


# --- the request ----------------------------------------------------------------------


def test_the_bytes_of_the_request():
    machine = upgrade("wss://h.test:8443/p/execute/ws", {"x-api-key": "k", "x-a": "caf\u00e9"})
    assert sent(machine) == (
        b"GET /p/execute/ws HTTP/1.1\r\nhost: h.test:8443\r\n"
        b"x-api-key: k\r\nx-a: caf\xe9\r\n"
        b"upgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert machine.data_to_send() == []


def test_each_has_its_own_key_whatever_else_it_says():
    """The request is checked once, with another key in its place."""
    stars = "*" * 24
    for nonce in (NONCE, bytes(16)):
        machine = upgrade(f"ws://h.test/{stars}", {"x-a": stars, stars: "x"}, nonce=nonce)
        request = sent(machine)
        assert request.count(stars.encode()) == 3
        assert b"\r\nsec-websocket-key: " + base64.b64encode(nonce) + b"\r\n" in request


@pytest.mark.parametrize("size", [0, 15, 17])
def test_the_key_needs_sixteen_bytes(size):
    with pytest.raises(LocalProtocolError, match="16 bytes"):
        upgrade(nonce=bytes(size))


def test_the_accept_token_is_that_of_the_rfc():
    assert accept_token(base64.b64encode(NONCE)).decode() == ACCEPT


# --- agreement ------------------------------------------------------------------------


@pytest.mark.parametrize("trailing", [b"", b"\x81\x01x", bytes(100)])
def test_agreement_keeps_the_frames_right_behind_it(trailing):
    event = talk(answer() + trailing)
    assert isinstance(event, Upgraded)
    assert event.trailing_data == trailing
    assert ("sec-websocket-accept", ACCEPT) in event.headers


@pytest.mark.parametrize(
    "head",
    [
        answer(connection="keep-alive, Upgrade"),
        answer(connection="upgrade"),
        answer(upgrade="WebSocket"),
        answer(101, "X-Other: 1"),
        answer(101, "Connection: keep-alive"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
    ],
)
def test_agreement_in_other_words(head):
    assert isinstance(talk(head), Upgraded)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (answer(accept="x" + ACCEPT[1:]), "accept token is wrong"),
        (answer(accept=ACCEPT.lower()), "accept token is wrong"),
        (answer(accept=""), "accept token is wrong"),
        (answer(accept=None), "accept token is wrong"),
        (answer(upgrade="h2c"), "something other than WebSocket"),
        (answer(connection="close"), "something other than WebSocket"),
        (answer(101, "Sec-WebSocket-Extensions: permessage-deflate"), "nobody offered"),
        (answer(101, "Sec-WebSocket-Protocol: chat"), "nobody offered"),
    ],
)
def test_a_wrong_agreement_is_a_protocol_fault(head, text):
    event = talk(head + b"\x81\x01x")
    assert isinstance(event, UpgradeFailed)
    assert event.fault.kind is FaultKind.PROTOCOL
    assert text in event.fault.message


# --- refusal --------------------------------------------------------------------------

CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("data", "eof", "body"),
    [
        (answer(503, "Content-Length: 4", body=b"busy"), False, b"busy"),
        (answer(503, "Content-Length: 0"), False, b""),
        (answer(503, CHUNKED, body=b"2\r\nbu\r\n2\r\nsy\r\n0\r\n\r\n"), False, b"busy"),
        (answer(503, body=b"busy"), True, b"busy"),
        (answer(503), True, b""),
        # What comes of the body is enough, however it ends.
        (answer(503, "Content-Length: 9", body=b"bu"), True, b"bu"),
        (answer(503, CHUNKED, body=b"2\r\nbu\r\n"), True, b"bu"),
        (answer(503, CHUNKED, body=b"2\r\nbu\r\nxyz\r\n"), False, b"bu"),
    ],
)
@pytest.mark.parametrize("split", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_a_refusal_is_an_ordinary_response(data, eof, body, split):
    event = talk(*split(data), eof=eof)
    assert isinstance(event, UpgradeRejected)
    response = event.response
    assert (response.status, response.reason, response.body) == (503, "Words", body)


def test_a_refusal_keeps_its_headers():
    event = talk(answer(429, "Retry-After: 7", "Content-Length: 0"))
    assert event.response.header("retry-after") == "7"


@pytest.mark.parametrize(
    "data",
    [
        answer(
            500, f"Content-Length: {10 * MAX_REJECTION_BYTES}", body=bytes(MAX_REJECTION_BYTES + 1)
        ),
        answer(500, body=bytes(5 * MAX_REJECTION_BYTES)),
        answer(500, CHUNKED, body=b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"),
    ],
)
@pytest.mark.parametrize("step", [None, 1000])
def test_of_a_long_refusal_sixteen_kibibytes_are_read(data, step):
    event = talk(*cut(data, range(0, len(data), step or len(data) + 1)))
    assert isinstance(event, UpgradeRejected)
    assert len(event.response.body) == MAX_REJECTION_BYTES


@pytest.mark.parametrize("status", [200, 204, 301, 401, 403, 404, 410, 500])
def test_any_other_status_is_a_refusal(status):
    lines = [] if status == 204 else ["Content-Length: 0"]
    assert talk(answer(status, *lines)).response.status == status


# --- no answer ------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_end_instead_of_an_answer_is_a_disconnection(data):
    event = talk(*([data] if data else []), eof=True)
    assert isinstance(event, UpgradeFailed)
    assert (event.fault.kind, event.fault.phase) == (FaultKind.DISCONNECTED, Phase.SENT)


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n", b"\x81\x05hello\n\n"],
)
def test_garbage_is_a_protocol_fault(data):
    assert talk(data).fault.kind is FaultKind.PROTOCOL


@pytest.mark.parametrize("eof", [False, True])
def test_an_endless_head_is_bounded(eof):
    event = talk(
        *[b"HTTP/1.1 101 X\r\nX: "] + [b"v" * 8192] * (MAX_HEAD_BYTES // 8192 + 1), eof=eof
    )
    assert event.fault.kind is FaultKind.PROTOCOL


@pytest.mark.parametrize(
    ("timeout", "text"),
    [
        (30.0, "the WebSocket was not open within 30 s"),
        (None, "the WebSocket was not open in time"),
    ],
)
def test_silence_ends_at_the_deadline(timeout, text):
    machine = upgrade(timeout=timeout)
    sent(machine)
    assert machine.next_deadline() == 30.0
    machine.handle_timeout(now=29.9)
    assert machine.next_event() is None
    machine.handle_timeout(now=30.0)
    fault = machine.next_event().fault
    assert fault == Fault(FaultKind.CONNECT_TIMEOUT, text, Phase.SENT, timeout)


def test_without_a_deadline_silence_is_allowed():
    machine = upgrade(deadline=None)
    machine.handle_timeout(now=1e9)
    assert (machine.next_deadline(), machine.next_event()) == (None, None)


LOST = Fault(FaultKind.DISCONNECTED, "reset by peer")


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", UpgradeFailed), (b"HTTP/1.1 4", UpgradeFailed), (answer(401), UpgradeRejected)],
)
@pytest.mark.parametrize("how", ["lost", "late"])
def test_once_the_status_is_known_the_rest_may_stay_away(data, expected, how):
    ending = {"lost": LOST} if how == "lost" else {"at": 30.0}
    event = talk(*([data] if data else []), **ending)
    assert isinstance(event, expected)


def test_a_lost_transport_is_told_with_its_reason():
    assert talk(lost=LOST).fault == Fault(FaultKind.DISCONNECTED, "reset by peer", Phase.SENT)


# --- any split ------------------------------------------------------------------------

STREAMS = [
    (answer(), False),
    (answer(accept="no"), False),
    (answer(503, "Content-Length: 4", body=b"busy"), False),
    (answer(503, CHUNKED, body=b"4\r\nbusy\r\n0\r\n\r\n"), False),
    (answer(503, body=b"busy"), True),
    (b"garbage\r\n\r\n", False),
]


@given(st.sampled_from(STREAMS), st.data())
def test_the_outcome_is_the_same_for_every_split(stream, data):
    whole, eof = stream
    pieces = cut(whole, data.draw(cut_points(len(whole))))
    assert talk(*pieces, eof=eof) == talk(whole, eof=eof)


@given(st.binary(min_size=1, max_size=40), st.data())
def test_trailing_bytes_are_kept_up_to_the_moment_the_answer_is_complete(trailing, data):
    split = data.draw(st.integers(0, len(trailing)))
    machine = upgrade()
    sent(machine)
    machine.receive_data(answer() + trailing[:split], now=1)
    event = machine.next_event()
    assert event.trailing_data == trailing[:split]
    assert not machine.wants_read, "what comes next is for the WebSocket"


def test_what_comes_after_the_end_is_ignored():
    machine = upgrade()
    machine.receive_data(answer(404, "Content-Length: 0"), now=1)
    assert isinstance(machine.next_event(), UpgradeRejected)
    machine.receive_data(b"more", now=1)
    machine.receive_eof(now=1)
    machine.connection_lost(LOST, now=1)
    machine.handle_timeout(now=100)
    assert machine.next_event() is None


def test_this_machine_has_no_buffer_to_fill():
    machine = upgrade()
    assert machine.receive_buffer() is None
    with pytest.raises(LocalProtocolError):
        machine.buffer_filled(1, now=0)
