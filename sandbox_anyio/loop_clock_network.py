"""A network without sockets, on the clock of the loop: for tests that bring a clock of their own.

Under ``trio.testing.MockClock(autojump_threshold=0)`` it takes no time to wait, and the program's
own timeouts are measured by the same clock as the sandbox's::

    host = ModelHost()
    host.on_command("make", duration=600)
    async with open_sandbox_client(
        api_endpoint=host.origin, api_key=host.api_key, network=LoopClockNetwork(host)
    ) as client, client.sandbox() as sandbox:
        with trio.move_on_after(300):           # is over at once
            await run_process(sandbox, "make")

`VirtualNetwork` is the same with a clock that jumps by itself, on any loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import anyio

from sandbox_proto.machines.base import earliest

from .network import Shield
from .virtual_network import VirtualNetwork, _Waiter


class LoopClockNetwork(VirtualNetwork):
    """See the module's text, and `VirtualNetwork` for the arguments."""

    def now(self) -> float:
        return anyio.current_time()

    @contextlib.contextmanager
    def shielded(self, seconds: float) -> Iterator[Shield]:
        with self._waiting.shielded(seconds) as shield:
            yield shield

    async def rest(self, waiter: _Waiter, until: float | None) -> None:
        """Wait until somebody wakes the waiter, or until a moment. Lets others run at least once.

        Whoever wakes lets happen what is due; each sleeps no longer than until then.
        """
        self._catch_up()
        if self._is_up(waiter, until):
            await self._pass()
            return
        self._waiters[waiter] = None
        try:
            while not self._is_up(waiter, until):
                alarm = waiter.alarm = self._waiting.event()
                await alarm.wait(earliest(until, self.wires.next_due()))
                self._catch_up()
        finally:
            del self._waiters[waiter]

    def _is_up(self, waiter: _Waiter, until: float | None) -> bool:
        return waiter.woken or (until is not None and until <= self.now())

    def _catch_up(self) -> None:
        self.wires.clock.move_to(self.now())
        self.wires.settle()

    def _happened(self) -> None:
        super()._happened()
        for waiter in self._waiters:
            waiter.stir()  # something may be due sooner now
