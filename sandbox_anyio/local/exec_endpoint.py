"""What carries commands over ASGI: the common part, and the exec WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from sandbox_proto.host.boxes import Box
from sandbox_proto.host.exec_blocking import BlockingExec
from sandbox_proto.host.exec_socket import ExecSocket
from sandbox_proto.host.exec_stream import ExecStream
from sandbox_proto.wire.exec_messages import encode

from ..background import background_tasks
from ..log import local_log
from .asgi_types import Event, Receive, Send
from .runtime.base import RunningSandbox
from .service import HostService
from .wakeup import Signal

# A process that does not read its input holds back its client beyond this.
_INPUT_BACKLOG_BYTES = 1024 * 1024

Attached = ExecSocket | ExecStream | BlockingExec


class _StuckError(Exception):
    """The client takes nothing: perhaps it is gone, without having said so."""


class ExecEndpoint:
    """One client of a command, from its first word to its last."""

    def __init__(self, service: HostService, receive: Receive, send: Send) -> None:
        self._service, self._receive, self._send = service, receive, send
        self._opened = Signal()

    @asynccontextmanager
    async def _attending(self, attached: Attached, box: Box) -> AsyncIterator[TaskGroup]:
        """The block in which the client is served. An attached client is activity."""
        with self._service.attached(box.id):
            try:
                async with background_tasks() as ends:
                    ends.start_soon(self._end_with_host, attached)
                    yield ends
            except _StuckError:
                local_log.info("a client of sandbox %s takes nothing: it is given up", box.id)
            finally:
                attached.disconnected(now=anyio.current_time())

    async def _end_with_host(self, attached: Attached) -> None:
        await self._service.draining.wait()
        attached.drain()
        self._signal_of(attached).set()

    def _signal_of(self, attached: Attached) -> Signal:
        """What is set whenever there may be something to say."""
        command = attached.command
        return self._opened if command is None else self._service.signal_of(command)

    def _spawn(self, attached: Attached, box: Box, sandbox: RunningSandbox) -> None:
        """Start the command, if it is new."""
        if (command := attached.to_spawn) is not None:
            attached.to_spawn = None
            self._service.start(command, box, sandbox)

    async def _say(self, event: Event) -> None:
        try:
            with anyio.fail_after(self._service.patience.stuck):
                await self._send(event)
        except TimeoutError:
            raise _StuckError from None

    async def _leave_when_gone(self, scope: anyio.CancelScope) -> None:
        """For requests, whose clients have nothing to say any more."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


class SocketEndpoint(ExecEndpoint):
    """One exec WebSocket, served from both ends at once."""

    async def serve(self, box: Box, sandbox: RunningSandbox) -> None:
        """Serve the attachment until either end is done."""
        socket = ExecSocket(self._service.commands, box.id, self._service.entropy)
        async with self._attending(socket, box) as ends:
            ends.start_soon(self._listen, socket, box, sandbox, ends.cancel_scope)
            await self._speak(socket)

    async def _listen(
        self, socket: ExecSocket, box: Box, sandbox: RunningSandbox, scope: anyio.CancelScope
    ) -> None:
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                scope.cancel()
                return
            text = event.get("text")
            if text is None:
                text = event.get("bytes") or b""
            command, backlog = socket.command, _input_backlog(socket)
            socket.receive(text, now=anyio.current_time(), wall=self._service.wall())
            self._spawn(socket, box, sandbox)
            self._opened.set()
            # Only who brought more input has to wait: what else is said may be a kill.
            if command is not None and _input_backlog(socket) > backlog:
                # Not for ever: whether the client is still there is only learnt by listening.
                with anyio.move_on_after(self._service.patience.stuck):
                    await self._hold_back(socket)

    async def _hold_back(self, socket: ExecSocket) -> None:
        while (command := socket.command) is not None:
            event = self._service.signal_of(command).event
            if command.input_backlog < _INPUT_BACKLOG_BYTES:
                return
            await event.wait()

    async def _speak(self, socket: ExecSocket) -> None:
        while not socket.finished:
            event = self._signal_of(socket).event
            message = socket.next_message(now=anyio.current_time())
            if message is None:
                await event.wait()
            else:
                await self._say({"type": "websocket.send", "text": encode(message)})
        await self._say({"type": "websocket.close", "code": socket.close_code})


def _input_backlog(socket: ExecSocket) -> int:
    return 0 if socket.command is None else socket.command.input_backlog
