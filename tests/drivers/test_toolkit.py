"""What `sandbox_proto.testing` offers to people who test their own code: a tour, on both loops."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import anyio
import pytest

from sandbox_anyio import (
    AsyncSandboxClient,
    RetryPolicy,
    SandboxClientError,
    SandboxTimeoutError,
    TunnelConnectionRefusedError,
)
from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.testing import (
    CommandRun,
    Cut,
    Delay,
    Drop,
    End,
    Faults,
    HalfOpen,
    LoseExit,
    ModelHost,
    Refuse,
    Reload,
    SlowConnect,
    Split,
    Unavailable,
    disconnect_at_every_byte,
    disconnect_at_every_frame,
    echo,
)

pytestmark = pytest.mark.anyio


def client_of(host: ModelHost, network: VirtualNetwork, **settings: Any) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        api_endpoint=host.origin,
        api_key=host.api_key,
        trust_env=False,
        network=network,
        **settings,
    )


async def run(host: ModelHost, command: str, **options: Any) -> Any:
    network = VirtualNetwork(host)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        return await sandbox.run(command, **options)


# --- commands -------------------------------------------------------------------------


async def test_a_command_acts_over_time_and_shares_files_with_the_client() -> None:
    def build(run: CommandRun) -> Generator[Any, str, int]:
        run.write(f"building {run.match[1] if run.match else ''} in {run.cwd}\n")
        yield run.sleep(30)
        run.files["a.out"] = run.files["main.c"] + run.env["FLAGS"].encode()
        del run.files["/home/user/main.c"]
        run.write_error("a warning\n")
        return 2

    host = ModelHost()
    host.on_command(re.compile(r"make( -j\d+)?"), build)
    network = VirtualNetwork(host)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        await sandbox.write("/home/user/main.c", "int main")
        began = network.now()
        result = await sandbox.run("make -j4", env={"FLAGS": "-O2"})
        assert (result.stdout, result.stderr, result.exit_code) == (
            "building  -j4 in /home/user\n",
            "a warning\n",
            2,
        )
        assert network.now() - began == 30
        assert await sandbox.read("/home/user/a.out") == b"int main-O2"
        with pytest.raises(SandboxClientError):
            await sandbox.read("/home/user/main.c")
    assert host.mistakes == []


async def test_a_command_reads_input() -> None:
    def greet(run: CommandRun) -> Generator[Any, str, None]:
        run.write("name? ")
        name = yield run.read_line()
        run.write(f"hello {name.strip()}\n")
        while rest := (yield run.read()):
            run.write(f"[{rest}]")

    host = ModelHost()
    host.on_command("./greet", greet)
    network = VirtualNetwork(host, latency=0.1)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        handle = await sandbox.run("./greet", wait=False, close_input=False)
        await handle.wait_for_output("name")
        await handle.send_input("Ada\nmore")
        await handle.close_input()
        result = await handle.result
    assert result.stdout == "name? hello Ada\n[more]"


async def test_a_terminal_echoes_and_has_one_stream() -> None:
    def shell(run: CommandRun) -> Generator[Any, str, str]:
        run.write_error("$ ")
        yield run.read_line()
        return "bye\n"

    host = ModelHost()
    host.on_command("sh", shell)
    network = VirtualNetwork(host)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        handle = await sandbox.run("sh", wait=False, pty=True)
        await handle.send_input("exit\n")
        result = await handle.result
    assert (result.stdout, result.stderr) == ("$ exit\r\nbye\r\n", "")


async def test_what_no_script_knows_and_what_a_script_does_wrong() -> None:
    host = ModelHost()
    host.on_command("broken", lambda run: run.files["nothing"].decode())

    def confused(run: CommandRun) -> Generator[Any, str, None]:
        yield 3

    host.on_command("confused", confused)
    result = await run(host, "frobnicate --all")
    assert (result.exit_code, result.stderr) == (
        127,
        "bash: line 1: frobnicate: command not found\n",
    )
    result = await run(host, "broken")
    assert (result.exit_code, result.stderr) == (1, "KeyError: 'nothing'\n")
    assert "yields run.sleep" in (await run(host, "confused")).stderr
    assert [type(mistake) for mistake in host.mistakes] == [KeyError, TypeError]
    with pytest.raises(ValueError, match="not both"):
        host.on_command("x", lambda run: 0, stdout="y")


async def test_much_output_waits_for_its_reader() -> None:
    host = ModelHost()
    text = "0123456789abcdef" * 400_000
    host.on_command("cat big", lambda run: text)
    assert (await run(host, "cat big")).stdout == text


async def test_killing_and_the_end_of_a_sandbox() -> None:
    host = ModelHost()
    host.on_command("hang", duration=1e9)
    network = VirtualNetwork(host)
    async with client_of(host, network) as client:
        sandbox = await client.create_sandbox()
        first = await sandbox.run("hang", wait=False, timeout=0)
        second = await sandbox.run("hang", wait=False, timeout=0)
        await first.kill()
        assert (await first.result).exit_code == 137
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.delete_sandbox, sandbox.name)
            assert (await second.result).exit_code == 137
    assert network.now() < 60


# --- tunnels --------------------------------------------------------------------------


async def test_tunnels_lead_to_functions() -> None:
    class Counter:
        def __init__(self) -> None:
            self.heard = 0

        def __call__(self, data: bytes) -> bytes:
            self.heard += len(data)
            return b"" if data else b"%d bytes" % self.heard

    host = ModelHost()
    host.on_port(7, echo)
    host.on_port(8, Counter, per_connection=True)
    network = VirtualNetwork(host, latency=0.05)
    async with client_of(host, network) as client, client.sandbox() as sandbox:
        big = bytes(range(256)) * 8000
        async with await sandbox.connect(7) as stream, anyio.create_task_group() as tasks:

            async def send() -> None:
                await stream.send(big)
                await stream.send_eof()

            tasks.start_soon(send)
            assert b"".join([chunk async for chunk in stream]) == big
        async with await sandbox.connect(8) as stream:
            await stream.send(b"hello")
            await stream.send_eof()
            assert await stream.receive() == b"5 bytes"
        with pytest.raises(TunnelConnectionRefusedError, match="port 9"):
            await sandbox.connect(9)
    assert not host.tunnels
    with pytest.raises(ValueError, match="port"):
        host.on_port(0, echo)


async def test_a_host_that_drains_is_come_back_to() -> None:
    host = ModelHost()
    host.on_command("long", stdout="x", duration=50)
    network = VirtualNetwork(host, latency=0.01)
    for transport in ("websocket", "sse"):
        async with (
            client_of(host, network, exec_transport=transport) as client,
            client.sandbox() as sandbox,
        ):
            handle = await sandbox.run("long", wait=False)
            await handle.wait_started()
            host.drain(now=network.now())
            async with anyio.create_task_group() as tasks:

                async def replace() -> None:
                    await network.sleep_until(network.now() + 3)
                    host.accept()

                tasks.start_soon(replace)
                assert (await handle.result).stdout == "x"
    assert host.runs == ["long", "long"]


# --- faults ---------------------------------------------------------------------------


async def scenario(faults: Faults, **settings: Any) -> ModelHost:
    """Something that has to come off whatever happens to any one connection."""
    host = ModelHost()
    host.on_command("work", stdout="out" * 40, stderr="err", exit_code=3, duration=2)
    network = VirtualNetwork(host, faults=faults, latency=0.01)
    async with client_of(host, network, **settings) as client, client.sandbox() as sandbox:
        result = await sandbox.run("work")
        assert (result.stdout, result.stderr, result.exit_code) == ("out" * 40, "err", 3)
        assert result.complete
        await sandbox.write("/home/user/f", "content")
        assert await sandbox.read("/home/user/f") == b"content"
    assert host.runs == ["work"]
    # A delete that gets no answer is given up after a while, with a warning.
    assert not host.host.boxes or faults.struck["half_open"]
    assert (network.open_streams, network.waiters) == (0, 0)
    return host


NAMED = {
    "drop": Drop(after=700, connection=0),
    "drop up, in order": Drop(after=100, direction="up", how=End.FIN, connection=1),
    "half-open": HalfOpen(after=250, connection=1),
    "refuse": Refuse(connection=0),
    "slow": SlowConnect(3.0, connection=0),
    "never": SlowConnect(float("inf"), connection=1),
    "delay": Delay(0.7),
    "split": Split(3, gap=0.001),
    "unavailable": Unavailable(connection=0),
    "unavailable later": Unavailable(request=1, connection=0),
    "lose exit": LoseExit(connection=1),
    "reload": Reload(connection=1),
}


@pytest.mark.parametrize("fault", NAMED.values(), ids=NAMED)
async def test_one_fault_by_name(fault: Any) -> None:
    faults = Faults(fault)
    await scenario(faults, exec_transport="websocket")  # which is connection 1, then
    assert faults.struck[fault.name] >= 1


async def test_an_answer_that_is_lost_after_the_deed() -> None:
    """A create that was carried out, although 503 says that it was not, makes no second one."""
    faults = Faults(Unavailable(executed=True, connection=0))
    host = ModelHost()
    network = VirtualNetwork(host, faults=faults)
    async with client_of(host, network) as client:
        try:
            await client.create_sandbox()
        except SandboxClientError:
            pass
        assert len(host.host.boxes) <= 1
    assert faults.struck == {"unavailable_after": 1}


@pytest.mark.parametrize("how", End)
@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_disconnect_at_every_frame(how: End, transport: str, sweep: int) -> None:
    step = max(5 // sweep, 1)
    runs = 0
    for faults in disconnect_at_every_frame(how=how, step=step):
        try:
            await scenario(faults, exec_transport=transport)
        except SandboxTimeoutError:
            assert how is End.SILENCE  # nobody answers in time, and nobody can know why
        runs += sum(faults.struck.values())
    assert runs >= 3


async def test_a_disconnect_at_every_byte(sweep: int) -> None:
    runs = 0
    for faults in disconnect_at_every_byte(step=max(499 // sweep, 1)):
        await scenario(faults)
        runs += faults.struck["drop"]
    assert runs >= 4


@pytest.mark.parametrize("faults", list(disconnect_at_every_frame(frames=3)), ids=repr)
async def test_sweeps_suit_parametrisation(faults: Faults) -> None:
    await scenario(faults)
    assert faults.struck["drop"] >= 1


async def test_faults_by_chance_are_the_same_by_seed() -> None:
    struck = []
    for seed in (1, 1, 2):
        faults = Faults(seed=seed, drop=0.3, delay=0.5, unavailable=0.3, split=0.3, refuse=0.2)
        times = []
        for _ in range(2):
            host = ModelHost()
            network = VirtualNetwork(host, faults=faults)
            async with client_of(host, network, retry=RetryPolicy(max_retries=8)) as client:
                client._random.seed(5)
                for number in range(12):
                    try:
                        await client.list_sandboxes()
                    except SandboxClientError:
                        times.append(number)
                    for link in network.wires.open_links:
                        link.close()
                times.append(network.now())
        assert times[: len(times) // 2] == times[len(times) // 2 :]
        struck.append(dict(faults.struck))
    assert struck[0] == struck[1] != struck[2]


def test_faults_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="there is no fault 'dorp'; there are: refuse"):
        Faults(dorp=0.1)
    with pytest.raises(ValueError, match="rate of drop must be from 0 to 1"):
        Faults(drop=3)
    with pytest.raises(ValueError, match="size"):
        Split(0)
    sweeps: list[Callable[[], Any]] = [disconnect_at_every_frame, disconnect_at_every_byte]
    for every in sweeps:
        unused = every()
        next(unused)
        with pytest.raises(ValueError, match="nothing was counted"):
            next(unused)
    assert repr(Faults.disconnect_at(3, Cut(End.FIN, 2))) == "<disconnect at frame 3, byte 2, fin>"
    assert repr(Faults(Delay(1), seed=4, drop=0.5)).startswith("Faults(Delay(seconds=1")
