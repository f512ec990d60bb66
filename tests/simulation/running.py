"""One seed, from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import attrs

from sandbox_anyio.replaying import beside, load_trace
from sandbox_proto.trace import verify

from .client import User
from .ledger import Ledger
from .world import Warnings, World

LOGGERS = "sandbox_anyio"


@attrs.frozen
class Run:
    """What one seed has shown.

    :ivar hours: how long it was, in virtual hours.
    :ivar digest: stands for everything that happened, in its order.
    """

    seed: int
    weather: str
    ledger: Ledger
    struck: Counter[str]
    hours: float
    seconds: float
    digest: str
    story: list[str]


def run_seed(seed: int, *, users: int = 3, steps: int = 10, record: str | None = None) -> Run:
    """Let a world of this seed run to its end, on a fresh asyncio loop.

    :param record: the beginning of the names of trace files, one for each client. A recorded
        world is another one than the unrecorded of its seed: ids are drawn otherwise.
    """
    began = time.perf_counter()
    world = World(seed)
    warnings = Warnings(world)
    logger = logging.getLogger(LOGGERS)
    logger.addHandler(warnings)
    propagates, logger.propagate = logger.propagate, False
    try:
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(
                lambda loop, context: world.ledger.check("errors", False, str(context))
            )
            runner.run(_live(world, users, steps, record))
    finally:
        logger.removeHandler(warnings)
        logger.propagate = propagates
    if record is not None:
        _check_traces(world.ledger, Path(record))
    return Run(
        seed,
        world.weather,
        world.ledger,
        world.faults.struck,
        world.now / 3600,
        time.perf_counter() - began,
        world.digest,
        world.story,
    )


def _check_traces(ledger: Ledger, prefix: Path) -> None:
    """Done again, every trace gives the same."""
    for path in sorted(prefix.parent.glob(f"{prefix.name}-*.jsonl")):
        found = verify(load_trace(path), beside(path))
        text = f"{path}: {found.difference}"
        ledger.check("trace done again", found.difference is None, text)


async def _live(world: World, users: int, steps: int, record: str | None) -> None:
    async with anyio.create_task_group() as tasks:
        if not world.harmless:
            tasks.start_soon(world.weather_turns)
        async with anyio.create_task_group() as working:
            for number in range(users):
                user: Any = User(world, number, record=record)
                working.start_soon(user.live, steps)
        tasks.cancel_scope.cancel()
    await world.aftermath()
    world.check_tasks(1)
