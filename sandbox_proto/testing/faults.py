"""What may go wrong on a virtual network, by name, by chance or at every place in turn.

By name, for one test of one thing::

    VirtualNetwork(host, faults=Faults(Drop(after=300, connection=1), Delay(2.0)))

By chance, repeatable by its seed: the numbers are probabilities, per connection::

    VirtualNetwork(host, faults=Faults(seed=7, drop=0.2, refuse=0.05, unavailable=0.05))

At every place in turn, for whatever has to survive any of them::

    for faults in disconnect_at_every_frame():
        await my_scenario(VirtualNetwork(ModelHost(), faults=faults))

What struck is counted in `Faults.struck`, by the names of the keyword arguments.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import attrs

from ..faults import Fault, FaultKind
from ..wire.urls import Origin
from .troubled_peers import ExitLosingPeer, ReloadingPeer, UnavailablePeer
from .virtual_host import Peer
from .virtual_link import Crossing, Cut, End, LaneTrouble, LinkTrouble

Direction = Literal["up", "down"]
Struck = Callable[[], object]
Wrap = Callable[[Peer], Peer]


class NamedFault(Protocol):
    """One thing that goes wrong.

    :ivar connection: with the connection of this number only, from 0; None: with every one.
    """

    @property
    def name(self) -> str:
        """How it is counted."""

    @property
    def connection(self) -> int | None:
        """See the class."""

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        """Add it to what befalls a connection already; `struck` is called when it happens."""


def _lane(trouble: LinkTrouble, direction: Direction, lane: LaneTrouble) -> LinkTrouble:
    if direction == "up":
        return attrs.evolve(trouble, up=lane)
    return attrs.evolve(trouble, down=lane)


def _wrapped(trouble: LinkTrouble, wrap: Wrap) -> LinkTrouble:
    before = trouble.wrap
    return attrs.evolve(trouble, wrap=wrap if before is None else lambda peer: wrap(before(peer)))


@attrs.frozen
class Drop:
    """The connection ends after some bytes: reset, or in order (`how`).

    :ivar after: how many bytes still arrive.
    :ivar direction: in which direction they are counted.
    """

    after: int
    direction: Direction = "down"
    how: End = End.RST
    connection: int | None = None
    name = "drop"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        lane = getattr(trouble, self.direction)
        if lane.after is not None and lane.after <= self.after:
            return trouble
        lane = attrs.evolve(lane, after=self.after, how=self.how, struck=struck)
        return _lane(trouble, self.direction, lane)


@attrs.frozen
class HalfOpen:
    """After some bytes nothing arrives any more, in either direction, and nobody says so.

    :ivar after: how many bytes of the host's still arrive.
    """

    after: int = 0
    connection: int | None = None
    name = "half_open"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        return Drop(self.after, how=End.SILENCE).befall(trouble, struck)


@attrs.frozen
class Delay:
    """Bytes take longer.

    :ivar seconds: by how much.
    :ivar direction: in which direction; None: in both.
    """

    seconds: float
    direction: Direction | None = None
    connection: int | None = None
    name = "delay"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        struck()
        for direction in ("up", "down"):
            if self.direction in (None, direction):
                lane = getattr(trouble, direction)
                lane = attrs.evolve(lane, delay=lane.delay + self.seconds)
                trouble = _lane(trouble, direction, lane)
        return trouble


@attrs.frozen
class Split:
    """Bytes arrive in small pieces.

    :ivar size: how many bytes a piece has at most, from 1.
    :ivar gap: seconds between two pieces of what was sent together.
    :ivar first: so many bytes are split, what follows is not; None: all are.
    :ivar direction: in which direction; None: in both.
    """

    size: int = attrs.field(validator=attrs.validators.ge(1))
    gap: float = 0.0
    first: int | None = None
    direction: Direction | None = None
    connection: int | None = None
    name = "split"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        struck()
        for direction in ("up", "down"):
            if self.direction in (None, direction):
                lane = getattr(trouble, direction)
                lane = attrs.evolve(lane, split=self.size, splits=self.first, gap=self.gap)
                trouble = _lane(trouble, direction, lane)
        return trouble


@attrs.frozen
class Refuse:
    """There is no connection: the host's machine refuses it."""

    connection: int | None = None
    name = "refuse"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        struck()
        fault = Fault(FaultKind.UNREACHABLE, "cannot connect to the host: Connection refused")
        return attrs.evolve(trouble, refuse=fault)


