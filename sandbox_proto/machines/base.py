"""The contract between a machine and whoever drives it.

A machine is a conversation without its wires. The driver does three things, in
any order, as often as it likes, and after each it *drains*:

1. **Feed** it: `receive_data`, `receive_eof`, `connection_lost`, `data_sent`,
   `handle_timeout`, or one of the machine's own commands. Every feed carries
   ``now``, monotonic seconds of the driver's clock.
2. **Drain output**: `data_to_send` hands over the bytes to write, in order, each
   once; `SEND_EOF` among them means "now shut down the sending side".
3. **Drain events**: `next_event` until it returns None. State moves as events
   are taken, so a handler never sees the future.

Then it asks `next_deadline` and waits for bytes, for room to write, or for that
moment. Early wake-ups are harmless: `handle_timeout` looks at ``now`` itself.

Bytes that arrive are never empty; the end of the stream is `receive_eof`.
Mistakes of the peer never raise: they end the machine with an event that says
so. Mistakes of the driver raise `LocalProtocolError`.
"""

from __future__ import annotations

import enum
from typing import Final, Generic, Literal, Protocol, TypeVar

from ..errors import LocalProtocolError
from ..faults import Fault


class _SendEof(enum.Enum):
    SEND_EOF = "SEND_EOF"

    def __repr__(self) -> str:
        return "SEND_EOF"


SEND_EOF: Final = _SendEof.SEND_EOF

Buffer = bytes | bytearray | memoryview
Output = Buffer | Literal[_SendEof.SEND_EOF]

EventT_co = TypeVar("EventT_co", covariant=True)


class Machine(Protocol, Generic[EventT_co]):
    """What every machine offers to its driver; see the module's text for the order of calls."""

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """Bytes arrived (at least one)."""

    def receive_eof(self, *, now: float) -> None:
        """The peer shut down its sending side, in order."""

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        """The transport is gone; nothing more can be sent or received."""

    def data_to_send(self) -> list[Output]:
        """The output since the last call, to be written in order."""

    def data_sent(self, count: int, *, now: float) -> None:
        """The transport took `count` more bytes of the output handed over."""

    def receive_buffer(self) -> memoryview | None:
        """Where the transport may write incoming bytes directly, if the machine has a place.

        The view must be released before the machine is called again.
        """

    def buffer_filled(self, count: int, *, now: float) -> None:
        """`count` bytes were written into the buffer that `receive_buffer` gave."""

    def next_event(self) -> EventT_co | None:
        """The next thing that happened, or None."""

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout` if nothing else happens first."""

    def handle_timeout(self, *, now: float) -> None:
        """Time passed. Harmless when called early."""

    @property
    def wants_read(self) -> bool:
        """Whether bytes should be read now. False pauses the transport (backpressure)."""

    @property
    def finished(self) -> bool:
        """The conversation is over and the transport should be closed."""


def require_data(data: Buffer) -> None:
    """Refuse the empty read which some transports use as an end-of-stream mark."""
    if not len(data):
        raise LocalProtocolError("receive_data() got no bytes; report the end with receive_eof()")


def earliest(*deadlines: float | None) -> float | None:
    """The earliest of several optional deadlines."""
    return min([deadline for deadline in deadlines if deadline is not None], default=None)
