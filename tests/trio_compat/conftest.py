"""Sandboxes for tests of trio's face. One sandbox serves all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost
from sandbox_trio_compat import open_sandbox_client


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(scope="module")
async def client(host: LocalHost, anyio_backend: str) -> AsyncIterator[AsyncSandboxClient]:
    async with open_sandbox_client(
        api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
    ) as client:
        yield client


@pytest.fixture(scope="module")
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox
