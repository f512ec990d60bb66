"""A connection to a port in a sandbox, as a byte stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

from sandbox_proto.errors import SandboxClientError, TunnelError
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.byte_queue import ByteQueue
from sandbox_proto.machines.tunnel_session import (
    SessionEnded,
    StreamConnected,
    StreamRefused,
    TunnelEvent,
)
from sandbox_proto.machines.yamux_events import StreamData, StreamEnded, StreamReset

if TYPE_CHECKING:
    from .tunnel_connection import TunnelConnection

# How long closing a stream may take, in seconds: what was sent is to be on its way.
CLOSE_PATIENCE = 5.0
_RECEIVE_BYTES = 64 * 1024


class TunnelStream(ByteStream):
    """A connection to a port in a sandbox, as a byte stream of anyio's.

    `send_eof` ends our direction only. `send` returns when the bytes are on their way, and
    waits while the other end does not read. Nothing is received while nobody waits: keep a
    task in `receive` if the connection is to stay alive for minutes without traffic.

    :ivar port: the port inside the sandbox.
    """

    def __init__(self, connection: TunnelConnection, id: int, port: int) -> None:
        self.port = port
        self._connection, self._id = connection, id
        self._inbox = ByteQueue()
        self._owns_connection = False
        self._sink: Callable[[Buffer], int] | None = None
        self._receiving = self._ended = self._eof_sent = self._closed = False
        self.connected = False
        self.failure: SandboxClientError | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to port {self.port}>"

    # --- the face of a byte stream ----------------------------------------------------

    async def receive(self, max_bytes: int = _RECEIVE_BYTES) -> bytes:
        """The next bytes, at least one.

        :param max_bytes: no more than this.
        :raises EndOfStream: the other end sends nothing more.
        :raises BrokenResourceError: the connection was reset or lost; its cause says why.
        :raises ClosedResourceError: this stream was closed.
        """
        self._check_open()
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        self._receiving = True
        try:
            if self._inbox or self._ended:
                await self._connection.let_others_run()
            else:
                await self._connection.drive_until(self._has_news)
        finally:
            self._receiving = False
        data = self._inbox.take(max_bytes)
        if data:
            self._connection.consumed(self._id, len(data))
            return data
        self._check_open()
        if self._ended:
            raise anyio.EndOfStream
        raise self._broken()

    def _deliver_to(self, sink: Callable[[Buffer], int]) -> None:
        """Have what comes put where it is to go, by whoever drives; what is left is received.

        :param sink: takes as many bytes as it can without waiting, and returns how many.
        """
        self._sink = sink

    async def send(self, item: bytes) -> None:
        """Send bytes. Returns when they are on their way.

        :raises BrokenResourceError: the connection was reset or lost; its cause says why.
        :raises ClosedResourceError: this stream was closed, or its sending side.
        """
        await self._pass_on(item)
        await self._connection.let_others_run()

    async def _pass_on(self, item: bytes) -> None:
        """`send` for one who waits for something else anyway: it does not always let others run."""
        self._check_sendable()
        view = memoryview(item)
        while view:
            view = view[self._connection.send(self._id, view) :]
            await self._connection.drive_until(self._is_sent)
            if self._closed:
                raise anyio.ClosedResourceError
            if self.failure is not None:
                raise self._broken()

    async def wait_sendable(self) -> None:
        """Wait until `send` would not have to wait, as far as one can know.

        :raises BrokenResourceError: the connection was reset or lost; its cause says why.
        :raises ClosedResourceError: this stream was closed, or its sending side.
        """
        self._check_sendable()
        await self._connection.let_others_run()
        await self._connection.drive_until(self._is_sent)
        self._check_sendable()
        if self.failure is not None:
            raise self._broken()

    async def send_eof(self) -> None:
        """Send nothing more; the other end learns of it. Receiving goes on.

        :raises BrokenResourceError: the connection was reset or lost; its cause says why.
        """
        self._check_open()
        self._eof_sent = True
        self._connection.send_eof(self._id)
        await self._connection.drive_until(self._is_sent)

    async def aclose(self) -> None:
        """Close. What was sent is still delivered; that may take a few seconds."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.failure is None:
                self._connection.close_stream(self._id)
                until = self._connection.now() + CLOSE_PATIENCE
                await self._connection.drive_until(self._is_sent, until=until)
                if self._owns_connection:
                    # A socket that is closed with unread bytes takes back what is on its way.
                    await self._connection.confirm(until)
        finally:
            self._leave(reset=not self._is_sent())

    def reset(self) -> None:
        """Close at once: what is on its way is lost, and the other end is told so."""
        if not self._closed:
            self._closed = True
            self._leave(reset=True)

    def _leave(self, *, reset: bool) -> None:
        self._connection.drop(self._id, reset=reset)
        if self._owns_connection:
            self._connection.close()

    def _own_connection(self) -> None:
        """The session is for this stream alone, and ends with it."""
        self._owns_connection = True

    # --- what the connection looks at -------------------------------------------------

    def _take(self, event: TunnelEvent) -> None:
        """Something happened to this stream."""
        match event:
            case StreamConnected():
                self.connected = True
            case StreamData(_, data):
                self._deliver(data)
            case StreamEnded():
                self._ended = True
            case StreamReset():
                self.failure = TunnelError(f"the connection to port {self.port} was reset")
            case StreamRefused(_, error) | SessionEnded(error):
                self.failure = self.failure or error
            case _:
                pass

    def _deliver(self, data: bytes) -> None:
        taken = 0
        if self._sink is not None and not self._inbox:
            taken = self._sink(data)
            self._connection.delivered(self._id, taken)
        if taken < len(data):
            self._inbox.put(data[taken:])

    def _has_news(self) -> bool:
        over = self._ended or self._closed or self.failure is not None
        return over or bool(self._inbox)

    def _is_sent(self) -> bool:
        if self.failure is not None:
            return True
        if self._connection.unsent(self._id):
            return False
        # Others see to what is on its way in a session that they share.
        return not self._owns_connection or self._connection.flushed

    def _check_sendable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise anyio.ClosedResourceError

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    def _broken(self) -> anyio.BrokenResourceError:
        error = anyio.BrokenResourceError(str(self.failure))
        error.__cause__ = self.failure
        return error