@attrs.frozen
class SlowConnect:
    """The connection takes its time to open.

    :ivar seconds: how long; infinity: it never opens, and nobody says why.
    """

    seconds: float
    connection: int | None = None
    name = "slow_connect"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        struck()
        return attrs.evolve(trouble, delay=trouble.delay + self.seconds)


@attrs.frozen
class Unavailable:
    """One request is answered with 503, and the connection closed.

    :ivar executed: whether it was carried out all the same.
    :ivar request: which request of the connection, from 0.
    """

    executed: bool = False
    request: int = 0
    connection: int | None = None

    @property
    def name(self) -> str:
        return "unavailable_after" if self.executed else "unavailable"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        wrap = functools.partial(
            UnavailablePeer, struck=struck, request=self.request, executed=self.executed
        )
        return _wrapped(trouble, wrap)


@attrs.frozen
class LoseExit:
    """A command's end is not told: the connection ends in its place."""

    connection: int | None = None
    name = "lose_exit"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        return _wrapped(trouble, functools.partial(ExitLosingPeer, struck=struck))


@attrs.frozen
class Reload:
    """A WebSocket is closed with 1001, as when the host is replaced.

    :ivar frames: how many frames of the host's are carried before.
    """

    frames: int = 1
    connection: int | None = None
    name = "reload"

    def befall(self, trouble: LinkTrouble, struck: Struck) -> LinkTrouble:
        wrap = functools.partial(ReloadingPeer, struck=struck, frames=self.frames)
        return _wrapped(trouble, wrap)


RATES = (
    "refuse",
    "slow_connect",
    "half_open",
    "drop",
    "delay",
    "split",
    "unavailable",
    "unavailable_after",
    "lose_exit",
    "reload",
)


