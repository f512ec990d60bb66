"""A network without sockets, on a clock that jumps: for tests, replay and simulation.

The real client runs on it, in whichever loop its tests run::

    host = ModelHost()
    host.on_command("make", stdout="done", duration=600)
    async with AsyncSandboxClient(
        api_endpoint=host.origin, api_key=host.api_key, network=VirtualNetwork(host)
    ) as client, client.sandbox() as sandbox:
        result = await sandbox.run("make")      # ten minutes, in no time

Time stands still while anybody has something to do. When all who wait on this network wait,
and nothing has happened on it for some passes of the loop, it jumps to the next moment at which
something is due. Nobody sleeps, and nobody spins where nothing is due.
"""

from __future__ import annotations

import contextlib
import errno
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import anyio.lowlevel
import attrs

from sandbox_proto.faults import Fault
from sandbox_proto.machines.base import Buffer
from sandbox_proto.plans.route import Route
from sandbox_proto.testing.virtual_clock import Appointment
from sandbox_proto.testing.virtual_host import VirtualHost
from sandbox_proto.testing.virtual_link import Link
from sandbox_proto.testing.virtual_wires import Trouble, VirtualWires

from .anyio_waiting import AnyioWaiting
from .dialing import too_late
from .network import READ_BYTES, ConnectFailed, Event, Interruptible, Shield, Waiting

# For so many passes of the loop nothing may have happened before time jumps. Tasks that hand
# work to each other by other means than this network need a pass or two for each hand.
IDLE_PASSES = 16

_EPOCH = 1_700_000_000.0


@attrs.define(eq=False)
class _Waiter:
    """Somebody who waits.

    :ivar woken: what was waited for has happened.
    :ivar alarm: what the task sleeps on, unless it keeps the time.
    """

    woken: bool = False
    alarm: Event | None = None

    def wake(self) -> None:
        self.woken = True
        self.stir()

    def stir(self) -> None:
        """Have it look again."""
        if self.alarm is not None:
            self.alarm.set()


@attrs.define
class _VirtualShield:
    expired: bool = False


class VirtualNetwork:
    """See the module's text.

    :param host: who answers every connection, for instance a `ModelHost`.
    :param waiting: how tasks wait for each other; default: on the loop that runs.
    :param faults: what befalls connections; see `sandbox_proto.testing.Faults`.
    :param seed: of the client's own chance: ids and keys.
    :param latency: how long bytes take from one side to the other, in virtual seconds.
    :param entropy: chance from elsewhere, in place of `seed`.
    :ivar wires: the connections, their clock, and what crosses them.
    """

    def __init__(
        self,
        host: VirtualHost,
        *,
        waiting: Waiting | None = None,
        faults: Trouble | None = None,
        seed: int = 0,
        latency: float = 0.0,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        if not 0 <= latency < math.inf:
            raise ValueError(f"latency must be a number of seconds from 0 on, not {latency!r}")
        self.wires = VirtualWires(host, trouble=faults, latency=latency)
        self._waiting: Waiting = waiting or AnyioWaiting()
        self._entropy = entropy or random.Random(seed).randbytes
        self._latency = latency
        self._mutex = self._waiting.mutex()
        self._waiters: dict[_Waiter, None] = {}
        self._keeper: _Waiter | None = None
        self._happenings = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.now():g} s>"

    # --- what is pending --------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """How many connections the client has not closed."""
        return sum(not link.closed for link in self.wires.open_links)

    @property
    def waiters(self) -> int:
        """How many tasks wait on this network."""
        return len(self._waiters)

    # --- the seam: time, chance, waiting ----------------------------------------------

    def now(self) -> float:
        return self.wires.clock.now

    def wall_clock(self) -> float:
        return _EPOCH + self.now()

    def entropy(self, count: int) -> bytes:
        return self._entropy(count)

    async def sleep_until(self, when: float) -> None:
        await self.rest(_Waiter(), when)

    def event(self) -> Event:
        return _VirtualEvent(self)

    def mutex(self) -> AbstractContextManager[object]:
        return self._waiting.mutex()

    def interruptible(self) -> AbstractContextManager[Interruptible]:
        return self._waiting.interruptible()

    @contextlib.contextmanager
    def shielded(self, seconds: float) -> Iterator[Shield]:
        shield = _VirtualShield()
        late = done = False
        with self._waiting.shielded(math.inf), self._waiting.interruptible() as block:

            def expire() -> None:
                nonlocal late
                late = True
                block.interrupt()

            limit = self.at(self.now() + seconds, expire)
            try:
                yield shield
                done = True
            finally:
                limit.cancel()
        shield.expired = late and not done

    def at(self, when: float, deed: Callable[[], object]) -> Appointment:
        """Have something done at a moment; whom it concerns has his say before time goes on.

        :param deed: called without arguments; it must not wait.
        :returns: what can be told to ``cancel()``.
        """

        def act() -> None:
            deed()
            self._happened()

        with self._mutex:
            return self.wires.clock.at(when, act)

    # --- the seam: connections --------------------------------------------------------

    async def connect(self, route: Route, *, until: float | None) -> VirtualStream:
        origin = route.origin
        with self._mutex:
            trouble = self.wires.trouble_of_next(origin)
            opens = self.now() + 2 * self._latency + trouble.delay
        if until is not None and until < opens:
            await self.sleep_until(until)
            raise ConnectFailed(too_late(origin))
        await self.sleep_until(opens)
        with self._mutex:
            link = self.wires.connect(origin, trouble)
            self._happened()
        if isinstance(link, Fault):
            raise ConnectFailed(link)
        return VirtualStream(self, link)

    # --- how time passes --------------------------------------------------------------

    async def rest(self, waiter: _Waiter, until: float | None) -> None:
        """Wait until somebody wakes the waiter, or until a moment. Lets others run at least once.

        Of all who rest, one keeps the time; when he leaves, another takes over.
        """
        if waiter.woken or (until is not None and until <= self.now()):
            await self._pass()
            return
        with self._mutex:
            self._waiters[waiter] = None
            limit = None
            if until is not None and until < math.inf:
                limit = self.wires.clock.at(until, waiter.wake)
            self._happened()
        try:
            while not waiter.woken:
                with self._mutex:
                    keeps = self._keeper is None
                    if keeps:
                        self._keeper = waiter
                    alarm = waiter.alarm = self._waiting.event()
                if keeps:
                    await self._keep_time(waiter)
                else:
                    await alarm.wait()
        finally:
            with self._mutex:
                del self._waiters[waiter]
                if limit is not None:
                    limit.cancel()
                if self._keeper is waiter:
                    self._keeper = None
                if self._keeper is None and self._waiters:
                    next(iter(self._waiters)).stir()

    async def _keep_time(self, keeper: _Waiter) -> None:
        """Let time pass for all, until the keeper is woken himself."""
        idle, seen = 0, -1
        while not keeper.woken:
            await self._pass()
            with self._mutex:
                self.wires.settle()
                if seen != self._happenings:
                    idle, seen = 0, self._happenings
                    continue
                idle += 1
                if idle < IDLE_PASSES:
                    continue
                if self.wires.step():
                    # Whoever was woken is to have his say before time goes on.
                    idle = 0 if any(waiter.woken for waiter in self._waiters) else idle
                    continue
                alarm = keeper.alarm = self._waiting.event()
            await alarm.wait()  # nothing is due: only somebody's deed can change anything

    def _happened(self) -> None:
        """Somebody did something on this network."""
        self._happenings += 1
        if self._keeper is not None:
            self._keeper.stir()

    async def _pass(self) -> None:
        """Let others run once."""
        if isinstance(self._waiting, AnyioWaiting):
            await anyio.lowlevel.checkpoint()
        else:
            await self._waiting.event().wait(-math.inf)


