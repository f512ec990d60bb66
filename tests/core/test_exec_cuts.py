"""A connection may be cut after any byte: the command runs once, the output is exact or told."""

from __future__ import annotations

import itertools
import time

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.flows.commands import CommandSpec, start_command
from sandbox_proto.flows.creation import Creation
from sandbox_proto.machines.exec_events import (
    CommandExited,
    CommandFailed,
    CommandStarted,
    OutputLost,
    Reattaching,
)
from sandbox_proto.machines.exec_output import OutputCollector
from sandbox_proto.testing import ModelHost, World
from sandbox_proto.wire.command_models import MissingOutput, OutputChunk
from sandbox_proto.wire.creation import CreationSpec

UP, DOWN = "client to host", "host to client"
STDOUT, STDERR = "h\u00e9llo \u20ac\n", "\U0001f600 \u00fc\n"


class CuttingWorld(World):
    """Cuts the connection that carries the n-th byte of one direction, right behind it.

    :ivar cuts: direction -> the numbers of bytes after which it is cut, over all connections.
    :ivar carried: direction -> how many bytes it has carried.
    """

    def __init__(self, model, *, cuts=None, orderly=False, **more):
        super().__init__(model, **more)
        self.cuts = {direction: sorted(set(points)) for direction, points in (cuts or {}).items()}
        self.orderly = orderly
        self.carried = {UP: 0, DOWN: 0}

    def _carry(self, client, server):
        moved = False
        for direction, pieces in self._both_ways(client, server):
            for piece in pieces:
                moved = True
                allowed = self._until_cut(direction, len(piece))
                if part := piece[:allowed]:
                    self.carried[direction] += len(part)
                    self._deliver(direction, part, client, server)
                if allowed < len(piece) or self._is_due(direction):
                    self._cut(direction, client, server)
                    return True
        if not moved and server.finished:
            client.connection_lost(Fault(FaultKind.DISCONNECTED, "closed"), now=self.now)
            return True
        return moved

    def _both_ways(self, client, server):
        yield UP, self._pieces(client.data_to_send())
        yield DOWN, self._pieces(server.data_to_send(now=self.now))

    def _deliver(self, direction, part, client, server):
        if direction == UP:
            client.data_sent(len(part), now=self.now)
            server.receive_data(part, now=self.now)
        else:
            client.receive_data(part, now=self.now)

    def _until_cut(self, direction, size):
        points = self.cuts.get(direction)
        return min(size, points[0] - self.carried[direction]) if points else size

    def _is_due(self, direction):
        points = self.cuts.get(direction)
        return bool(points) and points[0] <= self.carried[direction]

    def _cut(self, direction, client, server):
        self.cuts[direction].pop(0)
        server.abandon(now=self.now)
        if self.orderly:
            client.receive_eof(now=self.now)
        else:
            client.connection_lost(Fault(FaultKind.DISCONNECTED, "cut"), now=self.now)


def run(duration, *, stdout=STDOUT, transport="websocket", holds_back=True, **more):
    """One command on a fresh host; returns host, world and the session's events."""
    host = ModelHost()
    host.holds_back = holds_back
    host.on_command("work", stdout=stdout, stderr=STDERR, exit_code=3, duration=duration)
    world = CuttingWorld(host, **more)
    world.config = attrs.evolve(world.config, exec_transport=transport)
    cuts, world.cuts = world.cuts, {}
    creation = Creation(world.context(), CreationSpec(), timeout=5, wait_for_ready=True)
    record = world.drive(creation.run())
    world.carried, world.cuts = {UP: 0, DOWN: 0}, cuts
    spec = CommandSpec(command="work", timeout=100)
    session = start_command(
        world.context(), record.dataplane_url, spec, unix_seconds=1_700_000_000.0
    )
    return host, world, world.run(session)


def check(host, events):
    assert host.runs == ["work"], "the command must run exactly once"
    texts = {"stdout": "", "stderr": ""}
    for event in events:
        if isinstance(event, OutputChunk):
            assert event.offset == len(texts[event.stream].encode()), "told twice, or a gap"
            texts[event.stream] += event.data
    assert texts == {"stdout": STDOUT, "stderr": STDERR}
    assert events[-1] == CommandExited(3)
    assert sum(isinstance(event, CommandExited) for event in events) == 1
    assert isinstance(next(e for e in events if not isinstance(e, Reattaching)), CommandStarted)


def _sizes(duration, transport):
    _, world, _ = run(duration, transport=transport)
    return world.carried


