"""The vendor's own clients, unchanged, run commands on our host over event streams.

Their feature `sandbox_sse_exec` is switched on for these tests; every story is told twice, by
the synchronous client and by the asynchronous one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from langsmith import utils

from sandbox_anyio.local.launch import LocalHost

from ..drivers._own_host import OwnHost, own_host
from ..drivers._servers import Relay
from ._vendor import chunks_of, connected, done, vendor

pytestmark = pytest.mark.anyio

ELSEWHERE = Path(__file__).with_name("_elsewhere.py")
LINE = "grüße, 日本 🙂\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _event_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_EXPERIMENTAL_FEATURES", "sandbox_sse_exec")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client takes a second of silence for the end of the connection."""
    utils.get_env_var.cache_clear()
    monkeypatch.setenv("LANGSMITH_SANDBOX_SSE_TIMEOUT_READ", "1")
    yield
    utils.get_env_var.cache_clear()


@pytest.fixture(scope="module")
def talkative() -> Iterator[OwnHost]:
    """A host that soon gives signs of life."""
    with own_host(heartbeat=0.2) as host:
        yield host


@pytest.fixture
async def sandbox(kind: str, host: LocalHost) -> AsyncIterator[Any]:
    async with connected(kind, host.endpoint, api_key=host.api_key) as client:
        sandbox = await done(client.create_sandbox())
        yield sandbox
        await done(client.delete_sandbox(sandbox.name))


async def all_of(handle: Any) -> list[Any]:
    return [chunk async for chunk in chunks_of(handle)]


async def test_it_is_an_event_stream(sandbox: Any) -> None:
    """The one transport over which the vendor's client refuses these."""
    handle = await done(sandbox.run("sleep 1000", wait=False, idle_timeout=0))
    with pytest.raises(vendor.SandboxOperationError):
        await done(handle.kill())
    with pytest.raises(vendor.SandboxOperationError, match="stdin"):
        await done(handle.send_input("x"))
    with pytest.raises(ValueError, match="pty"):
        await done(sandbox.run("true", pty=True))


@pytest.mark.parametrize("code", [0, 3])
async def test_a_result_is_whole(sandbox: Any, code: int) -> None:
    result = await done(sandbox.run(f"echo out; cat; echo err >&2; exit {code}"))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", code)


async def test_output_comes_piece_by_piece(sandbox: Any) -> None:
    wait = "until [ -e go ]; do sleep 0.01; done"
    handle = await done(sandbox.run(f"echo grüße; {wait}; echo b >&2", wait=False))
    assert len(handle.command_id) == 32 and handle.pid > 0
    chunks = chunks_of(handle)
    first = await anext(chunks)
    assert (first.stream, first.data, first.offset) == ("stdout", "grüße\n", 0)
    await done(sandbox.write("/home/user/go", b""))
    second = await anext(chunks)
    assert (second.stream, second.data, second.offset) == ("stderr", "b\n", 0)
    assert (await done(handle.result)).exit_code == 0


async def test_callbacks_hear_what_the_result_holds(sandbox: Any) -> None:
    heard: dict[str, list[str]] = {"stdout": [], "stderr": []}
    result = await done(
        sandbox.run(
            "for n in 1 2 3; do echo out $n; echo err $n >&2; done",
            on_stdout=heard["stdout"].append,
            on_stderr=heard["stderr"].append,
        )
    )
    assert "".join(heard["stdout"]) == result.stdout == "out 1\nout 2\nout 3\n"
    assert "".join(heard["stderr"]) == result.stderr == "err 1\nerr 2\nerr 3\n"


async def test_environment_and_place(sandbox: Any) -> None:
    look = "echo $PWD $A"
    result = await done(sandbox.run(look, env={"A": "ü b"}, cwd="/usr"))
    assert result.stdout == "/usr ü b\n"
    config = vendor.RunConfig(user="root", work_dir="/tmp", env_vars={"A": "config"})
    assert (await done(sandbox.run(look, run_config=config))).stdout == "/tmp config\n"


async def test_megabytes_cross_the_windows_complete(sandbox: Any) -> None:
    count = 3 * (1 << 20) // len(LINE.encode()) + 1
    script = f"import sys; sys.stdout.write({LINE!r} * {count}); sys.stderr.write('é' * 700_000)"
    handle = await done(sandbox.run(f'python3 -c "{script}"', wait=False))
    chunks = await all_of(handle)
    position = {"stdout": 0, "stderr": 0}
    for chunk in chunks:
        assert chunk.offset == position[chunk.stream]
        position[chunk.stream] += len(chunk.data.encode())
    result = await done(handle.result)
    assert result.stdout == LINE * count
    assert result.stderr == "é" * 700_000
    assert result.exit_code == 0


