"""The client, for trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ParamSpec

import trio

from sandbox_anyio import AsyncSandboxClient

P = ParamSpec("P")


def _with_the_settings_of(
    client: Callable[P, AsyncSandboxClient],
) -> Callable[
    [Callable[..., AbstractAsyncContextManager[AsyncSandboxClient]]],
    Callable[P, AbstractAsyncContextManager[AsyncSandboxClient]],
]:
    return lambda opener: opener


@_with_the_settings_of(AsyncSandboxClient)
@asynccontextmanager
async def open_sandbox_client(**settings: Any) -> AsyncIterator[AsyncSandboxClient]:
    """A client of the Sandbox API for the length of a block.

    It has no tasks of its own, hence needs no nursery; tasks of any nursery may share it.
    Leaving the block closes its connections; what still waits on one gets an error.

    :param settings: those of `sandbox_anyio.AsyncSandboxClient`.
    :raises ValueError: a setting is out of range; the message names it.
    :raises RuntimeError: the caller does not run in trio.
    """
    await trio.lowlevel.checkpoint()
    async with AsyncSandboxClient(**settings) as client:
        yield client
