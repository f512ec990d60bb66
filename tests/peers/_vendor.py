"""One face for the vendor's two Python clients: every call is `done`, whichever it was."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

vendor = pytest.importorskip(
    "langsmith.sandbox", reason="the vendor's package is part of the extra 'test'"
)


async def done(value: Any) -> Any:
    """What a call returns, whether or not it wants to be awaited."""
    return await value if inspect.isawaitable(value) else value


async def chunks_of(handle: Any) -> AsyncIterator[Any]:
    """The output of a command, piece by piece, from a handle of either kind."""
    if hasattr(handle, "__aiter__"):
        async for chunk in handle:
            yield chunk
    else:
        for chunk in handle:
            yield chunk


@asynccontextmanager
async def connected(kind: str, api_endpoint: str, **options: Any) -> AsyncIterator[Any]:
    """A client of the vendor's, `sync` or `async`."""
    cls = vendor.SandboxClient if kind == "sync" else vendor.AsyncSandboxClient
    client = cls(api_endpoint=api_endpoint, **options)
    yield client
    await done(client.close() if kind == "sync" else client.aclose())
