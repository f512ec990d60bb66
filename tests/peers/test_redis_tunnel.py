"""A real server in a sandbox, and its own client here: through our tunnel and the vendor's."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost

from ._redis import Redis, fetch_redis
from ._vendor import connected, done

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:connect.. must be used as a context:DeprecationWarning"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Redis:
    return fetch_redis(tmp_path_factory.mktemp("debian"))


@pytest.fixture
async def served(redis: Redis, host: LocalHost) -> AsyncIterator[AsyncSandbox]:
    """A sandbox in which Redis listens on its own port."""
    async with (
        AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client,
        client.sandbox() as sandbox,
    ):
        for file in redis.place.iterdir():
            await sandbox.write(f"redis/{file.name}", file.read_bytes())
        server = await sandbox.run(
            "cd redis && chmod +x * && LD_LIBRARY_PATH=. exec ./redis-server --save '' --port 6379",
            wait=False,
            timeout=0,
        )
        await sandbox.wait_for_port(6379)
        yield sandbox
        await server.kill()


@asynccontextmanager
async def tunnel_of(kind: str, served: AsyncSandbox, host: LocalHost) -> AsyncIterator[int]:
    """The local port of a tunnel, ours or the vendor's."""
    if kind == "ours":
        async with served.tunnel(6379, local_port="any") as tunnel:
            yield tunnel.local_port
        return
    async with connected(kind, host.endpoint, api_key=host.api_key) as client:
        sandbox = await done(client.get_sandbox(served.name))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]  # it cannot be asked for a free one
        theirs = await done(sandbox.tunnel(6379, local_port=port))
        try:
            yield theirs.local_port
        finally:
            theirs.close()


@pytest.mark.parametrize("kind", ["ours", "sync", "async"])
async def test_a_session_of_redis(
    kind: str, redis: Redis, served: AsyncSandbox, host: LocalHost
) -> None:
    async def call(*words: str, said: str | None = None) -> str:
        return await anyio.to_thread.run_sync(
            lambda: redis.call(port, *words, said=said), abandon_on_cancel=True
        )

    async with tunnel_of(kind, served, host) as port:
        assert await call("ping") == "PONG"
        assert await call("set", "greeting", "hello") == "OK"
        assert await call("get", "greeting") == "hello"
        # Two thousand commands on one connection, their answers in order.
        said = "".join(f"set key:{number} {number * number}\n" for number in range(2000))
        answers = (await call(said=said)).split("\n")
        assert answers == ["OK"] * 2000
        assert await call("dbsize") == "2001"
        assert await call("get", "key:1999") == str(1999 * 1999)
        # A value that is larger than any window.
        assert await call("-x", "set", "large", said="x" * 3_000_000) == "OK"
        assert len(await call("get", "large")) == 3_000_000
