"""Listeners for tunnels: they run inside a sandbox, on the standard library alone.

7000  echo, until the end
7001  reads to the end, then says how much it was and its SHA-256
7002  reads a number and a line break, then sends so many bytes (of `pattern`), and ends
7003  like 7001, but does not read before somebody connects to 7004
7005  like 7000, on ::1 only
7006  reads one byte and resets the connection
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable

STEP = 256 * 1024
_BLOCK = bytes(range(251)) * 1100  # its length shares no factor with any buffer's


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes of which a lost, doubled or moved piece shows."""
    start = salt % 251
    return (_BLOCK * (size // len(_BLOCK) + 2))[start : start + size]


def told(data: bytes) -> bytes:
    """What 7001 says to this."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


_may_read = threading.Event()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(STEP):
        connection.sendall(data)


def tell(connection: socket.socket) -> None:
    size, digest = 0, hashlib.sha256()
    while data := connection.recv(STEP):
        size += len(data)
        digest.update(data)
    connection.sendall(f"{size} {digest.hexdigest()}".encode())


def send(connection: socket.socket) -> None:
    asked = b""
    while not asked.endswith(b"\n"):
        asked += connection.recv(1)
    connection.sendall(pattern(int(asked)))


def tell_late(connection: socket.socket) -> None:
    _may_read.wait()
    tell(connection)


def allow(connection: socket.socket) -> None:
    _may_read.set()


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def listen(port: int, serve: Callable[[socket.socket], None], family: socket.AddressFamily) -> None:
    address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    listener = socket.create_server((address, port), family=family, backlog=128)

    def run(connection: socket.socket) -> None:
        try:
            with connection:
                serve(connection)
        except OSError:
            pass  # the other end has gone

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    threading.Thread(target=accept).start()


if __name__ == "__main__":
    for number, script in enumerate((echo, tell, send, tell_late, allow)):
        listen(7000 + number, script, socket.AF_INET)
    listen(7005, echo, socket.AF_INET6)
    listen(7006, reset, socket.AF_INET)
    print("listening", flush=True)
