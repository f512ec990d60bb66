"""The two clients, opened on the stand-in server."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient

from .measuring import Setting

KEY = "benchmark-key"


@contextlib.asynccontextmanager
async def our_client(
    setting: Setting, place: str = "plain", boxes: str = "", **options: Any
) -> AsyncIterator[AsyncSandboxClient]:
    """Ours."""
    endpoint = setting.api(place, boxes)
    async with AsyncSandboxClient(api_endpoint=endpoint, api_key=KEY, **options) as client:
        yield client


@contextlib.asynccontextmanager
async def our_sandbox(
    setting: Setting, place: str = "plain", **options: Any
) -> AsyncIterator[AsyncSandbox]:
    """A sandbox of ours."""
    async with our_client(setting, place, **options) as client:
        yield await client.get_sandbox("bench-0")


@contextlib.asynccontextmanager
async def vendor_client(
    setting: Setting, place: str = "plain", boxes: str = ""
) -> AsyncIterator[Any]:
    """The vendor's."""
    from langsmith.sandbox import AsyncSandboxClient as VendorClient

    async with VendorClient(api_endpoint=setting.api(place, boxes), api_key=KEY) as client:
        yield client


@contextlib.asynccontextmanager
async def vendor_sandbox(setting: Setting, place: str = "plain") -> AsyncIterator[Any]:
    """A sandbox of the vendor's."""
    async with vendor_client(setting, place) as client:
        yield await client.get_sandbox("bench-0")


def counters(setting: Setting) -> dict[str, int]:
    """What the server has seen so far."""
    url = f"http://127.0.0.1:{setting.plain}/counters"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        seen: dict[str, int] = json.load(answer)
    return seen
