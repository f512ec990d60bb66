"""The physical limit: canned requests over bare sockets, with nothing between."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import anyio

from .clients import KEY
from .measuring import MIB, Sample, Setting, timed, watched

STEP = MIB


def request(setting: Setting, path: str, method: str = "GET", extra: str = "") -> bytes:
    """A request as our client would write it."""
    return (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{setting.plain}\r\naccept: */*\r\n"
        f"user-agent: raw\r\nx-api-key: {KEY}\r\n{extra}\r\n"
    ).encode()


STATUS = "/v2/sandboxes/boxes/bench-0/status"
BOX = "/v2/sandboxes/boxes/bench-0"


def canned(path: str, place: str = "plain") -> Callable[[Setting], Awaitable[Sample]]:
    """The same request again and again, waiting as the loop offers it."""

    async def measure(setting: Setting) -> Sample:
        with socket.create_connection(("127.0.0.1", getattr(setting, place))) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            asked = request(setting, path)

            async def call() -> None:
                sock.send(asked)
                while True:
                    await anyio.wait_readable(sock)
                    if sock.recv(65536).endswith((b"}", b"\n")):
                        return

            sample = await timed(call, setting.count)
            anyio.notify_closing(sock)
            return sample

    return measure


async def blocking_status(setting: Setting) -> Sample:
    """The same without any loop."""
    with socket.create_connection(("127.0.0.1", setting.plain)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = request(setting, STATUS)

        async def call() -> None:
            sock.send(asked)
            sock.recv(65536)

        return await timed(call, setting.count)


async def blocking_read(setting: Setting) -> Sample:
    """A download into one fresh buffer."""
    with socket.create_connection(("127.0.0.1", setting.plain)) as sock:
        sock.sendall(request(setting, STATUS))
        sock.recv(65536)

        async def call() -> bytearray:
            sock.sendall(request(setting, f"/dp/bench/download?path=/zeros-{setting.size}"))
            head = sock.recv(4096)
            start = head.index(b"\r\n\r\n") + 4
            body = bytearray(setting.size)
            body[: len(head) - start] = head[start:]
            view, at = memoryview(body), len(head) - start
            while at < setting.size:
                at += sock.recv_into(view[at : at + STEP])
            return body

        return await watched(call, setting.size)


async def blocking_write(setting: Setting) -> Sample:
    """An upload out of one buffer."""
    content = bytes(setting.size)
    with socket.create_connection(("127.0.0.1", setting.plain)) as sock:
        sock.sendall(request(setting, STATUS))
        sock.recv(65536)

        async def call() -> None:
            extra = f"content-length: {setting.size}\r\n"
            sock.sendall(request(setting, "/dp/bench/upload?path=/big", "POST", extra))
            sock.sendall(content)
            assert sock.recv(65536)

        return await watched(call, setting.size)
