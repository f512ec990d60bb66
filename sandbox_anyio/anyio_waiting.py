"""Waiting on whichever loop runs: asyncio and trio alike, through anyio."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel


def deadline_of(until: float | None) -> float:
    """The same moment as anyio spells it."""
    return math.inf if until is None else until


class _Event:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, until: float | None = None) -> None:
        # Else one that is set in this very round would let a task that is cancelled go on.
        await anyio.lowlevel.checkpoint_if_cancelled()
        if until is None:
            await self._event.wait()
            return
        with anyio.CancelScope(deadline=deadline_of(until)):
            await self._event.wait()


class _Interruptible:
    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt


class _Shield:
    expired = False


class AnyioWaiting:
    """anyio's answer to `Waiting`."""

    def event(self) -> _Event:
        return _Event()

    def mutex(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # one loop, one thread

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[_Interruptible]:
        with anyio.CancelScope() as scope:
            yield _Interruptible(scope.cancel)

    @contextlib.contextmanager
    def shielded(self, seconds: float) -> Iterator[_Shield]:
        shield = _Shield()
        with anyio.move_on_after(seconds, shield=True) as scope:
            yield shield
        shield.expired = scope.cancelled_caught