class Faults:
    """What goes wrong on one virtual network. May be used for several, one after the other.

    :param named: what goes wrong in any case.
    :param seed: of the chance by which the rest does.
    :param rates: the probability of each kind, per connection, from 0 to 1; names as in `RATES`.
    :ivar struck: how often each kind has happened.
    :ivar crossings: how many crossings there were in the longest run so far.
    """

    def __init__(self, *named: NamedFault, seed: int = 0, **rates: float) -> None:
        for name, rate in rates.items():
            if name not in RATES:
                raise ValueError(f"there is no fault {name!r}; there are: {', '.join(RATES)}")
            if not 0 <= rate <= 1:
                raise ValueError(f"the rate of {name} must be from 0 to 1, not {rate!r}")
        self.struck: Counter[str] = Counter()
        self.crossings = 0
        self._named, self._seed, self._rates = named, seed, rates
        self._cut: tuple[int, Cut] | None = None
        self._over = False

    @classmethod
    def disconnect_at(cls, frame: int, cut: Cut | None = None) -> Faults:
        """The connection on which the crossing of this number happens ends there.

        :param cut: how; default: by a reset, before the first byte of it.
        """
        faults = cls()
        faults._cut = frame, cut or Cut()
        return faults

    def __repr__(self) -> str:
        if self._cut is not None:
            frame, cut = self._cut
            return f"<disconnect at frame {frame}, byte {cut.after}, {cut.how.value}>"
        rates = "".join(f", {name}={rate:g}" for name, rate in self._rates.items())
        named = "".join(f"{fault!r}, " for fault in self._named)
        return f"Faults({named}seed={self._seed}{rates})"

    def end(self) -> None:
        """Nothing befalls connections that are opened from now on."""
        self._over = True

    def connecting(self, number: int, origin: Origin) -> LinkTrouble:
        """What befalls the connection of this number."""
        trouble = LinkTrouble()
        if self._over:
            return trouble
        for fault in (*self._named, *self._drawn(number)):
            if fault.connection in (None, number):
                struck = functools.partial(self._note, fault.name)
                trouble = fault.befall(trouble, struck)
        return trouble

    def crossing(self, crossing: Crossing) -> Cut | None:
        """Whether the connection ends here."""
        self.crossings = max(self.crossings, crossing.number + 1)
        if self._cut is None or self._cut[0] != crossing.number:
            return None
        self._note("drop" if self._cut[1].how is not End.SILENCE else "half_open")
        return self._cut[1]

    def _note(self, name: str) -> None:
        self.struck[name] += 1

    def _drawn(self, number: int) -> Iterator[NamedFault]:
        if not self._rates:
            return
        # One source for each connection: what befalls it does not depend on the others.
        chance = random.Random(f"{self._seed}/{number}")
        for name in RATES:
            strikes = chance.random() < self._rates.get(name, 0.0)
            fault = self._draw(name, chance)
            if strikes:
                yield fault

    def _draw(self, name: str, chance: random.Random) -> NamedFault:
        """One fault of a kind, with the numbers that make it hurt at different places."""
        draw = chance.random
        size = int(10 ** (4.5 * draw()))  # from one byte on, and most of them early
        seconds = 20 * draw() ** 4
        way: Direction = "up" if draw() < 0.5 else "down"
        how = End.FIN if draw() < 0.5 else End.RST
        request = int(4 * draw() ** 2)
        match name:
            case "refuse":
                return Refuse()
            case "slow_connect":
                return SlowConnect(seconds)
            case "half_open":
                return HalfOpen(size)
            case "drop":
                return Drop(size, way, how)
            case "delay":
                return Delay(seconds / 4, way)
            case "split":
                return Split(1 + size // 16, seconds / 1000 if size > 2000 else 0.0, first=8000)
            case "unavailable":
                return Unavailable(request=request)
            case "unavailable_after":
                return Unavailable(executed=True, request=request)
            case "lose_exit":
                return LoseExit()
        return Reload(request)


def disconnect_at_every_frame(
    *, how: End = End.RST, frames: int | None = None, step: int = 1
) -> Iterator[Faults]:
    """One `Faults` after the other, each ending a connection at the next frame, either way.

    A frame is what one side sends in one go: a WebSocket frame, a request, a piece of an answer.

    Without `frames` the first one does nothing but count, so it must have been used before the
    next is asked for::

        for faults in disconnect_at_every_frame():
            await my_scenario(VirtualNetwork(ModelHost(), faults=faults))

    With `frames` it suits parametrisation; where there are fewer frames, the rest does nothing::

        @pytest.mark.parametrize("faults", list(disconnect_at_every_frame(frames=60)), ids=repr)

    :param how: how the connection ends.
    :param frames: at how many frames; default: all there are.
    :param step: every how manieth frame.
    :raises ValueError: the first was not used, so that nothing was counted.
    """
    if frames is None:
        counting = Faults()
        yield counting
        if not counting.crossings:
            text = "nothing was counted: use what is yielded as `faults` of a VirtualNetwork"
            raise ValueError(text)
        frames = counting.crossings
    for frame in range(0, frames, step):
        yield Faults.disconnect_at(frame, Cut(how))


def disconnect_at_every_byte(*, how: End = End.RST, step: int = 1) -> Iterator[Faults]:
    """Like `disconnect_at_every_frame` without `frames`, but at every byte of every frame.

    :param step: every how manieth byte.
    :raises ValueError: the first was not used, so that nothing was counted.
    """
    sizes: list[int] = []
    counting = _Weighing(sizes)
    yield counting
    if not sizes:
        raise ValueError("nothing was counted: use what is yielded as `faults` of a VirtualNetwork")
    at = 0
    for frame, size in enumerate(sizes):
        while at < size:
            yield Faults.disconnect_at(frame, Cut(how, at))
            at += step
        at -= size


class _Weighing(Faults):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self._sizes = sizes

    def crossing(self, crossing: Crossing) -> Cut | None:
        self._sizes.append(len(crossing.data))
        return super().crossing(crossing)
