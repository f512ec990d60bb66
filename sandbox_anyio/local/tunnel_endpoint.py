"""One tunnel of a client: ports dialled inside the sandbox's network, bytes both ways."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from sandbox_proto.host.boxes import Box
from sandbox_proto.host.messages import HostError
from sandbox_proto.host.tunnel import Dial, HostTunnel
from sandbox_proto.machines.byte_queue import ByteQueue
from sandbox_proto.machines.yamux_events import StreamData, StreamEnded, StreamReset

from ..background import background_tasks
from ..log import local_log
from ..network import ByteStream
from ..socket_stream import socket_stream
from .asgi_types import Event, Receive, Send
from .loopback import connect_inside
from .runtime.base import RunningSandbox, SandboxDiedError
from .service import HostService
from .wakeup import Signal

# How long a port may take to answer, in seconds.
_DIAL_SECONDS = 10.0
# How long what a client said before it left may take to reach its port, in seconds.
_DELIVERY_SECONDS = 10.0
_READ_BYTES = 64 * 1024


class _Line:
    """One stream and the connection it leads to.

    :ivar inbox: what the client said and the port has not taken yet.
    :ivar ended: the client says nothing more.
    :ivar delivered: set when the port has taken everything, and its end.
    """

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.inbox = ByteQueue()
        self.ended = False
        self.delivered = anyio.Event()
        self.arrived = Signal()
        self.scope = anyio.CancelScope()

    def take(self, event: StreamData | StreamEnded | StreamReset) -> None:
        """Something came from the client."""
        match event:
            case StreamData(_, data):
                self.inbox.put(data)
            case StreamEnded():
                self.ended = True
            case StreamReset():
                self.scope.cancel()
        self.arrived.set()


class TunnelEndpoint:
    """Serves one WebSocket at ``/tunnel``."""

    def __init__(self, service: HostService, receive: Receive, send: Send) -> None:
        self._service, self._receive, self._send = service, receive, send
        self._tunnel = HostTunnel(now=anyio.current_time())
        self._lines: dict[int, _Line] = {}
        self._changed = Signal()  # there may be something to say
        self._sent = Signal()  # there may be room again
        self._box_id = ""
        self._gone = anyio.Event()  # the client is

    async def serve(self, box: Box, sandbox: RunningSandbox) -> None:
        """Serve until either end is done. An open stream is activity of the sandbox."""
        self._box_id = box.id
        async with background_tasks() as tasks:
            tasks.start_soon(self._listen, tasks)
            tasks.start_soon(self._leave_with_host)
            try:
                await self._speak(tasks)
            except OSError:
                pass  # the client is gone
            except TimeoutError:
                local_log.info("a tunnel of sandbox %s takes nothing: it is given up", box.id)
            await self._deliver()

    # --- the client -------------------------------------------------------------------

    async def _listen(self, tasks: TaskGroup) -> None:
        while (event := await self._receive())["type"] == "websocket.receive":
            text = event.get("text")
            message = event["bytes"] if text is None else text
            self._tunnel.receive(message, now=anyio.current_time())
            self._dispatch(tasks)
            self._changed.set()
        self._gone.set()
        self._changed.set()

    async def _leave_with_host(self) -> None:
        await self._service.draining.wait()
        self._tunnel.leave(now=anyio.current_time())
        self._changed.set()

    async def _speak(self, tasks: TaskGroup) -> None:
        while not self._gone.is_set():
            changed = self._changed.event
            while not self._gone.is_set() and (message := self._tunnel.next_message()) is not None:
                await self._say({"type": "websocket.send", "bytes": message})
                self._sent.set()
            if self._tunnel.finished:
                if (violation := self._tunnel.violation) is not None:
                    local_log.info("a tunnel's client was cut off: %s", violation.value)
                await self._say({"type": "websocket.close", "code": self._tunnel.close_code})
                return
            deadline = self._tunnel.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline):
                await changed.wait()
            self._tunnel.handle_timeout(now=anyio.current_time())
            self._dispatch(tasks)

    async def _say(self, event: Event) -> None:
        with anyio.fail_after(self._service.patience.stuck):
            await self._send(event)

    def _dispatch(self, tasks: TaskGroup) -> None:
        while (event := self._tunnel.next_event()) is not None:
            if isinstance(event, Dial):
                line = self._lines[event.stream] = _Line(event.stream)
                tasks.start_soon(self._serve_line, line, event.port)
            elif (known := self._lines.get(event.stream)) is not None:
                known.take(event)

    async def _deliver(self) -> None:
        """The session is over: what was said to its end still reaches its port."""
        for line in self._lines.values():
            if not line.ended:
                line.scope.cancel()
        with anyio.move_on_after(_DELIVERY_SECONDS):
            for line in list(self._lines.values()):
                await line.delivered.wait()

    # --- the port ---------------------------------------------------------------------

    async def _serve_line(self, line: _Line, port: int) -> None:
        try:
            with line.scope, self._service.attached(self._box_id):
                await self._connect_line(line, port)
        finally:
            line.delivered.set()
            self._lines.pop(line.stream, None)
            self._changed.set()

    async def _connect_line(self, line: _Line, port: int) -> None:
        try:
            with anyio.fail_after(_DIAL_SECONDS):
                sock = await self._dial(port)
        except (OSError, TimeoutError, HostError, SandboxDiedError):
            self._tunnel.refused(line.stream, now=anyio.current_time())
            return
        self._tunnel.connected(line.stream, now=anyio.current_time())
        self._changed.set()
        whole, target = False, socket_stream(sock)
        try:
            whole = await self._carry(line, target)
        finally:
            if not whole and not line.delivered.is_set():
                # A reset, so that the port does not take what came for all.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if not whole:
                self._tunnel.reset(line.stream, now=anyio.current_time())
            target.close()

    async def _dial(self, port: int) -> socket.socket:
        # The sandbox may have been stopped since the tunnel was opened: using it wakes it.
        _, sandbox = await self._service.open_box(self._box_id)
        return await connect_inside(sandbox, port)

    async def _carry(self, line: _Line, target: ByteStream) -> bool:
        """Carry bytes both ways until both have ended. Returns whether they did so in order."""
        whole = True

        async def run(direction: Callable[[_Line, ByteStream], Awaitable[None]]) -> None:
            nonlocal whole
            try:
                await direction(line, target)
            except OSError:
                whole = False
                directions.cancel_scope.cancel()

        async with anyio.create_task_group() as directions:
            directions.start_soon(run, self._inwards)
            directions.start_soon(run, self._outwards)
        return whole

    async def _inwards(self, line: _Line, target: ByteStream) -> None:
        """From the client to the port."""
        while True:
            arrived = line.arrived.event
            while data := line.inbox.take(_READ_BYTES):
                view = memoryview(data)
                while view:
                    view = view[target.try_send(view) :]
                    if view:
                        await target.wait(readable=False, writable=True, until=None)
                self._tunnel.consumed(line.stream, len(data), now=anyio.current_time())
                self._changed.set()
            if line.ended:
                target.send_eof()
                line.delivered.set()
                return
            await arrived.wait()

    async def _outwards(self, line: _Line, target: ByteStream) -> None:
        """From the port to the client."""
        while True:
            sent = self._sent.event
            room = self._tunnel.room(line.stream)
            if not room:
                await sent.wait()
                continue
            data = target.try_receive(min(room, _READ_BYTES))
            if data is None:
                await target.wait(readable=True, writable=False, until=None)
                continue
            if not data:
                self._tunnel.send_eof(line.stream, now=anyio.current_time())
                self._changed.set()
                return
            self._tunnel.send(line.stream, data, now=anyio.current_time())
            self._changed.set()
