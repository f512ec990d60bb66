"""Results for people: a table."""

from __future__ import annotations

from collections.abc import Iterator

from .measuring import MIB, Case
from .running import Result

_HEAD = f"{'':<26}{'p50':>11}{'CPU':>11}{'rate':>15}{'memory':>10}{'faster':>9}{'CPU less':>10}"


def table(result: Result) -> Iterator[str]:
    """The lines of one case."""
    case = result.case
    yield f"\n{case.name}: {case.title}"
    yield _HEAD
    for name in result.names:
        wall, cpu = result.ratio(name, "wall"), result.ratio(name, "cpu")
        memory = result.median(name, "peak") if case.fresh or case.name == "import" else 0
        yield (
            f"  {name:<24}{seconds(result.median(name, 'p50')):>11}"
            f"{seconds(result.median(name, 'cpu')):>11}{_rate(result, name):>15}"
            f"{f'{memory / MIB:.1f} MiB' if memory else '':>10}"
            f"{_times(wall):>9}{_times(cpu):>10}"
        )
    for verdict in result.verdicts():
        target = verdict.target
        value = f"{verdict.value:.2f}x" if target.than else f"{verdict.value / MIB:.1f} MiB"
        than = f" against {target.than}" if target.than else ""
        mark = "reached" if verdict.reached else "NOT REACHED"
        yield f"  {target.of}, {target.metric}{than}: {value} (asked {target.text()}) {mark}"


def summary(results: list[Result]) -> Iterator[str]:
    """How many targets were reached, and which were not."""
    verdicts = [(result.case, verdict) for result in results for verdict in result.verdicts()]
    missed = [(case, verdict) for case, verdict in verdicts if not verdict.reached]
    yield f"\n{len(verdicts) - len(missed)} of {len(verdicts)} targets reached"
    for case, verdict in missed:
        target = verdict.target
        yield (
            f"  {case.name}: {target.of}, {target.metric} against {target.than or 'the limit'}: "
            f"{verdict.value / (1 if target.than else MIB):.2f}, asked {target.text()}"
        )


def listing(cases: tuple[Case, ...]) -> Iterator[str]:
    """What can be asked for."""
    for case in cases:
        yield f"{case.name:<24}{case.title}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 0.001:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _rate(result: Result, name: str) -> str:
    case = result.case
    if case.unit == "modules":
        return f"{result.rounds[0][name].amount:.0f} modules"
    per_second = result.rounds[0][name].amount / result.median(name, "wall")
    if case.unit == "B":
        return f"{per_second / 1e6:.1f} MB/s"
    return f"{per_second:.0f} /s"
