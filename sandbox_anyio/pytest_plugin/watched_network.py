"""Any network, and what crosses it is seen.

Its clock goes on when the loop is another: fixtures use a client in a loop of their own, before
the test does in its own, and trio's clock begins anywhere.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Protocol

import attrs
from anyio.lowlevel import RunVar

from sandbox_proto.machines.base import Buffer
from sandbox_proto.plans.route import Route
from sandbox_proto.trace.tape import PlaybackError

from ..network import READ_BYTES, ByteStream, Event, Interruptible, Network, Shield
from ..virtual_network import VirtualNetwork
from .wire_watch import Told, WireWatch


class NetworkBlockedError(RuntimeError):
    """A client wanted to open a connection in a test that may open none."""


class Observer(Told, Protocol):
    """Who sees it."""

    def here(self) -> str:
        """Where in the test we are."""

    def connection_made(self) -> int:
        """A connection was opened; returns its number."""

    def played_badly(self, error: PlaybackError) -> None:
        """The test does something else than its trace."""


class WatchedNetwork:
    """See the module's text.

    :param observer: who sees it.
    :param blocked: why no connection may be opened; None: it may.
    :ivar streams: the connections that are open, and where they were opened.
    """

    def __init__(
        self,
        network: Network,
        observer: Observer,
        blocked: str | None = None,
    ) -> None:
        self._network, self._observer = network, observer
        self._blocked = blocked
        self._virtual = isinstance(network, VirtualNetwork)
        self._offset: RunVar[float] = RunVar("how far the clock is ahead of the loop's")
        self._latest: tuple[float, float] | None = None
        self.streams: dict[WatchedStream, str] = {}

    # --- the clock --------------------------------------------------------------------

    def now(self) -> float:
        now = self._network.now()
        if self._virtual:
            return now
        now += self._ahead(now)
        self._latest = now, time.monotonic()
        return now

    def _ahead(self, inner: float) -> float:
        try:
            return self._offset.get()
        except LookupError:
            offset = 0.0
            if self._latest is not None:
                latest, at = self._latest
                offset = latest + time.monotonic() - at - inner
            self._offset.set(offset)
            return offset

    def inner(self, when: float | None) -> float | None:
        """A moment of this clock, on the clock within."""
        if when is None or self._virtual:
            return when
        return when - self._ahead(self._network.now())

    def wall_clock(self) -> float:
        return self._network.wall_clock()

    def entropy(self, count: int) -> bytes:
        return self._network.entropy(count)

    async def sleep_until(self, when: float) -> None:
        inner = self.inner(when)
        assert inner is not None
        await self._network.sleep_until(inner)

    def event(self) -> Event:
        event = self._network.event()
        return event if self._virtual else _Event(event, self)

    def mutex(self) -> AbstractContextManager[object]:
        return self._network.mutex()

    def interruptible(self) -> AbstractContextManager[Interruptible]:
        return self._network.interruptible()

    def shielded(self, seconds: float) -> AbstractContextManager[Shield]:
        return self._network.shielded(seconds)

    # --- connections ------------------------------------------------------------------

    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        if self._blocked is not None:
            raise NetworkBlockedError(f"a client asks for {route.origin}, but {self._blocked}")
        place = self._observer.here()
        stream = await self._network.connect(route, until=self.inner(until))
        number = self._observer.connection_made()
        watched = WatchedStream(stream, self, WireWatch(self._observer, number))
        self.streams[watched] = place
        return watched

    def differs(self, error: PlaybackError) -> None:
        """The trace that is played knows nothing of this."""
        self._observer.played_badly(error)


@attrs.frozen(eq=False)
class _Event:
    _event: Event
    _network: WatchedNetwork

    def set(self) -> None:
        self._event.set()

    async def wait(self, until: float | None = None) -> None:
        await self._event.wait(self._network.inner(until))


class WatchedStream:
    """One connection of it."""

    def __init__(self, stream: ByteStream, network: WatchedNetwork, wire: WireWatch) -> None:
        self._stream, self._network, self._wire = stream, network, wire

    def try_send(self, data: Buffer) -> int:
        try:
            sent = self._stream.try_send(data)
        except PlaybackError as error:
            self._network.differs(error)
            raise
        if sent:
            self._wire.said(memoryview(data)[:sent])
        return sent

    def try_flush(self) -> bool:
        return self._stream.try_flush()

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        data = self._stream.try_receive(max_bytes)
        if data:
            self._wire.heard(memoryview(data))
        return data

    def try_receive_into(self, buffer: memoryview) -> int | None:
        count = self._stream.try_receive_into(buffer)
        if count:
            with buffer[:count] as heard:  # a buffer that is still looked at cannot grow
                self._wire.heard(heard)
        return count

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        try:
            await self._stream.wait(
                readable=readable, writable=writable, until=self._network.inner(until)
            )
        except PlaybackError as error:
            self._network.differs(error)
            raise

    def interrupt(self) -> None:
        self._stream.interrupt()

    def send_eof(self) -> None:
        self._stream.send_eof()

    def close(self) -> None:
        self._stream.close()
        self._network.streams.pop(self, None)
