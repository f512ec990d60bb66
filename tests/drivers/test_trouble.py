"""Servers that are away, wrong, broken or hostile: a typed error, in time, nothing kept."""

from __future__ import annotations

import base64
import hashlib
import json
import socket

import anyio
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    ExecTimeouts,
    RetryPolicy,
    SandboxAPIError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxNotReadyError,
    SandboxProtocolError,
    SandboxTimeoutError,
)

from ._servers import Script, answering, http_answer, read_request, serving, silent

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_retries=2, initial=0.01, jitter=0.0)
ONCE = RetryPolicy(max_retries=0)
BOX = {"id": "1", "name": "box", "status": "ready"}


def client_of(url: str, **settings: object) -> AsyncSandboxClient:
    defaults: dict[str, object] = {"retry": ONCE, "timeout": 5.0, "trust_env": False}
    return AsyncSandboxClient(api_endpoint=url, api_key="k", **{**defaults, **settings})  # type: ignore[arg-type]


async def fails(client: AsyncSandboxClient, error: type[SandboxClientError]) -> SandboxClientError:
    with anyio.fail_after(10), pytest.raises(error) as caught:
        await client.get_sandbox("box")
    return caught.value


async def test_an_unreachable_endpoint_is_named_with_the_attempts_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}", retry=QUICK) as client:
        error = await fails(client, SandboxConnectionError)
    assert f"127.0.0.1:{port}" in str(error) and "refused" in str(error)
    assert error.context.attempts == 3


async def test_a_host_that_does_not_resolve() -> None:
    async with client_of("http://no-such-host.invalid") as client:
        assert "no-such-host.invalid" in str(await fails(client, SandboxConnectionError))


async def test_a_wrong_path_is_told_by_the_list_call() -> None:
    with serving(answering(http_answer(404, {"detail": "nothing here"}))) as server:
        async with client_of(server.url + "/wrong") as client:
            with pytest.raises(
                SandboxAPIError, match=r"no Sandbox API at .*/wrong/boxes"
            ) as caught:
                await client.list_sandboxes()
            assert caught.value.status == 404


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        pytest.param(
            http_answer(200, body=b"<html>login</html>"),
            SandboxProtocolError,
            "not JSON",
            id="html",
        ),
        pytest.param(http_answer(200, [BOX]), SandboxProtocolError, "JSON object", id="list"),
        pytest.param(http_answer(200, {"name": 7}), SandboxProtocolError, "'name'", id="type"),
        pytest.param(
            http_answer(200, BOX)[:-5], SandboxConnectionError, "5 bytes|before", id="cut body"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-le", SandboxConnectionError, "before", id="cut head"
        ),
        pytest.param(b"", SandboxConnectionError, "without an answer", id="nothing"),
        pytest.param(
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n", SandboxProtocolError, "not valid HTTP", id="ssh"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"x-bomb: " + b"a" * 100_000,
            SandboxProtocolError,
            "64 KiB",
            id="header bomb",
        ),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
            SandboxProtocolError,
            "status 100",
            id="endless 1xx",
        ),
        pytest.param(
            http_answer(302, None, "location: http://elsewhere/"),
            SandboxClientError,
            "302",
            id="redirect",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            SandboxProtocolError,
            "99999999999 bytes",
            id="boast",
        ),
    ],
)
async def test_bad_answers(answer: bytes, error: type[SandboxClientError], text: str) -> None:
    with serving(answering(answer)) as server:
        async with client_of(server.url) as client:
            caught = await fails(client, error)
            if error is not SandboxClientError:  # a redirect is well-formed, only not followed
                assert client._pool.open_connections == 0
    import re

    assert re.search(text, str(caught)), str(caught)
    assert caught.context.method == "GET"


async def test_a_silent_server_costs_its_time_limit_and_no_more() -> None:
    with serving(silent) as server:
        async with client_of(server.url, timeout=0.2) as client:
            error = await fails(client, SandboxTimeoutError)
    assert isinstance(error, SandboxTimeoutError)
    assert (error.limit, error.seconds) == ("read", 0.2)


async def test_a_dripping_server_is_cut_off() -> None:
    def drip_slowly(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        connection.settimeout(0.05)
        while True:
            connection.sendall(b" ")
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                pass

    with serving(drip_slowly) as server:
        async with client_of(server.url, timeout=0.3) as client:
            error = await fails(client, SandboxTimeoutError)
    assert isinstance(error, SandboxTimeoutError)
    assert error.limit in ("read", "operation")


async def test_gateway_trouble_is_repeated_then_reported() -> None:
    trouble = http_answer(503, {"detail": {"error": "Busy", "message": "later", "error_id": "e1"}})
    with serving(answering(trouble, trouble, http_answer(200, BOX))) as server:
        async with client_of(server.url, retry=QUICK) as client:
            assert (await client.get_sandbox("box")).name == "box"
            assert server.connections == 1
    with serving(answering(trouble, trouble, trouble)) as server:
        async with client_of(server.url, retry=QUICK) as client:
            error = await fails(client, SandboxClientError)
    assert (error.status, error.error_id, error.context.attempts) == (503, "e1", 3)
    assert str(error) == "later (error_id=e1)"


async def test_a_kept_connection_that_died_is_replaced_without_a_word() -> None:
    def one_answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(http_answer(200, BOX))

    with serving(one_answer) as server:
        async with client_of(server.url) as client:
            for _ in range(3):
                assert (await client.get_sandbox("box")).name == "box"
        assert server.connections == 3


async def test_an_answer_that_comes_before_the_upload_is_complete() -> None:
    def early(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(
            http_answer(413, {"detail": {"error": "WriteError", "message": "too big"}})
        )

    with serving(early) as server:
        async with client_of(server.url) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=server.url, client=client)
            with anyio.fail_after(10), pytest.raises(SandboxClientError, match="too big"):
                await sandbox.write("/big", b"x" * 50_000_000)


async def test_data_plane_errors_are_mapped() -> None:
    not_ready = http_answer(400, {"detail": {"error": "NotReady", "message": "wait"}})
    with serving(answering(not_ready)) as server:
        async with client_of(server.url) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=server.url, client=client)
            with pytest.raises(SandboxNotReadyError, match="wait"):
                await sandbox.read("/x")


