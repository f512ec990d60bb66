"""How much a peer may send: windows by what was consumed, growing with the round trip.

A stream moves one window in each round trip. So a window that is used up within a few
round trips is what limits the stream, and is doubled; one that lasts longer is large enough.
What all windows of a session have beyond the protocol's first 256 KiB comes out of one
budget, and goes back into it with the stream.
"""

from __future__ import annotations

import attrs

from .yamux_frames import INITIAL_WINDOW

# A window that lasts for fewer round trips than this is doubled.
_ROUND_TRIPS = 4
# Credit is given back once this part of the window was consumed. Not later: a peer that
# stalls for want of it loses a round trip.
_GRANT_PART = 4


@attrs.define
class WindowBudget:
    """What the windows of a session may have beyond their first 256 KiB, in bytes.

    :ivar left: what is not given out.
    """

    left: int

    def take(self, wanted: int) -> int:
        """As much of this as there is."""
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


class ReceiveWindow:
    """The window of one stream in the direction towards us.

    :ivar size: how much may be on its way or waiting here, in bytes.
    """

    def __init__(self, budget: WindowBudget, first: int, most: int, *, now: float) -> None:
        """
        :param first: its size at the beginning, if the budget allows.
        :param most: the size beyond which it does not grow.
        """
        self._budget, self._most = budget, max(most, INITIAL_WINDOW)
        self.size = INITIAL_WINDOW + budget.take(max(first - INITIAL_WINDOW, 0))
        self._allowed = INITIAL_WINDOW  # what the peer may still send
        self._held = 0  # what came and was not consumed
        self._epoch_start, self._epoch_bytes = now, 0

    def opening_grant(self) -> int:
        """What to grant beyond the first 256 KiB, with the frame that opens or accepts."""
        grant, self._allowed = self.size - self._allowed, self.size
        return grant

    def announced(self, count: int) -> bool:
        """A frame announces so many bytes. Returns whether it may."""
        if count > self._allowed:
            return False
        self._allowed -= count
        self._held += count
        return True

    def consumed(self, count: int, *, round_trip: float | None, now: float) -> int:
        """So many bytes were consumed. Returns the credit to give for it now, often 0."""
        self._held -= count
        if not self._epoch_bytes:
            # The clock begins with the first bytes of a window: a pause before is no slowness.
            self._epoch_start = now
        self._epoch_bytes += count
        if self._epoch_bytes >= self.size:
            lasted, self._epoch_bytes = now - self._epoch_start, 0
            if round_trip is not None and lasted < _ROUND_TRIPS * round_trip:
                self.size += self._budget.take(min(self.size, max(self._most - self.size, 0)))
        credit = self.size - self._allowed - self._held
        if credit * _GRANT_PART < self.size:
            return 0
        self._allowed += credit
        return credit

    def close(self) -> None:
        """Give back what came out of the budget."""
        self._budget.left += self.size - INITIAL_WINDOW
        self.size = INITIAL_WINDOW