class VirtualStream:
    """One connection, as a `ByteStream`."""

    def __init__(self, network: VirtualNetwork, link: Link) -> None:
        self._network, self._link = network, link
        self._waiters: dict[_Waiter, tuple[bool, bool]] = {}
        link.changed = self._changed

    def try_send(self, data: Buffer) -> int:
        with self._network._mutex:
            self._network._happened()
            try:
                return self._network.wires.send(self._link, data)
            finally:
                self._network.wires.settle()

    def try_flush(self) -> bool:
        return True

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        with self._network._mutex:
            self._network._happened()
            self._network.wires.stir()
            return self._link.receive(max_bytes)

    def try_receive_into(self, buffer: memoryview) -> int | None:
        data = self.try_receive(len(buffer))
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        if self._link.closed:
            await self._network._pass()
            raise OSError(errno.EBADF, "the connection was closed on this side")
        waiter = _Waiter()
        waiter.woken = self._is_ready(readable, writable)
        self._waiters[waiter] = readable, writable
        try:
            await self._network.rest(waiter, until)
        finally:
            del self._waiters[waiter]

    def _is_ready(self, readable: bool, writable: bool) -> bool:
        link = self._link
        return (readable and link.readable) or (writable and link.writable) or link.closed

    def _changed(self) -> None:
        for waiter, (readable, writable) in self._waiters.items():
            if self._is_ready(readable, writable):
                waiter.wake()

    def interrupt(self) -> None:
        with self._network._mutex:
            for waiter in self._waiters:
                waiter.wake()

    def send_eof(self) -> None:
        with self._network._mutex:
            self._network._happened()
            self._link.send_eof()
            self._network.wires.stir()

    def close(self) -> None:
        with self._network._mutex:
            self._network._happened()
            self._link.close()
            self._network.wires.stir()


class _VirtualEvent:
    """Something that happens once."""

    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network
        self._is_set = False
        self._waiters: dict[_Waiter, None] = {}

    def set(self) -> None:
        with self._network._mutex:
            self._is_set = True
            self._network._happened()
            for waiter in self._waiters:
                waiter.wake()

    async def wait(self, until: float | None = None) -> None:
        waiter = _Waiter(self._is_set)
        self._waiters[waiter] = None
        try:
            await self._network.rest(waiter, until)
        finally:
            del self._waiters[waiter]