each_way = pytest.mark.parametrize("direction", [UP, DOWN])
each_transport = pytest.mark.parametrize("transport", ["websocket", "sse"])
each_end = pytest.mark.parametrize("orderly", [False, True], ids=["reset", "eof"])
each_duration = pytest.mark.parametrize("duration", [0.0, 5.0], ids=["short", "long"])


@each_duration
@each_way
@each_end
@each_transport
def test_a_cut_after_any_single_byte_changes_nothing(
    duration, direction, orderly, transport, sweep, tally
):
    size = _sizes(duration, transport)[direction]
    assert size > 300
    # Resets take turns at each byte, in the short command and in the long one; where they are
    # borne, orderly ends are likely to be. A larger sweep leaves nothing out.
    step = max((3 if orderly else 2) // sweep, 1)
    for point in range(2 if duration and step > 1 else 1, size + 1, step):
        cuts = {direction: [point]}
        host, world, events = run(duration, cuts=cuts, orderly=orderly, transport=transport)
        assert world.cuts == {direction: []}, "the cut did not happen"
        check(host, events)
        tally(world)


@each_way
@each_transport
@each_end
def test_nor_does_a_second_one_anywhere_while_reattaching(
    direction, transport, orderly, sweep, tally
):
    size = _sizes(5.0, transport)[direction]
    firsts = range(1, size + 1, max(size // (2 * sweep), 1))
    for first in firsts:
        # Until the second one would come later than the whole of the new attachment.
        for second in itertools.count(first + 1, 1 + 2 // sweep):
            cuts = {direction: [first, second]}
            host, world, events = run(5.0, cuts=cuts, orderly=orderly, transport=transport)
            check(host, events)
            tally(world)
            if world.cuts[direction]:
                break


@each_duration
@each_way
def test_one_request_is_never_made_twice(duration, direction, tally):
    size = _sizes(duration, "http")[direction]
    for point in range(1, size + 1):
        host, world, events = run(duration, cuts={direction: [point]}, transport="http")
        assert len(host.runs) <= 1
        tally(world)
        if isinstance(events[-1], CommandFailed):
            assert events[-1].may_be_running or not host.runs
        else:
            check(host, events)


@pytest.fixture(scope="module")
def tally():
    """Counts the cases of this file's sweeps, and tells when they are done."""
    cases, virtual, began = 0, 0.0, time.monotonic()

    def count(world):
        nonlocal cases, virtual
        cases, virtual = cases + 1, virtual + world.now

    yield count
    took = time.monotonic() - began
    print(f"\n{cases} cut connections in {took:.1f} s; on the virtual clock {virtual:.0f} s")


@settings(max_examples=120)
@given(
    st.lists(st.integers(1, 900), max_size=3),
    st.lists(st.integers(1, 900), max_size=2),  # five in a row is what a session survives
    st.sampled_from([None, 1, 7]),
    st.booleans(),
    st.sampled_from(["websocket", "sse"]),
)
def test_nor_do_several_cuts_both_ways_with_bytes_in_any_pieces(
    up, down, split, orderly, transport
):
    cuts = {UP: up, DOWN: down}
    host, _, events = run(5.0, cuts=cuts, split=split, orderly=orderly, transport=transport)
    check(host, events)


@each_way
@each_transport
def test_a_command_that_is_cut_off_again_and_again_is_given_up_and_told(direction, transport):
    _, _, events = run(50.0, cuts={direction: range(1, 100_000)}, transport=transport)
    assert type(events[-1]).__name__ == "CommandFailed"
    assert sum(isinstance(event, Reattaching) for event in events) == 5


LARGE = "0123456789abcde\n" * (3 * 1024 * 64)  # 3 MiB, more than a host keeps


@pytest.mark.parametrize("point", [None, 300, 5000, 1_000_000])
def test_what_the_host_could_not_keep_is_told_to_the_byte(point):
    cuts = {DOWN: [point]} if point else {}
    host, _, events = run(0.0, stdout=LARGE, holds_back=False, cuts=cuts)
    assert host.runs == ["work"]
    collector = OutputCollector()
    position = 0
    for event in events:
        if isinstance(event, OutputLost) and event.missing.stream == "stdout":
            assert event.missing.start == position
            position = event.missing.end
        elif isinstance(event, OutputChunk) and event.stream == "stdout":
            assert event.offset == position
            assert event.data == LARGE[position : position + len(event.data)]
            position += len(event.data)
        if isinstance(event, (OutputChunk, OutputLost)):
            collector.add(event)
    assert position == len(LARGE)
    result = collector.result(3)
    assert result.missing == (MissingOutput("stdout", 0, 1024 * 1024),)
    assert not result.complete
    assert result.stderr == STDERR
