"""One exec WebSocket, served from both ends at once."""

from __future__ import annotations

import anyio

from sandbox_proto.host.boxes import Box
from sandbox_proto.host.exec_socket import ExecSocket
from sandbox_proto.wire.exec_messages import encode

from ..background import background_tasks
from .asgi_types import Receive, Send
from .runtime.base import RunningSandbox
from .service import HostService
from .wakeup import Signal

# A process that does not read its input holds back its client beyond this.
_INPUT_BACKLOG_BYTES = 1024 * 1024


class ExecEndpoint:
    """See the module's text."""

    def __init__(self, service: HostService, receive: Receive, send: Send) -> None:
        self._service, self._receive, self._send = service, receive, send
        self._opened = Signal()

    async def serve(self, box: Box, sandbox: RunningSandbox) -> None:
        """Serve the attachment until either end is done. An attached client is activity."""
        socket = ExecSocket(self._service.commands, box.id, self._service.entropy)
        with self._service.held(box.id):
            try:
                async with background_tasks() as ends:
                    ends.start_soon(self._listen, socket, box, sandbox, ends.cancel_scope)
                    await self._speak(socket)
            finally:
                socket.disconnected(now=anyio.current_time())

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
            socket.receive(text, now=anyio.current_time(), wall=self._service.wall())
            if (command := socket.to_spawn) is not None:
                socket.to_spawn = None
                self._service.start(command, box, sandbox)
            self._opened.set()
            await self._hold_back(socket)

    async def _hold_back(self, socket: ExecSocket) -> None:
        while (command := socket.command) is not None:
            event = self._service.signal_of(command).event
            if command.input_backlog < _INPUT_BACKLOG_BYTES:
                return
            await event.wait()

    async def _speak(self, socket: ExecSocket) -> None:
        while not socket.finished:
            command = socket.command
            signal = self._opened if command is None else self._service.signal_of(command)
            event = signal.event
            message = socket.next_message(now=anyio.current_time())
            if message is None:
                await event.wait()
            else:
                await self._send({"type": "websocket.send", "text": encode(message)})
        await self._send({"type": "websocket.close", "code": 1000})
