"""The clock that moves when it is told, and links whose bytes arrive by it."""

from __future__ import annotations

import pytest

from sandbox_proto.testing import Cut, End, Faults, ModelHost, VirtualClock, VirtualWires
from sandbox_proto.testing.virtual_link import KEEPALIVE, LaneTrouble, Link, LinkTrouble
from sandbox_proto.wire.urls import Origin


def test_what_is_due_happens_in_order_each_at_its_moment():
    clock = VirtualClock(5.0)
    happened = []
    for when in (9.0, 7.0, 7.0, 1.0):
        clock.at(when, lambda when=when: happened.append((when, clock.now)))
    cancelled = clock.at(6.0, lambda: happened.append("cancelled"))
    cancelled.cancel()
    assert clock.next_due() == 1.0
    clock.move_to(8.0)
    assert happened == [(1.0, 5.0), (7.0, 7.0), (7.0, 7.0)]
    assert (clock.now, clock.next_due()) == (8.0, 9.0)
    clock.move_to(0.0)
    assert clock.now == 8.0, "it never goes back"
    assert cancelled.cancelled


def test_what_happens_may_put_down_more():
    clock = VirtualClock()
    happened = []
    clock.at(1.0, lambda: clock.at(2.0, lambda: happened.append(clock.now)))
    clock.move_to(3.0)
    assert (happened, clock.now, clock.next_due()) == ([2.0], 3.0, None)


class Recorder:
    """A peer that writes down what it is told."""

    finished = False

    def __init__(self):
        self.heard = []

    def receive_data(self, data, *, now):
        self.heard.append((now, bytes(data)))

    def receive_eof(self, *, now):
        self.heard.append((now, "eof"))

    def abandon(self, *, now):
        self.heard.append((now, "gone"))

    def data_to_send(self, *, now):
        return []


def link(trouble, latency=0.0):
    clock, peer = VirtualClock(), Recorder()
    return clock, peer, Link(0, peer, clock, latency, trouble)


def test_pieces_come_one_after_the_other():
    clock, peer, wire = link(LinkTrouble(up=LaneTrouble(split=2, gap=0.5, delay=1.0)), latency=1.0)
    wire.send(b"abcde")
    wire.send(b"f")
    wire.close()
    clock.move_to(10.0)
    assert peer.heard == [
        (2.0, b"ab"),
        (2.5, b"cd"),
        (3.0, b"e"),
        (3.0, b"f"),
        (3.0, "eof"),
        (3.0, "gone"),
    ]
    assert wire.over


@pytest.mark.parametrize("how", End)
def test_a_connection_that_ends_after_some_bytes(how):
    struck = []
    down = LaneTrouble(after=3, how=how, struck=lambda: struck.append(1))
    clock, peer, wire = link(LinkTrouble(down=down), latency=1.0)
    wire.say(b"hello")
    clock.move_to(1.0)
    assert (wire.receive(10), len(struck)) == (b"hel", 1)
    if how is End.SILENCE:
        assert wire.receive(10) is None
        wire.send(b"lost")
        clock.move_to(1.0 + KEEPALIVE)
        assert peer.heard == [(1.0 + KEEPALIVE, "gone")]
    elif how is End.FIN:
        assert wire.receive(10) == b""
    else:
        with pytest.raises(ConnectionResetError):
            wire.receive(10)
        with pytest.raises(BrokenPipeError):
            wire.room_for(b"more")
        assert peer.heard == [(1.0, "gone")]


def test_a_cut_amid_a_crossing():
    wires = VirtualWires(ModelHost(), trouble=Faults.disconnect_at(0, Cut(after=4)))
    origin = Origin("http", "model", 80)
    wire = wires.connect(origin, wires.trouble_of_next(origin))
    seen = []
    wires.watch = seen.append
    assert wires.send(wire, b"GET /boxes HTTP/1.1\r\nhost: model\r\n\r\n") == 36
    wires.settle()
    with pytest.raises(ConnectionResetError):
        wire.receive(10)
    assert [(each.number, each.up) for each in seen] == [(0, True)]
