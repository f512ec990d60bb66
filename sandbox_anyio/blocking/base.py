"""What synchronous objects stand on: an asynchronous one, and the way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import attrs

from sandbox_proto.wire.command_models import ExecutionResult
from sandbox_proto.wire.models import SandboxRecord, ServiceLoginURL

from ..client import AsyncSandboxClient
from ..command import AsyncCommandHandle
from ..file_streams import AsyncFileReader, AsyncFileWriter
from ..sandbox import AsyncSandbox
from ..service import AsyncServiceURL, ServiceResponse
from .portal import Block, Portal
from .work import Desk

if TYPE_CHECKING:
    from ..tunnel import AsyncTunnel
    from ..tunnel_streams import TunnelStream
    from ..websocket import AsyncWebSocket
    from .client import SandboxClient
    from .command import CommandHandle
    from .files import FileReader, FileWriter
    from .sandbox import Sandbox
    from .service import BlockingServiceResponse, ServiceURL
    from .tunnel import BlockingTunnelStream, Tunnel
    from .websocket import WebSocket

A = TypeVar("A")
S = TypeVar("S")
T = TypeVar("T")


class Blocking(Generic[A]):
    """An object whose deeds are those of an asynchronous one.

    :param portal: leads to the loop that it belongs to.
    :param desk: where callbacks wait that belong to it; default: to each call its own.
    """

    def __init__(self, asynchronous: A, portal: Portal, desk: Desk | None = None) -> None:
        self._async = asynchronous
        self._portal = portal
        self._desk = desk

    def _call(self, ask: Callable[[A], Awaitable[T]]) -> T:
        return self._portal.call(lambda: ask(self._async), self._desk)

    def _do(self, deed: Callable[[A], T]) -> T:
        return self._portal.do(lambda: deed(self._async))

    # --- what comes back, for those who block -----------------------------------------

    def _handle(self, handle: AsyncCommandHandle) -> CommandHandle:
        from .command import CommandHandle

        return CommandHandle(handle, self._portal)

    def _answer(self, answer: ServiceResponse) -> BlockingServiceResponse:
        from .service import BlockingServiceResponse

        return BlockingServiceResponse.of(answer, self._portal)

    def _websocket(self, websocket: AsyncWebSocket) -> WebSocket:
        from .websocket import WebSocket

        return WebSocket(websocket, self._portal)


class BlockingClient(Blocking[AsyncSandboxClient]):
    """What gives sandboxes."""

    def _begin(self, asynchronous: AsyncSandboxClient) -> None:
        """What construction ends with."""
        Blocking.__init__(self, asynchronous, Portal(asynchronous.let_go, asynchronous.attendance))

    def _iterate(self, begin: Callable[[AsyncSandboxClient], AsyncIterator[T]]) -> Iterator[T]:
        return self._portal.iterate(lambda: begin(self._async))

    def _sandbox(self, sandbox: AsyncSandbox) -> Sandbox:
        from .sandbox import Sandbox

        client = cast("SandboxClient", self)
        return Sandbox.from_record(sandbox, client, auto_delete=sandbox._auto_delete)

    def _sandboxes(self, sandboxes: list[AsyncSandbox]) -> list[Sandbox]:
        return [self._sandbox(each) for each in sandboxes]

    def _service_url(
        self, minted: AsyncServiceURL | ServiceLoginURL
    ) -> ServiceURL | ServiceLoginURL:
        from .service import ServiceURL

        if isinstance(minted, ServiceLoginURL):
            return minted
        return ServiceURL.of(minted, self._portal)


@attrs.define
class BlockingSandbox(SandboxRecord):
    """A sandbox's record, with the client it came from."""

    _client: SandboxClient = attrs.field(repr=False, eq=False, kw_only=True)
    _auto_delete: bool = attrs.field(default=True, repr=False, eq=False, kw_only=True)

    def _call(self, ask: Callable[[AsyncSandbox], Awaitable[T]]) -> T:
        sandbox = self._asynchronous()
        try:
            return self._portal.call(lambda: ask(sandbox))
        finally:
            # What starting and stopping changes.
            self.status, self.dataplane_url = sandbox.status, sandbox.dataplane_url

    def _asynchronous(self) -> AsyncSandbox:
        """An asynchronous object for the same sandbox, as it stands here now."""
        client = self._client._async
        return AsyncSandbox.from_record(self, client, auto_delete=self._auto_delete)

    @property
    def _portal(self) -> Portal:
        return self._client._portal

    # --- what comes back, for those who block -----------------------------------------

    def _handle(self, handle: AsyncCommandHandle) -> CommandHandle:
        from .command import CommandHandle

        return CommandHandle(handle, self._portal)

    def _result_or_handle(
        self, ended: ExecutionResult | AsyncCommandHandle
    ) -> ExecutionResult | CommandHandle:
        return ended if isinstance(ended, ExecutionResult) else self._handle(ended)

    def _service_url(self, minted: AsyncServiceURL) -> ServiceURL:
        from .service import ServiceURL

        return ServiceURL.of(minted, self._portal)

    def _stream(self, stream: TunnelStream) -> BlockingTunnelStream:
        from .tunnel import BlockingTunnelStream

        return BlockingTunnelStream(stream, self._portal)

    def _tunnel(
        self, opening: Callable[[AsyncSandbox], AbstractAsyncContextManager[AsyncTunnel]]
    ) -> Tunnel:
        from .tunnel import Tunnel

        return Tunnel.opened(self._portal, lambda: opening(self._asynchronous()))

    def _reader(
        self, opening: Callable[[AsyncSandbox], AbstractAsyncContextManager[AsyncFileReader]]
    ) -> AbstractContextManager[FileReader]:
        from .files import FileReader

        return Opening(self._portal, lambda: opening(self._asynchronous()), FileReader)

    def _writer(
        self, opening: Callable[[AsyncSandbox], AbstractAsyncContextManager[AsyncFileWriter]]
    ) -> AbstractContextManager[FileWriter]:
        from .files import FileWriter

        return Opening(self._portal, lambda: opening(self._asynchronous()), FileWriter)


class Opening(AbstractContextManager[S], Generic[A, S]):
    """An asynchronous context manager for those who block.

    :param wrap: makes a synchronous object of what it gives.
    """

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], AbstractAsyncContextManager[A]],
        wrap: Callable[[A, Portal, Desk], S],
    ) -> None:
        self._portal, self._make, self._wrap = portal, make, wrap
        self._block: Block[A] | None = None

    def __enter__(self) -> S:
        self._block = Block(self._portal, self._make)
        return self._wrap(self._block.enter(), self._portal, self._block.desk)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return self._block.exit(exc)
