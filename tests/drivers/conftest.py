"""Clients for driver tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost


@pytest.fixture
async def client(host: LocalHost, anyio_backend: str) -> AsyncIterator[AsyncSandboxClient]:
    """A client of the embedded host."""
    async with AsyncSandboxClient(
        api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
    ) as client:
        yield client
