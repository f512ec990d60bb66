"""The vendor's own clients, unchanged, run commands on our host, over WebSocket.

Every story is told twice, by the synchronous client and by the asynchronous one. Where they
do otherwise than protocol/06 says, the test says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import pytest

from sandbox_anyio.local.launch import LocalHost

from ._vendor import chunks_of, connected, done, vendor

pytestmark = pytest.mark.anyio

ELSEWHERE = Path(__file__).with_name("_elsewhere.py")
MIB = 1 << 20
LINE = "grüße, 日本 🙂\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def sandbox(kind: str, host: LocalHost) -> AsyncIterator[Any]:
    async with connected(kind, host.endpoint, api_key=host.api_key) as client:
        sandbox = await done(client.create_sandbox())
        yield sandbox
        await done(client.delete_sandbox(sandbox.name))


class Begun(NamedTuple):
    """A command that another process has started and left.

    :ivar offset: how much of its standard output that process had read.
    """

    command_id: str
    pid: int
    offset: int


Elsewhere = Callable[..., Awaitable[Begun]]


@pytest.fixture
def elsewhere(kind: str, host: LocalHost, sandbox: Any) -> Elsewhere:
    """Starts a command in another process, which ends without a word as soon as it saw output."""

    async def start(command: str, **options: Any) -> Begun:
        asked = {
            "kind": kind,
            "endpoint": host.endpoint,
            "api_key": host.api_key,
            "sandbox": sandbox.name,
            "command": command,
            "options": options,
        }
        process = await anyio.run_process(
            [sys.executable, str(ELSEWHERE), json.dumps(asked)], stderr=subprocess.STDOUT
        )
        return Begun(**json.loads(process.stdout))

    return start


async def all_of(handle: Any) -> list[Any]:
    return [chunk async for chunk in chunks_of(handle)]


async def read_until(chunks: AsyncIterator[Any], last_words: str) -> str:
    """Read output until it ends with these words."""
    text = ""
    while not text.endswith(last_words):
        text += (await anext(chunks)).data
    return text


async def is_running(sandbox: Any, arguments: str) -> bool:
    """Whether a process with these arguments runs in the sandbox, besides the one that looks."""
    pattern = f"[{arguments[0]}]{arguments[1:]}"
    return bool((await done(sandbox.run(f"pgrep -f '{pattern}'"))).success)


async def wait_for_end_of(sandbox: Any, pid: int) -> None:
    """Wait until a process of the sandbox is gone, without attaching to its command."""
    watch = f"tail --pid={pid} --sleep-interval=0.05 --follow /dev/null"
    assert (await done(sandbox.run(watch, timeout=20))).success


# --- output ---------------------------------------------------------------------------


async def test_output_comes_piece_by_piece_with_its_offsets(sandbox: Any) -> None:
    """Each stream counts the bytes of its own UTF-8, and the order between them is kept."""
    command = 'while read -r line; do echo "$line"; read -r line; echo "$line" >&2; done'
    handle = await done(sandbox.run(command, wait=False, close_input=False))
    assert len(handle.command_id) == 32 and handle.pid > 0
    chunks, told = chunks_of(handle), []
    for word in ["grüße", "err", "日本", "🙂🙂", "out", "ß"]:
        await done(handle.send_input(f"{word}\n"))
        told.append(await anext(chunks))
    await done(handle.close_input())
    assert [(chunk.stream, chunk.data, chunk.offset) for chunk in told] == [
        ("stdout", "grüße\n", 0),
        ("stderr", "err\n", 0),
        ("stdout", "日本\n", 8),
        ("stderr", "🙂🙂\n", 4),
        ("stdout", "out\n", 15),
        ("stderr", "ß\n", 13),
    ]
    result = await done(handle.result)
    assert (result.stdout, result.stderr) == ("grüße\n日本\nout\n", "err\n🙂🙂\nß\n")
    assert (handle.last_stdout_offset, handle.last_stderr_offset) == (19, 16)
    assert await all_of(handle) == []


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
    with pytest.raises(ValueError, match="callback"):
        await done(sandbox.run("true", wait=False, on_stdout=print))


async def test_an_exit_code_is_a_result_and_no_error(sandbox: Any) -> None:
    for code in (0, 3, 255):
        result = await done(sandbox.run(f"echo out; echo err >&2; exit {code}"))
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", code)
        assert result.success == (code == 0)
    assert (await done(sandbox.run("kill -TERM $$"))).exit_code == 128 + 15
    assert (await done(sandbox.run("no-such-command"))).exit_code == 127


async def test_megabytes_arrive_complete_and_in_order(sandbox: Any) -> None:
    count = 3 * MIB // len(LINE.encode()) + 1
    command = f'python3 -c "import sys; sys.stdout.write({LINE!r} * {count})"; echo over >&2'
    handle = await done(sandbox.run(command, wait=False))
    chunks = [chunk for chunk in await all_of(handle) if chunk.stream == "stdout"]
    position = 0
    for chunk in chunks:
        assert chunk.offset == position
        position += len(chunk.data.encode())
    assert position > 3 * MIB
    result = await done(handle.result)
    assert result.stdout == "".join(chunk.data for chunk in chunks) == LINE * count
    assert (result.stderr, result.exit_code) == ("over\n", 0)


# A mebibyte or more that no compression makes small, with characters of every length in it.
PIECE = """
import base64, random

