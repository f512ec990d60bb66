"""The I/O seam: all that the drivers and the client need of the outside world.

Everything above this seam is written once and runs on whatever implements it: asyncio
and trio (`anyio_network`), plain blocking sockets (the synchronous face), an in-memory
network (tests), or a stranger's loop.

A stream moves bytes only in calls that do not wait, and waits only in the one call that
moves none. So a cancelled caller never tears a frame or loses a byte.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from sandbox_proto.faults import Fault
from sandbox_proto.machines.base import Buffer
from sandbox_proto.plans.route import Route

READ_BYTES = 256 * 1024


class ByteStream(Protocol):
    """One connection. All failures are `OSError`; the end of the stream is empty bytes."""

    def try_send(self, data: Buffer) -> int:
        """Take as many bytes as possible without waiting; 0 when none can be taken now."""

    def try_flush(self) -> bool:
        """Hand on what was taken but is still held here; whether nothing is held any more."""

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        """The bytes that are there now: empty at the end of the stream, None if there are none."""

    def try_receive_into(self, buffer: memoryview) -> int | None:
        """Like `try_receive`, into the caller's buffer; the number of bytes written."""

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        """Wait until something may be received or sent, or until a moment of `Network.now`.

        Lets others run at least once. May return early: try, and wait again.
        """

    def interrupt(self) -> None:
        """Make a `wait` that is going on return."""

    def send_eof(self) -> None:
        """Shut the sending side down, where the transport can; else do nothing."""

    def close(self) -> None:
        """Close at once. Whoever waits on the stream gets an OSError, now or when they try."""


def is_silent(stream: ByteStream) -> bool:
    """Whether nothing has come on a connection that nobody uses: not even its end."""
    try:
        return stream.try_receive(1) is None
    except OSError:
        return False


class Event(Protocol):
    """Something that happens once."""

    def set(self) -> None:
        """It happens: wake everybody who waits."""

    async def wait(self, until: float | None = None) -> None:
        """Wait for it, or until a moment of `Network.now`."""


class Interruptible(Protocol):
    """A stretch of waiting that somebody else can end."""

    @property
    def interrupt(self) -> Callable[[], None]:
        """End it: whoever waits in it goes on behind it."""


class Shield(Protocol):
    """A stretch of work that cancellation does not reach, but time does."""

    expired: bool
    """Whether the time was up before the work was done; known after the block."""


class Waiting(Protocol):
    """How tasks (or threads) wait for each other."""

    def event(self) -> Event:
        """A new event."""

    def mutex(self) -> AbstractContextManager[object]:
        """A new lock for stretches that do not wait, where threads meet; else nothing at all."""

    def interruptible(self) -> AbstractContextManager[Interruptible]:
        """A block whose waiting can be ended from outside of it, without an error."""

    def shielded(self, seconds: float) -> AbstractContextManager[Shield]:
        """Work that must be done although its task is being cancelled, for so long at most."""


class Network(Waiting, Protocol):
    """Where connections, time, chance and waiting come from."""

    def now(self) -> float:
        """The monotonic clock, in seconds."""

    def wall_clock(self) -> float:
        """Seconds since the epoch; only for ids that carry a date."""

    def entropy(self, count: int) -> bytes:
        """`count` unpredictable bytes."""

    async def sleep_until(self, when: float) -> None:
        """Sleep until `now() >= when`."""

    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        """Open a connection, through proxy and TLS as the route and its origin demand.

        :raises ConnectFailed: it could not be opened, or not by then.
        """


class ConnectFailed(Exception):
    """No connection could be made; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault
