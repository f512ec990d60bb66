"""A wake-up for any number of waiters, again and again."""

from __future__ import annotations

import anyio


class Signal:
    """Take `event` first, then look at the state, then wait: so no change is missed."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def set(self) -> None:
        """Wake everybody who waits now."""
        self.event.set()
        self.event = anyio.Event()