def piece(number):
    text = base64.b85encode(random.Random(number).randbytes(800_000)).decode()
    return text.replace("a", "ü").replace("b", "日").replace("c", "🙂")
"""
WRITER = f"""
import sys
{PIECE}
for number in range(1, 17):
    sys.stdout.write(piece(number))
    sys.stdout.flush()
    with open("progress", "w") as progress:
        progress.write(str(number))
"""
# Looks until nothing has changed for a while.
STANDSTILL = """
until [ "$now" ] && [ "$now" = "$before" ]; do
    before=$now; sleep 0.3; now=$(cat progress)
done
echo $now
"""


async def test_a_slow_reader_gets_everything_and_holds_the_writer_back(sandbox: Any) -> None:
    await done(sandbox.write("/home/user/writer.py", WRITER))
    handle = await done(sandbox.run("exec python3 writer.py", wait=False))
    chunks = chunks_of(handle)
    await anext(chunks)
    written = int((await done(sandbox.run(STANDSTILL))).stdout)
    result = await done(handle.result)
    assert written < 16, "nobody read, and yet all was written"
    assert result.success
    names: dict[str, Any] = {}
    exec(PIECE, names)
    assert result.stdout == "".join(names["piece"](number) for number in range(1, 17))


# --- input ----------------------------------------------------------------------------


async def test_input_goes_in_until_it_is_closed(sandbox: Any) -> None:
    handle = await done(sandbox.run("cat; echo over", wait=False, close_input=False))
    chunks = chunks_of(handle)
    for text in ["typed\n", LINE, "x" * 300_000 + "\n"]:
        await done(handle.send_input(text))
        assert await read_until(chunks, text) == text
    await done(handle.close_input())
    await done(handle.close_input())
    with pytest.raises(vendor.SandboxOperationError, match="stdin"):
        await done(handle.send_input("more"))
    assert await read_until(chunks, "over\n") == "over\n"
    assert (await done(handle.result)).exit_code == 0


@pytest.mark.parametrize("asked", [None, True])
async def test_without_a_word_input_is_closed_from_the_start(sandbox: Any, asked: Any) -> None:
    handle = await done(sandbox.run("cat; echo over", wait=False, close_input=asked))
    with pytest.raises(vendor.SandboxOperationError, match="stdin"):
        await done(handle.send_input("more"))
    assert (await done(handle.result)).stdout == "over\n"


async def test_input_is_closed_through_a_second_handle(sandbox: Any) -> None:
    """A handle of `reconnect` sends `close_stdin` before its `reconnect` (06 section 3.3)."""
    first = await done(sandbox.run("cat; echo over", wait=False, close_input=False))
    second = await done(sandbox.reconnect(first.command_id))
    await done(second.close_input())
    assert (await done(second.result)).stdout == "over\n"
    assert (await done(first.result)).stdout == "over\n"


# --- terminals ------------------------------------------------------------------------


async def test_a_terminal_is_one_stream_of_24_by_80(sandbox: Any) -> None:
    result = await done(sandbox.run("stty size; test -t 0 && tty; echo err >&2", pty=True))
    size, terminal, error = result.stdout.splitlines(keepends=True)
    assert (size, terminal[:9], error) == ("24 80\r\n", "/dev/pts/", "err\r\n")
    assert (result.stderr, result.exit_code) == ("", 0)


async def test_a_terminal_echoes_and_ends_input_at_0x04(sandbox: Any) -> None:
    handle = await done(sandbox.run("cat; echo over", wait=False, pty=True))
    chunks = chunks_of(handle)
    await done(handle.send_input("grüße\n"))
    await read_until(chunks, "grüße\r\ngrüße\r\n")
    await done(handle.close_input())  # means nothing here
    await done(handle.send_input("again\n"))
    await read_until(chunks, "again\r\nagain\r\n")
    await done(handle.send_input("\x04"))
    await read_until(chunks, "over\r\n")
    assert (await done(handle.result)).exit_code == 0


async def test_a_terminal_interrupts_at_0x03(sandbox: Any) -> None:
    command = "echo ready; sleep 4711; echo not reached"
    handle = await done(sandbox.run(command, wait=False, pty=True, timeout=0))
    chunks = chunks_of(handle)
    await read_until(chunks, "ready\r\n")
    await done(handle.send_input("\x03"))
    result = await done(handle.result)
    assert (result.exit_code, "not reached" in result.stdout) == (130, False)


# --- the end --------------------------------------------------------------------------


async def test_kill_ends_the_whole_group(sandbox: Any) -> None:
    """The vendor closes its socket right behind `kill`, and so never hears the end.

    Its own handle raises then (06 section 11); a new one hears 137.
    """
    command = "echo begun; sleep 4711 & sleep 4712; echo not reached"
    handle = await done(sandbox.run(command, wait=False, timeout=0))
    await anext(chunks_of(handle))
    assert await is_running(sandbox, "sleep 4711")
    await done(handle.kill())
    with pytest.raises(vendor.SandboxConnectionError, match="closed unexpectedly"):
        await done(handle.result)
    later = await done(sandbox.reconnect(handle.command_id))
    assert later.pid is None, "the vendor tells it of the first handle only"
    result = await done(later.result)
    assert (result.stdout, result.exit_code) == ("begun\n", 137)
    assert not await is_running(sandbox, "sleep 4711")
    assert not await is_running(sandbox, "sleep 4712")


async def test_a_command_past_its_time_is_killed_and_that_is_told_again(sandbox: Any) -> None:
    handle = await done(sandbox.run("echo begun; sleep 4711", wait=False, timeout=1))
    assert (await anext(chunks_of(handle))).data == "begun\n"
    with pytest.raises(vendor.CommandTimeoutError, match="1 s"):
        await done(handle.result)
    assert not await is_running(sandbox, "sleep 4711")
    with pytest.raises(vendor.CommandTimeoutError) as late:
        await done((await done(sandbox.reconnect(handle.command_id))).result)
    assert late.value.error_type == "CommandTimeout"
    with pytest.raises(vendor.CommandTimeoutError):
        await done(sandbox.run("sleep 4711", timeout=1))


async def test_what_nobody_is_attached_to_is_killed_after_its_idle_time(
    sandbox: Any, elsewhere: Elsewhere
) -> None:
    begun = await elsewhere("echo begun; sleep 4711", timeout=0, idle_timeout=1)
    attached = await done(sandbox.run("sleep 1.5; echo alive", idle_timeout=1))
    assert attached.stdout == "alive\n", "an attached client keeps it alive, however silent"
    await wait_for_end_of(sandbox, begun.pid)
    result = await done((await done(sandbox.reconnect(begun.command_id))).result)
    assert (result.stdout, result.exit_code) == ("begun\n", 137)


async def test_kill_on_disconnect_is_at_once(sandbox: Any, elsewhere: Elsewhere) -> None:
    begun = await elsewhere(
        "echo begun; sleep 4711", timeout=0, kill_on_disconnect=True, idle_timeout=-1
    )
    await wait_for_end_of(sandbox, begun.pid)
    result = await done((await done(sandbox.reconnect(begun.command_id))).result)
    assert (result.stdout, result.exit_code) == ("begun\n", 137)


@pytest.mark.parametrize("seconds", [0, 1])
async def test_a_finished_command_expires_after_its_time_to_live(
    sandbox: Any, seconds: int
) -> None:
    handle = await done(sandbox.run("echo out", wait=False, ttl_seconds=seconds))
    assert (await done(handle.result)).stdout == "out\n"
    if seconds:
        again = await done(sandbox.reconnect(handle.command_id))
        assert (await done(again.result)).stdout == "out\n"
        await done(sandbox.run(f"sleep {seconds}"))
    with pytest.raises(vendor.SandboxOperationError) as expired:
        await done((await done(sandbox.reconnect(handle.command_id))).result)
    assert (expired.value.operation, expired.value.error_type) == ("reconnect", "SessionExpired")


# --- other processes, other commands --------------------------------------------------

LINES = 20_000
OUT = "".join(f"größe {n}\n" for n in range(1, LINES + 1))
ERR = "".join(f"{n}\n" for n in range(1, LINES + 1))


@pytest.mark.parametrize("where", ["the beginning", "where it was left", "inside a character"])
async def test_a_command_outlives_the_process_that_started_it(
    sandbox: Any, elsewhere: Elsewhere, where: str
) -> None:
    """Whoever attaches reads on from any byte; from inside a character, from the next one."""
    command = f"seq {LINES} >&2; seq -f 'größe %g' {LINES}; read -r line; echo \"$line\""
    begun = await elsewhere(command, timeout=0, close_input=False)
    asked = {"the beginning": 0, "where it was left": begun.offset, "inside a character": 3}[where]
    reached = 4 if where == "inside a character" else asked
    assert 0 < begun.offset <= len(OUT.encode())
    handle = await done(sandbox.reconnect(begun.command_id, stdout_offset=asked, stderr_offset=2))
    chunks = chunks_of(handle)
    first = await anext(chunks)
    assert first.offset == {"stdout": reached, "stderr": 2}[first.stream]
    await done(handle.send_input("über\n"))
    result = await done(handle.result)
    assert result.stdout == (OUT + "über\n").encode()[reached:].decode()
    assert (result.stderr, result.exit_code) == (ERR[2:], 0)
    whole = await done((await done(sandbox.reconnect(begun.command_id))).result)
    assert (whole.stdout, whole.stderr) == (OUT + "über\n", ERR)


async def test_two_handles_hear_the_same(sandbox: Any) -> None:
    handle = await done(sandbox.run("cat", wait=False, close_input=False))
    await done(handle.send_input("one\n"))
    assert (await anext(chunks_of(handle))).data == "one\n"
    second = await done(handle.reconnect())
    await done(handle.send_input("two\n"))
    await done(handle.close_input())
    assert (await done(second.result)).stdout == "two\n"
    assert (await done(handle.result)).stdout == "one\ntwo\n"


async def test_environment_and_place_are_this_commands_only(sandbox: Any) -> None:
    look = "echo $PWD $A; id -u"
    legacy = await done(sandbox.run(look, env={"A": "ü b"}, cwd="/usr"))
    assert legacy.stdout == "/usr ü b\n0\n"
    config = vendor.RunConfig(user="root", work_dir="/tmp", env_vars={"A": "config"})
    assert (await done(sandbox.run(look, run_config=config))).stdout == "/tmp config\n0\n"
    assert (await done(sandbox.run(look))).stdout == "/home/user\n0\n"
    with pytest.raises(ValueError, match="run_config"):
        await done(sandbox.run(look, run_config=config, env={"A": "b"}))
    assert (await done(sandbox.run("echo $0", shell="/bin/sh"))).stdout == "/bin/sh\n"


@pytest.mark.parametrize(
    "options",
    [{"shell": "/no/shell"}, {"cwd": "/no/directory"}, {"run_config": {"user": "nobody-at-all"}}],
    ids=lambda options: next(iter(options)),
)
async def test_what_cannot_be_started_raises(sandbox: Any, options: dict[str, Any]) -> None:
    with pytest.raises(vendor.SandboxOperationError) as refused:
        await done(sandbox.run("true", **options))
    assert (refused.value.operation, refused.value.error_type) == ("command", "CommandError")


async def test_many_commands_run_at_once(kind: str, sandbox: Any) -> None:
    """None of them ends before all have begun."""
    together = 20
    results: dict[int, Any] = {}

    async def run(number: int) -> None:
        command = (
            f"echo begun {number}; touch begun-{number};"
            f"until [ $(ls begun-* | wc -l) = {together} ]; do sleep 0.05; done;"
            f"seq -f '{number}: %g' 1000; exit {number}"
        )
        if kind == "sync":
            results[number] = await anyio.to_thread.run_sync(sandbox.run, command)
        else:
            results[number] = await sandbox.run(command)

    async with anyio.create_task_group() as tasks:
        for number in range(together):
            tasks.start_soon(run, number)
    for number, result in results.items():
        lines = [f"{number}: {n}\n" for n in range(1, 1001)]
        assert result.stdout == f"begun {number}\n" + "".join(lines)
        assert result.exit_code == number
    assert len(results) == together
