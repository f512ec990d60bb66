"""A command table, and sockets to it, driven by hand."""

from __future__ import annotations

import json
import random

from sandbox_proto.host.commands import CommandTable
from sandbox_proto.host.exec_socket import ExecSocket
from sandbox_proto.host.output import OutputRing
from sandbox_proto.wire.exec_messages import Execute, Started, encode

BOX, ID = "box", "cmd"


class Desk:
    """A table with one command, and a clock."""

    def __init__(self, *, ring=None, **fields):
        self.table = CommandTable()
        self.message = Execute(
            **{"command": "work", "command_id": ID, "timeout_seconds": 0, **fields}
        )
        self.now = 0.0
        self.command, self.new = self.table.get_or_create(BOX, self.message)
        if ring is not None:
            for stream in self.command.streams.values():
                stream.ring = OutputRing(ring)

    def attach(self, **offsets):
        return self.command.attach(offsets, now=self.now)

    def spawn(self):
        self.command.spawned(7, now=self.now)
        return self

    def write(self, text, stream="stdout"):
        data = text if isinstance(text, bytes) else text.encode()
        self.command.output(stream, data, now=self.now)

    def exit(self, code=0, *, drained=True):
        self.command.exited(code, now=self.now)
        if drained:
            self.end_streams()

    def end_streams(self):
        for name in self.command.streams:
            self.command.output_ended(name, now=self.now)

    def at(self, now):
        self.now = now
        self.table.handle_timeout(now=now)

    def wait(self):
        """Let the time pass that the table wants to wait."""
        deadline = self.table.next_deadline()
        assert deadline is not None
        self.at(deadline)
        return deadline

    def told(self, attachment):
        """All that a client is told now."""
        messages = []
        while (message := attachment.next_message(now=self.now)) is not None:
            messages.append(message)
        return messages

    def find(self):
        return self.table.find(BOX, ID)


STARTED = Started(ID, 7)


class Wire:
    """A table, and sockets to it."""

    def __init__(self):
        self.table = CommandTable()

    def socket(self, *messages):
        socket = ExecSocket(self.table, BOX, random.Random(2).randbytes)
        self.hear(socket, *messages)
        return socket

    def hear(self, socket, *messages):
        for message in messages:
            text = message if isinstance(message, (str, bytes)) else self.text(message)
            socket.receive(text, now=0.0, wall=1.7e9)

    @staticmethod
    def text(message):
        return json.dumps(message) if isinstance(message, dict) else encode(message)

    @staticmethod
    def told(socket):
        messages = []
        while (message := socket.next_message(now=0.0)) is not None:
            messages.append(message)
        return messages


def execute(**fields):
    return Execute(**{"command": "work", "command_id": ID, **fields})


def started(wire, **fields):
    """A socket whose command runs."""
    socket = wire.socket(execute(**fields))
    socket.to_spawn.spawned(7, now=0.0)
    return socket
