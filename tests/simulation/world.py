"""One simulated world: a model host, a network with its weather, and clients at work."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter

import anyio
import attrs

from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.testing import Crossing, Faults, ModelHost

from .ledger import Ledger
from .scripts import script

WEATHERS = ("calm", "breeze", "storm", "lossy", "refusing")
# After so long everything that nobody uses any more must be over, in seconds.
AFTERMATH = 4 * 3600.0


@attrs.define
class Made:
    """What became of one create.

    :ivar excused: faults struck while it went on, or its client was closed.
    """

    outcome: str = "open"
    excused: bool = False
    deleted: bool = False


def draw_weather(chance: random.Random, seed: int) -> tuple[str, Faults]:
    """Faults of one sort or another, by chance."""
    name = chance.choice(WEATHERS)
    rates: dict[str, float] = {}
    if name not in ("calm", "lossy"):
        rates = {"split": 0.3, "delay": 0.2}
    if name == "storm":
        rates |= dict.fromkeys(
            ("drop", "half_open", "unavailable", "unavailable_after", "lose_exit", "reload"), 0.12
        )
        rates |= {"refuse": 0.05, "slow_connect": 0.05}
    elif name == "lossy":
        rates |= {"drop": 0.4, "lose_exit": 0.3, "reload": 0.3}
    elif name == "refusing":
        rates |= {"refuse": 0.3, "unavailable": 0.3, "slow_connect": 0.2, "unavailable_after": 0.2}
    return name, Faults(seed=seed, **rates)


class World:
    """See the module's text.

    :ivar harmless: no fault of this weather loses anything.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"world {seed}")
        self.weather, self.faults = draw_weather(self.chance, seed)
        self.harmless = self.weather in ("calm", "breeze")
        self.host = ModelHost(seed=seed)
        self.host.holds_back = self.chance.random() < 0.8
        self.host.boot_seconds = self.chance.choice((0.0, 0.0, 2.0))
        script(self.host)
        latency = self.chance.choice((0.0, 0.001, 0.03, 0.2))
        self.network = VirtualNetwork(self.host, faults=self.faults, seed=seed, latency=latency)
        self.network.wires.watch = self._watch
        self.ledger = Ledger()
        self.made: dict[str, Made] = {}
        self.story: list[str] = []
        self._seen: set[str] = set()
        self._per_call: Counter[str] = Counter()
        self._digest = hashlib.sha256()
        self._tokens = 0

    @property
    def now(self) -> float:
        return self.network.now()

    @property
    def struck(self) -> int:
        return sum(self.faults.struck.values())

    @property
    def digest(self) -> str:
        """What stands for everything that crossed the network, and for every outcome."""
        return self._digest.hexdigest()

    def token(self) -> str:
        """A word that nobody has used."""
        self._tokens += 1
        return f"t{self._tokens}"

    def tell(self, text: str) -> None:
        """Note something for whoever looks into this seed."""
        line = f"{self.now:12.3f} {text}"
        self.story.append(line)
        self._digest.update(line.encode())

    def _watch(self, crossing: Crossing) -> None:
        self._count_boxes()
        # Masks of WebSocket frames are the library's own chance: of what goes up, only the size.
        seen = len(crossing.data) if crossing.up else crossing.data
        self._digest.update(repr((crossing.connection, crossing.up, seen, crossing.now)).encode())

    def _count_boxes(self) -> None:
        for id, box in self.host.host.boxes.items():
            if id not in self._seen:
                self._seen.add(id)
                call = box.labels.get("call", "?")
                self._per_call[call] += 1
                self.ledger.check(
                    "no create doubled",
                    self._per_call[call] == 1,
                    f"the create {call} has made {self._per_call[call]} sandboxes",
                )

    async def weather_turns(self) -> None:
        """In bad weather the host is replaced now and then."""
        while True:
            await self.network.sleep_until(self.now + self.chance.uniform(20, 400))
            self.host.drain(now=self.now)
            self.network.wires.stir()
            self.tell("the host drains")
            self.ledger.deeds["drain"] += 1
            await self.network.sleep_until(self.now + self.chance.uniform(0.5, 6))
            self.host.accept()

    # --- the end ----------------------------------------------------------------------

    async def aftermath(self) -> None:
        """Everybody has gone: see what is left."""
        self.faults.end()
        network, ledger = self.network, self.ledger
        ledger.check("nothing pending", network.waiters == 0, f"{network.waiters} waiters")
        ledger.check(
            "nothing pending", network.open_streams == 0, f"{network.wires.open_links} open"
        )
        await network.sleep_until(self.now + AFTERMATH)
        host = self.host
        for name in ("attached", "tunnels", "streams"):
            left = getattr(host, name)
            ledger.check("nothing pending", not left, f"the host still has {name}: {left}")
        running = [process.command.message.command for process in host._processes.values()]
        ledger.check("nothing pending", not running, f"still running: {running}")
        links = network.wires.open_links
        ledger.check("nothing pending", not links, f"links: {links}")
        for command, count in Counter(host.runs).items():
            ledger.check("at most once", count == 1, f"{command!r} ran {count} times")
        ledger.check("host", not host.mistakes, f"scripts raised {host.mistakes}")
        self._check_boxes()

    def _check_boxes(self) -> None:
        left = Counter(box.labels.get("call", "?") for box in self.host.host.boxes.values())
        for call, made in self.made.items():
            stays = left[call] > 0
            if made.deleted:
                self.ledger.check("no orphan", not stays, f"{call} was deleted, and is there")
            elif made.outcome != "made":
                text = f"the create {call} ended as {made.outcome}, and left a sandbox behind"
                self.ledger.check_unless(made.excused, "no orphan", not stays, text)

    def check_tasks(self, others: int) -> None:
        """No task outlives its block."""
        tasks = anyio.get_running_tasks()
        text = f"tasks: {[task.name for task in tasks]}"
        self.ledger.check("nothing pending", len(tasks) == others, text)


class Warnings(logging.Handler):
    """Collects what the client warns of."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.tell(f"warning: {record.getMessage()}")
