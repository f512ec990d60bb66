"""Ports of a sandbox, for code that blocks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, TypeVar

import anyio

from sandbox_proto.errors import SandboxClientError, TunnelError

from ..tunnel import AsyncTunnel, ErrorCallback, LocalPort
from ..tunnel_streams import TunnelStream
from .base import Blocking
from .callers import callback_in_thread
from .generated.tunnel_streams import TunnelStreamMethods
from .portal import Block, Portal

T = TypeVar("T")


class Tunnel(Blocking[AsyncTunnel]):
    """A listening port of this machine; whoever connects to it is connected to the sandbox.

    ::

        with sandbox.tunnel(5432, local_port="any") as tunnel:
            connection = connect(port=tunnel.local_port)

    It is served in the background until it is closed, or the block ends. One of
    `Sandbox.tunnel` listens already; one that you have made does so as soon as it is entered.

    The session with the server is renewed whenever it is lost, also while nobody connects.
    Connections that were open in it are reset; new ones work again. A connection that the
    server refuses is reset; why stands in `last_error`, and goes to `on_error`.
    """

    def __init__(
        self,
        dataplane_url: str,
        api_key: str | None,
        remote_port: int,
        *,
        local_port: LocalPort = 0,
        max_reconnects: int = 3,
        headers: Mapping[str, str] | None = None,
        on_error: ErrorCallback | None = None,
    ) -> None:
        """
        :param dataplane_url: that of the sandbox.
        :param api_key: for the server.
        :param remote_port: the port inside the sandbox.
        :param local_port: the port here; 0 or None: the same; ``"any"``: a free one.
        :param max_reconnects: how often in a row it is tried to get a lost session back; 0 is
            never.
        :param headers: headers of the session's request.
        :param on_error: called, in a thread of its own, with what becomes of a connection or
            session that failed.
        :raises ValueError: a port is out of range.
        """
        told = callback_in_thread(on_error)

        def make() -> AsyncTunnel:
            return AsyncTunnel(
                dataplane_url,
                api_key,
                remote_port,
                local_port=local_port,
                max_reconnects=max_reconnects,
                headers=headers,
                on_error=told,
            )

        portal = Portal(_nothing)
        super().__init__(portal.do(make), portal)
        self._owns_portal = True
        self._block: Block[AsyncTunnel] | None = None

    @classmethod
    def opened(
        cls, portal: Portal, opening: Callable[[], AbstractAsyncContextManager[AsyncTunnel]]
    ) -> Self:
        """A tunnel that listens already."""
        tunnel = cls.__new__(cls)
        block = Block(portal, opening)
        super().__init__(tunnel, block.enter(), portal)
        tunnel._owns_portal, tunnel._block = False, block
        return tunnel

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.local_port} to {self.remote_port}>"

    @property
    def local_port(self) -> int:
        """The port on 127.0.0.1, and on ::1 where there is one."""
        return self._async.local_port

    @property
    def remote_port(self) -> int:
        """The port inside the sandbox."""
        return self._async.remote_port

    @property
    def last_error(self) -> SandboxClientError | None:
        """What became of the last connection or session that failed."""
        return self._async.last_error

    def start(self) -> None:
        """Open the session, take the port and serve it. Harmless when repeated.

        :raises SandboxConnectionError: the session could not be opened.
        :raises OSError: the port is in use, or may not be used.
        :raises TunnelError: the tunnel was closed.
        """
        if self._block is None:
            block = Block(self._portal, lambda: self._async)
            block.enter()
            self._block = block

    def close(self) -> None:
        """Stop listening, and cut what is connected. Idempotent."""
        if self._block is not None:
            self._block.exit()
        if self._owns_portal:
            self._portal.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


async def _nothing() -> None:
    pass


class BlockingTunnelStream(TunnelStreamMethods):
    """A connection to a port in a sandbox. Obtained from `Sandbox.connect`.

    It can half-close. One thread may send while another receives. As a context manager it is
    closed at the end of the block.
    """

    @property
    def port(self) -> int:
        """The port inside the sandbox."""
        return self._async.port

    def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes, at least one; empty when the other end sends nothing more.

        :param max_bytes: no more than this, and at least 1.
        :raises TunnelError: the connection was reset, or this stream was closed.
        :raises SandboxConnectionError: the session was lost.
        """
        try:
            return super().receive(max_bytes)
        except anyio.EndOfStream:
            return b""

    def _call(self, ask: Callable[[TunnelStream], Awaitable[T]]) -> T:
        try:
            return super()._call(ask)
        except anyio.BrokenResourceError as error:
            if isinstance(error.__cause__, SandboxClientError):
                raise error.__cause__ from None
            raise TunnelError(str(error)) from None
        except anyio.ClosedResourceError:
            raise TunnelError("the stream is closed on this side") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._portal.forked:
            self.close()
