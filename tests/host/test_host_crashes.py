"""A host that is killed: nothing it acknowledged is lost, and nothing of it stays.

On asyncio only: the client is here to ask, and its loop makes no difference to the host, which
is a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import anyio
import pytest

from sandbox_anyio.local.places import Places
from sandbox_anyio.local.runtime import messages

from ._crashing import (
    END_PATIENCE,
    START_PATIENCE,
    KillableHost,
    Ledger,
    check_directories,
    check_machine,
    top_of,
)

pytestmark = pytest.mark.anyio
CRASHES = 4
STARTS = 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory whose name is nowhere else on this machine."""
    return tmp_path / f"state-{secrets.token_hex(8)}"


@pytest.fixture
def seed() -> int:
    """Where chance begins. It is told when the test fails; give it as CRASH_SEED to repeat it."""
    return int(os.environ.get("CRASH_SEED") or random.randrange(2**32))


async def test_a_killed_host_keeps_what_it_acknowledged_and_leaves_nothing_behind(
    state: Path, seed: int, sweep: int
) -> None:
    chance, ledger = Random(seed), Ledger()
    flying: Counter[str] = Counter()
    slowest = 0.0
    with contextlib.ExitStack() as hosts, noted(f"CRASH_SEED={seed}"):
        host = hosts.enter_context(KillableHost(state))
        for _ in range(CRASHES * sweep):
            await check_restarted(host, state, ledger)
            top = top_of(state)
            flying += await ledger.work_until_killed(host, chance, workers=6, most=40)
            # Who restarts hosts does not look for what the last one may have left.
            at_once = chance.random() < 0.5
            successor = hosts.enter_context(KillableHost(state)) if at_once else None
            slowest = max(slowest, host.check_nothing_is_left())
            if successor is None:
                check_machine(state, ledger.box_ids)
                successor = hosts.enter_context(KillableHost(state))
            host = successor
        await check_restarted(host, state, ledger)
        assert top_of(state) == top
        host.end()
        check_machine(state, ledger.box_ids)
    print(f"\n{CRASHES * sweep} crashes, {ledger.answered} answers, slowest end {slowest:.2f} s")
    print("in flight:", dict(flying.most_common()))
    print("refused:", dict(ledger.refused.most_common()))


async def test_a_host_killed_while_it_starts_leaves_nothing_behind(
    tmp_path: Path, state: Path, seed: int, sweep: int
) -> None:
    began = time.monotonic()
    with KillableHost(tmp_path / "undisturbed") as host:
        host.wait_until_ready()
        needed = time.monotonic() - began
        await use_and_end(host)
    chance = Random(seed)
    with noted(f"CRASH_SEED={seed}"):
        for start in range(1 + STARTS * sweep):
            with KillableHost(state) as host:
                if start == 0:
                    wait_for(lambda: (state / "check").exists())  # it tries what it can build
                else:
                    await anyio.sleep(chance.uniform(0, needed))
                host.kill()
                host.check_nothing_is_left()
                check_machine(state, set())
        with KillableHost(state) as host:
            host.wait_until_ready()
            await use_and_end(host)
    assert top_of(state) == top_of(tmp_path / "undisturbed")


async def test_two_hosts_do_not_share_a_state_directory(state: Path) -> None:
    with KillableHost(state) as host:
        host.wait_until_ready()
        with KillableHost(state) as second, pytest.raises(AssertionError, match="did not start"):
            second.wait_until_ready()
        assert "another host uses the state directory" in state.with_suffix(".stderr").read_text()
        await use_and_end(host)


async def use_and_end(host: KillableHost) -> None:
    async with host.client() as client, client.sandbox() as sandbox:
        assert (await sandbox.run("echo well")).stdout == "well\n"
    host.end()


def test_a_secret_that_a_killed_host_had_not_written_yet_is_written_by_the_next(
    tmp_path: Path,
) -> None:
    # Who knew that it is empty could sign tokens.
    (tmp_path / "token-secret").touch()
    secret = Places(tmp_path).secret()
    assert len(secret) >= 16
    assert Places(tmp_path).secret() == secret


_SUPERVISOR = """\
import socket, sys
from sandbox_anyio.local.runtime.supervisor import Supervisor
Supervisor(socket.socket(fileno=int(sys.argv[1])), "/usr/bin:/bin").serve()
"""


def test_half_an_upload_goes_also_when_the_hosts_end_is_met_by_an_answer(tmp_path: Path) -> None:
    # Outside of a sandbox, where it can be made to stand still at the right moment.
    ours, theirs = messages.socket_pair()
    with ours, theirs:
        supervisor = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISOR, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        ours.settimeout(END_PATIENCE)
        with supervisor:
            ready = messages.receive(ours)
            assert ready is not None and ready.body["ready"]
            for number in range(2):
                if number == 1:  # the host is gone when this one is answered
                    os.kill(supervisor.pid, signal.SIGSTOP)
                upload = {"do": "create", "id": number, "path": f"{tmp_path}/{number}"}
                messages.send(ours, {**upload, "user": None})
                if number == 0:
                    answer = messages.receive(ours)
                    assert answer is not None and len(list(tmp_path.iterdir())) == 1, answer
                    answer.close()
            ours.close()
            os.kill(supervisor.pid, signal.SIGCONT)
            supervisor.wait(END_PATIENCE)
    assert list(tmp_path.iterdir()) == []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def check_restarted(host: KillableHost, state: Path, ledger: Ledger) -> None:
    host.wait_until_ready()
    check_directories(state)
    async with host.client() as client:
        await ledger.check(client)


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(note)
        raise
