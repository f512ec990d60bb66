"""What the fixtures give: clients, sandboxes, and a model host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_proto.errors import ResourceNotFoundError, SandboxClientError
from sandbox_proto.testing import ModelHost
from sandbox_proto.trace.tape import PlaybackError

from ..client import AsyncSandboxClient
from ..virtual_network import VirtualNetwork
from .apart import run_apart
from .item_watch import ItemWatch
from .running import begin

if TYPE_CHECKING:
    from sandbox_proto.testing import Trouble

    from ..blocking.client import SandboxClient
    from ..blocking.sandbox import Sandbox
    from ..sandbox import AsyncSandbox


@contextlib.contextmanager
def client_of(
    request: pytest.FixtureRequest, options: Mapping[str, Any]
) -> Iterator[AsyncSandboxClient]:
    """An asynchronous client for one test."""
    watch, settings = _prepared(request, options)
    client = AsyncSandboxClient(**settings)
    watch.handed_out.add(client)
    try:
        yield client
    finally:
        _take_back(watch, client, lambda: run_apart(client.aclose))


@contextlib.contextmanager
def sync_client_of(
    request: pytest.FixtureRequest, options: Mapping[str, Any]
) -> Iterator[SandboxClient]:
    """A synchronous client for one test."""
    from ..blocking.client import SandboxClient

    watch, settings = _prepared(request, options)
    client = SandboxClient(**settings)
    watch.handed_out.add(client._async)

    def close() -> None:
        client.close()
        run_apart(client._async.aclose)  # which nobody did if it was never used

    try:
        yield client
    finally:
        _take_back(watch, client._async, close)


def _prepared(
    request: pytest.FixtureRequest, options: Mapping[str, Any]
) -> tuple[ItemWatch, dict[str, Any]]:
    watch = begin(request.node)
    settings: dict[str, Any] = {"trust_env": False}
    if watch.trace is not None:
        if watch.handed_out:
            pytest.fail(
                "a trace holds what one client says, and this test has two: sandbox_client and "
                "sandbox_client_sync (sandbox and sandbox_sync bring theirs)",
                pytrace=False,
            )
        settings |= watch.trace.settings()
    if "replay" not in settings:
        watch.host = host = request.getfixturevalue("sandbox_host")
        settings |= {"api_endpoint": host.endpoint, "api_key": host.api_key}
    return watch, settings | dict(options)


def _take_back(watch: ItemWatch, client: AsyncSandboxClient, close: Callable[[], None]) -> None:
    watch.look_at(client)
    try:
        close()
    except PlaybackError as error:
        if not watch.failed:
            watch.differs = watch.differs or str(error)
            raise


# --- sandboxes ------------------------------------------------------------------------


@contextlib.contextmanager
def sandbox_of(
    request: pytest.FixtureRequest, client: AsyncSandboxClient, options: Mapping[str, Any]
) -> Iterator[AsyncSandbox]:
    """A sandbox for one test."""
    sandbox = run_apart(lambda: client.create_sandbox(**options))
    try:
        yield sandbox
    finally:
        with _leniently(begin(request.node)):
            run_apart(sandbox.delete)


@contextlib.contextmanager
def sync_sandbox_of(
    request: pytest.FixtureRequest, client: SandboxClient, options: Mapping[str, Any]
) -> Iterator[Sandbox]:
    """A sandbox for one test that blocks."""
    sandbox = client.create_sandbox(**options)
    try:
        yield sandbox
    finally:
        with _leniently(begin(request.node)):
            sandbox.delete()


@contextlib.contextmanager
def _leniently(watch: ItemWatch) -> Iterator[None]:
    """Deleting what the test may have deleted itself; one that failed has said so already."""
    try:
        yield
    except ResourceNotFoundError:
        pass
    except SandboxClientError:
        if not watch.failed:
            raise


# --- a host without processes ---------------------------------------------------------


class ModelHostOfTest(ModelHost):
    """A `ModelHost` that has clients.

    :ivar network: the network of `client`; its clock jumps.
    """

    def __init__(self, watch: ItemWatch, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._watch, self._options = watch, options
        self._clients: list[AsyncSandboxClient] = []
        self.network = VirtualNetwork(self)

    @cached_property
    def client(self) -> AsyncSandboxClient:
        """A client of this host. The fixture closes it."""
        return self.new_client(network=self.network)

    def new_client(
        self,
        *,
        faults: Trouble | None = None,
        latency: float = 0.0,
        seed: int = 0,
        network: VirtualNetwork | None = None,
        **options: Any,
    ) -> AsyncSandboxClient:
        """Another client of this host. The fixture closes it.

        :param faults: what befalls its connections; see `sandbox_proto.testing.Faults`.
        :param latency: how long bytes take one way, in virtual seconds.
        :param seed: of its chance.
        :param network: in place of the three.
        :param options: for `AsyncSandboxClient`.
        """
        network = network or VirtualNetwork(self, faults=faults, latency=latency, seed=seed)
        settings = {
            "api_endpoint": self.origin,
            "api_key": self.api_key,
            "trust_env": False,
            "network": network,
            **self._options,
            **options,
        }
        client = AsyncSandboxClient(**settings)
        self._watch.handed_out.add(client)
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close what it has given out."""
        for client in self._clients:
            self._watch.look_at(client)
            run_apart(client.aclose)


@contextlib.contextmanager
def model_host_of(
    request: pytest.FixtureRequest, options: Mapping[str, Any]
) -> Iterator[ModelHostOfTest]:
    """A model host for one test."""
    watch = begin(request.node)
    host = ModelHostOfTest(watch, options)
    watch.model_hosts.append(host)
    try:
        yield host
    finally:
        host.close_clients()
