"""Files of a model host, through the flows that a client uses."""

from __future__ import annotations

import pytest

from sandbox_proto.errors import ResourceNotFoundError, SandboxClientError, SandboxOperationError
from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.file_ranges import await_file, read_range, stat_file
from sandbox_proto.flows.files import read_file, write_file
from sandbox_proto.flows.search import glob_files, grep_files
from sandbox_proto.testing import ModelHost, World
from sandbox_proto.wire.creation import CreationSpec

RANGE = {"suffix_bytes": None, "if_range": None, "if_none_match": None, "timeout": 9}


class Story:
    """A world with one sandbox in it, and a few files in that."""

    def __init__(self):
        self.host = ModelHost()
        self.world = World(self.host)
        creation = Creation(self.world.context(), CreationSpec(), timeout=30, wait_for_ready=True)
        self.box = self.world.drive(creation.run())
        for path, content in (
            ("/home/user/src/a.py", b"one\nneedle two\r\n"),
            ("/home/user/src/b/c.txt", b"needle"),
            ("/home/user/binary", b"needle\0"),
        ):
            self.ask(write_file, path, content, timeout=9)

    def ask(self, flow, *arguments, **more):
        return self.world.drive(
            flow(self.world.context(), self.box.dataplane_url, *arguments, **more)
        )


def test_parts_and_conditions():
    story = Story()
    path = "/home/user/src/a.py"
    stat = story.ask(stat_file, path, timeout=9)
    assert stat.size_bytes == 16 and stat.etag
    part = story.ask(read_range, path, start=4, end=9, **RANGE)
    assert (part.content, part.total_bytes, part.etag) == (b"needle", 16, stat.etag)
    same = story.ask(read_range, path, start=0, end=None, **{**RANGE, "if_none_match": stat.etag})
    assert same.unchanged
    story.ask(write_file, path, b"other", timeout=9)
    changed = story.ask(read_range, path, start=4, end=None, **{**RANGE, "if_range": stat.etag})
    assert (changed.content, changed.partial) == (b"other", False)
    with pytest.raises(SandboxOperationError, match=r"\*/5"):
        story.ask(read_range, path, start=5, end=None, **RANGE)
    assert story.ask(read_file, path, timeout=9) == b"other"


def test_searches():
    story = Story()
    more = {"limit": None, "timeout": 9}
    found = story.ask(glob_files, "**", "/home/user", **more)
    assert [(each.path, each.is_dir) for each in found] == [
        ("/home/user/binary", False),
        ("/home/user/src", True),
        ("/home/user/src/a.py", False),
        ("/home/user/src/b", True),
        ("/home/user/src/b/c.txt", False),
    ]
    limited = story.ask(glob_files, "*", "/home/user", limit=1, timeout=9)
    assert (len(limited), limited.truncated) == (1, True)
    lines = story.ask(grep_files, "needle", "/", glob=None, **more)
    assert [(each.path, each.line, each.text) for each in lines] == [
        ("/home/user/src/a.py", 2, "needle two"),
        ("/home/user/src/b/c.txt", 1, "needle"),
    ]
    one = story.ask(grep_files, "two", "/home/user/src/a.py", glob=None, **more)
    assert [each.path for each in one] == ["/home/user/src/a.py"]
    assert len(story.ask(grep_files, "needle", "/home/user", glob="*.py", **more)) == 1


def test_what_is_not_there():
    story = Story()
    with pytest.raises(ResourceNotFoundError):
        story.ask(stat_file, "/nowhere", timeout=9)
    with pytest.raises(ResourceNotFoundError):
        story.ask(glob_files, "*", "/nowhere", limit=None, timeout=9)
    with pytest.raises(SandboxClientError):
        story.ask(glob_files, "[", "/", limit=None, timeout=9)


def test_a_file_is_waited_for_in_virtual_time():
    story = Story()
    path, box_id = "/home/user/late", story.box.id
    story.host.later(story.world.now + 100, lambda now: story.host.write(box_id, path, b"here"))
    stat = story.ask(await_file, path, timeout=200, poll_interval=1.0)
    assert stat.size_bytes == 4
