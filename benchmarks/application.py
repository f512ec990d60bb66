"""The application at this end of a tunnel: plain sockets, many at a time, nothing else.

``python -m benchmarks.application DIRECTION PORT STREAMS BYTES COUNT`` prints what it
measured, as JSON.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import sys
import time

_STEP = 256 * 1024


def transfer(direction: str, port: int, streams: int, size: int) -> dict[str, float]:
    """Move so many bytes over so many connections, all at a time."""
    selector = selectors.DefaultSelector()
    share = size // streams
    outgoing: dict[socket.socket, memoryview] = {}
    incoming: dict[socket.socket, int] = {}
    for _ in range(streams):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        line = f"{direction} {share}\n".encode()
        outgoing[sock] = memoryview(line + bytes(share if direction == "up" else 0))
        incoming[sock] = share if direction == "down" else 1
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
    began = time.perf_counter()
    buffer, open_sockets = bytearray(_STEP), streams
    while open_sockets:
        for key, events in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if events & selectors.EVENT_WRITE:
                outgoing[sock] = outgoing[sock][sock.send(outgoing[sock][:_STEP]) :]
                if not outgoing[sock]:
                    selector.modify(sock, selectors.EVENT_READ)
            if events & selectors.EVENT_READ:
                count = sock.recv_into(buffer)
                assert count, "the connection ended"
                incoming[sock] -= count
                if not incoming[sock]:
                    selector.unregister(sock)
                    sock.close()
                    open_sockets -= 1
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "p50": seconds, "bytes": share * streams}


def echo(port: int, count: int) -> dict[str, float]:
    """32 bytes there and back again, so many times."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"echo\n")
        walls: list[float] = []
        for _ in range(count + 1):
            began = time.perf_counter()
            sock.sendall(bytes(32))
            assert len(sock.recv(64)) == 32
            walls.append(time.perf_counter() - began)
    del walls[0]  # it opened the connection
    return {"seconds": sum(walls), "p50": statistics.median(walls), "bytes": 32 * count}


def main() -> None:
    """See the module's text."""
    direction = sys.argv[1]
    port, streams, size, count = map(int, sys.argv[2:])
    told = echo(port, count) if direction == "echo" else transfer(direction, port, streams, size)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
