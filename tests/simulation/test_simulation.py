"""Random work in random weather, by seed: nothing that must always hold is ever broken."""

from __future__ import annotations

from collections import Counter

import pytest

from sandbox_anyio.http import HttpPool
from sandbox_proto.host.commands import Command, CommandTable

from .running import run_seed
from .world import WEATHERS

SEEDS = 3


def again(seed: int) -> str:
    return f"again: python -m tests.simulation --seed {seed} --runs 1 --users 2 --steps 6 --story"


@pytest.mark.parametrize("block", range(4))
def test_what_must_hold_holds(block: int, sweep: int) -> None:
    for seed in range(block * SEEDS * sweep, (block + 1) * SEEDS * sweep):
        run = run_seed(seed, users=2, steps=6)
        assert not run.ledger.wrong, "\n".join([*run.ledger.wrong, again(seed)])


def test_seeds_differ_and_reach_everything() -> None:
    runs = [run_seed(seed, users=2, steps=6) for seed in range(100, 108)]
    assert len({run.digest for run in runs}) == len(runs)
    assert len({run.weather for run in runs}) >= len(WEATHERS) - 1
    struck = sum((run.struck for run in runs), Counter[str]())
    checked = sum((run.ledger.checked for run in runs), Counter[str]())
    assert len(struck) >= 8
    assert {"at most once", "deadline", "no create doubled", "pool leases"} <= set(checked)
    assert sum(run.hours for run in runs) > 30


@pytest.mark.parametrize("seed", [3, 7, 11])
def test_one_seed_is_one_story(seed: int) -> None:
    first, second = (run_seed(seed, users=2, steps=6) for _ in range(2))
    assert first.story == second.story
    assert first.digest == second.digest
    assert first.struck == second.struck
    assert first.ledger == second.ledger


# --- that it would find something -------------------------------------------------------


def wrongs(seeds: range) -> str:
    return "\n".join(text for seed in seeds for text in run_seed(seed).ledger.wrong)


def test_a_host_that_runs_commands_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: CommandTable, box_id, message, argv=None):  # type: ignore[no-untyped-def]
        self._commands.pop((box_id, message.command_id), None)
        return get_or_create(self, box_id, message, argv)

    get_or_create = CommandTable.get_or_create
    monkeypatch.setattr(CommandTable, "get_or_create", forgetful)
    assert "at most once" in wrongs(range(3))


def test_a_pool_that_keeps_connections_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpPool, "give_back", lambda self, slot, connection: None)
    assert "pool leases" in wrongs(range(2))


def test_output_that_is_changed_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def output(self: Command, name: str, data: bytes, *, now: float) -> None:
        original(self, name, data.replace(b"e", b"E"), now=now)

    original = Command.output
    monkeypatch.setattr(Command, "output", output)
    assert "output exact" in wrongs(range(2))
