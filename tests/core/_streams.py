"""Event streams and blocking requests to a command table, driven by hand."""

from __future__ import annotations

import itertools
import random

from sandbox_proto.host.commands import CommandTable
from sandbox_proto.host.exec_blocking import BlockingExec
from sandbox_proto.host.exec_stream import ExecStream
from sandbox_proto.host.output import OutputRing
from sandbox_proto.wire.sse import (
    HEARTBEAT,
    AckRequired,
    RawOutput,
    SseParser,
    StreamEnd,
    decode_event,
)

from ._commands import BOX, ID

START = {"command": "work", "command_id": ID, "timeout_seconds": 0}


class Streams:
    """A table, and event streams to its commands."""

    def __init__(self, *, ring=None, **fields):
        self.table = CommandTable()
        self.now = 0.0
        self.ring = ring
        self.fields = {**START, **fields}

    def new(self, **settings):
        return ExecStream(self.table, BOX, random.Random(2).randbytes, **settings)

    def start(self, *, window=1 << 20, spawn=True, **fields):
        """A stream that started the command, which runs."""
        stream = self.new(window=window)
        stream.start({**self.fields, **fields}, now=self.now, wall=1.7e9)
        if stream.to_spawn is not None:
            if self.ring is not None:
                for each in stream.command.streams.values():
                    each.ring = OutputRing(self.ring)
            if spawn:
                stream.to_spawn.spawned(7, now=self.now)
        return stream

    def resume(self, stdout=0, stderr=0, *, window=1 << 20, **fields):
        stream = self.new(window=window)
        offsets = {"stdout_offset": stdout, "stderr_offset": stderr}
        stream.resume({"command_id": ID, **offsets, **fields}, now=self.now)
        return stream

    @property
    def command(self):
        [command] = self.table.of_box(BOX)
        return command

    def write(self, text, stream="stdout"):
        data = text if isinstance(text, bytes) else text.encode()
        self.command.output(stream, data, now=self.now)

    def exit(self, code=0):
        self.command.exited(code, now=self.now)
        for name in self.command.streams:
            self.command.output_ended(name, now=self.now)

    def at(self, now):
        self.now = now
        self.table.handle_timeout(now=now)

    def raw(self, stream):
        """All that a client is sent now."""
        events = []
        while (event := stream.next_event(now=self.now)) is not None:
            events.append(event)
        return events

    def told(self, stream):
        """All that a client is told now. Signs of life are None."""
        messages = []
        for event in self.raw(stream):
            parsed = SseParser().feed(event)
            if event == HEARTBEAT:
                assert parsed == []
                messages.append(None)
            else:
                [(name, data)] = parsed
                messages.append(decode_event(name, data))
        return messages

    def to_the_end(self, stream, window=1 << 20):
        """What a client is told that comes back whenever it is asked to, by response."""
        responses = []
        while True:
            responses.append(self.told(stream))
            last = responses[-1][-1]
            stream.disconnected(now=self.now)
            if not isinstance(last, AckRequired):
                return responses
            stream = self.resume(last.stdout_offset, last.stderr_offset, window=window)


def out_of(data, offset, stream="stdout"):
    """A piece of output."""
    return RawOutput(stream, data.encode(), offset)


def output_of(messages, name):
    """The bytes of one stream; what comes twice, or has a gap before it, is an error."""
    pieces = [each for each in messages if isinstance(each, RawOutput) and each.stream == name]
    for before, after in itertools.pairwise(pieces):
        assert after.offset == before.offset + len(before.data)
    return b"".join(each.data for each in pieces)


def ended(stdout, stderr, *end):
    """The last messages of a command with so many bytes of output."""
    return [StreamEnd("stdout", stdout), StreamEnd("stderr", stderr), *end]


class Requests:
    """A table, and blocking requests to it."""

    def __init__(self):
        self.table = CommandTable()

    def ask(self, *, spawn=True, kept=1 << 24, **fields):
        """A request whose command runs."""
        blocking = BlockingExec(self.table, BOX, random.Random(2).randbytes, kept=kept)
        blocking.start({"command": "work", **fields}, now=0.0, wall=1.7e9)
        if spawn:
            blocking.to_spawn.spawned(7, now=0.0)
        return blocking


def finish(blocking, code=0, now=0.0):
    """The command ends. Returns the answer."""
    blocking.command.exited(code, now=now)
    for name in blocking.command.streams:
        blocking.command.output_ended(name, now=now)
    return blocking.response(now=now)
