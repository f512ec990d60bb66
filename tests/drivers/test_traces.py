"""Whatever happens on the way, a trace is the whole of it: the core does it again, and it plays."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio import AsyncSandboxClient, SandboxClientError
from sandbox_anyio.recording import Recording
from sandbox_anyio.replaying import Replay, beside, load_trace
from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.testing import CommandRun, Faults, ModelHost, echo
from sandbox_proto.trace.lines import Trace, TraceError
from sandbox_proto.trace.playback import PlaybackError
from sandbox_proto.trace.reexecution import verify

pytestmark = pytest.mark.anyio

_RATES = {
    "refuse": 0.1,
    "drop": 0.25,
    "split": 0.2,
    "unavailable": 0.15,
    "delay": 0.1,
    "reload": 0.1,
}
_ATTEMPTS = RetryPolicy(max_retries=2, initial=0.2)


def cat(run: CommandRun) -> Iterator[Any]:
    while line := (yield run.read_line()):
        run.write(line)


def model() -> ModelHost:
    host = ModelHost()
    host.on_command("build", stdout="line\n" * 400, stderr="warned", exit_code=3, duration=600)
    host.on_command("quick", stdout="done")
    host.on_command("cat", cat)
    host.on_port(7, echo)
    return host


async def outcome(told: list[Any], deed: Callable[[], Any]) -> Any:
    """What comes of a deed, error or not, for comparison."""
    try:
        result = await deed()
    except SandboxClientError as error:
        told.append((type(error).__name__, str(error)))
        return None
    told.append(getattr(result, "stdout", None) or str(result))
    return result


async def work(client: AsyncSandboxClient) -> list[Any]:
    """A session in which much may go wrong."""
    told: list[Any] = []
    sandbox = await outcome(told, lambda: client.create_sandbox(name="box"))
    if sandbox is None:
        return told
    await outcome(told, lambda: sandbox.run("quick"))
    await outcome(told, lambda: sandbox.run("build", timeout=0))
    await outcome(told, lambda: sandbox.write("/f", b"content" * 100))
    await outcome(told, lambda: sandbox.read("/f"))

    async def talk() -> bytes:
        async with await sandbox.connect(7) as stream:
            await stream.send(b"hello")
            return await stream.receive()  # type: ignore[no-any-return]

    try:
        told.append(await talk())
    except (SandboxClientError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        told.append(type(error).__name__)
    await outcome(told, lambda: client.delete_sandbox("box"))
    return told


def client_of(host: ModelHost, network: VirtualNetwork, **settings: Any) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        api_endpoint=host.origin,
        api_key=host.api_key,
        retry=_ATTEMPTS,
        network=network,
        trust_env=False,
        **settings,
    )


async def test_what_faults_did_is_done_again_and_plays(tmp_path: Path, sweep: int) -> None:
    """By seeds: faults of every kind, recorded, verified, and played with the same outcome."""
    struck, failures = 0, 0
    for seed in range(25 * sweep):
        path = tmp_path / f"{seed}.jsonl"
        host, faults = model(), Faults(seed=seed, **_RATES)
        async with client_of(host, VirtualNetwork(host, faults=faults), record=path) as client:
            told = await work(client)
        struck += sum(faults.struck.values())
        failures += sum(isinstance(item, tuple) for item in told)
        report = verify(load_trace(path))
        assert report.difference is None, f"seed {seed}: {report.difference}"
        assert not report.left_out
        replay = Replay(path=path)
        async with AsyncSandboxClient(replay=replay, retry=_ATTEMPTS, trust_env=False) as client:
            played = await work(client)
        # An answer that was cut plays as one that ended, which is told in other words.
        assert [kind_of(item) for item in played] == [kind_of(item) for item in told], seed
    assert struck >= 25 * sweep
    assert failures
    print(f"\n{25 * sweep} seeds, {struck} faults, {failures} errors")


def kind_of(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) else item


async def test_a_build_of_ten_minutes_plays_in_no_time(tmp_path: Path) -> None:
    path, host = tmp_path / "build.jsonl", model()
    client = client_of(host, VirtualNetwork(host), record=path)
    async with client, client.sandbox() as sandbox:
        await sandbox.run("build", timeout=0)
    began = time.monotonic()
    async with AsyncSandboxClient(replay=path, trust_env=False) as client:
        async with client.sandbox() as sandbox:
            result = await sandbox.run("build", timeout=0)
        passed = client.network.now()
    assert (result.exit_code, len(result.stdout), result.stderr) == (3, 2000, "warned")
    assert passed >= 599
    assert time.monotonic() - began < 1


async def test_tasks_may_run_in_another_order(tmp_path: Path) -> None:
    """Requests are matched by what they ask. Ids that are invented anew stand for the old ones."""
    path, host = tmp_path / "many.jsonl", model()

    async def one(client: AsyncSandboxClient, number: int, delay: float) -> None:
        await client.network.sleep_until(client.network.now() + delay)
        async with client.sandbox(name=f"box-{number}") as sandbox:
            result = await sandbox.run("cat", input=f"number {number}")
            assert result.stdout == f"number {number}"

    async def all_of_them(client: AsyncSandboxClient, delays: list[float]) -> None:
        async with anyio.create_task_group() as tasks:
            for number, delay in enumerate(delays):
                tasks.start_soon(one, client, number, delay)

    delays = [0.1 * number for number in range(8)]
    async with client_of(host, VirtualNetwork(host), record=path) as client:
        await all_of_them(client, delays)
    random.Random(3).shuffle(delays)
    async with AsyncSandboxClient(replay=path, trust_env=False) as client:
        await all_of_them(client, delays)


async def test_no_byte_can_be_changed_unseen(tmp_path: Path, sweep: int) -> None:
    """A digit, letter or bracket of anything heard: verification ends at that line or later."""
    path, host = tmp_path / "x.jsonl", model()
    client = client_of(host, VirtualNetwork(host), record=path)
    async with client, client.sandbox(name="box") as sandbox:
        await sandbox.run("quick")
    lines = path.read_text().splitlines()
    chance, tried, unseen = random.Random(5), 0, []
    for _ in range(200 * sweep):
        number = chance.randrange(1, len(lines))
        data = json.loads(lines[number])
        heard = data.get("with", {}).get("data", {})
        if data.get("call") != "receive_data" or "text" not in heard:
            continue
        text = heard["text"]
        body = text.partition("\r\n\r\n")[2]
        if not body:
            continue
        place = text.index(body) + chance.randrange(len(body))
        heard["text"] = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        tried += 1
        try:
            difference = verify(
                Trace.parse([*lines[:number], json.dumps(data), *lines[number + 1 :]])
            ).difference
        except TraceError as error:
            assert "did not come out of any machine" in str(error)
            continue
        if difference is None:
            unseen.append((number, place))
        else:
            assert difference.line > number
    assert tried > 10
    assert not unseen


async def test_large_bodies_go_beside(tmp_path: Path) -> None:
    path, host = tmp_path / "x.jsonl", model()
    content = os.urandom(100_000)

    async def session(client: AsyncSandboxClient) -> None:
        async with client.sandbox(name="box") as sandbox:
            await sandbox.write("/f", content)
            assert await sandbox.read("/f") == content

    recording = Recording(path=path, beside=True)
    async with client_of(host, VirtualNetwork(host), record=recording) as client:
        await session(client)
    kept = list((tmp_path / "x.jsonl.d").iterdir())
    assert kept
    assert path.stat().st_size < 30_000
    assert verify(load_trace(path), beside(path)).difference is None
    async with AsyncSandboxClient(replay=path, trust_env=False) as client:
        await session(client)
    changed = bytearray(kept[0].read_bytes())
    changed[5] ^= 1
    kept[0].write_bytes(changed)
    with pytest.raises(TraceError, match="was changed"):
        verify(load_trace(path), beside(path))
    kept[0].unlink()
    with pytest.raises((TraceError, FileNotFoundError)):
        verify(load_trace(path), beside(path))


async def test_recording_much_takes_little_memory(tmp_path: Path) -> None:
    path, host = tmp_path / "x.jsonl", model()
    content = b"0123456789" * 800_000
    client = client_of(host, VirtualNetwork(host), record=path)
    async with client, client.sandbox(name="box") as sandbox:
        await sandbox.write("/f", content)
        await sandbox.run("quick")
        assert client._recorded is not None
        assert client._recorded.recorder._queued_bytes < 2 * 1024 * 1024
    assert verify(load_trace(path)).difference is None


async def test_the_environment_switches_recording_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_RECORD", str(tmp_path / "t.jsonl"))
    host = model()
    for _ in range(2):
        async with client_of(host, VirtualNetwork(host)) as client:
            await client.list_sandboxes()
    assert sorted(os.listdir(tmp_path)) == ["t-2.jsonl", "t.jsonl"]  # noqa: PTH208
    assert verify(load_trace(tmp_path / "t-2.jsonl")).actors == 2


async def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        AsyncSandboxClient(record=tmp_path, trust_env=False)


async def test_a_client_that_is_never_closed_has_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    program = f"""
import anyio
from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.testing import ModelHost
async def main():
    global client
    host = ModelHost()
    client = AsyncSandboxClient(api_endpoint=host.origin, api_key=host.api_key,
                                network=VirtualNetwork(host), record={str(path)!r})
    await client.create_sandbox(name="left")
anyio.run(main)
"""
    await anyio.run_process([sys.executable, "-c", program], check=True, stderr=subprocess.PIPE)
    report = verify(load_trace(path))
    assert (report.difference, report.actors) == (None, 2)


async def test_recording_costs_nothing_when_it_is_off() -> None:
    program = "import sys, sandbox_anyio.client; print([m for m in sys.modules if '.trace' in m])"
    answer = await anyio.run_process([sys.executable, "-c", program])
    assert answer.stdout.strip() == b"[]"


async def test_a_replay_need_not_be_strict(tmp_path: Path) -> None:
    path, host = tmp_path / "x.jsonl", model()
    async with client_of(host, VirtualNetwork(host), record=path) as client:
        await client.list_sandboxes()
    async with AsyncSandboxClient(replay=Replay(path=path, strict=False), trust_env=False):
        pass
    client = AsyncSandboxClient(replay=path, trust_env=False)
    with pytest.raises(PlaybackError, match="did less"):
        await client.aclose()