async def test_bytes_that_are_no_text_are_replaced(sandbox: Any) -> None:
    handle = await done(sandbox.run(r"printf 'a\xffb\xe2\x82'", wait=False))
    assert (await done(handle.result)).stdout == "a\ufffdb\ufffd"
    again = await done(sandbox.reconnect(handle.command_id, stdout_offset=4))
    assert (await done(again.result)).stdout == "b\ufffd"


async def test_a_time_limit_and_a_missing_shell(sandbox: Any) -> None:
    handle = await done(sandbox.run("echo begun; sleep 1000", timeout=1, wait=False))
    with pytest.raises(vendor.CommandTimeoutError, match="1 s"):
        await done(handle.result)
    with pytest.raises(vendor.CommandTimeoutError, match="1 s"):
        await done((await done(sandbox.reconnect(handle.command_id))).result)
    with pytest.raises(vendor.SandboxOperationError) as failed:
        await done(sandbox.run("true", shell="/no/shell"))
    assert failed.value.error_type == "CommandError"


async def test_commands_that_are_not_there(sandbox: Any) -> None:
    for command_id, error_type in (("none", "CommandNotFound"), ("gone", "SessionExpired")):
        if command_id == "gone":
            handle = await done(sandbox.run("true", ttl_seconds=0, wait=False))
            await done(handle.result)
            command_id = handle.command_id
        with pytest.raises(vendor.SandboxOperationError) as missing:
            await done((await done(sandbox.reconnect(command_id))).result)
        assert (missing.value.operation, missing.value.error_type) == ("reconnect", error_type)


async def test_a_command_outlives_the_process_that_started_it(
    kind: str, host: LocalHost, sandbox: Any
) -> None:
    asked = {
        "kind": kind,
        "endpoint": host.endpoint,
        "api_key": host.api_key,
        "sandbox": sandbox.name,
        "command": "echo grüße; until [ -e go ]; do sleep 0.01; done; echo over",
        "options": {"timeout": 0},
    }
    process = await anyio.run_process(
        [sys.executable, str(ELSEWHERE), json.dumps(asked)], stderr=subprocess.STDOUT
    )
    begun = json.loads(process.stdout)
    await done(sandbox.write("/home/user/go", b""))
    handle = await done(sandbox.reconnect(begun["command_id"], stdout_offset=begun["offset"]))
    result = await done(handle.result)
    assert (result.stdout, result.exit_code) == ("over\n", 0)
    whole = await done((await done(sandbox.reconnect(begun["command_id"]))).result)
    assert whole.stdout == "grüße\nover\n"


async def test_a_lost_answer_is_asked_for_again_and_nothing_runs_twice(
    kind: str, host: LocalHost
) -> None:
    cuts = iter([True])
    with Relay(
        host.endpoint, lambda asked: b"/stream/start" in asked and next(cuts, False)
    ) as relay:
        async with connected(kind, relay.url, api_key=host.api_key) as client:
            sandbox = await done(client.create_sandbox())
            result = await done(sandbox.run("echo x >> runs; cat runs"))
            assert (result.stdout, relay.cuts) == ("x\n", 1)
            await done(client.delete_sandbox(sandbox.name))


async def test_silence_is_no_end(kind: str, hasty: None, talkative: OwnHost) -> None:
    local = talkative.local
    with Relay(local.endpoint, lambda asked: b"/stream/resume" in asked) as relay:
        async with connected(kind, relay.url, api_key=local.api_key) as client:
            sandbox = await done(client.create_sandbox())
            result = await done(sandbox.run("sleep 1.7; echo out"))
            assert (result.stdout, result.exit_code) == ("out\n", 0)
            await done(client.delete_sandbox(sandbox.name))
    assert relay.cuts == 0, "it never had to resume"


async def test_the_end_of_the_host_is_told_and_its_successor_asked(
    kind: str, tmp_path: Path
) -> None:
    """Commands die with their host, and that is what its successor says."""
    with own_host(state_dir=str(tmp_path)) as host:
        key = host.local.api_key
        async with connected(kind, host.local.endpoint, api_key=key) as client:
            sandbox = await done(client.create_sandbox())
            handle = await done(sandbox.run("echo out; sleep 1000", wait=False))
            chunks = chunks_of(handle)
            assert (await anext(chunks)).data == "out\n"
            host.terminate()
            host.end()
            port = int(host.local.endpoint.rpartition(":")[2])
            with own_host(state_dir=str(tmp_path), port=port, api_key=key):
                with pytest.raises(vendor.SandboxOperationError) as ended:
                    await anext(chunks)
                assert ended.value.error_type == "CommandNotFound"
                assert (await done(sandbox.run("echo again"))).stdout == "again\n"
