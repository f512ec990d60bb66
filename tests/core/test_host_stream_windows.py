"""The windows of an exec event stream: what was sent is kept until its client comes back."""

from __future__ import annotations

import pytest

from sandbox_proto.host.commands import LAG_PATIENCE, CommandState
from sandbox_proto.wire.exec_messages import Exit
from sandbox_proto.wire.sse import AckRequired

from ._commands import BOX, STARTED, Wire, execute
from ._streams import Streams, ended, output_of
from ._streams import out_of as out

TEXT = "aé€😀\n" * 4
SIZE = len(TEXT.encode())


@pytest.mark.parametrize("window", range(1, 2 * SIZE + 2))
def test_every_window_is_closed_with_exactly_what_was_sent(window):
    streams = Streams()
    stream = streams.start(window=window)
    streams.write(TEXT)
    streams.write(TEXT, "stderr")
    streams.exit(3)
    responses = streams.to_the_end(stream, window)
    sent = {"stdout": 0, "stderr": 0}
    for response in responses:
        assert response[0] == STARTED
        size = 0
        for name in sent:
            data = output_of(response, name)
            sent[name] += len(data)
            size += len(data)
        if response is not responses[-1]:
            assert window <= size <= window + 3, "a character is never cut"
            assert response[-1] == AckRequired(sent["stdout"], sent["stderr"])
    messages = [message for response in responses for message in response]
    assert output_of(messages, "stdout") == output_of(messages, "stderr") == TEXT.encode()
    assert responses[-1][-3:] == ended(SIZE, SIZE, Exit(3))


def test_a_full_window_is_told_at_once_while_the_command_runs():
    streams = Streams()
    stream = streams.start(window=4)
    streams.write("1234")
    assert streams.told(stream)[-1] == AckRequired(4, 0)
    assert stream.finished
    assert stream.next_deadline() is None


def test_both_streams_have_their_turn_in_a_window():
    streams = Streams()
    stream = streams.start(window=100_000)
    streams.write("x" * 200_000)
    streams.write("y" * 200_000, "stderr")
    messages = streams.told(stream)
    assert 30_000 < len(output_of(messages, "stderr")) < 70_000


def test_what_was_not_acknowledged_is_kept_although_it_was_sent():
    streams = Streams(ring=400_000)
    first = streams.start(window=200_000)
    streams.write("x" * 250_000)
    acknowledged = streams.told(first)[-1]
    assert not streams.command.wants_output("stdout", now=0.0)
    first.disconnected(now=0.0)
    assert not streams.command.wants_output("stdout", now=0.0)
    changes = []
    streams.command.on_change = lambda: changes.append(1)
    streams.resume(acknowledged.stdout_offset, acknowledged.stderr_offset)
    assert changes, "who was held back goes on"
    assert streams.command.wants_output("stdout", now=0.0)


def test_a_client_that_comes_back_early_leaves_nothing_behind():
    streams = Streams()
    first = streams.start(window=4)
    streams.write("1234")
    streams.told(first)
    second = streams.resume(4)  # before the driver has noticed the end of the first response
    first.disconnected(now=0.0)
    assert streams.command.attachments == [second._attachment]


def test_each_client_takes_its_own_place_back():
    streams = Streams()
    far, near = streams.start(window=8), streams.start(window=4)
    streams.write("0123456789")
    for stream in (far, near):
        streams.told(stream)
        stream.disconnected(now=0.0)
    streams.resume(4)
    assert far._attachment in streams.command.attachments
    assert near._attachment not in streams.command.attachments
    streams.resume(8)
    assert far._attachment not in streams.command.attachments


@pytest.mark.parametrize("idle", [0, 5])
def test_who_is_asked_to_come_back_is_not_absent(idle):
    streams = Streams(idle_timeout_seconds=idle)
    stream = streams.start(window=4)
    streams.write("1234")
    streams.told(stream)
    stream.disconnected(now=0.0)
    assert streams.table.next_deadline() == LAG_PATIENCE
    streams.at(LAG_PATIENCE - 1)
    assert not streams.command.wants_kill
    streams.at(LAG_PATIENCE)
    assert streams.command.attachments == []
    streams.at(LAG_PATIENCE + idle)
    assert streams.command.wants_kill


def test_a_finished_command_is_kept_for_who_was_asked_to_come_back():
    streams = Streams(ttl_seconds=0)
    stream = streams.start(window=4)
    streams.write("12345")
    streams.exit()
    streams.told(stream)
    stream.disconnected(now=0.0)
    streams.at(1.0)
    last = streams.resume(4)
    assert streams.told(last) == [STARTED, out("5", 4), *ended(5, 0, Exit(0))]
    last.disconnected(now=1.0)
    streams.at(1.0)
    assert streams.table.of_box(BOX) == []


def test_who_just_leaves_is_absent_at_once():
    streams = Streams(idle_timeout_seconds=5)
    stream = streams.start()
    stream.disconnected(now=1.0)
    assert streams.table.next_deadline() == 6.0
    assert streams.raw(stream) == []
    assert streams.command.state is CommandState.RUNNING, "it is no kill"


def test_who_was_held_back_is_woken_when_a_client_reads_on():
    streams = Streams(ring=400_000)
    streams.start().disconnected(now=0.0)
    wire = Wire()
    wire.table = streams.table
    socket = wire.socket(execute())
    streams.write("x" * 250_000)
    assert not streams.command.wants_output("stdout", now=0.0)
    changes = []
    streams.command.on_change = lambda: changes.append(1)
    wire.told(socket)
    assert changes
    assert streams.command.wants_output("stdout", now=0.0)


def test_what_one_client_left_behind_in_cut_connections_goes_at_once():
    streams = Streams()
    both = streams.start(window=4), streams.start(window=4)
    streams.write("0123456789")
    for stream in both:
        streams.told(stream)
        stream.disconnected(now=0.0)
    streams.resume(4)
    assert not any(stream._attachment in streams.command.attachments for stream in both)
