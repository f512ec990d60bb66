"""``/glob`` and ``/grep`` over ASGI: a walk in the sandbox, its findings, one answer."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel

from sandbox_proto.host.messages import HostError, HostResponse
from sandbox_proto.host.search import SECONDS, SearchResults, requested_search, search_error

from ..background import background_tasks
from .asgi_types import Receive, Scope, read_body, request_of
from .runtime.base import RunningSandbox, SandboxPathError

_GRACE_SECONDS = 2.0
_READ_BYTES = 256 * 1024


async def answer_search(
    route: str, scope: Scope, sandbox: RunningSandbox, receive: Receive
) -> HostResponse:
    """Search a sandbox, as long as the client is there.

    :param route: ``glob`` or ``grep``.
    :raises HostError: the request makes no sense, or the search cannot begin.
    """
    request = request_of(scope, scope["method"], await read_body(receive))
    search = requested_search("glob" if route == "glob" else "grep", request)
    results = SearchResults(search)
    try:
        pipe = await sandbox.search(search.to_data())
    except SandboxPathError as error:
        raise search_error(error.errno, search.path) from None
    patience = anyio.CancelScope(deadline=anyio.current_time() + SECONDS + _GRACE_SECONDS)
    gone = False
    try:
        async with background_tasks() as tasks:

            async def watch() -> None:
                nonlocal gone
                while (await receive())["type"] != "http.disconnect":
                    pass
                gone = True
                patience.cancel()

            tasks.start_soon(watch)
            with patience:
                await _gather(pipe, results)
    finally:
        os.close(pipe)
    if gone:
        raise HostError(400, "InvalidRequest", "the client is gone")
    return results.response(in_time=not patience.cancelled_caught)


async def _gather(pipe: int, results: SearchResults) -> None:
    while True:
        await anyio.wait_readable(pipe)
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            continue
        if not data:
            return
        results.receive(data)
        await anyio.lowlevel.checkpoint()
