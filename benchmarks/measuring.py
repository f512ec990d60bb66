"""What is measured, and how: blocks of calls, contenders in turns, ratios within a round.

A *contender* does the same work as the others of its *case*. A *round* lets each of them do
one block, in shuffled order; ratios are made within a round, and their median counts, because
a busy machine drifts. CPU time is that of this process. Peak memory is only meaningful in a
process of its own (`Case.fresh`).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import attrs

Loop = Literal["asyncio", "trio", "uvloop"]
Metric = Literal["wall", "p50", "cpu", "peak", "kept", "cpu per CPU of the server"]
MIB = 1024 * 1024


@attrs.frozen(kw_only=True)
class Sample:
    """One block, per operation.

    :ivar wall: seconds.
    :ivar p50: median of the operations' seconds.
    :ivar cpu: seconds of this process's CPU time.
    :ivar peak: bytes of memory at most, above what there was before.
    :ivar kept: bytes of memory still there afterwards.
    :ivar amount: bytes, messages or operations moved by one operation, for rates.
    """

    wall: float
    cpu: float
    p50: float = 0.0
    peak: int = 0
    kept: int = 0
    amount: float = 1.0

    def value(self, metric: str) -> float:
        """One of its numbers; all are costs: less is better."""
        return float(getattr(self, metric)) or 1e-12


@attrs.frozen(kw_only=True)
class Setting:
    """Where a block finds its server, and how much it is to do.

    :ivar plain: port of the stand-in server.
    :ivar secure: the same with TLS.
    :ivar far: a relay to the first, one round trip of 20 ms away; `far_secure` to the second.
    :ivar count: how many operations make a block.
    :ivar size: how large each is; the unit is the case's.
    """

    plain: int
    secure: int = 0
    far: int = 0
    far_secure: int = 0
    count: int = 1
    size: int = 0

    def api(self, place: str = "plain", boxes: str = "") -> str:
        """The endpoint of the API at a place.

        :param boxes: how many sandboxes a list has there, see `standin`.
        """
        scheme = "https" if "secure" in place else "http"
        prefix = f"/{boxes}" if boxes else ""
        host = "localhost" if "secure" in place else "127.0.0.1"
        return f"{scheme}://{host}:{getattr(self, place)}{prefix}/v2/sandboxes"


Measure = Callable[[Setting], Awaitable[Sample]]


@attrs.frozen
class Contender:
    """One way to do the work of a case.

    :ivar informative: it is shown, and nothing is asked of it.
    """

    name: str
    measure: Measure
    loop: Loop = "asyncio"
    informative: bool = False


@attrs.frozen(kw_only=True)
class Target:
    """What is asked of a contender, in one metric.

    Either ``least``: how many times better than the other it has to be; or ``most``: how many
    times worse it may be, or, without another, the most it may cost.
    """

    metric: Metric
    than: str | None = "vendor"
    least: float | None = None
    most: float | None = None
    of: str = "ours"

    def text(self) -> str:
        """For people."""
        if self.least is not None:
            return f">= {self.least:g}x"
        if self.than is None:
            assert self.most is not None
            return f"<= {self.most / MIB:.4g} MiB"
        return f"<= {self.most:g}x"

    def judge(self, rounds: list[dict[str, Sample]]) -> tuple[float, bool]:
        """The ratio (or the cost) and whether it is good enough."""
        values = []
        for samples in rounds:
            own = samples[self.of].value(self.metric)
            if self.than is None:
                values.append(own)
                continue
            other = samples[self.than].value(self.metric)
            values.append(other / own if self.least is not None else own / other)
        value = statistics.median(values)
        if self.least is not None:
            return value, value >= self.least
        assert self.most is not None
        return value, value <= self.most


@attrs.frozen(kw_only=True)
class Case:
    """Something that is measured.

    :ivar name: how it is asked for; what is before the slash is its group.
    :ivar unit: what `Sample.amount` counts.
    :ivar small: count and size of a block for the smoke test; `full` for figures.
    :ivar rounds: how many for figures.
    :ivar fresh: each block runs in a process of its own, so that memory can be told.
    """

    name: str
    title: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...] = ()
    unit: str = "ops"
    small: tuple[int, int] = (2, 0)
    full: tuple[int, int] = (50, 0)
    rounds: int = 15
    fresh: bool = False


async def timed(call: Callable[[], Awaitable[object]], count: int, amount: float = 1) -> Sample:
    """Call once to warm up, then so many times for the sample."""
    await call()
    gc.collect()
    walls = []
    cpu = time.process_time()
    for _ in range(count):
        began = time.perf_counter()
        await call()
        walls.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    return Sample(
        wall=sum(walls) / count, p50=statistics.median(walls), cpu=cpu / count, amount=amount
    )


async def watched(call: Callable[[], Awaitable[object]], amount: float = 1) -> Sample:
    """One call with its memory."""
    gc.collect()
    before = memory("VmRSS")
    _forget_peak()
    cpu, began = time.process_time(), time.perf_counter()
    result = await call()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = memory("VmHWM") - before
    gc.collect()
    kept = memory("VmRSS") - before
    del result
    return Sample(wall=wall, p50=wall, cpu=cpu, peak=max(peak, 1), kept=max(kept, 1), amount=amount)


def memory(field: str) -> int:
    """Bytes of this process's memory, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def to_json(sample: Sample) -> dict[str, Any]:
    """A sample as JSON."""
    return attrs.asdict(sample)
