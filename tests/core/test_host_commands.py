"""The command table of a host (protocol/06 section 6, 13 section 4)."""

from __future__ import annotations

import attrs
import pytest

from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import ExecError, Exit

from ._commands import BOX, STARTED, Desk

# --- get or create --------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["starting", "running", "draining", "over"])
def test_a_known_id_is_never_spawned_again(stage):
    desk = Desk()
    assert desk.new
    if stage != "starting":
        desk.spawn()
    if stage in ("draining", "over"):
        desk.exit(drained=stage == "over")
    assert desk.command.state.value == stage
    other = attrs.evolve(desk.message, command="something else")
    command, new = desk.table.get_or_create(BOX, other)
    assert (command is desk.command, new) == (True, False)
    assert command.message.command == "work", "the other fields of a repetition are ignored"


def test_the_same_id_in_another_sandbox_is_another_command():
    desk = Desk()
    command, new = desk.table.get_or_create("other box", desk.message)
    assert new
    assert command is not desk.command
    assert desk.table.of_box(BOX) == [desk.command]


def test_a_repeated_execute_gets_everything_from_the_start():
    desk = Desk().spawn()
    desk.write("all of it")
    assert desk.told(desk.attach()) == [STARTED, OutputChunk("stdout", "all of it", 0)]


# --- what an attached client is told --------------------------------------------------


def test_started_then_output_then_exit():
    desk = Desk()
    client = desk.attach()
    assert desk.told(client) == []
    desk.spawn()
    assert desk.told(client) == [STARTED]
    desk.write("out")
    desk.write("err", "stderr")
    assert desk.told(client) == [OutputChunk("stdout", "out", 0), OutputChunk("stderr", "err", 0)]
    desk.write("more")
    desk.exit(3)
    assert desk.told(client) == [OutputChunk("stdout", "more", 3), Exit(3)]
    assert client.finished
    assert desk.told(client) == []


def test_all_output_comes_before_the_exit_however_late_it_is_read():
    desk = Desk().spawn()
    client = desk.attach()
    desk.write("x" * 100_000)
    desk.write("y" * 100_000, "stderr")
    desk.exit()
    *output, end = desk.told(client)[1:]
    assert end == Exit(0)
    assert {
        stream: sum(len(c.data) for c in output if c.stream == stream)
        for stream in ("stdout", "stderr")
    } == {
        "stdout": 100_000,
        "stderr": 100_000,
    }


def test_a_spawn_failure_comes_instead_of_started():
    desk = Desk()
    client = desk.attach()
    desk.command.spawn_failed("no such shell", now=0.0)
    assert desk.told(client) == [ExecError("no such shell", "CommandError")]
    assert desk.told(desk.attach()) == [ExecError("no such shell", "CommandError")]


@pytest.mark.parametrize(
    ("offsets", "output"),
    [
        ({}, ["0123456789"]),
        ({"stdout": 4}, ["456789"]),
        ({"stdout": 10}, []),
        ({"stdout": 99}, []),
        ({"stdout": -5}, ["0123456789"]),
        ({"stderr": 5}, ["0123456789"]),
    ],
)
def test_a_reconnect_streams_from_where_it_asks(offsets, output):
    desk = Desk().spawn()
    desk.write("0123456789")
    first, *rest = desk.told(desk.attach(**offsets))
    assert first == STARTED
    assert [chunk.data for chunk in rest] == output


def test_a_reconnect_beyond_the_end_misses_nothing_that_comes_later():
    desk = Desk().spawn()
    desk.write("abc")
    client = desk.attach(stdout=99)
    desk.write("def")
    assert desk.told(client)[1:] == [OutputChunk("stdout", "def", 3)]


def test_what_is_gone_is_skipped_and_the_offset_tells():
    desk = Desk(ring=8).spawn()
    desk.write("0123456789\u20ac")
    assert desk.told(desk.attach())[1:] == [OutputChunk("stdout", "56789\u20ac", 5)]


def test_several_clients_read_each_at_their_own_pace():
    desk = Desk().spawn()
    first = desk.attach()
    desk.write("a")
    desk.told(first)
    second = desk.attach()
    desk.write("b")
    assert [chunk.data for chunk in desk.told(first)] == ["b"]
    assert [chunk.data for chunk in desk.told(second)[1:]] == ["ab"]


def test_bytes_that_are_no_text_count_as_what_they_become():
    desk = Desk().spawn()
    client = desk.attach()
    desk.write(b"a\xffb\xe2\x82")
    desk.write(b"\xac\xe2")
    desk.exit()
    chunks = desk.told(client)[1:-1]
    assert "".join(chunk.data for chunk in chunks) == "a\ufffdb\u20ac\ufffd"
    assert desk.command.streams["stdout"].ring.end == len("a\ufffdb\u20ac\ufffd".encode())
