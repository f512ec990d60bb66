"""The stand-in's tunnel: yamux over a WebSocket, and the services behind it.

It does what a daemon on hashicorp's yamux would: a receive window of 256 KiB that is granted
again at half, data in frames of 32 KiB, head and body in messages of their own. The first
line on a connection says what service is wanted: ``down N`` sends so many bytes, ``up N``
takes them and answers with a full stop, ``echo`` gives back what comes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .standin_websocket import BINARY, CLOSE, PING, PONG, ClientFrames, frame, unmask

_HEADER = struct.Struct("!BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_INITIAL_WINDOW = 256 * 1024
_PAYLOAD = 32 * 1024
_BODY = frame(BINARY, bytes(_PAYLOAD))


class _Stream:
    """One connection through the tunnel."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.received = 0
        self.greeted = False
        self.line = b""
        self.service = ""
        self.left = 0  # of what is to be sent, or to be taken
        self.outbox = b""


class TunnelServer:
    """One session."""

    def __init__(self, write: Callable[[bytes], None], paused: Callable[[], bool]) -> None:
        self._write, self._paused = write, paused
        self._frames = ClientFrames()
        self._header = b""
        self._stream: _Stream | None = None
        self._id = self._body_left = 0
        self._streams: dict[int, _Stream] = {}

    def receive(self, data: bytes) -> None:
        """Bytes came from the client."""
        for opcode, payload, mask in self._frames.cut(data):
            if opcode == BINARY:
                self._receive_message(payload, mask)
            elif opcode == CLOSE:
                self._write(frame(CLOSE, unmask(payload, mask)))
            elif opcode == PING:
                self._write(frame(PONG, unmask(payload, mask)))
        self.resume()

    def _receive_message(self, payload: memoryview, mask: bytes) -> None:
        at = 0
        while at < len(payload):
            if self._body_left:
                size = min(self._body_left, len(payload) - at)
                self._body_left -= size
                self._take(payload[at : at + size], mask, at)
                at += size
                continue
            size = min(_HEADER.size - len(self._header), len(payload) - at)
            self._header += unmask(payload[at : at + size], mask, at)
            at += size
            if len(self._header) == _HEADER.size:
                header, self._header = self._header, b""
                self._take_header(*_HEADER.unpack(header))

    def _take_header(self, version: int, kind: int, flags: int, id: int, length: int) -> None:
        if kind == _PING:
            if flags & _SYN:
                self._send(_PING, _ACK, 0, length)
            return
        if kind == _GO_AWAY:
            return
        if flags & _SYN:
            self._streams[id] = _Stream(_INITIAL_WINDOW)
            self._send(_WINDOW, _ACK, id, 0)
        stream = self._streams.get(id)
        if kind == _DATA:
            self._id, self._stream, self._body_left = id, stream, length
        elif stream is not None:
            stream.window += length
        if stream is not None and flags & (_FIN | _RST):
            if flags & _FIN:
                self._send(_WINDOW, _FIN, id, 0)
            del self._streams[id]

    def _take(self, masked: memoryview, mask: bytes, skipped: int) -> None:
        stream = self._stream
        if stream is None:
            return
        stream.received += len(masked)
        if stream.received >= _INITIAL_WINDOW // 2:
            self._send(_WINDOW, 0, self._id, stream.received)
            stream.received = 0
        if stream.service == "up":
            stream.left -= len(masked)
            if not stream.left:
                stream.outbox += b"."
            return
        data = unmask(masked, mask, skipped)
        if stream.service == "echo":
            stream.outbox += data
            return
        stream.line += data
        if not stream.greeted and len(stream.line) >= 3:
            stream.greeted = True
            stream.line = stream.line[3:]
            stream.window -= 1
            self._send(_DATA, 0, self._id, 1, b"\0")
        if b"\n" in stream.line:
            words, rest = stream.line.split(b"\n", 1)
            stream.service, _, size = words.decode().partition(" ")
            stream.left = int(size or 0)
            if stream.service == "up":
                stream.left -= len(rest)
                stream.outbox += b"" if stream.left else b"."
            else:
                stream.outbox += rest

    def resume(self) -> None:
        """Send what may be sent."""
        busy = True
        while busy and not self._paused():
            busy = False
            for id, stream in self._streams.items():
                if stream.outbox and stream.window >= len(stream.outbox):
                    stream.window -= len(stream.outbox)
                    self._send(_DATA, 0, id, len(stream.outbox), stream.outbox)
                    stream.outbox = b""
                if stream.service == "down" and stream.left and stream.window:
                    size = min(_PAYLOAD, stream.left, stream.window)
                    stream.left -= size
                    stream.window -= size
                    head = frame(BINARY, _HEADER.pack(0, _DATA, 0, id, size))
                    body = _BODY if size == _PAYLOAD else frame(BINARY, bytes(size))
                    self._write(head + body)
                    busy = True

    def _send(self, kind: int, flags: int, id: int, length: int, data: bytes = b"") -> None:
        self._write(frame(BINARY, _HEADER.pack(0, kind, flags, id, length) + data))
