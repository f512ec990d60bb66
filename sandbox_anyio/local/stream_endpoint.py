"""One exec event stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel

from sandbox_proto.host.boxes import Box
from sandbox_proto.host.exec_stream import ExecStream

from .asgi_types import send_head
from .exec_endpoint import ExecEndpoint
from .runtime.base import RunningSandbox

_HEADERS = [("content-type", "text/event-stream"), ("cache-control", "no-store")]


class StreamEndpoint(ExecEndpoint):
    """A response that lasts as long as its window or its command; a client may leave it."""

    async def start(self, fields: Mapping[str, Any], box: Box, sandbox: RunningSandbox) -> None:
        """Start a command, or attach to it.

        :raises HostError: the request is not what it should be.
        """
        stream = self._stream(box)
        stream.start(fields, now=anyio.current_time(), wall=self._service.wall())
        self._spawn(stream, box, sandbox)
        await self._serve(stream, box)

    async def resume(self, fields: Mapping[str, Any], box: Box) -> None:
        """Attach to a command, further on.

        :raises HostError: the request is not what it should be, or there is no such command.
        """
        stream = self._stream(box)
        stream.resume(fields, now=anyio.current_time())
        await self._serve(stream, box)

    def _stream(self, box: Box) -> ExecStream:
        return ExecStream(
            self._service.commands,
            box.id,
            self._service.entropy,
            heartbeat=self._service.patience.heartbeat,
        )

    async def _serve(self, stream: ExecStream, box: Box) -> None:
        async with self._attending(stream, box) as ends:
            ends.start_soon(self._leave_when_gone, ends.cancel_scope)
            await send_head(self._say, 200, _HEADERS)
            await self._speak(stream)
            await self._say({"type": "http.response.body", "body": b""})

    async def _speak(self, stream: ExecStream) -> None:
        while not stream.finished:
            event = self._signal_of(stream).event
            data = stream.next_event(now=anyio.current_time())
            if data is not None:
                await self._say({"type": "http.response.body", "body": data, "more_body": True})
                await anyio.lowlevel.checkpoint()  # else a whole window is written to who has left
                continue
            deadline = stream.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline):
                await event.wait()
            stream.handle_timeout(now=anyio.current_time())
