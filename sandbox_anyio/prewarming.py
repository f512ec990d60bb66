"""WebSockets that stand open for the commands to come: `AsyncSandboxClient(prewarm=...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from sandbox_proto.machines.exec_link import exec_socket
from sandbox_proto.machines.upgrade import KEY_BYTES
from sandbox_proto.machines.ws_client import Opened, WebSocketClient, WebSocketClientEvent
from sandbox_proto.plans.prewarm import Destination, PrewarmPlan
from sandbox_proto.wire.urls import Url

from .log import exec_log
from .network import ByteStream, ConnectFailed, is_silent
from .pump import Pump

if TYPE_CHECKING:
    from .base import ClientBase


@attrs.frozen(eq=False)
class OpenSocket:
    """A WebSocket on which nothing was said yet."""

    wire: WebSocketClient
    stream: ByteStream


class Prewarming:
    """Keeps them; `serve` is its task. Without the task there are none, and nothing is lost."""

    def __init__(self, client: ClientBase, plan: PrewarmPlan) -> None:
        self._client, self._plan = client, plan
        self._sockets: dict[int, OpenSocket] = {}
        self._changed = client.network.event()
        self._serving = self._closed = False

    async def serve(self) -> None:
        """Open and close as the plan says, until `close`."""
        network, plan = self._client.network, self._plan
        self._serving = True
        try:
            async with anyio.create_task_group() as tasks:
                while not self._closed:
                    changed = self._changed = network.event()
                    now = network.now()
                    for number in plan.expired(now=now):
                        self._sockets.pop(number).stream.close()
                    for destination in plan.openings(now=now):
                        tasks.start_soon(self._open, destination)
                    await changed.wait(plan.next_deadline(now=now))
                tasks.cancel_scope.cancel()
        finally:
            self._serving = False
            self._drop_all()

    def take(self, destination: Destination) -> OpenSocket | None:
        """One for a command that begins now; others are opened meanwhile."""
        if not self._serving:
            return None
        now = self._client.network.now()
        self._plan.used(destination, now=now)
        self._changed.set()
        while (number := self._plan.take(destination, now=now)) is not None:
            socket = self._sockets.pop(number)
            if is_silent(socket.stream):
                return socket
            socket.stream.close()
        return None

    def close(self) -> None:
        """Close them all, and open no more."""
        self._closed = True
        self._changed.set()
        self._drop_all()

    def _drop_all(self) -> None:
        for socket in self._sockets.values():
            socket.stream.close()
        self._sockets.clear()

    async def _open(self, destination: Destination) -> None:
        socket = await self._opened(destination)
        now = self._client.network.now()
        if socket is None:
            self._plan.failed(destination, now=now)
        else:
            self._sockets[self._plan.opened(destination, now=now)] = socket
        self._changed.set()

    async def _opened(self, destination: Destination) -> OpenSocket | None:
        network, timeouts = self._client.network, self._client.config.exec_timeouts
        until = None if timeouts.open is None else network.now() + timeouts.open
        try:
            stream = await self._client.connect(Url.parse(destination.base).origin, until=until)
        except ConnectFailed as failure:
            exec_log.info("no WebSocket was opened in advance: %s", failure)
            return None
        wire = exec_socket(
            destination.base,
            dict(destination.headers),
            nonce=network.entropy(KEY_BYTES),
            timeouts=timeouts,
            open_deadline=until,
        )
        pump: Pump[WebSocketClientEvent] = Pump(wire, stream, network)
        try:
            event = await pump.next_event()
        except BaseException:
            stream.close()
            raise
        if isinstance(event, Opened):
            return OpenSocket(wire, stream)
        stream.close()
        exec_log.info("no WebSocket was opened in advance: %s", event)
        return None
