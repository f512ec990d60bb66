"""The real client on a network without sockets, on a clock that jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio

from sandbox_anyio import (
    AsyncSandboxClient,
    SandboxClient,
    SandboxClientError,
    SandboxConnectionError,
)
from sandbox_anyio.network import ConnectFailed
from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.route import Route
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.testing import ModelHost
from sandbox_proto.wire.urls import Origin

pytestmark = pytest.mark.anyio

ROUTE = Route(Origin("http", "model", 80))


def client_of(host: ModelHost, network: VirtualNetwork, **settings: Any) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        api_endpoint=host.origin,
        api_key=host.api_key,
        trust_env=False,
        network=network,
        **settings,
    )


class Echo:
    """A host that says everything again, some seconds later; `connect` may be refused."""

    def __init__(self, delay: float = 0.0, refuse: Fault | None = None) -> None:
        self.delay, self.refuse = delay, refuse
        self.heard: list[object] = []
        self._due: list[tuple[float, bytes]] = []

    def connect(self, origin: Origin, *, now: float) -> Echo | Fault:
        return self.refuse or self

    def receive_data(self, data: Any, *, now: float) -> None:
        self.heard.append(bytes(data))
        self._due.append((now + self.delay, bytes(data)))

    def receive_eof(self, *, now: float) -> None:
        self.heard.append("eof")

    def abandon(self, *, now: float) -> None:
        self.heard.append("gone")

    def data_to_send(self, *, now: float) -> list[Any]:
        ready = [data for when, data in self._due if when <= now]
        self._due = [one for one in self._due if one[0] > now]
        return ready

    finished = False

    def next_deadline(self) -> float | None:
        return min((when for when, _ in self._due), default=None)

    def handle_timeout(self, *, now: float) -> None:
        pass


# --- the client on it -----------------------------------------------------------------


async def test_ten_minutes_pass_in_no_time() -> None:
    host = ModelHost()
    host.on_command("make", stdout="done", stderr="hm", exit_code=3, duration=600)
    network = VirtualNetwork(host)
    began = time.monotonic()
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        result = await sandbox.run("make", timeout=900)
    assert (result.stdout, result.stderr, result.exit_code) == ("done", "hm", 3)
    assert network.now() >= 600
    assert time.monotonic() - began < 5
    assert host.runs == ["make"]
    assert not host.host.boxes
    assert (network.open_streams, network.waiters) == (0, 0)


async def test_many_at_once_share_one_time() -> None:
    host = ModelHost()
    for seconds in range(1, 21):
        host.on_command(f"sleep {seconds}", stdout=str(seconds), duration=seconds)
    network = VirtualNetwork(host, latency=0.01)
    ends: list[int] = []
    async with client_of(host, network) as client, client.sandbox() as sandbox:

        async def run(seconds: int) -> None:
            result = await sandbox.run(f"sleep {seconds}")
            ends.append(int(result.stdout))

        async with anyio.create_task_group() as tasks:
            for seconds in reversed(range(1, 21)):
                tasks.start_soon(run, seconds)
    assert ends == list(range(1, 21))
    assert 20 <= network.now() < 22
    assert network.open_streams == 0


async def test_a_timeout_is_virtual_too() -> None:
    host = ModelHost()
    host.on_command("hang", duration=1e6)
    network = VirtualNetwork(host)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        with pytest.raises(SandboxClientError):
            await sandbox.run("hang", timeout=30)
        assert 30 <= network.now() < 60


async def test_files_travel(tmp_path: Any) -> None:
    host = ModelHost()
    network = VirtualNetwork(host, latency=0.02)
    content = bytes(range(256)) * 4096
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        await sandbox.write("/home/user/a", content)
        assert await sandbox.read("/home/user/a") == content
        async with sandbox.open_write("/home/user/b") as file:
            await file.write(content)
            await file.write(b"end")
        await sandbox.download("/home/user/b", tmp_path / "b", parallel=3)
    assert (tmp_path / "b").read_bytes() == content + b"end"


async def test_a_cancelled_run_kills_its_command() -> None:
    host = ModelHost()
    host.on_command("hang", duration=1e6)
    network = VirtualNetwork(host, latency=0.01)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sandbox.run, "hang")
            await network.sleep_until(network.now() + 5)
            tasks.cancel_scope.cancel()
        (command,) = host.commands.of_box(sandbox.id)
        assert command.exit_code == 137
        assert network.now() < 10


# --- the seam -------------------------------------------------------------------------


async def test_time_jumps_only_when_everybody_waits() -> None:
    network = VirtualNetwork(Echo())
    seen: list[float] = []

    async def busy() -> None:
        for _ in range(5):
            await network.sleep_until(network.now())
            seen.append(network.now())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(network.sleep_until, 100.0)
        tasks.start_soon(busy)
    assert seen == [0.0] * 5
    assert network.now() == 100.0


async def test_sleepers_wake_in_order() -> None:
    network = VirtualNetwork(Echo())
    woken: list[tuple[float, float]] = []

    async def sleep(until: float) -> None:
        await network.sleep_until(until)
        woken.append((until, network.now()))

    async with anyio.create_task_group() as tasks:
        for until in (30.0, 10.0, 20.0, 10.0):
            tasks.start_soon(sleep, until)
    assert woken == [(10.0, 10.0), (10.0, 10.0), (20.0, 20.0), (30.0, 30.0)]


async def test_work_handed_on_by_other_means_is_waited_for() -> None:
    """Bytes that are ready are never overtaken by the clock."""
    network = VirtualNetwork(Echo())
    first, last = (
        anyio.create_memory_object_stream[int](0),
        anyio.create_memory_object_stream[int](0),
    )

    async def middle() -> None:
        await last[0].send(await first[1].receive())

    moments: list[float] = []

    async def end() -> None:
        await last[1].receive()
        moments.append(network.now())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(network.sleep_until, 50.0)
        tasks.start_soon(middle)
        tasks.start_soon(end)
        await first[0].send(1)
    for stream in (*first, *last):
        stream.close()
    assert moments == [0.0]


async def test_nothing_due_nothing_done() -> None:
    """Whoever waits without a deadline is woken by deeds, and costs no passes of the loop."""
    network = VirtualNetwork(Echo())
    event = network.event()
    passes = 0

    async def wait() -> None:
        await event.wait()

    original = network._pass

    async def counted() -> None:
        nonlocal passes
        passes += 1
        await original()

    network._pass = counted  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        for _ in range(500):
            await anyio.lowlevel.checkpoint()
        assert passes < 100
        event.set()
    assert network.now() == 0.0


async def test_a_stream() -> None:
    echo = Echo(delay=5)
    network = VirtualNetwork(echo, latency=1)
    stream = await network.connect(ROUTE, until=10)
    assert network.now() == 2.0
    assert stream.try_receive() is None
    assert stream.try_send(b"hello") == 5
    await stream.wait(readable=True, writable=False, until=4)
    assert (network.now(), stream.try_receive()) == (4.0, None)
    await stream.wait(readable=True, writable=False, until=None)
    assert (network.now(), stream.try_receive(2), stream.try_receive()) == (9.0, b"he", b"llo")
    stream.send_eof()
    await network.sleep_until(11)
    assert echo.heard == [b"hello", "eof"]
    stream.close()
    await network.sleep_until(13)
    assert echo.heard == [b"hello", "eof", "gone"]
    with pytest.raises(OSError, match="closed on this side"):
        stream.try_receive()
    with pytest.raises(OSError, match="closed on this side"):
        await stream.wait(readable=True, writable=False, until=None)
    assert network.open_streams == 0


async def test_a_full_connection_takes_no_more() -> None:
    network = VirtualNetwork(Echo(), latency=1)
    stream = await network.connect(ROUTE, until=None)
    sent = 0
    while taken := stream.try_send(bytes(100_000)):
        sent += taken
    assert sent == 256 * 1024
    await stream.wait(readable=False, writable=True, until=None)
    assert network.now() == 3.0
    assert stream.try_send(b"more") == 4


async def test_waiting_is_interrupted() -> None:
    network = VirtualNetwork(Echo())
    stream = await network.connect(ROUTE, until=None)
    async with anyio.create_task_group() as tasks:

        async def wait(act: Callable[[], None]) -> None:
            tasks.start_soon(_soon, act)
            await stream.wait(readable=True, writable=False, until=None)

        await wait(stream.interrupt)
        await wait(stream.close)


async def _soon(act: Callable[[], None]) -> None:
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    act()


async def test_connections_that_are_refused_or_late() -> None:
    refused = Fault(FaultKind.UNREACHABLE, "go away")
    with pytest.raises(ConnectFailed, match="go away"):
        await VirtualNetwork(Echo(refuse=refused)).connect(ROUTE, until=None)
    network = VirtualNetwork(Echo(), latency=3)
    with pytest.raises(ConnectFailed, match="no answer in time") as caught:
        await network.connect(ROUTE, until=5)
    assert (network.now(), caught.value.fault.kind) == (5.0, FaultKind.CONNECT_TIMEOUT)
    with pytest.raises(ValueError, match="latency"):
        VirtualNetwork(Echo(), latency=-1)


async def test_shields_last_virtual_seconds() -> None:
    network = VirtualNetwork(Echo())
    with network.shielded(10) as shield:
        await network.sleep_until(20)
    assert (shield.expired, network.now()) == (True, 10.0)
    with network.shielded(10) as shield:
        await network.sleep_until(15)
    assert (shield.expired, network.now()) == (False, 15.0)
    with anyio.CancelScope() as scope:
        scope.cancel()
        with network.shielded(10) as shield:
            await network.sleep_until(18)
        assert (shield.expired, network.now()) == (False, 18.0)


async def test_whoever_keeps_the_time_may_be_cancelled() -> None:
    network = VirtualNetwork(Echo())
    ends: list[float] = []

    async def sleep(until: float) -> None:
        await network.sleep_until(until)
        ends.append(network.now())

    async with anyio.create_task_group() as tasks:
        keeper = anyio.CancelScope()

        async def first() -> None:
            with keeper:
                await sleep(1000.0)

        tasks.start_soon(first)
        await _soon(lambda: None)
        tasks.start_soon(sleep, 5.0)
        tasks.start_soon(sleep, 50.0)
        await _soon(keeper.cancel)
    assert ends == [5.0, 50.0]
    assert network.waiters == 0


async def test_event_waits_end_at_their_moment() -> None:
    network = VirtualNetwork(Echo())
    event = network.event()
    await event.wait(7.0)
    assert network.now() == 7.0
    event.set()
    await event.wait(100.0)
    assert network.now() == 7.0


async def test_a_client_closed_between_a_lease_and_its_use_says_so() -> None:
    """Found by the simulator: the next in line was given a connection, and the pool closed."""
    host = ModelHost()
    network = VirtualNetwork(host)
    client = client_of(host, network, limits=PoolLimits(max_connections=1))
    pool, origin = client._pool, Origin("http", "model", 80)
    slot, connection = await pool._lease(origin, Timeouts())
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(SandboxConnectionError, match="closed"):
                await client.list_sandboxes()

        tasks.start_soon(ask)
        await _soon(lambda: None)
        pool.give_back(slot, connection)
        await client.aclose()
    assert (network.open_streams, network.waiters) == (0, 0)


# --- loops of all sorts ---------------------------------------------------------------


async def _build(sleep: Callable[[float], Any]) -> float:
    """A long command, beside a task that has nothing to do with the network."""
    host = ModelHost()
    host.on_command("make", stdout="done", duration=600)
    network = VirtualNetwork(host)
    async with (
        client_of(host, network) as client,
        client.sandbox() as sandbox,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(sleep, 0.05)
        result = await sandbox.run("make", timeout=900)
        assert result.stdout == "done"
    return network.now()


def test_loops_that_anyio_did_not_start() -> None:
    assert asyncio.run(_build(asyncio.sleep)) >= 600
    assert trio.run(_build, trio.sleep) >= 600


def test_the_face_for_threads() -> None:
    host = ModelHost()
    host.on_command("make", stdout="done", duration=600)
    network = VirtualNetwork(host)
    began = time.monotonic()
    with (
        SandboxClient(
            api_endpoint=host.origin, api_key=host.api_key, trust_env=False, network=network
        ) as client,
        client.sandbox() as sandbox,
    ):
        heard: list[str] = []
        result = sandbox.run("make", timeout=900, on_stdout=heard.append)
        assert (result.stdout, heard) == ("done", ["done"])
    assert network.now() >= 600
    assert time.monotonic() - began < 5
