"""One seed, from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import anyio
import attrs

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
    """Let a world of this seed run to its end, on a fresh asyncio loop."""
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
