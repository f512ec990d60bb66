"""An open WebSocket: messages in any shape and split, and what is not allowed."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.machines.websocket import Closed, Failed, Message, WebSocketLimits
from sandbox_proto.machines.ws_frames import FrameSplitter, Kind

from ._helpers import bytewise, cut, cut_points
from ._ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    QUIET,
    TEXT,
    Socket,
    close_code,
    close_frame,
    frame,
    read_frames,
)

KINDS = pytest.mark.parametrize("slow", [False, True], ids=["splitter", "wsproto"])


# --- both ways of reading are one -----------------------------------------------------


def run(pieces, *, slow, limits=QUIET):
    """Events (faults without their wording) and frames sent, of a client fed these pieces."""
    socket = Socket(limits=limits, frame_by_frame=slow)
    socket.feed(*pieces)
    events = [
        (event.fault.kind, event.fault.phase) if isinstance(event, Failed) else event
        for event in socket.events
    ]
    return events, socket.said(), socket.machine.finished


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SIZES = st.sampled_from([0, 1, 125, 126, 127, 300, 65535, 65536, 70000])


@st.composite
def fragmented(draw):
    """A message in fragments, with control frames between them; text is cut anywhere."""
    text = draw(st.booleans())
    body = draw(TEXTS).encode() if text else draw(st.binary(max_size=40))
    parts = cut(body, draw(cut_points(max(len(body), 2), most=3))) or [b""]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), b"")
    frames = []
    for index, part in enumerate(parts):
        opcode = CONTINUATION if index else (TEXT if text else BINARY)
        frames.append(frame(opcode, part, fin=index == len(parts) - 1))
        if index < len(parts) - 1 and draw(st.booleans()):
            frames.append(frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=9))))
    return b"".join(frames)


GOOD = st.one_of(
    TEXTS.map(lambda text: frame(TEXT, text.encode())),
    st.binary(max_size=30).map(lambda data: frame(BINARY, data)),
    SIZES.map(lambda size: frame(BINARY, bytes(size))),
    SIZES.map(lambda size: frame(TEXT, b"t" * size)),
    fragmented(),
    st.binary(max_size=125).map(lambda data: frame(PING, data)),
    st.just(frame(PONG)),
)

BAD = {
    "invalid utf-8": frame(TEXT, b"ok\xff"),
    "cut utf-8": frame(TEXT, "\u20ac".encode()[:2]),
    "surrogate": frame(TEXT, b"\xed\xa0\x80"),
    "utf-8 cut at the end of a fragmented message": frame(TEXT, b"\xe2", fin=False)
    + frame(CONTINUATION, b"\x82"),
    "reserved bit 1": frame(TEXT, b"x", reserved=4),
    "reserved bit 3": frame(BINARY, b"x", reserved=1),
    "masked": frame(TEXT, b"x", mask=b"abcd"),
    "unknown opcode": frame(3, b"x"),
    "unknown control": frame(11, b"x"),
    "long ping": frame(PING, bytes(126)),
    "fragmented ping": frame(PING, b"x", fin=False),
    "continuation of nothing": frame(CONTINUATION, b"x"),
    "text inside a message": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
    "text after an empty fragment": frame(TEXT, b"", fin=False) + frame(TEXT, b"b"),
    "text after half a character": frame(TEXT, b"\xe2", fin=False) + frame(TEXT, b"b"),
    "binary inside a message": frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"),
    "length in 2 bytes where 1 suffices": frame(TEXT, b"x", form=2),
    "length in 8 bytes where 1 suffices": frame(TEXT, b"x", form=8),
    "length in 8 bytes where 2 suffice": frame(BINARY, bytes(200), form=8),
    "length with its highest bit": frame(BINARY, b"x", length=1 << 63, form=8),
    "close with one byte": frame(CLOSE, b"\x03"),
    "close with a reserved code": close_frame(1005),
    "close with a code of no range": close_frame(42),
    "close with invalid utf-8": frame(CLOSE, b"\x03\xe8\xff"),
}
CLOSES = st.sampled_from([close_frame(), close_frame(1000), close_frame(4000, "bye \u20ac")])


@st.composite
def streams(draw):
    good = draw(st.lists(GOOD, max_size=6))
    last = draw(st.one_of(st.just(b""), st.sampled_from(sorted(BAD)).map(BAD.get), CLOSES))
    more = draw(st.lists(GOOD, max_size=1))
    whole = b"".join([*good, last, *more])
    return cut(whole, draw(cut_points(len(whole)))) if whole else []


@settings(max_examples=800)
@given(streams())
def test_the_splitter_and_wsproto_agree_about_every_stream_in_every_split(pieces):
    assert run(pieces, slow=False) == run(pieces, slow=True)


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=60), st.data())
def test_they_agree_about_garbage_too(garbage, data):
    # The splitter judges whole frames, so it may come to the same verdict some bytes later,
    # and where it need not look into a frame because of its size, for another reason.
    whole = garbage + bytes(300)
    pieces = cut(whole, data.draw(cut_points(len(whole))))
    limits = WebSocketLimits(ping_interval=None, max_message_bytes=200)
    (quick, _, over), (slow, _, also_over) = (
        run(pieces, slow=slow, limits=limits) for slow in (False, True)
    )
    assert over == also_over
    assert quick == slow or quick == [*slow[:-1], (FaultKind.TOO_LARGE, Phase.RESPONSE_BEGUN)]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("split", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
@KINDS
def test_what_is_not_allowed_fails_the_socket_and_is_answered_with_a_close(name, split, slow):
    socket = Socket(frame_by_frame=slow)
    first = frame(TEXT, b"before")
    socket.feed(*split(first + BAD[name]))
    assert socket.messages == ["before"]
    assert (socket.fault.kind, socket.fault.phase) == (FaultKind.PROTOCOL, Phase.RESPONSE_BEGUN)
    assert close_code(socket.said()) in (1002, 1007)
    assert socket.machine.finished
    assert not socket.machine.wants_read


@pytest.mark.parametrize("name", [name for name in BAD if "utf-8" in name and "close" not in name])
@KINDS
def test_text_that_is_not_utf_8_is_answered_with_1007(name, slow):
    socket = Socket(frame_by_frame=slow)
    socket.feed(BAD[name])
    assert close_code(socket.said()) == 1007


@KINDS
def test_after_a_failure_everything_is_ignored(slow):
    socket = Socket(frame_by_frame=slow)
    socket.feed(BAD["masked"])
    events, sent = list(socket.events), list(socket.said())
    socket.feed(frame(TEXT, b"late"), close_frame(1000), frame(PING))
    socket.machine.receive_eof(now=0)
    socket.at(1e9)
    assert (socket.take(), socket.said()) == (events, sent)
    assert socket.machine.next_deadline() is None


# --- messages -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1_000_000])
@pytest.mark.parametrize("role", ["client", "server"])
def test_messages_of_every_length_form_pass_both_ways(size, role):
    sender = Socket("server" if role == "client" else "client")
    receiver = Socket(role)
    sender.machine.send_text("t" * size, now=0)
    sender.machine.send_bytes(b"b" * size, now=0)
    receiver.feed(sender.flush())
    assert receiver.messages == ["t" * size, b"b" * size]


def test_a_client_masks_and_a_server_does_not():
    client, server = Socket(), Socket("server")
    for socket in (client, server):
        socket.machine.send_text("x", now=0)
    assert read_frames(client.flush()) == [(TEXT, b"x")]
    assert server.flush() == frame(TEXT, b"x")


def test_control_frames_between_fragments_are_answered_at_once():
    socket = Socket()
    socket.feed(frame(TEXT, b"a", fin=False), frame(PING, b"now"))
    assert socket.said() == [(PONG, b"now")]
    socket.feed(frame(CONTINUATION, b"b"))
    assert socket.events == [Message("ab")]


@KINDS
def test_bytes_right_behind_the_upgrade_count(slow):
    socket = Socket(trailing_data=frame(TEXT, b"a") + frame(TEXT, b"b")[:2], frame_by_frame=slow)
    socket.feed(frame(TEXT, b"b")[2:])
    assert socket.messages == ["a", "b"]


def test_a_lone_surrogate_cannot_be_sent_and_leaves_no_half_message():
    socket = Socket()
    with pytest.raises(ValueError, match="surrogates"):
        socket.machine.send_text("\ud800", now=0)
    socket.machine.send_text("fine", now=0)
    assert socket.said() == [(TEXT, b"fine")]


# --- sizes ----------------------------------------------------------------------------

TINY = WebSocketLimits(ping_interval=None, max_message_bytes=10)


@pytest.mark.parametrize(
    ("data", "passes"),
    [
        (frame(TEXT, b"x" * 10), True),
        (frame(TEXT, b"x" * 11), False),
        (frame(BINARY, b"x" * 11), False),
        (frame(TEXT, "\u20ac".encode() * 3), True),
        (frame(TEXT, "\u20ac".encode() * 4), False),  # 4 characters, but 12 bytes
        (frame(TEXT, b"x" * 5, fin=False) + frame(CONTINUATION, b"x" * 5), True),
        (frame(TEXT, b"x" * 5, fin=False) + frame(CONTINUATION, b"x" * 6), False),
        (frame(BINARY, b"x" * 11, fin=False), False),
        (
            frame(TEXT, "\u20ac".encode(), fin=False)
            + frame(CONTINUATION, "\u20ac".encode() * 3, fin=False),
            False,
        ),
    ],
)
@pytest.mark.parametrize("split", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
@KINDS
def test_the_size_of_a_message_is_bounded_in_bytes(data, passes, split, slow):
    socket = Socket(limits=TINY, frame_by_frame=slow)
    socket.feed(*split(data))
    if passes:
        assert len(socket.messages) == 1
        assert socket.end is None
    else:
        assert socket.messages == []
        assert socket.fault.kind is FaultKind.TOO_LARGE
        assert close_code(socket.said()) == 1009


def test_the_bound_is_per_message_not_per_connection():
    socket = Socket(limits=TINY)
    data = frame(TEXT, b"x" * 6, fin=False) + frame(CONTINUATION, b"x" * 4)
    for _ in range(3):
        socket.feed(data, frame(TEXT, b"y" * 10))
    assert len(socket.messages) == 6


def test_an_oversized_frame_is_refused_by_its_header_alone():
    socket = Socket(limits=TINY)
    socket.feed(frame(BINARY, length=1 << 40, form=8))
    assert socket.fault.kind is FaultKind.TOO_LARGE


def test_empty_fragments_however_many_cost_no_memory():
    socket = Socket(limits=TINY)
    socket.feed(frame(TEXT, b"a", fin=False))
    flood = frame(CONTINUATION, b"", fin=False) * 2000
    tracemalloc.start()
    try:
        for _ in range(10):
            socket.feed(flood)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    socket.feed(frame(CONTINUATION, b"b"))
    assert socket.messages == ["ab"]
    assert peak < 10 * len(flood)


# --- closing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "closed", "answer"),
    [
        (close_frame(), Closed(1005, ""), b""),
        (close_frame(1000), Closed(1000, ""), b"\x03\xe8"),
        (close_frame(1001, "reload"), Closed(1001, "reload"), b"\x03\xe9reload"),
        (close_frame(4321, "\u20ac"), Closed(4321, "\u20ac"), b"\x10\xe1\xe2\x82\xac"),
    ],
)
@KINDS
def test_the_peers_close_is_echoed_and_ends_the_socket(data, closed, answer, slow):
    socket = Socket(frame_by_frame=slow)
    socket.feed(data)
    assert socket.events == [closed]
    assert socket.said() == [(CLOSE, answer)]
    assert socket.machine.finished
    assert not socket.machine.open


@KINDS
def test_our_close_waits_for_the_peers_and_still_takes_messages(slow):
    socket = Socket(frame_by_frame=slow)
    socket.machine.close(1000, "done", now=0)
    assert socket.said() == [(CLOSE, b"\x03\xe8done")]
    assert (socket.machine.open, socket.machine.finished) == (False, False)
    socket.feed(frame(TEXT, b"last"), frame(PING), close_frame(1000))
    assert socket.events == [Message("last"), Closed(1000, "")]
    assert len(socket.said()) == 1, "nothing may be sent after a close frame"


def test_closing_twice_is_harmless_and_sending_afterwards_is_a_mistake():
    socket = Socket()
    socket.machine.close(now=0)
    socket.machine.close(1011, now=0)
    with pytest.raises(LocalProtocolError):
        socket.machine.send_text("x", now=0)
    with pytest.raises(LocalProtocolError):
        socket.machine.send_bytes(b"x", now=0)
    assert socket.said() == [(CLOSE, b"\x03\xe8")]


def test_a_peer_that_does_not_answer_our_close_is_not_waited_for():
    socket = Socket(limits=WebSocketLimits(close_timeout=2.0), now=50.0)
    socket.machine.close(now=50.0)
    socket.flush()
    assert socket.machine.next_deadline() == 52.0
    assert socket.at(51.9) == []
    assert socket.at(52.0) == [Closed(1006, "the peer did not answer the close frame")]


@pytest.mark.parametrize("after", [b"", frame(TEXT, b"whole"), frame(TEXT, b"half")[:-1]])
def test_an_end_without_a_close_frame_is_a_failure(after):
    socket = Socket()
    socket.feed(*([after] if after else []))
    socket.machine.receive_eof(now=0)
    assert socket.fault.kind is FaultKind.DISCONNECTED


def test_an_end_after_the_close_frame_is_none():
    socket = Socket()
    socket.feed(close_frame(1000))
    socket.machine.receive_eof(now=0)
    assert socket.end == Closed(1000, "")


# --- the splitter by itself -----------------------------------------------------------


def test_the_splitter_asks_for_no_more_memory_than_arrived():
    splitter = FrameSplitter(max_payload=1 << 40)
    splitter.feed(frame(BINARY, b"", length=1 << 39, form=8))
    assert splitter.take(in_message=False) is None


def test_the_splitter_leaves_an_oversized_frame_where_it_is():
    splitter = FrameSplitter(max_payload=5)
    splitter.feed(frame(TEXT, b"123456"))
    assert splitter.take(in_message=False).kind is Kind.OVERSIZED
