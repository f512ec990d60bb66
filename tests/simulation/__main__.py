"""The simulator by hand, at any size: ``python -m tests.simulation --minutes 10 --seed 1``.

Every seed is a world of its own, and the same every time. One that finds something wrong says how
it is run again, and is run once more to be recorded. Recording draws ids otherwise, so that run may
go well; with ``--record`` all are recorded (at half the pace), and their traces done again.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from .ledger import Ledger
from .running import Run, run_seed

# A seed takes a second or so; one that takes so many seconds hangs.
_HANGS = 180


class _HangError(BaseException):
    """A seed that does not come to its end."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise _HangError


class Report:
    """Figures of all seeds together."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seeds = 0
        self.hours = 0.0
        self.struck: Counter[str] = Counter()
        self.weathers: Counter[str] = Counter()
        self.ledger = Ledger()
        self.failed: list[int] = []

    @property
    def minutes(self) -> float:
        return (time.perf_counter() - self.began) / 60

    def add(self, run: Run) -> None:
        self.seeds += 1
        self.hours += run.hours
        self.struck += run.struck
        self.weathers[run.weather] += 1
        self.ledger.checked += run.ledger.checked
        self.ledger.excused += run.ledger.excused
        self.ledger.deeds += run.ledger.deeds
        if run.ledger.wrong:
            self.failed.append(run.seed)

    def line(self) -> str:
        """Where it stands."""
        return (
            f"{self.minutes:5.1f} min, {self.seeds} seeds, {self.hours:.0f} simulated hours, "
            f"{self.struck.total()} faults, {self.ledger.checked.total()} checks, "
            f"{len(self.failed)} failed"
        )

    def table(self) -> Iterator[str]:
        """All figures."""
        yield self.line()
        yield f"{self.hours / max(self.minutes, 1e-9):.0f} simulated hours per minute of this clock"
        parts = {
            "weather": self.weathers,
            "deeds": self.ledger.deeds,
            "faults that struck": self.struck,
            "invariants checked": self.ledger.checked,
            "excused by faults": self.ledger.excused,
        }
        for title, counter in parts.items():
            yield f"\n{title}"
            for name, count in sorted(counter.items()):
                yield f"  {name:36}{count:12}"


def run_watched(seed: int, users: int, steps: int, record: str | None) -> Run | None:
    """One seed; None if it hung or broke down, which is told."""
    signal.alarm(_HANGS)
    try:
        return run_seed(seed, users=users, steps=steps, record=record)
    except _HangError:
        print(f"\nseed {seed} hangs:")
        traceback.print_exc()
    except Exception:
        print(f"\nseed {seed} broke down:")
        traceback.print_exc()
    finally:
        signal.alarm(0)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=None, help="how many seeds; default: by time")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, without --runs")
    parser.add_argument("--users", type=int, default=3, help="clients in each world")
    parser.add_argument("--steps", type=int, default=10, help="deeds of each worker")
    parser.add_argument("--story", action="store_true", help="tell what happened")
    parser.add_argument("--record", action="store_true", help="record all, and check the traces")
    parser.add_argument("--traces", type=Path, default=Path("simulation-traces"))
    asked = parser.parse_args()
    signal.signal(signal.SIGALRM, _alarm)
    report, shown, seed = Report(), 0.0, asked.seed
    while report.seeds < asked.runs if asked.runs else report.minutes < asked.minutes:
        run = run_watched(seed, asked.users, asked.steps, _prefix(seed, asked))
        if run is None:
            report.seeds += 1
            report.failed.append(seed)
        else:
            report.add(run)
            if asked.story:
                print("\n".join(run.story))
        if run is None or run.ledger.wrong:
            _tell(seed, run, asked)
        elif asked.record:
            _forget(seed, asked)
        seed += 1
        if time.perf_counter() - shown > 1:
            shown = time.perf_counter()
            print(f"\r{report.line()}", end="" if sys.stdout.isatty() else "\n", flush=True)
    print()
    print("\n".join(report.table()))
    print(f"\nfailed seeds: {report.failed or 'none'}")
    return 1 if report.failed else 0


def _prefix(seed: int, asked: argparse.Namespace) -> str | None:
    """Where a seed is recorded, if it is."""
    if not asked.record:
        return None
    asked.traces.mkdir(exist_ok=True)
    return str(asked.traces / f"seed-{seed}")


def _forget(seed: int, asked: argparse.Namespace) -> None:
    for path in asked.traces.glob(f"seed-{seed}-*.jsonl"):
        path.unlink()


def _tell(seed: int, run: Run | None, asked: argparse.Namespace) -> None:
    print(f"\nseed {seed} ({run.weather if run else '?'}) found something wrong:")
    for text in run.ledger.wrong[:10] if run else ():
        print(f"  {text}")
    more = f"--users {asked.users} --steps {asked.steps}"
    if asked.record:
        more += " --record"
        print(f"  traces: {_prefix(seed, asked)}-*.jsonl")
    else:
        asked = argparse.Namespace(**{**vars(asked), "record": True})
        recorded = run_watched(seed, asked.users, asked.steps, _prefix(seed, asked))
        how = "went well" if recorded and not recorded.ledger.wrong else "went wrong, too"
        print(f"  traces: {_prefix(seed, asked)}-*.jsonl (recorded, it {how})")
    print(f"  again: python -m tests.simulation --seed {seed} --runs 1 {more} --story")


if __name__ == "__main__":
    sys.exit(main())
