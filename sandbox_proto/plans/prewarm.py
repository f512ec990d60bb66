"""How many opened sockets stand ready for the commands to come, where, and for how long.

a command begins in a sandbox   its sandbox is busy for `BUSY` seconds
busy, and some are missing      `openings` names it, once for each
opened                          it stands ready for `READY` seconds: less than any server
                                waits for a word, or for an answer to its pings
a command takes one             it is gone from here
its time is over                `expired` names it, to be closed
it could not be opened          nothing is tried there for `PAUSE` seconds
"""

from __future__ import annotations

from collections import deque

import attrs

BUSY = 60.0
READY = 15.0
PAUSE = 60.0
MOST = 16
"""The largest number for one sandbox."""
MOST_TOGETHER = 64
"""The largest number for all sandboxes of a client."""


@attrs.frozen
class Destination:
    """Where a socket leads to: one opened for another destination will not do.

    :ivar base: the data plane's base URL.
    """

    base: str
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)


@attrs.define
class _Ready:
    busy_until: float
    paused_until: float = float("-inf")
    opening: int = 0
    sockets: deque[tuple[int, float]] = attrs.field(factory=deque)
    """Numbers, and until when; the oldest first."""


class PrewarmPlan:
    """See the module's text. Act on `openings` and `expired` whenever something changed."""

    def __init__(self, count: int) -> None:
        """
        :param count: how many are to stand ready for each busy sandbox, 0 to `MOST`.
        :raises ValueError: it is not that.
        """
        if type(count) is not int or not 0 <= count <= MOST:
            raise ValueError(f"prewarm must be a whole number from 0 to {MOST}, not {count!r}")
        self.count = count
        self._destinations: dict[Destination, _Ready] = {}
        self._next_number = 0

    def used(self, destination: Destination, *, now: float) -> None:
        """A command begins there."""
        known = self._destinations.setdefault(destination, _Ready(now))
        known.busy_until = now + BUSY

    def take(self, destination: Destination, *, now: float) -> int | None:
        """The socket that was opened last, for a command; None: there is none."""
        known = self._destinations.get(destination)
        if known is None or not known.sockets or known.sockets[-1][1] <= now:
            return None
        return known.sockets.pop()[0]

    def openings(self, *, now: float) -> list[Destination]:
        """Where to open sockets now; each is answered by `opened` or `failed`."""
        wanted = []
        for destination, known in self._destinations.items():
            if now >= known.busy_until or now < known.paused_until:
                continue
            while (
                known.opening + len(known.sockets) < self.count and self._together < MOST_TOGETHER
            ):
                known.opening += 1
                wanted.append(destination)
        return wanted

    def opened(self, destination: Destination, *, now: float) -> int:
        """One stands ready. Returns its number."""
        known = self._destinations[destination]
        known.opening -= 1
        number, self._next_number = self._next_number, self._next_number + 1
        known.sockets.append((number, now + READY))
        return number

    def failed(self, destination: Destination, *, now: float) -> None:
        """One could not be opened."""
        known = self._destinations[destination]
        known.opening -= 1
        known.paused_until = now + PAUSE

    def expired(self, *, now: float) -> list[int]:
        """The numbers of the sockets that are to be closed."""
        over = []
        for destination, known in list(self._destinations.items()):
            while known.sockets and known.sockets[0][1] <= now:
                over.append(known.sockets.popleft()[0])
            if not known.sockets and not known.opening and now >= known.busy_until:
                del self._destinations[destination]
        return over

    def next_deadline(self, *, now: float) -> float | None:
        """When to look at `openings` and `expired` again, if nothing happens before."""
        moments: list[float] = []
        for known in self._destinations.values():
            moments += (until for _, until in known.sockets)
            moments += (known.busy_until, known.paused_until)
        return min((moment for moment in moments if moment > now), default=None)

    @property
    def _together(self) -> int:
        return sum(known.opening + len(known.sockets) for known in self._destinations.values())
