"""All connections between clients and one host, on one virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import LocalProtocolError
from ..faults import Fault
from ..machines.base import SEND_EOF, Buffer, earliest
from ..wire.urls import Origin
from .virtual_clock import VirtualClock
from .virtual_host import VirtualHost
from .virtual_link import Crossing, Cut, Link, LinkTrouble

# A host that is still busy with one moment after so many rounds will be for ever.
_MAX_ROUNDS = 10_000


class Trouble(Protocol):
    """What befalls connections; see `Faults`."""

    def connecting(self, number: int, origin: Origin) -> LinkTrouble:
        """The connection of this number is asked for."""

    def crossing(self, crossing: Crossing) -> Cut | None:
        """Bytes are about to be carried. Returns where the connection ends, if it does."""


class VirtualWires:
    """See the module's text.

    :param host: who answers.
    :param trouble: what befalls connections.
    :param latency: how long bytes take from one side to the other, in seconds.
    :ivar clock: the time that host and clients share.
    :ivar connections: how many connections were asked for.
    :ivar watch: told of everything that crosses.
    """

    def __init__(
        self,
        host: VirtualHost,
        *,
        trouble: Trouble | None = None,
        latency: float = 0.0,
        clock: VirtualClock | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.connections = 0
        self.watch: Callable[[Crossing], object] = lambda crossing: None
        self._host, self._trouble, self._latency = host, trouble, latency
        self._links: list[Link] = []
        self._crossings = 0
        self._stirred = True

    @property
    def open_links(self) -> list[Link]:
        """The connections that the client has not closed, or the host not given up."""
        self._links = [link for link in self._links if not (link.over and link.closed)]
        return self._links

    # --- connections ------------------------------------------------------------------

    def trouble_of_next(self, origin: Origin) -> LinkTrouble:
        """A connection is asked for: what will befall it."""
        number, self.connections = self.connections, self.connections + 1
        if self._trouble is None:
            return LinkTrouble()
        return self._trouble.connecting(number, origin)

    def connect(self, origin: Origin, trouble: LinkTrouble) -> Link | Fault:
        """Open the connection, or say why there is none."""
        if trouble.refuse is not None:
            return trouble.refuse
        peer = self._host.connect(origin, now=self.clock.now)
        if isinstance(peer, Fault):
            return peer
        link = Link(self.connections - 1, peer, self.clock, self._latency, trouble)
        self._links.append(link)
        self._stirred = True
        return link

    def send(self, link: Link, data: Buffer) -> int:
        """The client sends; returns how many bytes were taken.

        :raises OSError: the connection is lost or closed.
        """
        self._stirred = True
        data = link.room_for(data)
        if not data:
            return 0
        cut = self._cross(link, True, data)
        link.send(data if cut is None else data[: cut.after])
        if cut is not None:
            link.cut(cut.how)
        return len(data)

    def _cross(self, link: Link, up: bool, data: bytes) -> Cut | None:
        crossing = Crossing(self._crossings, link.number, up, data, self.clock.now)
        self._crossings += 1
        self.watch(crossing)
        return None if self._trouble is None else self._trouble.crossing(crossing)

    # --- time -------------------------------------------------------------------------

    def stir(self) -> None:
        """Something happened that the host may have something to say about."""
        self._stirred = True

    @property
    def stirred(self) -> bool:
        """Whether `settle` has something to do."""
        return self._stirred

    def settle(self) -> None:
        """Do what is due this very moment, and carry what the host has to say about it."""
        now = self.clock.now
        for _ in range(_MAX_ROUNDS):
            due = self.next_due()
            overdue = due is not None and due <= now
            if not overdue and not self._stirred:
                return
            self._stirred = False
            if overdue:
                self.clock.move_to(now)
                self._host.handle_timeout(now=now)
            for link in list(self._links):
                self._collect(link)
        raise LocalProtocolError("the host's next deadline stays in the past")

    def _collect(self, link: Link) -> None:
        for chunk in link.collect():
            self._stirred = True
            if chunk is SEND_EOF:
                link.say_eof()
            elif data := bytes(chunk):
                cut = self._cross(link, False, data)
                link.say(data if cut is None else data[: cut.after])
                if cut is not None:
                    link.cut(cut.how)
        link.conclude()
        if link.over and link.closed:
            self._links.remove(link)

    def next_due(self) -> float | None:
        """The next moment at which something happens by itself."""
        return earliest(self.clock.next_due(), self._host.next_deadline())

    def step(self) -> bool:
        """Let time pass to the next moment at which something is due; False if nothing is."""
        due = self.next_due()
        if due is None:
            return False
        self.clock.move_to(due)
        self._host.handle_timeout(now=self.clock.now)
        self._stirred = True
        self.settle()
        return True
