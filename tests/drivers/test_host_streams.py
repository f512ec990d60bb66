"""Commands over event streams and in blocking requests, as bytes to a real host.

How the host ends, and whom it gives up, stands here too.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost
from sandbox_proto.wire.exec_messages import ExecError, Exit, Started
from sandbox_proto.wire.sse import RawOutput, StreamEnd, StreamMessage

from ._own_host import OwnHost, own_host
from ._raw_http import Answer, Caller, connect

pytestmark = pytest.mark.anyio

PATIENCE = 20
ENDS = [StreamEnd("stdout", 4), StreamEnd("stderr", 4)]


def client_of(host: LocalHost) -> AsyncSandboxClient:
    return AsyncSandboxClient(api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False)


async def caller_of(host: OwnHost) -> Caller:
    """Asks about a sandbox that ends with its host."""
    async with client_of(host.local) as client:
        return Caller(host.local, (await client.create_sandbox()).id or "")


@pytest.fixture(scope="module")
def hasty() -> Iterator[OwnHost]:
    """A host that soon gives up who does not answer, and soon gives signs of life."""
    with own_host(heartbeat=0.1, ping_interval=0.2, ping_timeout=0.4) as host:
        yield host


@pytest.fixture
async def caller(host: LocalHost, client: AsyncSandboxClient) -> AsyncIterator[Caller]:
    """Asks about a sandbox of its own."""
    async with client.sandbox() as sandbox:
        with anyio.fail_after(PATIENCE):
            yield Caller(host, sandbox.id or "")


def start(command: str, **fields: object) -> dict[str, Any]:
    return {"command": command, "command_id": uuid.uuid4().hex, **fields}


def output_of(messages: list[StreamMessage], name: str = "stdout") -> bytes:
    """The bytes of one stream, which are without a gap."""
    pieces = [each for each in messages if isinstance(each, RawOutput) and each.stream == name]
    whole = b""
    for piece in pieces:
        assert piece.offset == len(whole)
        whole += piece.data
    return whole


async def started(answer: Answer) -> Started:
    message = await answer.next_message()
    assert isinstance(message, Started)
    return message


# --- event streams --------------------------------------------------------------------


async def test_a_command_from_its_start_to_its_end(caller: Caller) -> None:
    asked = start("echo out; cat; echo err >&2; exit 3")
    async with caller.ask("execute/stream/start", **asked) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["transfer-encoding"] == "chunked"
        first, *middle, end = await answer.all_messages()
    assert isinstance(first, Started) and first.command_id == asked["command_id"]
    assert (output_of(middle), output_of(middle, "stderr")) == (b"out\n", b"err\n")
    ends = [message for message in middle if isinstance(message, StreamEnd)]
    assert sorted(ends, key=ENDS.index) == ENDS, "whichever ended first"
    assert end == Exit(3)
    again = {"command_id": asked["command_id"], "stdout_offset": 1, "stderr_offset": 4}
    assert await caller.follow("resume", **again) == [
        [first, RawOutput("stdout", b"ut\n", 1), *ENDS, end]
    ]


async def test_every_event_is_sent_at_once(caller: Caller) -> None:
    # It goes on only when what it said was heard.
    command = "echo a; until [ -e go ]; do sleep 0.01; done; echo b"
    async with caller.ask("execute/stream/start", **start(command)) as answer:
        await started(answer)
        assert await answer.next_message() == RawOutput("stdout", b"a\n", 0)
        await caller.run("touch go")
        assert await answer.next_message() == RawOutput("stdout", b"b\n", 2)


@pytest.mark.parametrize("text", ["x", "a€é😀"])
async def test_much_output_comes_in_windows_and_nothing_is_lost(caller: Caller, text: str) -> None:
    count = 5_000_000 // len(text.encode())
    script = f"import sys; sys.stdout.write({text!a} * {count})"
    responses = await caller.follow("start", **start(f"python3 -c {script!r}"))
    messages = [message for response in responses for message in response]
    assert output_of(messages) == text.encode() * count
    assert len(responses) == 5
    assert messages[-1] == Exit(0)


async def test_who_leaves_is_detached_and_may_come_back(caller: Caller) -> None:
    asked = start("echo a; until [ -e go ]; do sleep 0.01; done; echo b")
    async with caller.ask("execute/stream/start", **asked) as answer:
        first = await started(answer)
    await caller.run("touch go")
    [[again, *rest]] = await caller.follow("resume", command_id=asked["command_id"])
    assert again == first
    assert output_of(rest) == b"a\nb\n"
    assert rest[-1] == Exit(0)


async def test_who_leaves_is_noticed(caller: Caller) -> None:
    asked = start("sleep 1000", idle_timeout_seconds=0)
    async with caller.ask("execute/stream/start", **asked) as answer:
        pid = (await started(answer)).pid
    assert await caller.ended(pid)
    [response] = await caller.follow("resume", command_id=asked["command_id"])
    assert response[-1] == Exit(137)


async def test_a_command_of_a_socket_goes_on_as_an_event_stream(caller: Caller) -> None:
    async with await connect(caller.host) as stream:
        socket = await caller.open_socket(stream, **start("echo a; cat; echo b"))
        begun = await socket.hear()
        assert (await socket.hear())["data"] == "a\n"
        resume = {"command_id": begun["command_id"], "stdout_offset": 2}
        async with caller.ask("execute/stream/resume", **resume) as answer:
            assert (await started(answer)).pid == begun["pid"]
            await socket.say({"type": "input", "data": "typed\n"})
            await socket.say({"type": "close_stdin"})
            assert output_of_rest(await answer.all_messages()) == b"typed\nb\n"


def output_of_rest(messages: list[StreamMessage]) -> bytes:
    return b"".join(each.data for each in messages if isinstance(each, RawOutput))


@pytest.mark.parametrize(
    ("path", "fields", "status", "error"),
    [
        ("execute/stream/start", {}, 400, "CommandError"),
        ("execute/stream/start", b"nonsense", 400, "InvalidRequest"),
        (
            "execute/stream/start",
            {"command": "true", "run_config": {"user": "root"}, "cwd": "/"},
            400,
            "InvalidRequest",
        ),
        ("execute/stream/resume", {"command_id": "none"}, 404, "CommandNotFound"),
        ("execute", {"command": []}, 400, "CommandError"),
        ("execute", {"command": "true", "run_config": {"user": "u"}, "cwd": "/"}, 400, None),
        ("execute", {"command": "true", "shell": "/no/shell"}, 400, "CommandError"),
        ("execute", {"command": "true", "cwd": "/no/directory"}, 400, "CommandError"),
        ("execute", {"command": ["no-such-program"]}, 400, "CommandError"),
        ("execute", {"command": "sleep 1000", "timeout": 1}, 408, "CommandError"),
    ],
)
async def test_refusals_are_canonical(
    caller: Caller, path: str, fields: Any, status: int, error: str | None
) -> None:
    async with await connect(caller.host) as stream:
        answer = await (await caller.send(stream, path, fields)).head()
        detail = (await answer.json())["detail"]
    assert (answer.status, detail["error"]) == (status, error or "InvalidRequest")
    assert detail["message"]


async def test_a_spawn_failure_is_an_event(caller: Caller) -> None:
    [response] = await caller.follow("start", **start("true", shell="/no/shell"))
    [error] = response
    assert isinstance(error, ExecError) and error.error_type == "CommandError"


# --- blocking requests ----------------------------------------------------------------


async def test_a_blocking_request_in_either_dialect(caller: Caller) -> None:
    told = await caller.run(
        "echo $A $PWD; cat; echo err >&2; exit 3", timeout=5, env={"A": "b"}, cwd="/tmp"
    )
    assert told == {"stdout": "b /tmp\n", "stderr": "err\n", "exit_code": 3}
    config = {"work_dir": "/usr", "env_vars": {"A": "c"}}
    told = await caller.run("echo $A $PWD", timeout_seconds=5, run_config=config)
    assert told == {"stdout": "c /usr\n", "stderr": "", "exit_code": 0}


async def test_a_list_is_run_without_a_shell(caller: Caller) -> None:
    async with caller.ask("execute", command=["printf", "%s|", "$HOME", "a b"]) as answer:
        assert (await answer.json())["stdout"] == "$HOME|a b|"


async def test_a_long_output_is_cut_and_says_so(caller: Caller) -> None:
    told = await caller.run("head -c 20000000 /dev/zero | tr '\\0' x")
    assert told["stdout"] == "x" * (16 << 20)
    line = "[stdout was cut: the first 16777216 of its 20000000 bytes are here]\n"
    assert (told["stderr"], told["exit_code"]) == (line, 0)


async def test_who_gives_up_on_a_request_ends_its_command(caller: Caller) -> None:
    async with await connect(caller.host) as stream:
        await caller.send(stream, "execute", {"command": "echo $$ > pid; exec sleep 1000"})
        pid = (await caller.run("until [ -s pid ]; do sleep 0.01; done; cat pid"))["stdout"]
    assert await caller.ended(int(pid))


# --- silence --------------------------------------------------------------------------


async def test_a_silent_command_gives_signs_of_life(hasty: OwnHost) -> None:
    with anyio.fail_after(PATIENCE):
        caller = await caller_of(hasty)
        async with caller.ask("execute/stream/start", **start("sleep 1; echo x")) as answer:
            messages = await answer.all_messages()
        assert output_of(messages) == b"x\n"
        assert 5 <= answer.heartbeats <= 10


@pytest.mark.parametrize("command", ["sleep 1000", "yes"], ids=["silent", "talking"])
async def test_a_client_that_vanished_is_given_up(hasty: OwnHost, command: str) -> None:
    with anyio.fail_after(PATIENCE):
        caller = await caller_of(hasty)
        asked = start(command, idle_timeout_seconds=0, timeout_seconds=0)
        # Its connection stays open, but nobody reads from it.
        async with await connect(hasty.local) as stream:
            socket = await caller.open_socket(stream, **asked)
            assert await caller.ended((await socket.hear())["pid"])


async def test_a_client_that_vanished_over_its_input_is_given_up(hasty: OwnHost) -> None:
    with anyio.fail_after(PATIENCE):
        caller = await caller_of(hasty)
        asked = start("sleep 1000", idle_timeout_seconds=0, timeout_seconds=0)
        async with await connect(hasty.local) as stream:
            socket = await caller.open_socket(stream, **asked)
            pid = (await socket.hear())["pid"]
            for _ in range(60):  # more than a process may leave lying about
                await socket.say({"type": "input", "data": "x" * 50_000})
            assert await caller.ended(pid)


async def test_a_client_that_answers_pings_is_not_given_up(hasty: OwnHost) -> None:
    with anyio.fail_after(PATIENCE):
        async with client_of(hasty.local) as client, client.sandbox() as sandbox:
            handle = await sandbox.run("sleep 1.2; echo x", wait=False, idle_timeout=0)
            assert [chunk.data async for chunk in handle] == ["x\n"]


# --- the end of the host --------------------------------------------------------------


async def begin_blocking(caller: Caller, stream: SocketStream) -> Answer:
    """A blocking request whose command runs."""
    answer = await caller.send(stream, "execute", {"command": "touch begun; sleep 1000"})
    await caller.run("until [ -e begun ]; do sleep 0.01; done")
    return answer


async def test_a_host_that_ends_says_so_to_everybody(anyio_backend: str) -> None:
    with own_host() as host, anyio.fail_after(PATIENCE):
        caller = await caller_of(host)
        async with (
            await connect(host.local) as socket_stream,
            await connect(host.local) as blocking_stream,
            caller.ask("execute/stream/start", **start("sleep 1000")) as streamed,
        ):
            await started(streamed)
            socket = await caller.open_socket(socket_stream, **start("sleep 1000"))
            assert (await socket.hear())["type"] == "started"
            blocking = await begin_blocking(caller, blocking_stream)
            host.terminate()
            assert await streamed.all_messages() == [
                ExecError("the host is shutting down", "ServerShuttingDown")
            ]
            assert await socket.close_code() == 1001
            detail = (await (await blocking.head()).json())["detail"]
            assert (blocking.status, detail["error"]) == (500, "InternalError")


async def test_the_end_of_its_input_ends_a_host_in_the_same_way(anyio_backend: str) -> None:
    with own_host() as host, anyio.fail_after(PATIENCE):
        caller = await caller_of(host)
        async with await connect(host.local) as stream:
            socket = await caller.open_socket(stream, **start("sleep 1000"))
            assert (await socket.hear())["type"] == "started"
            host.let_go()
            assert await socket.close_code() == 1001


async def test_a_host_that_ends_takes_nothing_new_and_waits_for_nobody_long(
    anyio_backend: str,
) -> None:
    with own_host() as host, anyio.fail_after(PATIENCE):
        caller = await caller_of(host)
        async with (
            await connect(host.local) as stuck,
            await connect(host.local) as opened,
            await connect(host.local) as asking,
            caller.ask("execute/stream/start", **start("sleep 1000")) as streamed,
        ):
            # One who takes nothing holds up the end, so that there is time to see it.
            await caller.open_socket(stuck, **start("yes"))
            await caller.run("until pgrep yes; do sleep 0.01; done; sleep 0.5")
            await started(streamed)
            host.terminate()
            assert len(await streamed.all_messages()) == 1
            for path, fields in (
                ("execute", {"command": "true"}),
                ("execute/stream/start", start("true")),
                ("execute/stream/resume", {"command_id": "none"}),
            ):
                answer = await (await caller.send(asking, path, fields)).head()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert (await answer.json())["detail"]["error"] == "ServiceUnavailable"
            refused = await caller.open_socket(opened, **start("true"))
            assert refused.status == 503
            assert "retry-after: 1" in refused.answered


def test_a_host_may_be_ended_as_soon_as_it_is_ready() -> None:
    with own_host() as host:
        host.terminate()
