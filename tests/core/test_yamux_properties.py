"""Two yamux sessions: whatever is said in whatever order and split, each stream is exact."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.faults import FaultKind
from sandbox_proto.machines.yamux import Yamux
from sandbox_proto.machines.yamux_events import SessionFailed, YamuxLimits

from ._helpers import cut, cut_points
from ._yamux import KIB, PLAIN, Side, settle

SMALL = attrs.evolve(PLAIN, send_buffer=100 * KIB)
GROWING = YamuxLimits(ping_interval=1.0, window_budget=512 * KIB)

# What one side may do next: with which of its streams, and how much.
ACTIONS = ["open", "send", "send", "send", "end", "carry", "carry", "consume", "tick"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.booleans(),
        st.integers(0, 5),
        st.sampled_from([1, 7, 1000, 65_524, 65_525, 90_000, 300_000]),
    ),
    max_size=60,
)


class Talk:
    """Two sides, what was sent on every stream, and two wires that carry pieces."""

    def __init__(self, limits: YamuxLimits) -> None:
        self.sides = (
            Side("client", limits, consumes=False),
            Side("server", limits, consumes=False),
        )
        self.wires = (bytearray(), bytearray())
        self.sent: dict[tuple[int, int], bytearray] = {}
        self.ended: set[tuple[int, int]] = set()
        self.consumed: dict[tuple[int, int], int] = {}
        self.streams: list[int] = []

    def step(self, what: str, who: bool, which: int, size: int) -> None:
        me, side = int(who), self.sides[int(who)]
        mine = [stream for stream in self.streams if self.knows(me, stream)]
        stream = mine[which % len(mine)] if mine else None
        if what == "open":
            self.streams.append(side.open())
        elif what == "carry":
            self.carry(me, size)
        elif what == "tick":
            for each in self.sides:
                each.at(each.now + size / 1e6)
        elif stream is None:
            pass
        elif what == "send" and (me, stream) not in self.ended:
            data = bytes([which + 1]) * size
            taken = side.send(stream, data)
            self.sent.setdefault((me, stream), bytearray()).extend(data[:taken])
        elif what == "end":
            side.machine.send_eof(stream, now=side.now)
            self.ended.add((me, stream))
        elif what == "consume":
            self.consume(me, stream, size)

    def knows(self, me: int, stream: int) -> bool:
        own = stream % 2 == (1 if me == 0 else 0)
        return own or stream in self.sides[me].opened

    def carry(self, me: int, size: int) -> None:
        """A piece of the wire towards the other side."""
        frame = self.sides[me].machine.next_frame()
        wire = self.wires[me]
        wire += frame or b""
        if wire:
            self.sides[1 - me].feed(bytes(wire[:size]))
            del wire[:size]

    def consume(self, me: int, stream: int, size: int) -> None:
        got = len(self.sides[me].inbox.get(stream, b""))
        done = self.consumed.get((me, stream), 0)
        count = min(size, got - done)
        self.consumed[me, stream] = done + count
        self.sides[me].machine.consumed(stream, count, now=self.sides[me].now)

    def finish(self) -> None:
        """Everything is carried and consumed."""
        for me, side in enumerate(self.sides):
            if self.wires[me]:
                self.sides[1 - me].feed(bytes(self.wires[me]))
            self.wires[me].clear()
            side.take()
        while any(side.machine.has_frames for side in self.sides):
            settle(*self.sides)
            for me in (0, 1):
                for stream in self.streams:
                    self.consume(me, stream, 1 << 30)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, limits=st.sampled_from([SMALL, GROWING]))
def test_every_stream_is_delivered_exactly(steps, limits):
    talk = Talk(limits)
    for step in steps:
        talk.step(*step)
    talk.finish()
    for side in talk.sides:
        assert not any(isinstance(event, SessionFailed) for event in side.events)
        assert not side.reset
    for stream in talk.streams:
        for me, side in enumerate(talk.sides):
            got = side.inbox.get(stream, b"")
            assert got == talk.sent.get((1 - me, stream), b"")
            assert (stream in side.ended) == ((1 - me, stream) in talk.ended)
    both = {stream for me, stream in talk.ended if (1 - me, stream) in talk.ended}
    for side in talk.sides:
        assert side.machine.streams == len(talk.streams) - len(both)


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=3000), size=st.integers(1, 4096), points=cut_points(6000)
)
def test_a_stream_survives_any_split_of_bytes(data, size, points):
    client, server = Side(), Side("server")
    stream = client.open()
    for start in range(0, len(data), size):
        client.send(stream, data[start : start + size])
        client.machine.send(stream, b"", now=0)
    client.machine.send_eof(stream, now=0)
    server.feed(*cut(client.flush(), points))
    assert (server.inbox, server.ended) == ({1: data}, {1})


HEADS = st.builds(
    lambda version, kind, flags, stream, length, payload: (
        bytes([version, kind])
        + flags.to_bytes(2, "big")
        + stream.to_bytes(4, "big")
        + length.to_bytes(4, "big")
        + payload
    ),
    st.sampled_from([0, 0, 0, 0, 0, 0, 1]),
    st.integers(0, 4),
    st.integers(0, 15),
    st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 0xFFFFFFFF]),
    st.sampled_from([0, 0, 1, 5, 262_144, 262_145, 0xFFFFFFFF]),
    st.binary(max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(HEADS, max_size=30), points=cut_points(300))
def test_no_bytes_of_a_peer_raise_or_are_answered_without_bound(frames, points):
    data = b"".join(frames)
    machine = Yamux("server", PLAIN, now=0)
    ends = answers = 0
    for piece in cut(data, points):
        machine.receive_data(piece, now=0)
        while (event := machine.next_event()) is not None:
            assert not ends, "nothing follows the end"
            if isinstance(event, SessionFailed):
                ends += 1
                assert event.fault.kind in (FaultKind.PROTOCOL, FaultKind.DISCONNECTED)
    while machine.next_frame() is not None:
        answers += 1
    assert machine.failed == bool(ends)
    assert answers <= len(data) // 12 + 1
