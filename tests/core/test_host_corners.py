"""Corners of the pure host that were once wrong (protocol/02, 06 and 13)."""

from __future__ import annotations

import pytest

from sandbox_proto.host.commands import DRAIN_GRACE, CommandState
from sandbox_proto.host.layered import GIB
from sandbox_proto.wire.exec_messages import Exit, encode

from ._commands import Desk, Wire, started
from ._host import BOXES, House


@pytest.mark.parametrize("timeout", ["soon", -1])
def test_a_creation_refused_for_its_timeout_leaves_no_record(timeout):
    house = House()
    house.ask("POST", BOXES, {"wait_for_ready": True, "timeout": timeout})
    assert house.host.boxes == {}


def test_cpu_and_the_memory_that_follows_from_it_are_bounded_however_they_are_given():
    assert House().ask("POST", BOXES, {"cpu_millicores": 1_000_000}).status == 422


@pytest.mark.parametrize(
    "delegation",
    [
        "EXPLICIT",
        5,
        {"mode": "OTHER"},
        {"mode": "EXPLICIT"},
        {"mode": "EXPLICIT", "permissions": []},
        {"mode": "EXPLICIT", "permissions": [1]},
    ],
)
def test_a_delegation_that_is_none_is_refused(delegation):
    assert House().ask("POST", BOXES, {"access_delegation": delegation}).status == 422


@pytest.mark.parametrize(
    "body", [{"fs_capacity_bytes": 257 * GIB}, {"vcpus": 1, "fs_capacity_bytes": 17 * GIB}]
)
def test_the_disk_of_a_sandbox_that_is_not_kept_is_bounded(body):
    assert House().ask("POST", BOXES, {"persistent": False, **body}).status == 422


def test_a_command_that_ended_in_time_has_not_timed_out_while_its_output_was_drained():
    desk = Desk(timeout_seconds=5).spawn()
    desk.now = 4.5
    desk.exit(0, drained=False)
    desk.at(5.0)
    desk.at(4.5 + DRAIN_GRACE)
    assert desk.command.ending == Exit(0)


def test_the_end_does_not_overtake_output_that_a_lagging_client_holds_back():
    desk = Desk(ring=100, ttl_seconds=-1).spawn()
    client = desk.attach()
    desk.write("x" * 100)
    desk.exit(0, drained=False)
    assert not desk.command.wants_output("stdout", now=0.0)
    desk.at(DRAIN_GRACE)
    assert desk.command.state is CommandState.DRAINING
    desk.told(client)
    desk.write("the rest")
    desk.end_streams()
    assert "".join(message.data for message in desk.told(client)[:-1]) == "the rest"


def test_what_is_read_while_output_is_wanted_costs_a_draining_client_nothing():
    desk = Desk().spawn()
    client = desk.attach()
    written = 0
    while desk.command.wants_output("stdout", now=0.0):
        desk.write("x" * 65_000)
        written += 65_000
    assert sum(len(message.data) for message in desk.told(client)[1:]) == written


def test_neither_stream_waits_for_the_other_to_be_empty():
    desk = Desk().spawn()
    client = desk.attach()
    desk.told(client)
    desk.write("x" * 1_000_000)
    desk.write("help!", "stderr")
    streams = [client.next_message(now=0.0).stream for _ in range(4)]
    assert "stderr" in streams


def test_half_a_character_in_input_is_answered_not_raised():
    wire = Wire()
    socket = started(wire)
    wire.hear(socket, r'{"type":"input","data":"\ud800"}')


def test_half_a_character_in_a_command_id_is_answered_not_raised():
    wire = Wire()
    socket = wire.socket(r'{"type":"execute","command":"x","command_id":"\ud800"}')
    if socket.to_spawn is not None:
        socket.to_spawn.spawned(7, now=0.0)
    for message in wire.told(socket):
        encode(message)


def test_the_list_is_newest_first_within_a_millisecond_too():
    house = House()
    for name in "abc":
        house.create(name=name)
    assert [box["name"] for box in house.ask("GET", BOXES).payload["items"]] == ["c", "b", "a"]