# --- exec ----------------------------------------------------------------------------------


def frame(data: bytes, first: int = 0x81) -> bytes:
    size = len(data)
    if size < 126:
        return bytes([first, size]) + data
    return bytes([first, 127]) + size.to_bytes(8) + data


def message(**fields: object) -> bytes:
    return frame(json.dumps(fields).encode())


def exec_script(*frames: bytes, then_wait: bool = False) -> Script:
    """Accept the upgrade, wait for `execute`, send frames."""

    def script(connection: socket.socket) -> None:
        head, _ = read_request(connection)
        key = next(
            line.partition(": ")[2]
            for line in head.split("\r\n")
            if line.startswith("sec-websocket-key")
        )
        accept = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        connection.sendall(
            b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: " + base64.b64encode(accept) + b"\r\n\r\n"
        )
        connection.recv(65536)
        connection.sendall(b"".join(frames))
        if then_wait:
            silent(connection)

    return script


STARTED = message(type="started", pid=1)
FAST = ExecTimeouts(open=1.0, connect_budget=1.0, ping_interval=0.1, pong=0.2, grace=0.2, kill=0.2)


async def run_against(script: Script, timeout: int = 0) -> tuple[SandboxClientError, float]:
    with serving(script) as server:
        async with client_of(server.url, exec_timeouts=FAST, exec_transport="websocket") as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=server.url, client=client)
            began = anyio.current_time()
            with anyio.fail_after(20), pytest.raises(SandboxClientError) as caught:
                await sandbox.run("x", timeout=timeout)
            return caught.value, anyio.current_time() - began


@pytest.mark.parametrize(
    ("frames", "error", "text"),
    [
        pytest.param(
            [STARTED, message(type="exit")],
            SandboxProtocolError,
            "no 'exit_code'",
            id="exit without code",
        ),
        pytest.param(
            [STARTED, frame(b"{not json")], SandboxProtocolError, "not JSON", id="no JSON"
        ),
        pytest.param(
            [message(type="stdout", data="x", offset=0)],
            SandboxClientError,
            "before",
            id="too early",
        ),
        pytest.param(
            [message(type="error", error="no shell", error_type="CommandError")],
            SandboxClientError,
            "no shell",
            id="error",
        ),
    ],
)
async def test_bad_exec_frames(
    frames: list[bytes], error: type[SandboxClientError], text: str
) -> None:
    caught, _ = await run_against(exec_script(*frames, then_wait=True))
    assert isinstance(caught, error)
    assert text in str(caught)


async def test_a_message_over_the_limit_ends_the_connection() -> None:
    boast = bytes([0x81, 127]) + (1 << 40).to_bytes(8)
    with serving(exec_script(STARTED, boast, then_wait=True)) as server:
        async with client_of(server.url, exec_timeouts=FAST) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=server.url, client=client)
            handle = await sandbox.run("x", wait=False)
            with anyio.move_on_after(1.0):
                await anext(handle)
            # It reattaches by the rules, on a new connection each time, and buffers nothing.
            assert server.connections >= 2
            handle.close()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([], id="nothing"),
        pytest.param([STARTED], id="started"),
        pytest.param([STARTED, message(type="stdout", data="x", offset=0)], id="output"),
        pytest.param([STARTED, STARTED[:5]], id="half a frame"),
    ],
)
async def test_a_host_that_falls_silent_cannot_hold_the_caller(frames: list[bytes]) -> None:
    caught, took = await run_against(exec_script(*frames, then_wait=True), timeout=1)
    assert isinstance(caught, SandboxClientError)
    assert took < 10


@pytest.mark.parametrize(("transport", "connections"), [("websocket", 1), ("auto", 3)])
async def test_a_missing_exec_endpoint_is_final(transport: str, connections: int) -> None:
    def not_here(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(http_answer(404, {"detail": "x"}))

    with serving(not_here) as server:
        async with client_of(server.url, exec_transport=transport) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=server.url, client=client)
            with (
                anyio.fail_after(5),
                pytest.raises(SandboxConnectionError, match="no exec endpoint"),
            ):
                await sandbox.run("x")
        assert server.connections == connections
