"""What the stand-in's commands write, encoded beforehand.

Commands: ``true``; ``late``, whose connection ends late; ``together COUNT`` (see `standin`);
``frames COUNT SIZE``, which writes
so many pieces of so many bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from .standin_websocket import TEXT, frame

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_JOINED = 256 * 1024  # as much goes into one write

# Output of a build: mostly ASCII without anything that JSON would have to escape, but for
# the end of each line.
_TEXT = "".join(f"[{number:05d}] compiling unit {number * 7919 % 99991:05d} ... ok\n"
                for number in range(2000))  # fmt: skip


def upgrade_answer(head: bytes) -> bytes:
    """The answer to a WebSocket upgrade, without any extension."""
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n") if b": " in line)
    key = next(value for name, value in lines.items() if name.lower() == b"sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: %s\r\n\r\n" % accept
    )


def piece_of(size: int) -> str:
    """A piece of output of so many bytes, all ASCII."""
    return (_TEXT * (size // len(_TEXT) + 1))[:size]


def websocket_output(message: dict[str, Any]) -> Iterator[bytes]:
    """The frames of a command, joined to large writes."""
    started = {"type": "started", "command_id": message.get("command_id", ""), "pid": 4711}
    count, size = _asked(message["command"])
    first, last = frame(TEXT, _json(started)), frame(TEXT, b'{"type":"exit","exit_code":0}')
    if not count:
        yield first + last
        return
    yield first
    yield from _websocket_frames(count, size)
    yield last


def sse_response(message: dict[str, Any]) -> Iterator[bytes]:
    """The head and the chunks of a command's event stream."""
    head = (
        b"HTTP/1.1 200 OK\r\nserver: stand-in\r\ncontent-type: text/event-stream\r\n"
        b"cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    count, size = _asked(message["command"])
    started = _event("started", {"command_id": message["command_id"], "pid": 4711})
    ends = [("stdout", count * size), ("stderr", 0)]
    tail = b"".join(_event("stream_end", {"stream": name, "offset": at}) for name, at in ends)
    tail += _event("exit", {"exit_code": 0}) + b"0\r\n\r\n"
    if not count:
        yield head + started + tail
        return
    yield head + started
    yield from _sse_events(count, size)
    yield tail


def _asked(command: str) -> tuple[int, int]:
    words = command.split()
    return (int(words[1]), int(words[2])) if words[0] == "frames" else (0, 0)


@functools.lru_cache(maxsize=4)
def _websocket_frames(count: int, size: int) -> list[bytes]:
    text = piece_of(size)
    return _joined(
        frame(TEXT, _json({"type": "stdout", "data": text, "offset": number * size}))
        for number in range(count)
    )


@functools.lru_cache(maxsize=4)
def _sse_events(count: int, size: int) -> list[bytes]:
    data = base64.b64encode(piece_of(size).encode()).decode()
    return _joined(
        _event("stdout", {"offset": number * size, "data": data}) for number in range(count)
    )


def _event(name: str, fields: dict[str, Any]) -> bytes:
    """An event as a chunk of its own."""
    event = f"event: {name}\ndata: {json.dumps(fields)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _joined(pieces: Iterator[bytes]) -> list[bytes]:
    writes: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _JOINED:
            writes.append(b"".join(waiting))
            waiting, size = [], 0
    return [*writes, b"".join(waiting)]
