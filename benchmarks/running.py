"""Running cases: rounds, contenders in shuffled order, processes where memory is told."""

from __future__ import annotations

import gc
import importlib.util
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import attrs

from .measuring import Case, Contender, Sample, Setting, Target, to_json

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None


@attrs.frozen(kw_only=True)
class Verdict:
    """A target, what came out, and whether that is good enough."""

    target: Target
    value: float
    reached: bool


@attrs.frozen(kw_only=True)
class Result:
    """A case that was measured.

    :ivar rounds: for each round, the contenders' samples by name.
    """

    case: Case
    rounds: list[dict[str, Sample]]

    @property
    def names(self) -> list[str]:
        """The contenders that took part."""
        return list(self.rounds[0])

    def median(self, name: str, metric: str) -> float:
        """The median of a contender's costs."""
        return statistics.median(samples[name].value(metric) for samples in self.rounds)

    def ratio(self, name: str, metric: str, than: str = "vendor") -> float | None:
        """How many times better than another one; None if that took no part."""
        if than not in self.rounds[0]:
            return None
        return statistics.median(
            samples[than].value(metric) / samples[name].value(metric) for samples in self.rounds
        )

    def verdicts(self) -> list[Verdict]:
        """What became of the targets."""
        verdicts = []
        for target in self.case.targets:
            value, reached = target.judge(self.rounds)
            verdicts.append(Verdict(target=target, value=value, reached=reached))
        return verdicts

    def as_json(self) -> dict[str, Any]:
        """Everything, for other programs."""
        return {
            "case": self.case.name,
            "title": self.case.title,
            "unit": self.case.unit,
            "rounds": [
                {name: to_json(sample) for name, sample in samples.items()}
                for samples in self.rounds
            ],
            "targets": [
                {
                    "of": verdict.target.of,
                    "metric": verdict.target.metric,
                    "than": verdict.target.than,
                    "asked": verdict.target.text(),
                    "value": verdict.value,
                    "reached": verdict.reached,
                }
                for verdict in self.verdicts()
            ],
        }


def run_case(case: Case, setting: Setting, *, small: bool, tell: Callable[[str], None]) -> Result:
    """Measure one case.

    :param small: one round of little work, all in this process: does everything work?
    :param tell: is told how far it is.
    """
    count, size = case.small if small else case.full
    setting = attrs.evolve(setting, count=count, size=size)
    if small:
        gc.freeze()  # collections before blocks are for figures
    rounds = []
    total = 1 if small else case.rounds
    for number in range(total):
        tell(f"{case.name}: round {number + 1} of {total}")
        contenders = [one for one in case.contenders if _takes_part(one, small)]
        samples: dict[str, Sample] = {}
        for contender in random.sample(contenders, len(contenders)):
            if case.fresh and not small:
                samples[contender.name] = _in_process(case, contender, setting)
            else:
                samples[contender.name] = run_block(contender, setting)
        rounds.append({one.name: samples[one.name] for one in contenders})
    return Result(case=case, rounds=rounds)


def _takes_part(contender: Contender, small: bool) -> bool:
    if contender.loop == "uvloop":
        return HAS_UVLOOP and not small
    return True


def run_block(contender: Contender, setting: Setting) -> Sample:
    """One block on a loop of its own."""
    gc.collect()
    backend = "trio" if contender.loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if contender.loop == "uvloop" else {}
    return anyio.run(contender.measure, setting, backend=backend, backend_options=options)


def _in_process(case: Case, contender: Contender, setting: Setting) -> Sample:
    asked = json.dumps([case.name, contender.name, attrs.asdict(setting)])
    command = [sys.executable, "-m", "benchmarks.block", asked]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{case.name}, {contender.name}: {done.stderr.decode()}")
    return Sample(**json.loads(done.stdout))


def chosen(cases: tuple[Case, ...], wanted: list[str]) -> Iterator[Case]:
    """The cases of these names or groups; all, if none are given.

    :raises LookupError: there is none of a name.
    """
    for name in wanted:
        if not any(_is_meant(case, name) for case in cases):
            raise LookupError(f"there is no case {name!r}; --list shows them")
    for case in cases:
        if not wanted or any(_is_meant(case, name) for name in wanted):
            yield case


def _is_meant(case: Case, name: str) -> bool:
    return name in (case.name, case.name.partition("/")[0])
