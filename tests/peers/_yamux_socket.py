"""A yamux machine of ours on a blocking socket, for peers that are not ours."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Literal

from sandbox_proto.machines.yamux import Yamux
from sandbox_proto.machines.yamux_events import (
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    YamuxEvent,
    YamuxLimits,
)

PATIENCE = 30.0


class OnSocket:
    """Drives a machine.

    :ivar consumes: whether what comes is taken away at once.
    :ivar inbox: stream -> what came.
    :ivar gone: the peer has closed.
    """

    def __init__(
        self,
        role: Literal["client", "server"],
        sock: socket.socket,
        limits: YamuxLimits | None = None,
    ) -> None:
        self._socket = sock
        sock.setblocking(False)
        self.machine = Yamux(role, limits or YamuxLimits(), now=self.now())
        self._output = b""
        self.gone = False
        self.consumes = True
        self.events: list[YamuxEvent] = []
        self.opened: list[int] = []
        self.inbox: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()

    def now(self) -> float:
        return time.monotonic()

    def open(self, words: bytes = b"") -> int:
        stream = self.machine.open(now=self.now())
        self.inbox[stream] = bytearray()
        self.machine.send(stream, words, now=self.now())
        return stream

    def send(self, stream: int, data: bytes) -> None:
        """Send all of it, however long that takes."""
        view = memoryview(data)
        while view:
            view = view[self.machine.send(stream, view, now=self.now()) :]
            self.until(lambda: self.machine.room(stream) > 0 or stream in self.reset)

    def send_eof(self, stream: int) -> None:
        self.machine.send_eof(stream, now=self.now())

    def say(self, raw: bytes) -> None:
        """Send bytes that are not the machine's."""
        self._output += raw

    def answer(self, stream: int) -> bytes:
        """All that comes, to the end."""
        self.until(lambda: stream in self.ended)
        return bytes(self.inbox[stream])

    def until(self, done: Callable[[], bool]) -> None:
        """Carry bytes until something is true."""
        patience = self.now() + PATIENCE
        while not done():
            assert self.now() < patience, "the peer does not do what is waited for"
            assert not self.gone, "the peer has closed"
            self.turn(0.2)

    def turn(self, seconds: float = 0.0) -> bool:
        """One round. Returns whether anything moved."""
        moved = False
        while not self._output and (frame := self.machine.next_frame()) is not None:
            self._output = frame
            moved = self._write() or moved
        if self._output:
            moved = self._write() or moved
        writable = [self._socket] if self._output else []
        readable, _, _ = select.select([self._socket], writable, [], 0 if moved else seconds)
        if readable:
            moved = True
            data = self._socket.recv(256 * 1024)
            if data:
                self.machine.receive_data(data, now=self.now())
            self.gone = not data
        self.machine.handle_timeout(now=self.now())
        self._take()
        return moved

    def quiet(self) -> None:
        """Carry bytes until nothing has moved for a moment."""
        while self.turn(0.3):
            pass

    def _write(self) -> bool:
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            return False
        except BrokenPipeError:  # what the peer said before it left is still to be read
            self._output = b""
            return False
        self._output = self._output[sent:]
        return True

    def _take(self) -> None:
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            match event:
                case StreamOpened(stream):
                    self.opened.append(stream)
                    self.inbox[stream] = bytearray()
                case StreamData(stream, data):
                    self.inbox[stream] += data
                    if self.consumes:
                        self.machine.consumed(stream, len(data), now=self.now())
                case StreamEnded(stream):
                    self.ended.add(stream)
                case StreamReset(stream):
                    self.reset.add(stream)
