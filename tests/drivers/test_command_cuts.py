"""Connections cut at random moments: exact output or an error, one start, every gap told.

The real host, behind a relay that cuts. The clock of the client's network runs ten times as fast,
so that its backoffs do not take the time of these tests.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random

import anyio
import attrs
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    ExecutionResult,
    SandboxClientError,
    SandboxOperationError,
)
from sandbox_anyio.local.launch import LocalHost
from sandbox_proto.wire.command_models import MissingOutput

from ._cutting import DOWN, REFUSED, SLAMMED, UP, Cut, CuttingRelay, Direction
from ._networks import TRANSPORTS, HastyNetwork

pytestmark = pytest.mark.anyio

CUTS = 30  # on either loop
AT_ONCE = 6
SPEED = 10.0
EXIT_CODE = 7
STARTS = "/tmp/starts"


@attrs.frozen
class Job:
    """A command and what it is known to write."""

    command: str
    stdout: bytes
    stderr: bytes


# Several bursts of text with characters of every length.
CHATTY = Job(
    """for i in $(seq 60); do
           echo "$i out: grün € 😀"; echo "$i err: año ✓ 🚀" >&2
           if [ $((i % 15)) = 0 ]; then sleep 0.03; fi
       done""",
    "".join(f"{i} out: grün € 😀\n" for i in range(1, 61)).encode(),
    "".join(f"{i} err: año ✓ 🚀\n" for i in range(1, 61)).encode(),
)
# More than a host keeps for a client that is away.
LARGE = Job(
    "seq -f 'ligne %.0f €' 250000; seq 400000 >&2",
    "".join(f"ligne {i} €\n" for i in range(1, 250_001)).encode(),
    "".join(f"{i}\n" for i in range(1, 400_001)).encode(),
)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def seed() -> int:
    """Where chance begins. It is told when the test fails; give it as CUTS_SEED to repeat it."""
    return int(os.environ.get("CUTS_SEED") or random.randrange(2**32))


@attrs.define
class Tally:
    """What happened in all runs."""

    cuts: int = 0
    refusals: int = 0
    runs: int = 0
    results: int = 0
    gaps: int = 0
    attachments: int = 0
    recovered: int = 0
    errors: Counter[str] = attrs.field(factory=Counter)


async def test_cut_connections_neither_change_the_output_nor_start_anything_twice(
    host: LocalHost, client: AsyncSandboxClient, transport: str, seed: int, sweep: int
) -> None:
    began = time.monotonic()
    async with client.sandbox() as sandbox:
        sizes = await measure(host, sandbox, transport)
        cutter = Cutter(host, sandbox, transport, seed, sizes)
        with noted(f"CUTS_SEED={seed}"):
            async with anyio.create_task_group() as workers:
                for _ in range(AT_ONCE):
                    workers.start_soon(cutter.work, CUTS * sweep)
            await cutter.check_starts()
    tally, took = cutter.tally, time.monotonic() - began
    reattached = tally.attachments - tally.runs
    print(f"\n{transport}: {tally}, {reattached} reattachments, {took:.1f} s, CUTS_SEED={seed}")
    assert tally.results and tally.cuts >= CUTS * sweep


async def measure(host: LocalHost, sandbox: AsyncSandbox, transport: str) -> dict[Direction, int]:
    """How many bytes an uncut connection carries."""
    with CuttingRelay(host.endpoint) as relay:
        async with client_through(relay, host, transport) as client:
            assert (await through(relay, host, sandbox, client).run(CHATTY.command)).success
    assert relay.carried == 1
    return relay.most


def client_through(relay: CuttingRelay, host: LocalHost, transport: str) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        api_endpoint=relay.url,
        api_key=host.api_key,
        trust_env=False,
        exec_transport=transport,  # type: ignore[arg-type]
        network=HastyNetwork(SPEED, dial=relay.dial),
    )


def through(
    relay: CuttingRelay, host: LocalHost, sandbox: AsyncSandbox, client: AsyncSandboxClient
) -> AsyncSandbox:
    """The same sandbox, on the other side of the relay."""
    assert sandbox.dataplane_url is not None
    url = sandbox.dataplane_url.replace(host.endpoint, relay.url)
    return AsyncSandbox(name=sandbox.name, dataplane_url=url, client=client)


@attrs.define
class Cutter:
    """Runs commands over connections that are cut, several at once, and checks each."""

    host: LocalHost
    sandbox: AsyncSandbox
    transport: str
    seed: int
    sizes: dict[Direction, int]
    tally: Tally = attrs.field(factory=Tally)
    may_have_started: dict[str, set[int]] = attrs.field(factory=dict)

    async def work(self, cuts: int) -> None:
        """Run until so many connections were cut in all."""
        while self.tally.cuts < cuts:
            self.tally.runs += 1
            await self.run(self.tally.runs)

    async def run(self, number: int) -> None:
        chance, tag = Random(f"{self.seed}/{number}"), f"run-{number}"
        job = LARGE if chance.random() < 0.25 else CHATTY
        with noted(f"{tag}"), CuttingRelay(self.host.endpoint, self.plan(chance, job)) as relay:
            async with client_through(relay, self.host, self.transport) as client:
                there = through(relay, self.host, self.sandbox, client)
                with anyio.fail_after(60):
                    await self.run_and_check(there, tag, job)
        self.tally.cuts += relay.cuts
        self.tally.refusals += relay.refusals
        self.tally.attachments += relay.carried

    def plan(self, chance: Random, job: Job) -> list[Cut]:
        """Where to cut. After its first cut, a hopeless run has no chance to attach again."""
        hopeless = chance.random() < 0.15
        sizes = self.sizes if job is CHATTY else {**self.sizes, DOWN: len(job.stdout)}
        cuts = []
        for number in range(9 if hopeless else chance.randint(1, 4)):
            direction = chance.choice((UP, DOWN))
            most = sizes[direction]
            if hopeless and number:
                most = 120
            elif chance.random() < 0.4:
                most = min(most, 700)
            refused = chance.choices((0, 1, 2), (6, 3, 1))[0]
            refusals = tuple(chance.choice((REFUSED, SLAMMED)) for _ in range(refused))
            cuts.append(Cut(direction, chance.randint(0, most), chance.random() < 0.5, refusals))
        return cuts

    async def run_and_check(self, there: AsyncSandbox, tag: str, job: Job) -> None:
        heard: dict[str, list[str]] = {"stdout": [], "stderr": []}
        command = f"echo {tag} >> {STARTS}\n{job.command}\nexit {EXIT_CODE} # {tag}"
        try:
            result = await there.run(
                command, on_stdout=heard["stdout"].append, on_stderr=heard["stderr"].append
            )
        except SandboxClientError as error:
            self.tally.errors[type(error).__name__] += 1
            self.may_have_started[tag] = await self.check_error(error, job)
        else:
            self.tally.results += 1
            self.tally.gaps += len(result.missing)
            self.may_have_started[tag] = {1}
            check_result(result, job)
            assert "".join(heard["stdout"]) == result.stdout
            assert "".join(heard["stderr"]) == result.stderr

    async def check_error(self, error: SandboxClientError, job: Job) -> set[int]:
        """What the error says is true, and the command can be had back. Returns its starts."""
        told = error.command
        assert told is not None, "the error does not say what is known of the command"
        out = check_stream("stdout", told.stdout, told.missing, job.stdout, to_the_end=False)
        err = check_stream("stderr", told.stderr, told.missing, job.stderr, to_the_end=False)
        if not told.may_be_running:
            return {0}
        if self.transport == "http":
            return {0, 1}  # nobody can be asked about its command
        handle = await self.sandbox.reconnect(told.command_id, stdout_offset=out, stderr_offset=err)
        try:
            rest = await handle.result
        except SandboxOperationError as unknown:
            assert unknown.error_type == "CommandNotFound"
            assert (out, err) == (0, 0)
            return {0}
        self.tally.recovered += 1
        assert rest.exit_code == EXIT_CODE
        check_stream("stdout", rest.stdout, rest.missing, job.stdout, start=out)
        check_stream("stderr", rest.stderr, rest.missing, job.stderr, start=err)
        return {1}

    async def check_starts(self) -> None:
        """Every command started as often as it may have, and none is left."""
        starts = Counter((await self.sandbox.read(STARTS)).decode().split())
        for tag, allowed in self.may_have_started.items():
            assert starts[tag] in allowed, f"{tag} started {starts[tag]} times"
        assert set(starts) <= set(self.may_have_started)


def check_result(result: ExecutionResult, job: Job) -> None:
    """Exact, but for what it says is missing."""
    assert result.exit_code == EXIT_CODE
    check_stream("stdout", result.stdout, result.missing, job.stdout)
    check_stream("stderr", result.stderr, result.missing, job.stderr)
    if job is CHATTY:
        assert result.complete, "a host keeps so little for everybody"


def check_stream(
    name: str,
    text: str,
    missing: Iterable[MissingOutput],
    expected: bytes,
    *,
    start: int = 0,
    to_the_end: bool = True,
) -> int:
    """The text is what was to be expected, without the gaps. Returns the offset it reaches."""
    got, position = text.encode(), start
    for gap in missing:
        if gap.stream == name:
            assert position <= gap.start < gap.end <= len(expected)
            before = expected[position : gap.start]
            assert got.startswith(before), f"{name} differs between {position} and {gap.start}"
            got, position = got[len(before) :], gap.end
    rest = expected[position:]
    if to_the_end:
        assert got == rest, f"{name} differs behind {position}"
    assert rest.startswith(got), f"{name} differs behind {position}"
    return position + len(got)


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(note)
        raise
