"""Whoever is killed in the middle of a fork leaves no child behind."""

from __future__ import annotations

import os
import signal

import pytest

from sandbox_anyio.local.runtime import processes
from sandbox_anyio.local.runtime.processes import Process

LEADER, CHILD = 11, 12


def shell(state: str) -> dict[int, Process]:
    return {LEADER: Process(3, LEADER, LEADER, state)}


def child(state: str) -> dict[int, Process]:
    return {CHILD: Process(LEADER, LEADER, LEADER, state)}


@pytest.mark.parametrize(
    "tables",
    [
        # Stops when the fork is over, and the child is in the table at once.
        [shell("R"), shell("R"), shell("T") | child("R"), shell("T") | child("T")],
        # The numbers of a table were listed before its states were read: it stands, but the
        # child, which came between, is only in the next table.
        [shell("R"), shell("T"), shell("T") | child("R"), shell("T") | child("T")],
    ],
    ids=["late to stop", "between two readings"],
)
def test_the_child_of_a_fork_that_is_on_its_way_is_killed_too(
    tables: list[dict[int, Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[tuple[int, int]] = []
    coming = iter(tables)
    monkeypatch.setattr(processes, "read_table", lambda: next(coming, tables[-1]))
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    processes.kill_family(LEADER, set(), reaped=False)
    killed = {pid for pid, number in signals if number == signal.SIGKILL}
    assert killed == {LEADER, CHILD}
    stopped = [pid for pid, number in signals if number == signal.SIGSTOP]
    assert sorted(stopped) == [LEADER, CHILD]


def test_who_never_stands_still_is_killed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(processes, "read_table", lambda: shell("D"))
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    processes.kill_family(LEADER, set(), reaped=False)
    assert signals == [(LEADER, signal.SIGSTOP), (LEADER, signal.SIGKILL)]
