"""What a command is given, what becomes of its output, and how it is let go, on either loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    CommandFailedError,
    CommandTimeoutError,
    LocalHost,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxTimeoutError,
)

pytestmark = pytest.mark.anyio
BYTES = bytes(range(256))
PRINT_BYTES = "import sys; sys.stdout.buffer.write(bytes(range(256)))"


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox


@pytest.fixture(params=["sse", "http"])
async def elsewise(
    request: pytest.FixtureRequest, host: LocalHost, sandbox: AsyncSandbox
) -> AsyncIterator[AsyncSandbox]:
    """The same sandbox by another transport."""
    async with AsyncSandboxClient(
        api_endpoint=host.endpoint,
        api_key=host.api_key,
        trust_env=False,
        exec_transport=request.param,
    ) as client:
        yield await client.get_sandbox(sandbox.name)


# --- what it is given -----------------------------------------------------------------


@pytest.mark.parametrize("word", ["$HOME", "it's", "", "a  b", "*", "\\n", "caf\u00e9;"])
async def test_the_words_of_a_list_arrive_as_they_are(sandbox: AsyncSandbox, word: str) -> None:
    result = await sandbox.run(["printf", "[%s]", word])
    assert result.stdout == f"[{word}]"


@pytest.mark.parametrize("data", ["text\u20ac\n", b"bytes\n", "", "x" * 3_000_000])
async def test_input_is_read_to_its_end(sandbox: AsyncSandbox, data: str | bytes) -> None:
    size = len(data.encode() if isinstance(data, str) else data)
    assert (await sandbox.run("wc -c", input=data)).stdout == f"{size}\n"


async def test_a_failure_is_an_error_if_it_must_not_be(sandbox: AsyncSandbox) -> None:
    assert (await sandbox.run("echo fine", check=True)).stdout == "fine\n"
    with pytest.raises(CommandFailedError, match="exit code 3: no such thing") as caught:
        await sandbox.run("echo out; echo no such thing >&2; exit 3", check=True)
    assert (caught.value.exit_code, caught.value.result.stdout) == (3, "out\n")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"check": True, "wait": False}, "check needs wait=True"),
        ({"max_output": -1}, "max_output"),
        ({"input": "x", "pty": True}, "input cannot be combined with pty"),
        ({"input": b"\xff"}, "UTF-8"),
    ],
)
async def test_what_contradicts_itself_is_refused(
    sandbox: AsyncSandbox, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        await sandbox.run("true", **settings)  # type: ignore[call-overload]


# --- what becomes of its output -------------------------------------------------------


async def test_a_bound_keeps_head_and_tail(sandbox: AsyncSandbox) -> None:
    result = await sandbox.run("seq 100000", max_output=1000)
    whole = "".join(f"{number}\n" for number in range(1, 100_001))
    [omitted] = result.omitted
    assert result.stdout == whole[: omitted.start] + whole[omitted.end :]
    assert (len(result.stdout), result.complete) == (1000, True)


async def test_output_may_go_to_files(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    command = "seq 300000; echo err >&2"
    result = await sandbox.run(command, spill_to=tmp_path / "new" / "place")
    whole = "".join(f"{number}\n" for number in range(1, 300_001))
    assert (tmp_path / "new/place/stdout").read_text() == whole
    assert (tmp_path / "new/place/stderr").read_text() == result.stderr == "err\n"
    assert len(result.stdout) == 1024 * 1024
    assert result.stdout.endswith("300000\n")


async def test_a_disk_that_is_full_ends_the_command(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    (tmp_path / "stderr").touch()
    (tmp_path / "stdout").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        await sandbox.run("yes; echo never", spill_to=tmp_path)
    # Its shell's end is told; that of the others in its group follows within moments.
    await sandbox.run("while pgrep -x yes; do sleep 0.01; done", timeout=20, check=True)


async def test_bytes_come_as_they_were_written(sandbox: AsyncSandbox) -> None:
    seen: list[bytes] = []
    result = await sandbox.run(["python3", "-c", PRINT_BYTES], text=False, on_stdout=seen.append)
    # This host keeps text: what is none has become U+FFFD before it is counted.
    assert result.stdout_bytes == b"".join(seen) == BYTES.decode(errors="replace").encode()
    assert result.stderr_bytes == b""


async def test_waiting_for_output_takes_nothing_away(sandbox: AsyncSandbox) -> None:
    script = "echo one; echo port 80; read line; echo got $line >&2; sleep 1000"
    async with await sandbox.run(script, wait=False, close_input=False) as handle:
        match = await handle.wait_for_output(r"port (\d+)", timeout=10)
        assert match[1] == "80"
        assert (await handle.wait_for_output("one")).group() == "one", "what came before counts"
        await handle.send_input(b"it\n")
        await handle.wait_for_output("got it", 10, stream="stderr")
        chunks = [await anext(handle) for _ in range(2)]
        assert "".join(chunk.data for chunk in chunks) in (
            "one\nport 80\n",
            "one\nport 80\ngot it\n",
        )


async def test_output_that_never_comes_is_waited_for_in_vain(sandbox: AsyncSandbox) -> None:
    async with await sandbox.run("echo a; sleep 1000", wait=False) as handle:
        with pytest.raises(SandboxTimeoutError, match=r"within 0\.2 s") as caught:
            await handle.wait_for_output("b", 0.2)
        assert caught.value.limit == "output"
    handle = await sandbox.run("echo a; exit 3", wait=False)
    with pytest.raises(SandboxOperationError, match="exit code 3 and no output matched"):
        await handle.wait_for_output("b")
    assert (await handle.result).stdout == "a\n"


# --- how it is let go -----------------------------------------------------------------


async def test_the_end_of_a_block_kills(sandbox: AsyncSandbox) -> None:
    async with await sandbox.run("exec sleep 4001", wait=False) as handle:
        assert (await sandbox.run("pgrep -f 'sleep 400[1]'")).success
    assert not (await sandbox.run("pgrep -f 'sleep 400[1]'")).success
    assert (await handle.result).exit_code == 137


async def test_unless_it_is_over_or_was_detached(sandbox: AsyncSandbox) -> None:
    async with await sandbox.run("exit 4", wait=False) as handle:
        assert (await handle.result).exit_code == 4
    async with await sandbox.run("exec sleep 4002", wait=False) as handle:
        handle.detach()
    async with await sandbox.run("exec sleep 4003", wait=False, detach=True) as other:
        pass
    assert (await sandbox.run("pgrep -fc 'sleep 400[23]'")).stdout == "2\n"
    with pytest.raises(SandboxConnectionError) as caught:
        await handle.result
    assert caught.value.command is not None
    assert caught.value.command.may_be_running
    for command in (handle, other):
        await (await sandbox.reconnect(command.command_id)).kill()


async def test_a_detached_run_goes_on_when_its_task_is_cancelled(sandbox: AsyncSandbox) -> None:
    with anyio.move_on_after(0.5):
        await sandbox.run("exec sleep 4004", detach=True)
    assert (await sandbox.run("pkill -f 'sleep 400[4]'")).success


async def test_an_error_knows_what_the_command_said(sandbox: AsyncSandbox) -> None:
    with pytest.raises(CommandTimeoutError) as caught:
        await sandbox.run("echo so far; sleep 1000", timeout=1)
    outcome = caught.value.command
    assert outcome is not None
    assert (outcome.stdout, outcome.may_be_running) == ("so far\n", False)


# --- other transports -----------------------------------------------------------------


async def test_other_transports_tell_the_same(elsewise: AsyncSandbox) -> None:
    result = await elsewise.run("echo caf\u00e9; echo err >&2; exit 5", env={"A": "b"})
    assert (result.stdout, result.stderr, result.exit_code) == ("caf\u00e9\n", "err\n", 5)
    result = await elsewise.run("seq 500000")
    assert result.stdout == "".join(f"{number}\n" for number in range(1, 500_001))
    assert result.complete


async def test_and_kill_when_their_task_is_cancelled(
    elsewise: AsyncSandbox, sandbox: AsyncSandbox
) -> None:
    with anyio.move_on_after(0.5):
        await elsewise.run("exec sleep 4005")
    with anyio.fail_after(5):
        while (await sandbox.run("pgrep -f 'sleep 400[5]'")).success:
            pass


async def test_an_event_stream_is_attached_to_from_anywhere(
    host: LocalHost, sandbox: AsyncSandbox
) -> None:
    handle = await sandbox.run("echo a; read x; echo $x", wait=False, close_input=False)
    async with AsyncSandboxClient(
        api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False, exec_transport="sse"
    ) as client:
        same = await (await client.get_sandbox(sandbox.name)).reconnect(handle.command_id)
        assert (await anext(same)).data == "a\n"
        await same.send_input("b\n")  # goes over to a WebSocket
        assert (await same.result).stdout == "a\nb\n"
    assert (await handle.result).stdout == "a\nb\n"
