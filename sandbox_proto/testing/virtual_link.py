"""One connection on a virtual network: two lanes, and what may befall them.

A lane is one direction. It carries bytes in order, as late and in such pieces as it is told,
and ends in one of three ways: in order, by a reset, or not at all (silence).
"""

from __future__ import annotations

import enum
import errno
import functools
from collections.abc import Callable

import attrs

from ..faults import Fault
from ..machines.base import Buffer, Output
from ..machines.byte_queue import ByteQueue
from .virtual_clock import VirtualClock
from .virtual_host import Peer

# How much may be under way, or lie unread, in one direction: as the kernel's buffers would have it.
ROOM = 256 * 1024

# After so many seconds of silence the host's machine gives a connection up.
KEEPALIVE = 60.0


class End(enum.Enum):
    """How a connection ends."""

    FIN = "fin"
    """In order, as when its process closes it."""
    RST = "rst"
    """By a reset, as when its process dies or its machine restarts."""
    SILENCE = "silence"
    """Not at all: nothing arrives any more, and nobody says so (half-open)."""


@attrs.frozen(kw_only=True)
class LaneTrouble:
    """What befalls one direction of one connection.

    :ivar after: after so many bytes the whole connection ends; None: it does not.
    :ivar how: how it ends then.
    :ivar delay: how much longer bytes take, in seconds.
    :ivar split: no more than so many bytes arrive at once; None: all that were sent together.
    :ivar splits: so many bytes are split, what follows is not; None: all are.
    :ivar gap: seconds between two pieces of what was split.
    :ivar struck: called when it ends.
    """

    after: int | None = None
    how: End = End.RST
    delay: float = 0.0
    split: int | None = None
    splits: int | None = None
    gap: float = 0.0
    struck: Callable[[], object] = attrs.field(default=lambda: None, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class LinkTrouble:
    """What befalls one connection.

    :ivar refuse: why there is none; None: there is one.
    :ivar delay: how much longer it takes to open, in seconds; infinity: for ever.
    :ivar up: on the way to the host.
    :ivar down: on the way to the client.
    :ivar wrap: what stands before the host's end, if anything does.
    """

    refuse: Fault | None = None
    delay: float = 0.0
    up: LaneTrouble = LaneTrouble()
    down: LaneTrouble = LaneTrouble()
    wrap: Callable[[Peer], Peer] | None = None


@attrs.frozen
class Crossing:
    """Bytes that one side has sent in one go: as a rule a frame, a request or an answer.

    :ivar number: the place of this crossing among all of its network, from 0.
    :ivar connection: the number of the connection, from 0.
    :ivar up: whether the client has sent them.
    :ivar data: the bytes.
    :ivar now: when.
    """

    number: int
    connection: int
    up: bool
    data: bytes
    now: float


@attrs.frozen
class Cut:
    """The end of a connection amid a crossing.

    :ivar how: how it ends.
    :ivar after: after so many bytes of the crossing.
    """

    how: End = End.RST
    after: int = 0


class _Lane:
    """One direction.

    :ivar under_way: how many bytes have not arrived.
    """

    def __init__(
        self,
        clock: VirtualClock,
        latency: float,
        trouble: LaneTrouble,
        arrive: Callable[[bytes], None],
        ended: Callable[[End], None],
    ) -> None:
        self._clock, self._trouble = clock, trouble
        self._latency = latency + trouble.delay
        self._left = trouble.after
        self._arrive, self._ended = arrive, ended
        self._busy_until = 0.0
        self._travelling = 0
        self._shut = False
        self._carried = 0
        self.under_way = 0

    def put(self, data: bytes) -> None:
        """Bytes set out."""
        step = self._step(data)
        for start in range(0, len(data), step):
            if self._shut:
                self.under_way += len(data) - start if self._trouble.how is End.SILENCE else 0
                return
            piece = data[start : start + step]
            cut = self._left is not None and len(piece) >= self._left
            if self._left is not None:
                piece = piece[: self._left]
                self._left -= len(piece)
            if piece:
                self.under_way += len(piece)
                self._send(functools.partial(self._deliver, piece), gap=start > 0)
            if cut:
                self._trouble.struck()
                self.end(self._trouble.how)

    def _step(self, data: bytes) -> int:
        self._carried += len(data)
        splits = self._trouble.splits
        if self._trouble.split is None or (splits is not None and self._carried > splits):
            return len(data)
        return self._trouble.split

    def end(self, how: End) -> None:
        """Nothing more sets out."""
        if not self._shut:
            self._shut = True
            self._send(functools.partial(self._ended, how))

    def _send(self, act: Callable[[], None], *, gap: bool = False) -> None:
        when = max(self._clock.now + self._latency, self._busy_until)
        self._busy_until = when = when + (self._trouble.gap if gap else 0.0)
        if when <= self._clock.now and not self._travelling:
            act()
            return
        self._travelling += 1
        self._clock.at(when, functools.partial(self._come, act))

    def _come(self, act: Callable[[], None]) -> None:
        self._travelling -= 1
        act()

    def _deliver(self, piece: bytes) -> None:
        self.under_way -= len(piece)
        self._arrive(piece)


class Link:
    """A connection, from the client's side.

    :ivar number: its place among the connections of its network, from 0.
    :ivar over: the host's end is gone, or was told that the client is.
    :ivar changed: called when something arrived or there is room again.
    """

    def __init__(
        self, number: int, peer: Peer, clock: VirtualClock, latency: float, trouble: LinkTrouble
    ) -> None:
        self.number = number
        self.over = False
        self.changed: Callable[[], None] = lambda: None
        self._clock = clock
        self._peer = peer if trouble.wrap is None else trouble.wrap(peer)
        self._most = trouble.down.split if trouble.down.splits is None else None
        self._up = _Lane(clock, latency, trouble.up, self._at_host, self._ended_up)
        self._down = _Lane(clock, latency, trouble.down, self._at_client, self._ended_down)
        self._inbox = ByteQueue()
        self._end: End | None = None
        self._silent = self._closed = self._eof_sent = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number}>"

    # --- the client's side ------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the client has closed it."""
        return self._closed

    @property
    def readable(self) -> bool:
        """Whether there are bytes, or the end, to be received."""
        return bool(self._inbox) or self._end is not None or self._closed

    @property
    def writable(self) -> bool:
        """Whether sending takes bytes, or fails."""
        return self._up.under_way < ROOM or self._end is not None or self._closed

    def room_for(self, data: Buffer) -> bytes:
        """As much of it as `send` takes now.

        :raises OSError: the connection is lost or closed.
        """
        self._check_open()
        if self._end is End.RST or (self._end is not None and self.over):
            raise BrokenPipeError(errno.EPIPE, "the connection was closed by the host")
        return bytes(data[: max(ROOM - self._up.under_way, 0)])

    def send(self, data: bytes) -> None:
        """Send what there is room for."""
        if data:
            self._up.put(data)

    def receive(self, most: int) -> bytes | None:
        """What has arrived: empty at the end, None if nothing has.

        :raises OSError: the connection is lost or closed.
        """
        self._check_open()
        if self._inbox:
            return self._inbox.take(min(most, self._most or most))
        if self._end is End.RST:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was reset by the host")
        return None if self._end is None else b""

    def send_eof(self) -> None:
        """Shut down the sending side.

        :raises OSError: the connection is lost or closed.
        """
        self._check_open()
        if not self._eof_sent:
            self._eof_sent = True
            self._up.end(End.FIN)

    def close(self) -> None:
        """Close at once; the host learns of it when what was sent has arrived."""
        if self._closed:
            return
        self._closed = True
        self._inbox = ByteQueue()
        if self._eof_sent:
            self._clock.at(self._clock.now, self._leave)
        else:
            self._up.end(End.FIN)
        self.changed()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the connection was closed on this side")

    # --- the host's side --------------------------------------------------------------

    def collect(self) -> list[Output]:
        """What the host has to say, as far as there is room for it."""
        if self.over or len(self._inbox) + self._down.under_way >= ROOM:
            return []
        return self._peer.data_to_send(now=self._clock.now)

    def say(self, data: bytes) -> None:
        """Carry what the host has said."""
        if data:
            self._down.put(data)

    def say_eof(self) -> None:
        """The host says nothing more."""
        self._down.end(End.FIN)

    def conclude(self) -> None:
        """The host's output is taken: it may have been its last."""
        if not self.over and self._peer.finished:
            self.over = True
            self._peer.abandon(now=self._clock.now)
            self._down.end(End.FIN)

    def cut(self, how: End) -> None:
        """End it for both sides, behind what is under way."""
        self._up.end(how)
        self._down.end(how)

    def _leave(self) -> None:
        if not self.over:
            self.over = True
            self._peer.abandon(now=self._clock.now)

    # --- arrivals ---------------------------------------------------------------------

    def _at_host(self, data: bytes) -> None:
        if not self.over and not self._silent:
            self._peer.receive_data(data, now=self._clock.now)
            self.changed()

    def _at_client(self, data: bytes) -> None:
        if not self._closed and not self._silent and self._end is None:
            self._inbox.put(data)
            self.changed()

    def _ended_up(self, how: End) -> None:
        """The client's end has arrived at the host, or the line was cut on the way there."""
        if how is End.SILENCE or self._silent:
            self._fall_silent()
            return
        if self.over:
            return
        if how is End.FIN:
            self._peer.receive_eof(now=self._clock.now)
        if not self._eof_sent or self._closed:
            self._leave()
            self._down.end(how)

    def _ended_down(self, how: End) -> None:
        if how is End.SILENCE or self._silent:
            self._fall_silent()
        elif self._end is None:
            self._end = how
            self.changed()
            if how is End.RST:
                self._leave()

    def _fall_silent(self) -> None:
        # The host's kernel notices in the end that nobody is there; the client's would, too,
        # but hours later.
        self._silent = True
        self._clock.at(self._clock.now + KEEPALIVE, self._leave)
