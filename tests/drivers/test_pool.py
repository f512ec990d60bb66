"""Connections: kept, shared, bounded, waited for."""

from __future__ import annotations

import socket
import threading

import anyio
import pytest

from sandbox_anyio import AsyncSandboxClient, PoolLimits, RetryPolicy, SandboxTimeoutError
from sandbox_anyio.local.launch import LocalHost

from ._servers import http_answer, read_request, serving

pytestmark = pytest.mark.anyio

BOX = {"id": "1", "name": "box", "status": "ready"}


def keep_answering(connection: socket.socket) -> None:
    while True:
        read_request(connection)
        connection.sendall(http_answer(200, BOX))


async def test_one_connection_serves_requests_in_a_row() -> None:
    with serving(keep_answering) as server:
        async with AsyncSandboxClient(
            api_endpoint=server.url, api_key="k", trust_env=False
        ) as client:
            for _ in range(20):
                await client.get_sandbox("box")
        assert server.connections == 1


async def test_tasks_share_connections_within_the_bound() -> None:
    with serving(keep_answering) as server:
        async with (
            AsyncSandboxClient(
                api_endpoint=server.url,
                api_key="k",
                trust_env=False,
                limits=PoolLimits(max_connections=4),
            ) as client,
            anyio.create_task_group() as tasks,
        ):

            async def ask() -> None:
                for _ in range(10):
                    await client.get_sandbox("box")

            for _ in range(32):
                tasks.start_soon(ask)
        assert server.connections <= 4


async def test_waiting_for_a_connection_has_its_own_limit() -> None:
    release = threading.Event()

    def slow(connection: socket.socket) -> None:
        read_request(connection)
        release.wait(10)
        connection.sendall(http_answer(200, BOX))

    with serving(slow) as server:
        async with AsyncSandboxClient(
            api_endpoint=server.url,
            api_key="k",
            trust_env=False,
            timeout=0.3,
            limits=PoolLimits(max_connections=1),
            retry=RetryPolicy(max_retries=0),
        ) as client:
            limits: list[str] = []

            async def ask() -> None:
                try:
                    await client.get_sandbox("box")
                except SandboxTimeoutError as error:
                    limits.append(error.limit)

            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask)
                    tasks.start_soon(ask)
            release.set()
            assert "read" in limits and len(limits) == 2


async def test_constructing_a_client_does_no_io_and_needs_no_loop(host: LocalHost) -> None:
    client = AsyncSandboxClient(api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False)
    assert await client.list_sandboxes() is not None
    await client.aclose()
    await client.aclose()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"api_endpoint": "ftp://x"}, "http"),
        ({"api_endpoint": "http://user:pw@x"}, "user name"),
        ({"headers": {"bad name": "x"}}, "bad name"),
        ({"headers": {"x": "a\r\nb: c"}}, "'x'"),
        ({"proxy": "socks5://x"}, "socks5"),
        ({"timeout": 0}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_bad_arguments_are_refused_when_the_client_is_made(
    settings: dict[str, object], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as refused:
        AsyncSandboxClient(**{"api_endpoint": "http://x", "api_key": "k", **settings})  # type: ignore[arg-type]
    assert "pw" not in str(refused.value)
