"""The public test double: a host without processes on a network without sockets."""

from __future__ import annotations

import attrs
import pytest

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.errors import (
    LocalProtocolError,
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxAuthenticationError,
)
from sandbox_proto.flows.commands import CommandSpec, attach_to_command, start_command
from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.files import read_file, write_file
from sandbox_proto.flows.sandboxes import delete_sandbox, get_sandbox, list_sandboxes
from sandbox_proto.machines.exec_events import CommandExited, CommandFailed, CommandStarted
from sandbox_proto.testing import ModelHost, World
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.exec_messages import Reconnect


class Story:
    """A world with one sandbox in it."""

    def __init__(self, *, seed=0, split=None, **scripts):
        self.host = ModelHost(seed=seed)
        for command, script in scripts.items():
            self.host.on_command(command, **script)
        self.world = World(self.host, seed=seed, split=split)
        self.box = self.create()

    def create(self, *, timeout=30, **settings):
        context = self.world.context()
        creation = Creation(context, CreationSpec(**settings), timeout=timeout, wait_for_ready=True)
        return self.world.drive(creation.run())

    def start(self, command, **settings):
        spec = CommandSpec(command=command, **settings)
        base = self.box.dataplane_url
        return start_command(self.world.context(), base, spec, unix_seconds=1.7e9)

    def run(self, command, **settings):
        return self.world.run(self.start(command, **settings))


WORK = {"stdout": "out", "stderr": "err", "exit_code": 3, "duration": 90.0}


def test_a_scripted_command_writes_waits_and_exits_in_virtual_time():
    story = Story(work=WORK)
    begun = story.world.now
    events = story.run("work", timeout=100)
    assert [type(event).__name__ for event in events] == [
        "CommandStarted",
        "OutputChunk",
        "OutputChunk",
        "CommandExited",
    ]
    assert events[-1] == CommandExited(3)
    assert story.world.now == begun + 90.0
    assert story.host.runs == ["work"]


def test_an_unscripted_command_exits_like_one_that_is_not_found():
    events = Story().run("mystery")
    assert events[-1] == CommandExited(127)
    assert events[1] == OutputChunk("stderr", "bash: line 1: mystery: command not found\n", 0)


def test_a_command_over_its_limit_is_killed_by_the_host():
    story = Story(work=WORK)
    failed = story.run("work", timeout=5)[-1]
    assert isinstance(failed, CommandFailed)
    assert str(failed.error) == "command timed out after 5 s [CommandTimeout]"
    assert story.world.now == 5.0


def test_a_command_can_be_killed():
    story = Story(work=WORK)
    session = story.start("work")
    story.world.run(session, until=lambda event: isinstance(event, OutputChunk))
    session.kill(now=story.world.now)
    assert story.world.run(session)[-1] == CommandExited(137)


def test_a_command_left_alone_can_be_attached_to_again():
    story = Story(work=WORK)
    session = story.start("work", timeout=100)
    story.world.run(session, until=lambda event: isinstance(event, OutputChunk))
    session.detach(now=story.world.now)
    again = attach_to_command(
        story.world.context(), story.box.dataplane_url, Reconnect(session.command_id, 3, 0)
    )
    events = story.world.run(again)
    assert events[0] == CommandStarted(session.command_id, 100)
    assert events[1:] == [OutputChunk("stderr", "err", 0), CommandExited(3)]
    assert story.host.runs == ["work"]


def test_everything_works_byte_by_byte():
    whole, bytewise = Story(work=WORK), Story(work=WORK, split=1)
    texts = []
    for story in (whole, bytewise):
        write = write_file(
            story.world.context(), story.box.dataplane_url, "/f", b"\0\xff", timeout=5
        )
        story.world.drive(write)
        read = read_file(story.world.context(), story.box.dataplane_url, "/f", timeout=5)
        texts.append((story.world.drive(read), story.run("work", timeout=100)))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_tells_the_same_story(seed):
    first, second = Story(seed=seed, work=WORK), Story(seed=seed, work=WORK)
    assert attrs.asdict(first.box) == attrs.asdict(second.box)
    assert first.start("work").command_id == second.start("work").command_id
    assert first.run("work", timeout=100) == second.run("work", timeout=100)


def test_another_seed_tells_another():
    assert Story(seed=1).box.id != Story(seed=2).box.id


def test_booting_takes_as_long_as_it_is_told():
    story = Story()
    story.host.boot_seconds = 12.0
    begun = story.world.now
    assert story.create(name="slow").status == "ready"
    assert story.world.now == begun + 12.0


def test_booting_for_too_long_is_a_timeout_and_leaves_nothing():
    story = Story()
    story.host.boot_seconds = 100.0
    with pytest.raises(ResourceTimeoutError):
        story.create(timeout=5)
    assert len(story.world.drive(list_sandboxes(story.world.context()))) == 1


def test_a_deleted_sandbox_is_gone_with_its_commands():
    story = Story(work=WORK)
    session = story.start("work", timeout=100)
    story.world.run(session, until=lambda event: isinstance(event, OutputChunk))
    story.world.drive(delete_sandbox(story.world.context(), story.box.name))
    with pytest.raises(ResourceNotFoundError):
        story.world.drive(get_sandbox(story.world.context(), story.box.name))
    assert story.host.commands.of_box(story.box.id) == []


def test_a_wrong_key_is_refused():
    story = Story()
    story.world.config = attrs.evolve(story.world.config, api_key="wrong")
    with pytest.raises(SandboxAuthenticationError):
        story.world.drive(list_sandboxes(story.world.context()))


def test_a_missing_file_is_not_found():
    story = Story()
    read = read_file(story.world.context(), story.box.dataplane_url, "/nothing", timeout=5)
    with pytest.raises(ResourceNotFoundError):
        story.world.drive(read)


def test_relative_paths_have_one_base():
    story = Story()
    context, base = story.world.context(), story.box.dataplane_url
    story.world.drive(write_file(context, base, "f", b"x", timeout=5))
    assert story.world.drive(read_file(context, base, "/home/user/f", timeout=5)) == b"x"


def test_a_story_that_cannot_go_on_is_an_error_not_an_endless_wait():
    story = Story()
    timeouts = ExecTimeouts(ping_interval=None)
    story.world.config = attrs.evolve(story.world.config, exec_timeouts=timeouts)
    story.host.start = lambda command, *, now: command.spawned(1, now=now)  # and nothing more
    with pytest.raises(LocalProtocolError, match="for ever"):
        story.run("work", timeout=0)
