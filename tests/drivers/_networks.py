"""Networks for driver tests: the real one, with its clock, its count or its callers changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox_anyio.anyio_network import AnyioNetwork
from sandbox_anyio.network import ByteStream
from sandbox_proto.plans.route import Route

# How commands are spoken to. All tests of commands over bad connections run for each of these.
TRANSPORTS = ["websocket", "sse"]


class Wrapped:
    """Something of a network, with some of its methods replaced by those of a subclass."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class HastyNetwork(AnyioNetwork):
    """Its clock runs some times as fast, so that backoffs and limits are over sooner.

    :param speed: how many times as fast.
    """

    def __init__(self, speed: float, **settings: Any) -> None:
        super().__init__(**settings)
        self._speed = speed

    def _real(self, when: float | None) -> float | None:
        return None if when is None else when / self._speed

    def now(self) -> float:
        return super().now() * self._speed

    async def sleep_until(self, when: float) -> None:
        await super().sleep_until(when / self._speed)

    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        stream = await super().connect(route, until=self._real(until))
        return _HastyStream(stream, self._real)  # type: ignore[return-value]

    def event(self) -> Any:
        return _HastyEvent(super().event(), self._real)


class _HastyStream(Wrapped):
    def __init__(self, inner: Any, real: Callable[[float | None], float | None]) -> None:
        super().__init__(inner)
        self._real = real

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        await self._inner.wait(readable=readable, writable=writable, until=self._real(until))


class _HastyEvent(Wrapped):
    def __init__(self, inner: Any, real: Callable[[float | None], float | None]) -> None:
        super().__init__(inner)
        self._real = real

    async def wait(self, until: float | None = None) -> None:
        await self._inner.wait(self._real(until))


class CountingNetwork(AnyioNetwork):
    """Counts the places where its caller waits, and does something at one of them.

    Arm it with `strike`. It counts what it is asked to wait for from then on: connections,
    streams, events, moments.

    :ivar reached: how many places were reached since it was armed.
    :ivar places: what kind each of them was.
    :ivar open_streams: how many connections are open.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.reached = 0
        self.places: list[str] = []
        self.open_streams = 0
        self._strike_at: int | None = None
        self._deed: Callable[[], object] = lambda: None
        self._whose: Callable[[], bool] = lambda: True

    def strike(
        self, at: int, deed: Callable[[], object], whose: Callable[[], bool] = lambda: True
    ) -> None:
        """Do the deed when the place of this number is reached, before the waiting begins.

        :param whose: whether the present task's places count.
        """
        self.reached, self.places = 0, []
        self._strike_at, self._deed, self._whose = at, deed, whose

    @property
    def struck(self) -> bool:
        """Whether the place was reached."""
        return self._strike_at is not None and self.reached >= self._strike_at

    def disarm(self) -> None:
        """Count no more."""
        self._strike_at = None

    def note(self, place: str) -> None:
        """A place where somebody is about to wait."""
        if self._strike_at is None or not self._whose():
            return
        self.reached += 1
        self.places.append(place)
        if self.reached == self._strike_at:
            self._deed()

    async def sleep_until(self, when: float) -> None:
        self.note("sleep")
        await super().sleep_until(when)

    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        self.note("connect")
        stream = await super().connect(route, until=until)
        self.open_streams += 1
        return _CountedStream(stream, self)  # type: ignore[return-value]

    def event(self) -> Any:
        return _CountedEvent(super().event(), self)


class _CountedStream(Wrapped):
    def __init__(self, inner: Any, network: CountingNetwork) -> None:
        super().__init__(inner)
        self._network = network
        self._closed = False

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        self._network.note("stream")
        await self._inner.wait(readable=readable, writable=writable, until=until)

    def close(self) -> None:
        self._inner.close()
        if not self._closed:
            self._closed = True
            self._network.open_streams -= 1


class _CountedEvent(Wrapped):
    def __init__(self, inner: Any, network: CountingNetwork) -> None:
        super().__init__(inner)
        self._network = network

    async def wait(self, until: float | None = None) -> None:
        self._network.note("event")
        await self._inner.wait(until)
