"""What every part of the client stands on: configuration, connections, running flows."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar

from sandbox_proto.config import ClientConfig, ExecTimeouts, ExecTransport
from sandbox_proto.flows.effects import Flow, FlowContext
from sandbox_proto.machines.http1 import Http1Client
from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.plans.route import RoutePlan
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.urls import Origin

from .anyio_network import AnyioNetwork
from .http import HttpPool
from .network import ByteStream, Network
from .runner import FlowRun
from .watching import watcher

if TYPE_CHECKING:
    import ssl
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from sandbox_proto.machines.exec_transports import Transport
    from sandbox_proto.plans.prewarm import Destination

    from .prewarming import OpenSocket, Prewarming
    from .recording import RecordedNetwork, Recording
    from .replaying import Replay, ReplayNetwork

T = TypeVar("T")
P = ParamSpec("P")


class Closable(Protocol):
    """Something that lives on a connection of the client."""

    def close(self) -> None:
        """Drop the connection. Waits for nothing."""


class ClientBase:
    """Construction, lifetime, and the running of flows."""

    def __init__(
        self,
        *,
        api_endpoint: str | None = None,
        timeout: float | Timeouts = 10.0,
        api_key: str | None = None,
        max_retries: int = 3,
        headers: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
        limits: PoolLimits | None = None,
        exec_timeouts: ExecTimeouts | None = None,
        exec_transport: ExecTransport = "auto",
        prewarm: int = 0,
        verify: bool | ssl.SSLContext = True,
        proxy: str | None = None,
        trust_env: bool = True,
        network: Network | None = None,
        record: str | os.PathLike[str] | Recording | None = None,
        replay: str | os.PathLike[str] | Replay | None = None,
    ) -> None:
        self._replayed: ReplayNetwork | None = None
        if replay is not None:
            from .replaying import ReplayNetwork

            network = self._replayed = ReplayNetwork(replay)
            api_endpoint = api_endpoint or network.api_endpoint
        settings: dict[str, Any] = {}
        if exec_timeouts is not None:
            settings["exec_timeouts"] = exec_timeouts
        self.config = ClientConfig.from_env(
            os.environ,
            api_endpoint=api_endpoint,
            api_key=api_key,
            headers=dict(headers or {}),
            timeout=timeout,
            retry=retry or RetryPolicy(max_retries=max_retries),
            exec_transport=exec_transport,
            **settings,
        )
        self.config.request_headers()  # refuse headers that cannot travel, here and now
        if proxy is not None or not trust_env:
            self._routes = RoutePlan.through(proxy)
        else:
            self._routes = RoutePlan.from_env(os.environ)
        self.network: Network = network or AnyioNetwork(verify=verify)
        if (watching := watcher()) is not None:
            self.network = watching.client_made(self, self.network)
        self._recorded: RecordedNetwork | None = None
        if record is not None or os.environ.get("SANDBOX_RECORD"):
            from .recording import record_network

            self.network = self._recorded = record_network(self.network, record, self.config)
        self._settings = {
            "timeout": timeout,
            "headers": headers,
            "retry": self.config.retry,
            "limits": limits,
            "exec_timeouts": exec_timeouts,
            "exec_transport": exec_transport,
            "prewarm": prewarm,
            "verify": verify,
            "proxy": proxy,
            "trust_env": trust_env,
            "network": network,
        }
        self._random = random.Random()
        limits = limits or PoolLimits()
        # Not `self.make`: a client that nobody has any more is to be gone at once, without cycles.
        make = None if self._recorded is None else self._recorded.recorder.make
        new_machine = Http1Client if make is None else partial(make, Http1Client)
        self._pool = HttpPool(self.network, self._routes, limits, new_machine)
        self._tracked: set[Closable] = set()
        self._prewarming: Prewarming | None = None
        if prewarm:
            from sandbox_proto.plans.prewarm import PrewarmPlan

            from .prewarming import Prewarming

            self._prewarming = Prewarming(self, PrewarmPlan(prewarm))
        self._block: AbstractAsyncContextManager[TaskGroup] | None = None
        # Ways of running commands that this service turned out not to know.
        self.refused_transports: frozenset[Transport] = frozenset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.api_endpoint!r})"

    def settings(self) -> dict[str, Any]:
        """The arguments for a second client like this one."""
        config = self.config
        found = {"api_endpoint": config.api_endpoint, "api_key": config.api_key}
        return {**found, **self._settings}

    async def __aenter__(self) -> Self:
        if (attendance := self.attendance) is not None:
            from .background import background_tasks

            self._block = background_tasks()
            tasks = await self._block.__aenter__()
            tasks.start_soon(attendance)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._block is not None:
                await self._block.__aexit__(exc_type, exc, traceback)
        finally:
            self._close()
        if exc is None:
            self.check_replay()

    async def aclose(self) -> None:
        """Close every connection. Commands that run are left to themselves. Idempotent.

        :raises PlaybackError: with `replay`: the program did less than was recorded.
        """
        self._close()
        self.check_replay()

    async def let_go(self) -> None:
        """Like `aclose`, but nothing is expected of a replay."""
        self._close()

    def check_replay(self) -> None:
        """The program has done all that it does.

        :raises PlaybackError: that was less than was recorded.
        """
        if self._replayed is not None:
            self._replayed.finish()

    def _close(self) -> None:
        if self._prewarming is not None:
            self._prewarming.close()
        for tracked in list(self._tracked):
            tracked.close()
        self._pool.close()
        if self._recorded is not None:
            self._recorded.finish()

    # --- for the other rooms of this package ------------------------------------------

    def flow_context(self) -> FlowContext:
        """What a flow that begins now is given."""
        recorded = self._recorded
        return FlowContext(
            config=self.config,
            random=self._random if recorded is None else recorded.chance(),
            entropy=self.network.entropy if recorded is None else recorded.chance(),
            now=self.network.now(),
        )

    def make(self, factory: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A machine, by its class or by what else makes it."""
        if self._recorded is None:
            return factory(*args, **kwargs)
        return self._recorded.recorder.make(factory, *args, **kwargs)

    async def drive(self, flow: Callable[[FlowContext], Flow[T]]) -> T:
        """Run one flow to its end."""
        result: T = await self.new_run().drive(flow(self.flow_context()))
        return result

    def new_run(self) -> FlowRun[Any]:
        """For whoever needs to know how far a flow got."""
        return FlowRun(self._pool, None if self._recorded is None else self._recorded.recorder)

    async def connect(self, origin: Origin, *, until: float | None) -> ByteStream:
        """A connection outside the pool, by the same route as requests take."""
        return await self.network.connect(self._routes.route_to(origin), until=until)

    @property
    def traced(self) -> bool:
        """Whether a trace is made or played: in it each command has connections of its own.

        And its output is text, in which secrets are found; event streams have base64.
        """
        return self._recorded is not None or self._replayed is not None

    def take_kept(self, origin: Origin) -> ByteStream | None:
        """A connection that stands unused in the pool."""
        return None if self.traced else self._pool.take_kept(origin)

    @property
    def attendance(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What is to run while the client is used, until it is closed; None: nothing."""
        return None if self._prewarming is None or self.traced else self._prewarming.serve

    def take_opened(self, destination: Destination | None) -> OpenSocket | None:
        """A WebSocket that stands open for a command, see `prewarm`."""
        if self._prewarming is None or destination is None:
            return None
        return self._prewarming.take(destination)

    def keep(self, origin: Origin, stream: ByteStream, unfinished: Http1Client) -> None:
        """Let the pool have a connection that a command no longer needs."""
        if self.traced:
            stream.close()
        else:
            self._pool.keep(origin, stream, unfinished)

    def track(self, tracked: Closable) -> None:
        """Something that `aclose` has to close."""
        self._tracked.add(tracked)
        if (watching := watcher()) is not None:
            watching.thing_made(self, tracked)

    def untrack(self, tracked: Closable) -> None:
        """Something that needs no closing any more."""
        self._tracked.discard(tracked)

    # --- for who watches (see `watching`) ---------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called, or the block was left."""
        return self._pool.closed

    @property
    def tracked(self) -> frozenset[Closable]:
        """What lives on connections of this client now."""
        return frozenset(self._tracked)

    @property
    def busy_streams(self) -> list[ByteStream]:
        """The pooled connections on which an answer is not read to its end yet."""
        return self._pool.busy_streams
