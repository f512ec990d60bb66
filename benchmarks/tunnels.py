"""``python -m benchmarks.tunnels``: one connection through a tunnel, ours against the vendor's.

Both tunnels lead from this process to the same embedded host, once directly and once through
a relay that adds 20 ms of round trip. The applications at both ends are plain sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import socket
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from langsmith.sandbox import SandboxClient as VendorClient

from sandbox_anyio import AsyncSandboxClient, open_local_host

ONE_WAY = 0.010  # seconds
_STEP = 256 * 1024
_PORT = 7000
# The first byte says what is to be done: send so many bytes, or count what comes.
_SERVICE = """
import socket, threading
def serve(c):
    with c, c.makefile("rb") as f:
        what, _, size = f.readline().strip().partition(b" ")
        block, left = bytes(1 << 20), int(size)
        if what == b"down":
            while left > 0:
                c.sendall(block[:left])
                left -= len(block)
        else:
            while left > 0:
                left -= len(f.read1(1 << 20))
        c.sendall(b".")
listener = socket.create_server(("127.0.0.1", 7000))
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def delaying_relay(target: str) -> str:
    """The URL of a relay to this URL that is `ONE_WAY` away from it."""
    host, _, port = target.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def read() -> None:
            data = b"-"
            while data:
                try:
                    data = source.recv(_STEP)
                except OSError:
                    data = b""
                waiting.put((time.monotonic() + ONE_WAY, data))

        threading.Thread(target=read, daemon=True).start()
        try:
            while True:
                due, data = waiting.get()
                time.sleep(max(due - time.monotonic(), 0))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
        except OSError:
            pass  # the other side has gone

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection((host, int(port)))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def transfer(port: int, direction: str, size: int) -> float:
    """MB per second of one connection."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        began = time.perf_counter()
        sock.sendall(f"{direction} {size}\n".encode())
        if direction == "up":
            sock.sendall(bytes(size))
        left = 1 + (size if direction == "down" else 0)
        while left:
            data = sock.recv(_STEP)
            assert data, "the connection ended"
            left -= len(data)
        return size / 1e6 / (time.perf_counter() - began)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def main(size: float) -> None:
    async with (
        open_local_host() as host,
        AsyncSandboxClient(api_endpoint=host.endpoint, api_key=host.api_key) as client,
        client.sandbox() as ours,
    ):
        await ours.write("service.py", _SERVICE)
        server = await ours.run("exec python3 service.py", wait=False, timeout=0)
        await anext(server)
        theirs = VendorClient(api_endpoint=host.endpoint, api_key=host.api_key).get_sandbox(
            ours.name
        )
        assert ours.dataplane_url is not None
        print(f"{'one connection, MB/s':<22} {'ours':>8} {'vendor':>8} {'ratio':>8}")
        for place, url in (("near", host.endpoint), ("far", delaying_relay(host.endpoint))):
            base = ours.dataplane_url
            ours.dataplane_url = theirs.dataplane_url = base.replace(host.endpoint, url)
            await _compare(place, ours, theirs, int(64e6 * size))
            ours.dataplane_url = base
        await server.kill()


async def _compare(place: str, ours: Any, theirs: Any, size: int) -> None:
    measure: Callable[..., Any] = asyncio.to_thread
    for direction in ("down", "up"):
        pairs = []
        for _ in range(3):
            async with ours.tunnel(_PORT, local_port="any") as tunnel:
                mine = await measure(transfer, tunnel.local_port, direction, size)
            vendors = await measure(theirs.tunnel, _PORT, local_port=free_port())
            pairs.append((mine, await measure(transfer, vendors.local_port, direction, size)))
            vendors.close()
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{place + ', ' + direction:<22} {mine:8.1f} {other:8.1f} {mine / other:7.1f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="1 moves 64 MB at a time")
    asyncio.run(main(parser.parse_args().size))
