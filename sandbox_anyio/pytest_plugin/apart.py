"""Doing something asynchronous where a fixture cannot wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

T = TypeVar("T")


def run_apart(work: Callable[[], Awaitable[T]]) -> T:
    """Run it in a loop and a thread of its own, and wait for it here.

    So it does not matter whether a loop runs in this thread, nor which. Sockets of ours belong
    to no loop while nobody waits on them: what one loop connected another goes on to use.
    """

    async def run() -> T:
        return await work()

    with ThreadPoolExecutor(1, thread_name_prefix="sandbox fixture") as executor:
        return executor.submit(anyio.run, run).result()
