"""How the host, the zygote and the supervisors talk: JSON and descriptors in packets.

One message is one packet of a SOCK_SEQPACKET socket, so there is no framing to get
wrong and file descriptors belong to exactly one message. A message too long for a
packet (a large environment, say) travels in a memory file; only the host may do that.

Standard library only: this module runs on both sides of the sandbox's wall.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

MAX_PACKET: Final = 64 * 1024
MAX_DESCRIPTORS: Final = 4
MAX_SPILL: Final = 64 * 1024 * 1024
_SPILLED: Final = b"@"  # no JSON document begins so

Body = Mapping[str, Any]


class ProtocolError(Exception):
    """The other side sent what no honest program sends."""


class Message(NamedTuple):
    """A received message. Whoever holds it owns the descriptors."""

    body: dict[str, Any]
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors that came along."""
        close_all(self.descriptors)
        self.descriptors.clear()


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors, whatever state they are in."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a fresh conversation."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, body: Body, descriptors: Sequence[int] = ()) -> None:
    """Send one message: all of it or, by BlockingIOError, nothing."""
    data = json.dumps(body, separators=(",", ":")).encode("ascii")
    if len(data) <= MAX_PACKET:
        _send_packet(sock, data, descriptors)
        return
    spill = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with open(spill, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(spill, 0, os.SEEK_SET)
        _send_packet(sock, _SPILLED, [spill, *descriptors])
    finally:
        os.close(spill)


def _send_packet(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    rights = array.array("i", descriptors)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, *, spills: bool = False) -> Message | None:
    """Receive one message, or None when the other side is gone.

    :param spills: accept a message in a memory file; never from a supervisor.
    :raises ProtocolError: it is too long, carries too much, or is no JSON object.
    """
    room = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    descriptors = _descriptors(ancillary)
    try:
        if not data:
            close_all(descriptors)
            return None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("a message was longer than allowed")
        if data == _SPILLED:
            if not spills or not descriptors:
                raise ProtocolError("a message in a memory file is not accepted here")
            data = _read_spill(descriptors.pop(0))
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ProtocolError("a message carried too many descriptors")
        return Message(_parse(data), descriptors)
    except BaseException:
        close_all(descriptors)
        raise


def process_handle(message: Message) -> int:
    """The handle by which a process that the zygote forked introduces itself."""
    if len(message.descriptors) != 1:
        message.close()
        raise ProtocolError("a process introduced itself without a handle")
    return message.descriptors.pop()


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _read_spill(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        data = file.read(MAX_SPILL + 1)
    if len(data) > MAX_SPILL:
        raise ProtocolError("a message was longer than allowed")
    return data


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message was no JSON") from error
    if not isinstance(body, dict):
        raise ProtocolError("a message was no JSON object")
    return body
