"""``python -m benchmarks growth``: how cost grows with number and size.

Each curve doubles or tenfolds what is asked for and tells what it costs: seconds of CPU and of
waiting, memory at its peak, file descriptors. A curve counts as straight if the largest step
costs, for each item, no more than `_CROOKED` times what the step of a tenth of it did.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient, PoolLimits, open_local_host

from .chart import Curve, Panel, panels
from .clients import our_client, our_sandbox
from .measuring import MIB, Setting, memory, watched
from .report import seconds
from .servers import standing
from .standin import allow_many_files

_CROOKED = 1.5
_TIMES = 5  # each small step is measured so often; the median counts
_SIZES = [1 << power for power in range(10, 31, 2)]  # 1 KiB to 1 GiB
_NUMBERS = [1, 3, 10, 30, 100, 300, 1000]


@attrs.frozen(kw_only=True)
class Step:
    """What one step of a curve cost, all together.

    :ivar asked: how many or how large.
    :ivar wall: seconds.
    :ivar cpu: seconds of this process.
    :ivar latency: the median of what a single one waited, in seconds.
    :ivar peak: bytes of memory at most, above what there was.
    :ivar files: file descriptors at most.
    """

    asked: int
    wall: float
    cpu: float
    latency: float
    peak: int
    files: int = 0


@attrs.frozen(kw_only=True)
class Growth:
    """One curve."""

    name: str
    across: str
    steps: list[Step]

    def bend(self) -> float:
        """How much more CPU an item costs at the end than at a tenth of it."""
        last = self.steps[-1]
        tenth = min(self.steps, key=lambda step: abs(step.asked - last.asked / 10))
        return (last.cpu / last.asked) / (tenth.cpu / tenth.asked)

    @property
    def straight(self) -> bool:
        """Whether cost grows in step with what is asked for, or slower."""
        return self.bend() <= _CROOKED


async def _measure(asked: int, call: Callable[[], Awaitable[object]]) -> Step:
    await call()
    samples = [await watched(call) for _ in range(1 if asked > 64 * MIB else _TIMES)]
    wall, cpu = (statistics.median(getattr(one, of) for one in samples) for of in ("wall", "cpu"))
    peak = max(one.peak for one in samples)
    return Step(asked=asked, wall=wall, cpu=cpu, latency=wall, peak=peak)


async def _lists(setting: Setting, numbers: list[int], page: int | None) -> list[Step]:
    steps = []
    for number in numbers:
        boxes = f"{number}-{page}" if page else str(number)
        async with our_client(setting, boxes=boxes) as client:

            async def call(client: AsyncSandboxClient = client, number: int = number) -> None:
                assert len(await client.list_sandboxes()) == number

            steps.append(await _measure(number, call))
    return steps


async def _reads(setting: Setting, sizes: list[int]) -> list[Step]:
    steps = []
    async with our_sandbox(setting) as sandbox:
        for size in sizes:

            async def call(size: int = size) -> bytes:
                content = await sandbox.read(f"/zeros-{size}")
                assert len(content) == size
                return content

            steps.append(await _measure(size, call))
    return steps


async def _writes(setting: Setting, sizes: list[int]) -> list[Step]:
    steps = []
    async with our_sandbox(setting) as sandbox:
        for size in sizes:
            content = bytes(size)

            async def call(content: bytes = content) -> None:
                await sandbox.write("/big", content)

            steps.append(await _measure(size, call))
            del content
    return steps


async def _commands(
    sandbox: AsyncSandbox, numbers: list[int], command: Callable[[int], str]
) -> list[Step]:
    """So many commands at a time, all from one client."""
    steps = []
    for number in numbers:
        await _at_a_time(sandbox, number, command(number))  # connections stand, pages are touched
        measured = [await _at_a_time(sandbox, number, command(number)) for _ in range(3)]
        steps.append(sorted(measured, key=lambda step: step.cpu)[1])
    return steps


async def _at_a_time(sandbox: AsyncSandbox, number: int, command: str) -> Step:
    waits: list[float] = []
    files = 0

    async def one() -> None:
        nonlocal files
        began = time.perf_counter()
        result = await sandbox.run(command)
        waits.append(time.perf_counter() - began)
        assert result.success
        if len(waits) == 1:  # the first that is done: the others are still there
            files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    gc.collect()
    before = memory("VmRSS")
    cpu, began = time.process_time(), time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(one)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Step(
        asked=number,
        wall=wall,
        cpu=cpu,
        latency=statistics.median(waits),
        peak=max(memory("VmRSS") - before, 1),
        files=files,
    )


@asynccontextmanager
async def _real_sandbox() -> AsyncIterator[AsyncSandbox]:
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_local_host())
        client = await stack.enter_async_context(
            AsyncSandboxClient(api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False)
        )
        yield await stack.enter_async_context(client.sandbox())


async def measure(setting: Setting, *, small: bool) -> list[Growth]:
    """Every curve."""
    lists = [1, 10, 100] if small else [1, 10, 100, 1000, 10_000]
    sizes = _SIZES[:3] if small else _SIZES
    numbers = [1, 3, 10] if small else _NUMBERS
    limits = PoolLimits(max_connections=2000)
    curves = [
        ("sandboxes in one page", "sandboxes", lambda: _lists(setting, lists, None)),
        ("sandboxes in pages of 500", "sandboxes", lambda: _lists(setting, lists, 500)),
        ("read", "bytes", lambda: _reads(setting, sizes)),
        ("write", "bytes", lambda: _writes(setting, sizes)),
    ]
    grown = [Growth(name=name, across=across, steps=await run()) for name, across, run in curves]
    for transport in ("auto", "websocket"):
        async with our_sandbox(setting, exec_transport=transport, limits=limits) as sandbox:
            steps = await _commands(sandbox, numbers, lambda number: f"together {number}")
        name = f"commands at a time, {transport}"
        grown.append(Growth(name=name, across="commands", steps=steps))
    if not small:
        async with _real_sandbox() as sandbox:
            steps = await _commands(sandbox, [1, 3, 10, 30, 100, 200], lambda number: "true")
        grown.append(Growth(name="commands on a real host", across="commands", steps=steps))
    return grown


def table(grown: list[Growth]) -> Iterator[str]:
    """The curves as lines of text."""
    for growth in grown:
        yield f"\n{growth.name}"
        heads = ("time", "median", "CPU", "CPU each", "memory")
        yield f"  {growth.across:>14}{''.join(f'{head:>12}' for head in heads)}{'files':>8}"
        for step in growth.steps:
            each = step.cpu / step.asked
            yield (
                f"  {step.asked:>14}{seconds(step.wall):>12}{seconds(step.latency):>12}"
                f"{seconds(step.cpu):>12}{_small(each):>12}{step.peak / MIB:>8.1f} MiB"
                f"{step.files or '':>8}"
            )
        how = "straight" if growth.straight else "NOT STRAIGHT"
        yield f"  {how}: at the end one costs {growth.bend():.2f}x what it does at a tenth of it"


def _small(value: float) -> str:
    return f"{value * 1e9:.2f} ns" if value < 1e-6 else seconds(value)


def _charts(grown: list[Growth]) -> str:
    shown = []
    for growth in grown:
        curves = [
            Curve("CPU, s", [(step.asked, step.cpu) for step in growth.steps]),
            Curve("time, s", [(step.asked, step.wall) for step in growth.steps]),
            Curve("memory, MiB", [(step.asked, _shown(step.peak)) for step in growth.steps]),
        ]
        shown.append(Panel(growth.name, growth.across, "cost", curves))
    return panels(shown)


def _shown(memory: int) -> float:
    return max(memory / MIB, 0.01)  # a logarithmic axis has no nothing


def main(arguments: list[str]) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument(
        "--size", choices=("small", "full"), default="full", help="small only tries everything"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every step, as JSON")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="the curves, as SVG")
    options = parser.parse_args(arguments)
    allow_many_files()
    with standing() as setting:

        async def run() -> list[Growth]:
            return await measure(setting, small=options.size == "small")

        grown = anyio.run(run)
    print("\n".join(table(grown)))
    if options.json is not None:
        document: list[dict[str, Any]] = [attrs.asdict(growth) for growth in grown]
        options.json.write_text(json.dumps(document, indent=1))
    if options.chart is not None:
        options.chart.write_text(_charts(grown))
    return 0 if options.size == "small" else int(not all(one.straight for one in grown))
