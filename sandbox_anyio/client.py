"""The asynchronous client, on asyncio and trio alike."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sandbox_proto.config import ClientConfig, ExecTimeouts
from sandbox_proto.flows import sandboxes
from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.effects import Flow, FlowContext
from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.plans.route import RoutePlan
from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.models import ResourceStatus, RunConfig
from sandbox_proto.wire.urls import Origin

from .anyio_network import AnyioNetwork
from .command import AsyncCommandHandle
from .http import HttpPool
from .log import client_log
from .network import ByteStream, Network
from .runner import FlowRun
from .sandbox import AsyncSandbox, SandboxOpening

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

# How long a cancelled creation may take to make sure that no sandbox stays behind, in seconds.
UNDO_PATIENCE = 10.0


class AsyncSandboxClient:
    """A client of the Sandbox API.

    Making one does no I/O. Close it with `aclose`, or use it as an async context manager.
    It belongs to the event loop it is first used in.

    :param api_endpoint: the control plane's base URL; default: ``LANGSMITH_ENDPOINT`` (or
        ``LANGCHAIN_ENDPOINT``) with ``/api/v2/sandboxes``.
    :param timeout: patience in seconds for connect, write, read and pool, each; above 0.
    :param api_key: default: ``LANGSMITH_API_KEY`` (or ``LANGCHAIN_API_KEY``).
    :param max_retries: how often a request is repeated; 0 disables it.
    :param headers: sent with every request and every WebSocket upgrade.
    :param retry: how requests are repeated, in detail; wins over `max_retries`.
    :param limits: bounds of the connection pool.
    :param exec_timeouts: patience on exec streams.
    :param verify: True: the system's trust store (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are
        honoured); False: no verification; or an `ssl.SSLContext`.
    :param proxy: an HTTP proxy's URL for everything; default: ``HTTP_PROXY``, ``HTTPS_PROXY``,
        ``ALL_PROXY`` and ``NO_PROXY``, if `trust_env`.
    :param trust_env: whether the proxy variables count.
    :param network: where connections, time and chance come from; for tests and simulations.
    :raises ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        *,
        api_endpoint: str | None = None,
        timeout: float = 10.0,
        api_key: str | None = None,
        max_retries: int = 3,
        headers: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
        limits: PoolLimits | None = None,
        exec_timeouts: ExecTimeouts | None = None,
        verify: bool | ssl.SSLContext = True,
        proxy: str | None = None,
        trust_env: bool = True,
        network: Network | None = None,
    ) -> None:
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
            **settings,
        )
        self.config.request_headers()  # refuse headers that cannot travel, here and now
        if proxy is not None or not trust_env:
            self._routes = RoutePlan.through(proxy)
        else:
            self._routes = RoutePlan.from_env(os.environ)
        self.network: Network = network or AnyioNetwork(verify=verify)
        self._random = random.Random()
        self._pool = HttpPool(self.network, self._routes, limits or PoolLimits())
        self._handles: set[AsyncCommandHandle] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.api_endpoint!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Commands that run are left to themselves. Idempotent."""
        for handle in list(self._handles):
            handle.close()
        self._pool.close()

    # --- sandboxes --------------------------------------------------------------------

    def sandbox(
        self,
        snapshot_id: str | None = None,
        *,
        snapshot: str | None = None,
        snapshot_name: str | None = None,
        name: str | None = None,
        timeout: int = 30,
        idle_ttl_seconds: int | None = None,
        delete_after_stop_seconds: int | None = None,
        persistent: bool | None = None,
        vcpus: int | None = None,
        mem_bytes: int | None = None,
        fs_capacity_bytes: int | None = None,
        mount_config: Mapping[str, Any] | None = None,
        proxy_config: Mapping[str, Any] | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SandboxOpening:
        """A new sandbox that is deleted at the end of its block.

        ``async with client.sandbox() as sb`` and ``async with await client.sandbox() as sb``
        are the same. Parameters and errors are those of `create_sandbox`.
        """

        async def create() -> AsyncSandbox:
            sandbox = await self.create_sandbox(
                snapshot_id,
                snapshot=snapshot,
                snapshot_name=snapshot_name,
                name=name,
                timeout=timeout,
                idle_ttl_seconds=idle_ttl_seconds,
                delete_after_stop_seconds=delete_after_stop_seconds,
                persistent=persistent,
                vcpus=vcpus,
                mem_bytes=mem_bytes,
                fs_capacity_bytes=fs_capacity_bytes,
                mount_config=mount_config,
                proxy_config=proxy_config,
                run_config=run_config,
                headers=headers,
            )
            sandbox._auto_delete = True
            return sandbox

        return SandboxOpening(create)

    async def create_sandbox(
        self,
        snapshot_id: str | None = None,
        *,
        snapshot: str | None = None,
        snapshot_name: str | None = None,
        name: str | None = None,
        timeout: int = 30,
        wait_for_ready: bool = True,
        idle_ttl_seconds: int | None = None,
        delete_after_stop_seconds: int | None = None,
        persistent: bool | None = None,
        preserve_memory_on_stop: bool | None = None,
        restore_memory: bool | None = None,
        vcpus: int | None = None,
        mem_bytes: int | None = None,
        fs_capacity_bytes: int | None = None,
        labels: dict[str, str] | None = None,
        mount_config: Mapping[str, Any] | None = None,
        proxy_config: Mapping[str, Any] | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        access_delegation: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncSandbox:
        """Make a sandbox that stays until it is deleted.

        A lost answer is reconciled by name, so that one call never makes two sandboxes;
        cancelling the call leaves none.

        :param snapshot_id: id of the snapshot to boot from. At most one of the three.
        :param snapshot: ``name``, ``name:tag`` or id of the snapshot.
        :param snapshot_name: an older word for `snapshot`.
        :param name: unique in the workspace; default: one is invented.
        :param timeout: how long the sandbox may take to become ready, in seconds.
        :param wait_for_ready: wait for it; else it comes back as ``provisioning``.
        :param idle_ttl_seconds: seconds without activity until it stops; 0 or a multiple of 60.
        :param delete_after_stop_seconds: seconds from stop to deletion; 0 or a multiple of 60.
        :param persistent: keep the file system over a stop.
        :param preserve_memory_on_stop: keep the memory too.
        :param restore_memory: whether to start from the snapshot's memory.
        :param vcpus: number of virtual CPUs.
        :param mem_bytes: memory in bytes.
        :param fs_capacity_bytes: disk in bytes.
        :param labels: stored with the sandbox.
        :param mount_config: what is mounted.
        :param proxy_config: rules of the egress proxy.
        :param run_config: default user, directory and environment of commands.
        :param access_delegation: what code inside may do in the creator's name.
        :param headers: headers for these requests only.
        :raises ValueError: arguments contradict each other or are out of range.
        :raises ResourceTimeoutError: it was not ready in time.
        :raises ResourceCreationError: it could not be made.
        :raises ValidationError: the server rejected the arguments.
        :raises QuotaExceededError: a quota is used up.
        """
        creation = Creation(
            self.flow_context(),
            CreationSpec(
                snapshot_id=snapshot_id,
                snapshot=snapshot,
                snapshot_name=snapshot_name,
                name=name,
                idle_ttl_seconds=idle_ttl_seconds,
                delete_after_stop_seconds=delete_after_stop_seconds,
                persistent=persistent,
                preserve_memory_on_stop=preserve_memory_on_stop,
                restore_memory=restore_memory,
                vcpus=vcpus,
                mem_bytes=mem_bytes,
                fs_capacity_bytes=fs_capacity_bytes,
                labels=labels,
                mount_config=mount_config,
                proxy_config=proxy_config,
                run_config=run_config,
                access_delegation=access_delegation,
            ),
            timeout=timeout,
            wait_for_ready=wait_for_ready,
            headers=headers,
        )
        run: FlowRun[Any] = FlowRun(self._pool)
        try:
            record = await run.drive(creation.run())
        except Exception:
            raise
        except BaseException:
            await self._undo(creation, run)
            raise
        return AsyncSandbox.from_record(record, self, auto_delete=False)

    async def _undo(self, creation: Creation, run: FlowRun[Any]) -> None:
        """A creation was cancelled: see to it that no sandbox stays behind."""
        undo = creation.undo(self.flow_context(), run.progress.phase)
        if undo is None:
            return
        with self.network.shielded(UNDO_PATIENCE) as shield:
            try:
                await run.drive(undo)
            except Exception as error:
                client_log.warning("sandbox %s may have been left: %s", creation.name, error)
        if shield.expired:
            client_log.warning("sandbox %s may have been left: no answer", creation.name)

    async def get_sandbox(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> AsyncSandbox:
        """A sandbox by name or id.

        :raises ResourceNotFoundError: there is none.
        """
        record = await self.drive(lambda context: sandboxes.get_sandbox(context, name, headers))
        return AsyncSandbox.from_record(record, self, auto_delete=False)

    async def list_sandboxes(
        self, *, headers: Mapping[str, str] | None = None
    ) -> list[AsyncSandbox]:
        """All sandboxes of the workspace, from every page.

        :raises SandboxAPIError: the endpoint is no Sandbox API (404), or it failed.
        """
        records = await self.drive(lambda context: sandboxes.list_sandboxes(context, headers))
        return [AsyncSandbox.from_record(record, self, auto_delete=False) for record in records]

    async def delete_sandbox(self, name: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Delete a sandbox by name or id, with everything in it.

        :raises ResourceNotFoundError: there is none.
        """
        await self.drive(lambda context: sandboxes.delete_sandbox(context, name, headers))

    async def get_sandbox_status(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> ResourceStatus:
        """The lifecycle status of a sandbox; cheaper than `get_sandbox`.

        :raises ResourceNotFoundError: there is none.
        """
        return await self.drive(lambda context: sandboxes.get_status(context, name, headers))

    async def wait_for_sandbox(
        self,
        name: str,
        *,
        timeout: int = 120,
        poll_interval: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncSandbox:
        """Wait until a sandbox is ready.

        :param timeout: in seconds; 0 asks once.
        :param poll_interval: seconds between two requests.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time (``last_status`` says what it was).
        :raises ResourceNotFoundError: there is none.
        """
        record = await self.drive(
            lambda context: sandboxes.wait_for_sandbox(
                context, name, timeout=timeout, poll_interval=poll_interval, headers=headers
            )
        )
        return AsyncSandbox.from_record(record, self, auto_delete=False)

    # --- for the other rooms of this package ------------------------------------------

    def flow_context(self) -> FlowContext:
        """What a flow that begins now is given."""
        return FlowContext(
            config=self.config,
            random=self._random,
            entropy=self.network.entropy,
            now=self.network.now(),
        )

    async def drive(self, flow: Callable[[FlowContext], Flow[T]]) -> T:
        """Run one flow to its end."""
        run: FlowRun[T] = FlowRun(self._pool)
        return await run.drive(flow(self.flow_context()))

    async def connect(self, origin: Origin, *, until: float | None) -> ByteStream:
        """A connection outside the pool, by the same route as requests take."""
        return await self.network.connect(self._routes.route_to(origin), until=until)

    def track(self, handle: AsyncCommandHandle) -> None:
        """A handle that `aclose` has to close."""
        self._handles.add(handle)

    def untrack(self, handle: AsyncCommandHandle) -> None:
        """A handle that needs no closing any more."""
        self._handles.discard(handle)
