"""Tunnels that listen: a port of this machine that leads to a port in a sandbox."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from sandbox_proto.errors import SandboxClientError, TunnelError
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.yamux_frames import MAX_PAYLOAD
from sandbox_proto.wire.tunnel import check_port

from .background import background_tasks
from .base import ClientBase
from .log import tunnel_log
from .socket_stream import socket_stream
from .tunnel_connection import TunnelConnection, open_tunnel_connection
from .tunnel_streams import TunnelStream

if TYPE_CHECKING:
    from .network import ByteStream

LocalPort = int | Literal["any"] | None
ErrorCallback = Callable[[SandboxClientError], object]

_BACKLOG = 128
_BRIDGE_BYTES = 4 * MAX_PAYLOAD  # whole frames
_EAGER_READS = 16
# How often a port that is free on 127.0.0.1 may turn out to be taken on ::1.
_ATTEMPTS_FOR_BOTH = 20
_NO_IPV6 = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


def check_local_port(port: object) -> None:
    """Whether a tunnel can listen on it: a port, 0 or None (as in the sandbox), or ``"any"``.

    :raises ValueError: it cannot.
    """
    if port not in (0, None, "any"):
        check_port(port, "local_port")


class AsyncTunnel:
    """A listening port of this machine; whoever connects to it is connected to the sandbox.

    Its block owns the tasks that serve it::

        async with sandbox.tunnel(5432, local_port="any") as tunnel:
            connection = await connect(port=tunnel.local_port)

    Before the block begins the port is taken, but connections to it are refused. `serve` is
    for whoever wants to own the tasks otherwise.

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
        client: ClientBase | None = None,
        on_error: ErrorCallback | None = None,
    ) -> None:
        """
        :param dataplane_url: that of the sandbox.
        :param api_key: for the server; not needed with a client.
        :param remote_port: the port inside the sandbox.
        :param local_port: the port here; 0 or None: the same; ``"any"``: a free one.
        :param max_reconnects: how often in a row it is tried to get a lost session back; 0 is
            never.
        :param headers: headers of the session's request.
        :param client: whose connections, proxies and headers to use.
        :param on_error: called with what becomes of a connection or session that failed.
        :raises ValueError: a port is out of range.
        """
        self._remote_port = check_port(remote_port, "remote_port")
        check_local_port(local_port)
        self._wanted_port = 0 if local_port == "any" else local_port or remote_port
        self._base = dataplane_url.rstrip("/")
        self._client = client or ClientBase(api_endpoint=self._base, api_key=api_key)
        self._headers = self._client.config.request_headers(headers)
        self._max_reconnects = max_reconnects
        self._on_error = on_error
        self._listeners: list[socket.socket] = []
        self._connections: list[TunnelConnection] = []  # the last one is the present one
        self._renewing = anyio.Lock()
        self._renewed = anyio.Event()
        self._closed = False
        self._block: AbstractAsyncContextManager[TaskGroup] | None = None
        self._tasks: TaskGroup | None = None
        self._end = anyio.Event()
        self.last_error: SandboxClientError | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._wanted_port} to {self._remote_port}>"

    @property
    def local_port(self) -> int:
        """The port on 127.0.0.1, and on ::1 where there is one."""
        if self._listeners:
            return int(self._listeners[0].getsockname()[1])
        return self._wanted_port

    @property
    def remote_port(self) -> int:
        """The port inside the sandbox."""
        return self._remote_port

    async def start(self) -> None:
        """Open the session and take the port. Harmless when repeated.

        :raises SandboxConnectionError: the session could not be opened.
        :raises OSError: the port is in use, or may not be used.
        """
        if self._listeners or self._closed:
            return
        connection = await self._open_session(self._max_reconnects)
        try:
            self._listeners = _bind(self._wanted_port)
        except BaseException:
            connection.close()
            raise
        self._wanted_port = self.local_port
        self._connections.append(connection)
        self._client.track(self)

    async def serve(self, *, task_status: TaskStatus[Self] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `close` is called; for a task of the caller's (``await tasks.start(...)``).

        :raises SandboxConnectionError: the session could not be opened.
        :raises OSError: the port is in use, or may not be used.
        """
        async with self:
            task_status.started(self)
            await self._end.wait()

    def close(self) -> None:
        """Stop listening, and cut what is connected. Waits for nothing. Idempotent."""
        self._closed = True
        self._client.untrack(self)
        self._end.set()
        for listener in self._listeners:
            if listener.fileno() >= 0:
                anyio.notify_closing(listener)
                listener.close()
        for connection in self._connections:
            connection.close()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise TunnelError("the tunnel is closed")
        await self.start()
        try:
            for listener in self._listeners:
                listener.listen(_BACKLOG)
        except BaseException:
            self.close()
            raise
        self._block = background_tasks()
        tasks = await self._block.__aenter__()
        await tasks.start(self._run)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        try:
            return await self._block.__aexit__(exc_type, exc, traceback)
        finally:
            self.close()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        # A group of its own, so that `close` does not cancel the block.
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._keep_session)
            for listener in self._listeners:
                self._tasks.start_soon(self._accept, listener, self._tasks)
            task_status.started()

    # --- the session ------------------------------------------------------------------

    async def _open_session(self, retries: int) -> TunnelConnection:
        return await open_tunnel_connection(
            self._client, self._base, self._headers, retries=retries
        )

    async def _keep_session(self) -> None:
        """Drive the session, and get the next one when it is lost."""
        while True:
            connection, renewed = self._connections[-1], self._renewed
            await connection.drive_until(lambda: not connection.usable)  # noqa: B023 - is done with before the next round
            if connection.ended is not None:
                tunnel_log.info("the session was lost: %s", connection.ended.error)
            try:
                await self._session()
            except SandboxClientError as error:
                self._tell(error)
                await renewed.wait()  # the next one who connects tries again

    async def _session(self) -> TunnelConnection:
        """A session that takes new streams.

        :raises SandboxConnectionError: it could not be had.
        """
        async with self._renewing:
            present = self._connections[-1]
            if present.usable:
                return present
            if not self._max_reconnects:
                error = present.ended.error if present.ended else TunnelError("the server left")
                raise error
            connection = await self._open_session(self._max_reconnects - 1)
            # One that is being left ends with the last of its streams.
            present.retire()
            kept = [each for each in self._connections if each.ended is None]
            self._connections = [*kept, connection]
            self._renewed.set()
            self._renewed = anyio.Event()
            return connection

    def _tell(self, error: SandboxClientError) -> None:
        self.last_error = error
        tunnel_log.warning("tunnel to port %d: %s", self._remote_port, error)
        if self._on_error is not None:
            self._on_error(error)

    # --- connections ------------------------------------------------------------------

    async def _accept(self, listener: socket.socket, tasks: TaskGroup) -> None:
        while True:
            try:
                await anyio.wait_readable(listener)
                accepted, _ = listener.accept()
            except (anyio.ClosedResourceError, ValueError):
                return  # `close` was called
            except BlockingIOError:
                continue
            except OSError as error:  # it is gone already, or there are too many open files
                tunnel_log.warning("a connection was not accepted: %s", error)
                await anyio.sleep(0.05)
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.start_soon(self._serve_one, accepted)

    async def _serve_one(self, accepted: socket.socket) -> None:
        local = socket_stream(accepted)
        whole = False
        try:
            whole = await _bridge(local, await self._connect())
        except SandboxClientError as error:
            self._tell(error)
        finally:
            if not whole and accepted.fileno() >= 0:
                # A reset, so that nobody takes what there was for all.
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            local.close()

    async def _connect(self) -> TunnelStream:
        while True:
            session = await self._session()
            try:
                return await session.connect(self._remote_port)
            except SandboxClientError:
                if session.usable:
                    raise
                # It was lost before anything was said: that cannot be the answer.


class TunnelOpening:
    """What `AsyncSandbox.tunnel` returns: await it, or enter it, or both."""

    def __init__(self, make: Callable[[], AsyncTunnel]) -> None:
        self._make = make
        self._tunnel: AsyncTunnel | None = None

    def __await__(self) -> Generator[Any, Any, AsyncTunnel]:
        return self._started().__await__()

    async def _started(self) -> AsyncTunnel:
        tunnel = self._make()
        await tunnel.start()
        return tunnel

    async def __aenter__(self) -> AsyncTunnel:
        self._tunnel = self._make()
        return await self._tunnel.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._tunnel is not None
        return await self._tunnel.__aexit__(exc_type, exc, traceback)


async def _bridge(local: ByteStream, stream: TunnelStream) -> bool:
    """Carry bytes both ways until both have ended. Returns whether they did so in order."""
    whole = True

    async def run(direction: Callable[[ByteStream, TunnelStream], Awaitable[None]]) -> None:
        nonlocal whole
        try:
            await direction(local, stream)
        except (OSError, anyio.BrokenResourceError) as error:
            tunnel_log.debug("a connection broke: %s", error)
            whole = False
            directions.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as directions:
            directions.start_soon(run, _upwards)
            directions.start_soon(run, _downwards)
    except BaseException:
        whole = False
        raise
    finally:
        if whole:
            await stream.aclose()
        else:
            stream.reset()
    return whole


async def _upwards(local: ByteStream, stream: TunnelStream) -> None:
    """From here into the sandbox."""
    passed_on = 0
    while True:
        data = local.try_receive(_BRIDGE_BYTES)
        if data is None:
            await local.wait(readable=True, writable=False, until=None)
        elif data:
            passed_on += 1
            # An application that always has bytes ready must still let other tasks run.
            await (stream._pass_on if passed_on % _EAGER_READS else stream.send)(data)
        else:
            await stream.send_eof()
            return


async def _downwards(local: ByteStream, stream: TunnelStream) -> None:
    """From the sandbox to here: what the driver of the session could not pass on at once."""

    behind = False

    def pass_on(data: Buffer) -> int:
        try:
            return 0 if behind else local.try_send(data)
        except OSError:
            return 0  # it is met again below, where it belongs

    stream._deliver_to(pass_on)
    while True:
        behind = False
        try:
            view = memoryview(await stream.receive(_BRIDGE_BYTES))
        except anyio.EndOfStream:
            local.send_eof()
            return
        behind = True  # what comes meanwhile has to wait for its turn
        while view:
            view = view[local.try_send(view) :]
            if view:
                await local.wait(readable=False, writable=True, until=None)


def _bind(port: int) -> list[socket.socket]:
    """Sockets on 127.0.0.1 and, where there is one, on ::1; with port 0 on one that is free.

    :raises OSError: the port is in use, or may not be used.
    """
    for attempt in range(_ATTEMPTS_FOR_BOTH):
        first = _bound(socket.AF_INET, "127.0.0.1", port)
        try:
            return [first, _bound(socket.AF_INET6, "::1", first.getsockname()[1])]
        except OSError as error:
            if error.errno in _NO_IPV6:
                return [first]
            first.close()
            if port or error.errno != errno.EADDRINUSE or attempt + 1 == _ATTEMPTS_FOR_BOTH:
                raise
    raise AssertionError("the last attempt raises")


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if os.name == "posix":  # elsewhere it would allow two to listen
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        text = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise OSError(error.errno, text) from None
    except BaseException:
        listener.close()
        raise
    return listener
