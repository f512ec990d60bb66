"""Commands over the connections of requests: as few as possible, none that is dead."""

from __future__ import annotations

import base64
import json
import socket

import anyio
import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient, PoolLimits
from sandbox_anyio.local.launch import LocalHost
from sandbox_proto.wire.exec_messages import Exit, Started
from sandbox_proto.wire.sse import RawOutput, encode_event

from ._networks import CountingNetwork
from ._servers import ScriptedServer, http_answer, read_request, serving

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"


def _answer(body: bytes, *, end: bool = True) -> bytes:
    fields = json.loads(body)
    messages = [
        Started(fields["command_id"], 1),
        RawOutput("stdout", base64.b64encode(fields["command"].encode()), 0),
        Exit(0),
    ]
    data = b"".join(encode_event(message) for message in messages)
    return HEAD + b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if end else b"")


def _sandbox(server: ScriptedServer, client: AsyncSandboxClient) -> AsyncSandbox:
    return AsyncSandbox(name="box", dataplane_url=server.url, client=client)


def _client(server: ScriptedServer, **more: object) -> AsyncSandboxClient:
    return AsyncSandboxClient(api_endpoint=server.url, api_key="k", trust_env=False, **more)  # type: ignore[arg-type]


async def _run(sandbox: AsyncSandbox, text: str) -> None:
    result = await sandbox.run(text)
    assert (result.exit_code, base64.b64decode(result.stdout)) == (0, text.encode())


async def test_commands_and_requests_in_a_row_share_one_connection(host: LocalHost) -> None:
    network = CountingNetwork()
    async with (
        AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False, network=network
        ) as client,
        client.sandbox() as sandbox,
    ):
        for number in range(5):
            assert (await sandbox.run(f"echo {number}")).stdout == f"{number}\n"
            await sandbox.write("file", b"x")
        assert network.open_streams == 1
    assert network.open_streams == 0


async def test_a_connection_whose_answer_does_not_end_is_not_used_again() -> None:
    def script(connection: socket.socket) -> None:
        while True:
            _, body = read_request(connection)
            connection.sendall(_answer(body, end=b"ends" in body))

    with serving(script) as server:
        async with _client(server) as client:
            sandbox = _sandbox(server, client)
            await _run(sandbox, "ends")
            await _run(sandbox, "ends")
            await _run(sandbox, "goes on")
            assert server.connections == 1
            await _run(sandbox, "ends")
            assert server.connections == 2


@pytest.mark.parametrize("at", ["before it is used", "as it is used"])
async def test_a_connection_that_the_server_has_closed_costs_nothing(at: str) -> None:
    def script(connection: socket.socket) -> None:
        _, body = read_request(connection)
        connection.sendall(_answer(body))
        if at == "as it is used":
            read_request(connection)  # and hangs up instead of answering

    with serving(script) as server:
        async with _client(server) as client:
            sandbox = _sandbox(server, client)
            with anyio.fail_after(5):
                for number in range(6):  # a backoff for each would take longer
                    await _run(sandbox, f"number {number}")
        assert server.connections == 6


async def test_a_server_without_event_streams_is_asked_for_one_once() -> None:
    asked: list[str] = []

    def script(connection: socket.socket) -> None:
        while True:
            head, body = read_request(connection)
            path = head.split()[1]
            asked.append(path)
            if path == "/execute":
                text = json.loads(body)["command"]
                answer = {"stdout": base64.b64encode(text.encode()).decode(), "exit_code": 0}
                connection.sendall(http_answer(200, answer))
            else:
                connection.sendall(http_answer(404))

    with serving(script) as server:
        async with _client(server) as client:
            sandbox = _sandbox(server, client)
            await _run(sandbox, "first")
            await _run(sandbox, "second")
            assert client.refused_transports
    assert asked == ["/execute/stream/start", "/execute/ws", "/execute", "/execute"]


async def test_no_more_connections_are_kept_than_the_pool_may_have() -> None:
    def script(connection: socket.socket) -> None:
        while True:
            _, body = read_request(connection)
            connection.sendall(_answer(body))

    with serving(script) as server:
        async with _client(server, limits=PoolLimits(max_connections=2)) as client:
            sandbox = _sandbox(server, client)
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(_run, sandbox, f"number {number}")
            assert client._pool.open_connections <= 2
