"""A command to be interrupted, somebody undisturbed who looks after it, and what must not stay."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import sniffio
import trio

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost
from sandbox_proto.wire.urls import Url

from ._networks import CountingNetwork

EXIT_CODE = 3
GONE_PATIENCE = 20.0
FIRST_WORDS, LAST_WORDS = "out\n", "bye\n"
_numbers = itertools.count(1)


@attrs.define
class Marked:
    """One command that can be found among the processes, and that ends when it is let go.

    It echoes its input to the end, before its last words.
    """

    arena: Arena
    name: str = attrs.field(factory=lambda: f"marked-{next(_numbers)}-end")

    @property
    def text(self) -> str:
        """The command. Its child would outlive it by far."""
        return f"""
            (exec -a {self.name} sleep 1000) &
            printf '{FIRST_WORDS}'; echo err >&2
            while [ ! -e /tmp/{self.name} ]; do sleep 0.01; done
            cat; kill $!; printf '{LAST_WORDS}'; exit {EXIT_CODE}"""

    async def let_go(self) -> None:
        """Let it end."""
        await self.arena.observed.write(f"/tmp/{self.name}", b"")

    async def is_there(self) -> bool:
        """Whether any process of it is left."""
        pattern = f"[{self.name[0]}]{self.name[1:]}"
        return (await self.arena.observed.run(["pgrep", "-f", pattern])).success

    async def check_gone(self) -> None:
        """No process of it is left, or soon will be."""
        with anyio.move_on_after(GONE_PATIENCE) as patience:
            while await self.is_there():
                pass
        if patience.cancelled_caught:
            running = await self.arena.observed.run("ps -eo pid,ppid,pgid,sid,stat,etime,args")
            raise AssertionError(f"{self.name} still runs:\n{running.stdout}")


@attrs.define
class Arena:
    """One sandbox, seen by the client whose waiting is counted and by an undisturbed one.

    :ivar at_rest: tasks and file descriptors when nothing goes on.
    """

    host: LocalHost
    transport: str
    observed: AsyncSandbox
    network: CountingNetwork
    client: AsyncSandboxClient
    mine: AsyncSandbox
    at_rest: tuple[int, int] = (0, 0)

    def new_client(self, **settings: Any) -> AsyncSandboxClient:
        """Another client on the counted network."""
        return _client_of(self.host, self.transport, self.network, **settings)

    def on(self, client: AsyncSandboxClient) -> AsyncSandbox:
        """The sandbox, through another client."""
        return _same(self.observed, client)

    async def rest(self) -> None:
        """Let connections that the observer keeps be made, and note what there is then."""
        warm = Marked(self)
        await warm.let_go()
        await warm.check_gone()
        self.at_rest = living_tasks(), open_files()

    def check_at_rest(self, *clients: AsyncSandboxClient) -> None:
        """No connection, task or file was left behind, but for what is kept for requests.

        :param clients: further clients that are open.
        """
        dataplane = self.mine.dataplane_url
        assert dataplane is not None
        for client in (self.client, *clients):
            client._pool.distrust(Url.parse(dataplane).origin)
        assert self.network.open_streams == 0, "a connection was left open"
        tasks, files = self.at_rest
        assert living_tasks() <= tasks, "a task was left behind"
        assert open_files() <= files, "a file descriptor was left behind"

    async def strike_everywhere(
        self, attempt: Callable[[int], Any], *, least: int = 1
    ) -> list[str]:
        """Make attempts which are struck at their first place, their second, and so on.

        :param attempt: arms the network for the place it is given.
        :param least: how many places there must be, else nothing is proved.
        :returns: the places of the attempt that got to its end.
        """
        for at in itertools.count(1):
            await attempt(at)
            struck = self.network.struck
            self.network.disarm()
            if not struck:
                assert at > least, f"only {self.network.places}"
                return self.network.places
            assert at < 200, f"there is no end to {self.network.places}"
        raise AssertionError


@asynccontextmanager
async def arena_on(
    host: LocalHost, client: AsyncSandboxClient, transport: str
) -> AsyncIterator[Arena]:
    """An arena in a fresh sandbox."""
    network = CountingNetwork()
    async with client.sandbox() as observed, _client_of(host, transport, network) as own:
        arena = Arena(host, transport, observed, network, own, _same(observed, own))
        await arena.rest()
        yield arena


def _client_of(
    host: LocalHost, transport: str, network: CountingNetwork, **settings: Any
) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        api_endpoint=host.endpoint,
        api_key=host.api_key,
        trust_env=False,
        exec_transport=transport,  # type: ignore[arg-type]
        network=network,
        **settings,
    )


def _same(sandbox: AsyncSandbox, client: AsyncSandboxClient) -> AsyncSandbox:
    return AsyncSandbox(name=sandbox.name, dataplane_url=sandbox.dataplane_url, client=client)


def living_tasks() -> int:
    """How many tasks the loop has."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
