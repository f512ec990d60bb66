"""Joins two ports: it runs inside a sandbox, on the standard library alone.

    python3 relay.py <port> <port> <probe>

The connections to one port and to the other are joined in the order in which they come. What one
end does, the other end sees: bytes, the end of bytes, and a reset. So a pair of tunnels is a pair
of streams, and both ends of it are ours. The third port says everything again: as long as it
does, this process runs.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading

STEP = 64 * 1024


def main() -> None:
    *listeners, probe = [listen(int(port)) for port in sys.argv[1:4]]
    threading.Thread(target=echo, args=(probe,), daemon=True).start()
    print("listening", flush=True)
    while True:
        ends = [listener.accept()[0] for listener in listeners]
        for near, far in (ends, ends[::-1]):
            threading.Thread(target=carry, args=(near, far), daemon=True).start()


def echo(probe: socket.socket) -> None:
    connection, _ = probe.accept()
    while data := connection.recv(STEP):
        connection.sendall(data)


def listen(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        listener.setsockopt(socket.SOL_SOCKET, buffer, STEP)  # soon full, when nobody receives
    return listener


def carry(near: socket.socket, far: socket.socket) -> None:
    """Carry what comes from one end to the other."""
    try:
        while data := near.recv(STEP):
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone for good: so is the other.
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)  # wakes the other thread, too
                end.close()


if __name__ == "__main__":
    main()
