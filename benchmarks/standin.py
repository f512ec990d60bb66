"""A server that says what it is asked to say, fast: so that clients are what is measured.

It speaks just enough of the Sandbox API: canned answers over HTTP, commands whose output
was encoded beforehand, uploads that are counted and thrown away, and a tunnel
(`standin_tunnel`). It runs in a process of its own; ``python -m benchmarks.standin`` prints
where it listens, as JSON, and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from .standin_output import sse_response, upgrade_answer, websocket_output
from .standin_tunnel import TunnelServer
from .standin_websocket import CLOSE, TEXT, ClientFrames, frame

_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Wed, 01 Jan 2025 00:00:00 GMT\r\nserver: stand-in\r\n"
    b"content-type: application/json\r\nx-request-id: 0123456789abcdef\r\n"
    b"cache-control: no-store\r\n"
)
_NO_CONTENT = b"HTTP/1.1 204 No Content\r\nserver: stand-in\r\n\r\n"
_STEP = 256 * 1024
# How late the connection of the command `late` ends, in seconds: the FIN trails through proxies.
_LATE = 1.0
# A larger request body is counted as it comes and thrown away.
_KEPT_BODY = 128 * 1024
_BLOCK = bytes(_STEP)


class Counters:
    """What the server has seen, so that a measurement can be held to it."""

    def __init__(self) -> None:
        self.requests = self.connections = self.body_bytes = 0

        self._gathered: list[Callable[[], None]] = []

    def as_json(self) -> bytes:
        seen = {name: count for name, count in vars(self).items() if isinstance(count, int)}
        return json.dumps(seen).encode()

    def gather(self, count: int, go_on: Callable[[], None]) -> None:
        """Let commands go on once so many of them are there."""
        self._gathered.append(go_on)
        if len(self._gathered) >= count:
            gathered, self._gathered = self._gathered, []
            for go_on in gathered:
                go_on()


def answer(body: bytes) -> bytes:
    """A 200 with a body."""
    return b"%scontent-length: %d\r\n\r\n%s" % (_HEAD, len(body), body)


def box(number: int, base: str) -> dict[str, Any]:
    """A sandbox as the API describes it, about 640 bytes of JSON."""
    return {
        "id": f"3f1f7c52-8f0f-4a55-9d75-{number:012d}",
        "name": f"bench-{number}",
        "dataplane_url": base,
        "status": "ready",
        "status_message": None,
        "created_at": "2025-01-01T00:00:00.000000Z",
        "updated_at": "2025-01-01T00:00:01.000000Z",
        "idle_ttl_seconds": 600,
        "delete_after_stop_seconds": 86400,
        "stopped_at": None,
        "snapshot_id": "f2a1c0de-0000-4000-8000-000000000001",
        "vcpus": 2,
        "mem_bytes": 4294967296,
        "fs_capacity_bytes": 10737418240,
        "run_config": {"user": "user", "work_dir": "/home/user", "env_vars": {"A": "1", "B": "2"}},
        "labels": {"team": "agents", "run": f"{number:08d}"},
        "size_class": "medium",
    }


class Connection(asyncio.Protocol):
    """One client's connection: HTTP until it is upgraded."""

    def __init__(self, counters: Counters, scheme: str, cache: dict[str, bytes]) -> None:
        self._counters, self._scheme, self._cache = counters, scheme, cache
        self._buffer = bytearray()
        self._receive: Callable[[bytes], None] = self._receive_http
        self._skip = 0
        self._paused = False
        self._pouring: Iterator[bytes] | None = None
        self._poured: Callable[[], None] = lambda: None
        self._frames = ClientFrames()
        self._tunnel: TunnelServer | None = None
        self._late = False

    # --- asyncio ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._counters.connections += 1
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is like it
        transport.set_write_buffer_limits(high=2 * _STEP)

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pouring = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pour()
        if self._tunnel is not None:
            self._tunnel.resume()

    # --- HTTP -------------------------------------------------------------------------

    def _receive_http(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if self._skip:
                count = min(self._skip, len(self._buffer))
                self._skip -= count
                del self._buffer[:count]
                if self._skip:
                    return
                self._transport.write(answer(b'{"written": 0}'))
                continue
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end])
            length = _content_length(head)
            if length > _KEPT_BODY:
                self._counters.requests += 1
                self._counters.body_bytes += length
                self._skip = length
                del self._buffer[: end + 4]
                continue
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._counters.requests += 1
            self._counters.body_bytes += length
            self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, target, _ = line.decode().split(" ")
        path = target.partition("?")[0]
        if path.endswith("/status"):
            self._transport.write(self._cached("status", lambda: b'{"status": "ready"}'))
        elif path.endswith("/execute/ws"):
            self._transport.write(upgrade_answer(rest))
            self._receive = self._receive_command
        elif path.endswith("/tunnel"):
            self._transport.write(upgrade_answer(rest))
            self._tunnel = TunnelServer(self._transport.write, lambda: self._paused)
            self._receive = self._tunnel.receive
        elif path.endswith(("/execute/stream/start", "/execute/stream/resume")):
            message = json.loads(body)
            self._run(message, sse_response(message), lambda: None)
        elif path.endswith("/download"):
            self._send_file(int(target.rpartition("-")[2]))
        elif path.endswith("/upload"):
            self._transport.write(answer(b'{"written": 0}'))
        elif path.endswith("/counters"):
            self._transport.write(answer(self._counters.as_json()))
        elif method == "DELETE":
            self._transport.write(_NO_CONTENT)
        else:
            base = f"{self._scheme}://{_header(head, b'host')}/dp/bench"
            self._transport.write(self._describe(path, target, base))

    def _describe(self, path: str, target: str, base: str) -> bytes:
        """One sandbox, or a list of as many as the endpoint's first segment says."""
        if not path.endswith("/boxes") or path.startswith("/v2"):
            return self._cached(base, lambda: json.dumps(box(0, base)).encode())
        first = path.split("/")[1].split("-")
        count, page = int(first[0]), int(first[-1])
        cursor = int(target.partition("cursor=")[2] or 0)
        return self._cached(
            f"{base} {count} {page} {cursor}", lambda: _list(base, count, page, cursor)
        )

    def _cached(self, key: str, make: Callable[[], bytes]) -> bytes:
        if (found := self._cache.get(key)) is None:
            found = self._cache[key] = answer(make())
        return found

    def _send_file(self, size: int) -> None:
        head = answer(b"").replace(b"content-length: 0", b"content-length: %d" % size)

        def pieces() -> Iterator[bytes]:
            yield head
            for start in range(0, size, _STEP):
                yield _BLOCK if size - start >= _STEP else _BLOCK[: size - start]

        self._pour_all(pieces(), lambda: None)

    def _run(
        self, message: dict[str, Any], pieces: Iterator[bytes], then: Callable[[], None]
    ) -> None:
        """Answer a command; ``together COUNT`` waits until there are so many of its kind."""
        words = message["command"].split()
        if words[0] == "together":
            self._counters.gather(int(words[1]), lambda: self._pour_all(pieces, then))
        else:
            self._pour_all(pieces, then)

    # --- output under flow control ----------------------------------------------------

    def _pour_all(self, pieces: Iterator[bytes], then: Callable[[], None]) -> None:
        self._pouring, self._poured = pieces, then
        self._pour()

    def _pour(self) -> None:
        while self._pouring is not None and not self._paused:
            piece = next(self._pouring, None)
            if piece is None:
                self._pouring = None
                self._poured()
            else:
                self._transport.write(piece)

    # --- commands over WebSocket ------------------------------------------------------

    def _receive_command(self, data: bytes) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                message = json.loads(payload)
                if message["type"] == "execute":
                    self._counters.requests += 1
                    self._late = message["command"] == "late"
                    self._run(message, websocket_output(message), self._close_websocket)
            elif opcode == CLOSE:
                if self._late:
                    asyncio.get_running_loop().call_later(_LATE, self._transport.close)
                else:
                    self._transport.close()

    def _close_websocket(self) -> None:
        if self._pouring is None:
            self._transport.write(frame(CLOSE, b"\x03\xe8"))


