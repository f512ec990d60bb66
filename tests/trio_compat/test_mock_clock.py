"""Time is trio's: on a clock that jumps, minutes and timeouts take no time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sandbox_anyio import (
    AsyncSandboxClient,
    CommandTimeoutError,
    ResourceTimeoutError,
    SandboxTimeoutError,
)
from sandbox_anyio.loop_clock_network import LoopClockNetwork
from sandbox_proto.testing import ModelHost
from sandbox_trio_compat import SandboxProcess, open_sandbox_client, run_process

pytestmark = pytest.mark.anyio

# What ten minutes may take, in real seconds: they take some hundredths, on a machine at rest.
NO_TIME = 3.0


@pytest.fixture
def anyio_backend() -> Any:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def model() -> ModelHost:
    host = ModelHost()
    host.on_command("make", stdout="done", stderr="hm", exit_code=3, duration=600)
    host.on_command("hang", duration=1e7)
    return host


@asynccontextmanager
async def client_of(model: ModelHost, **settings: Any) -> AsyncIterator[AsyncSandboxClient]:
    network = LoopClockNetwork(model)
    async with open_sandbox_client(
        api_endpoint=model.origin,
        api_key=model.api_key,
        trust_env=False,
        network=network,
        **settings,
    ) as client:
        yield client
    assert (network.open_streams, network.waiters) == (0, 0)


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    """So much time passes for trio, and next to none for us."""
    began, real = trio.current_time(), time.perf_counter()
    yield
    passed, real = trio.current_time() - began, time.perf_counter() - real
    print(f"\n{passed:.1f} s of trio's clock took {1000 * real:.1f} ms")
    assert passed == pytest.approx(seconds, rel=0.01, abs=0.5)
    assert real < NO_TIME


async def test_a_poll_of_ten_minutes(model: ModelHost) -> None:
    model.boot_seconds = 600
    async with client_of(model) as client:
        with takes(600):
            sandbox = await client.create_sandbox(timeout=900)
        assert sandbox.status == "ready"


async def test_a_poll_that_ends_too_early(model: ModelHost) -> None:
    model.boot_seconds = 600
    async with client_of(model) as client:
        with takes(300), pytest.raises(ResourceTimeoutError):
            await client.create_sandbox(timeout=300)


@pytest.mark.parametrize("transport", ["auto", "websocket"])
async def test_a_command_of_ten_minutes(model: ModelHost, transport: Any) -> None:
    async with client_of(model, exec_transport=transport) as client, client.sandbox() as sandbox:
        with takes(600):
            done = await run_process(
                sandbox, "make", check=False, capture_stdout=True, capture_stderr=True
            )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"done", b"hm")


async def test_timeouts_of_the_caller(model: ModelHost) -> None:
    async with client_of(model) as client, client.sandbox() as sandbox:
        with takes(300), trio.move_on_after(300) as scope:
            await run_process(sandbox, "make")
        assert scope.cancelled_caught
        with takes(50), pytest.raises(trio.TooSlowError):
            await run_process(sandbox, "hang", deadline=trio.current_time() + 50)
        assert model.runs == ["make", "hang"]
        assert not _running(model), "both were killed"


async def test_the_limit_that_the_server_keeps(model: ModelHost) -> None:
    async with client_of(model) as client, client.sandbox() as sandbox:
        with takes(120), pytest.raises(CommandTimeoutError):
            await run_process(sandbox, "hang", timeout=120)
        assert not _running(model)


async def test_a_process_in_a_nursery(model: ModelHost) -> None:
    command = partial(run_process, command="make", check=False, stdout=PIPE, stderr=DEVNULL)
    async with client_of(model) as client, client.sandbox() as sandbox, trio.open_nursery() as all:
        with takes(600):
            process: SandboxProcess = await all.start(command, sandbox)
            assert process.stdout is not None
            assert await process.stdout.receive_some() == b"done"
            assert process.returncode is None
            assert await process.stdout.receive_some() == b""
            assert process.returncode == 3


async def test_nobody_answers(model: ModelHost) -> None:
    """A host that takes connections and says nothing: each patience ends by trio's clock."""

    class Silence:
        def connect(self, origin: object, *, now: float) -> Any:
            return self

        def receive_data(self, data: object, *, now: float) -> None: ...

        def receive_eof(self, *, now: float) -> None: ...

        def abandon(self, *, now: float) -> None: ...

        def data_to_send(self, *, now: float) -> list[Any]:
            return []

        def next_deadline(self) -> None:
            return None

        def handle_timeout(self, *, now: float) -> None: ...

        finished = False

    async with open_sandbox_client(
        api_endpoint="http://silent",
        api_key="key",
        trust_env=False,
        timeout=30.0,
        max_retries=0,
        network=LoopClockNetwork(Silence()),
    ) as client:
        with takes(30), pytest.raises(SandboxTimeoutError):
            await client.get_sandbox("any")


def _running(model: ModelHost) -> list[Any]:
    boxes = model.host.boxes
    commands = [command for box in boxes for command in model.commands.of_box(box)]
    return [command for command in commands if command.state.name == "RUNNING"]
