"""One command in one request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from sandbox_proto.host.boxes import Box
from sandbox_proto.host.exec_blocking import BlockingExec
from sandbox_proto.host.messages import HostResponse

from .asgi_types import send_response
from .exec_endpoint import ExecEndpoint
from .runtime.base import RunningSandbox


class BlockingEndpoint(ExecEndpoint):
    """A request that is answered when its command is over. Who gives up on it ends the command."""

    async def serve(self, fields: Mapping[str, Any], box: Box, sandbox: RunningSandbox) -> None:
        """Run the command.

        :raises HostError: the request is not what it should be.
        """
        blocking = BlockingExec(self._service.commands, box.id, self._service.entropy)
        blocking.start(fields, now=anyio.current_time(), wall=self._service.wall())
        self._spawn(blocking, box, sandbox)
        async with self._attending(blocking, box) as ends:
            ends.start_soon(self._leave_when_gone, ends.cancel_scope)
            await send_response(self._say, await self._response(blocking))

    async def _response(self, blocking: BlockingExec) -> HostResponse:
        while True:
            event = self._signal_of(blocking).event
            response = blocking.response(now=anyio.current_time())
            if response is not None:
                return response
            await event.wait()
