"""A clock that stands still until it is told to move."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import attrs


@attrs.define(eq=False)
class Appointment:
    """Something that is due at a moment.

    :ivar when: the moment.
    """

    when: float
    _act: Callable[[], object] | None

    def cancel(self) -> None:
        """It will not happen. Harmless when it has."""
        self._act = None

    @property
    def cancelled(self) -> bool:
        """Whether it will not happen (or has)."""
        return self._act is None

    def keep(self) -> None:
        """Let it happen, once."""
        act, self._act = self._act, None
        if act is not None:
            act()


class VirtualClock:
    """Virtual seconds, and what is due in them.

        clock = VirtualClock()
        clock.at(5.0, lambda: print("five"))
        clock.move_to(10.0)     # prints; clock.now is 10.0

    What is due at the same moment happens in the order in which it was put down.

    :ivar now: the present moment, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._due: list[tuple[float, int, Appointment]] = []
        self._order = itertools.count()

    def at(self, when: float, act: Callable[[], object]) -> Appointment:
        """Put something down for a moment. In the past means: at the next `move_to`."""
        appointment = Appointment(when, act)
        heapq.heappush(self._due, (when, next(self._order), appointment))
        return appointment

    def next_due(self) -> float | None:
        """The moment of what is due first; None if nothing is."""
        while self._due and self._due[0][2].cancelled:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def move_to(self, when: float) -> None:
        """Let time pass, and let happen what is due until then, each at its moment.

        The clock never goes back: a moment in the past lets happen what is overdue.
        """
        while (due := self.next_due()) is not None and due <= max(when, self.now):
            self.now = max(self.now, due)
            heapq.heappop(self._due)[2].keep()
        self.now = max(self.now, when)