def _list(base: str, count: int, page: int, cursor: int) -> bytes:
    end = min(cursor + page, count)
    items = [box(number, base) for number in range(cursor, end)]
    following = str(end) if end < count else None
    return json.dumps({"sandboxes": items, "next_cursor": following}).encode()


def _content_length(head: bytes) -> int:
    return int(_header(head, b"content-length") or 0)


def _header(head: bytes, name: bytes) -> str:
    lower = head.lower()
    at = lower.find(b"\n" + name + b":")
    if at < 0:
        return ""
    start = at + len(name) + 2
    end = lower.find(b"\r", start)
    return head[start : end if end >= 0 else None].strip().decode()


def allow_many_files() -> None:
    """As many connections as the system lets this process have."""
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(certificate: str | None, key: str | None) -> None:
    """Serve until standard input ends."""
    counters, cache, loop = Counters(), dict[str, bytes](), asyncio.get_running_loop()
    plain = await loop.create_server(
        lambda: Connection(counters, "http", cache), "127.0.0.1", 0, backlog=4096
    )
    ports = {"plain": plain.sockets[0].getsockname()[1]}
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        secure = await loop.create_server(
            lambda: Connection(counters, "https", cache), "127.0.0.1", 0, ssl=context
        )
        ports["secure"] = secure.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.standin", description=__doc__)
    parser.add_argument("--certificate", help="a PEM file; then it also listens with TLS")
    parser.add_argument("--key", help="the PEM file with its key")
    options = parser.parse_args()
    allow_many_files()
    serving = serve(options.certificate, options.key)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    main()
