"""The echo service, running in a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sandbox_anyio import AsyncCommandHandle, AsyncSandbox

_SERVICE = Path(__file__).with_name("_echo_service.py")


@asynccontextmanager
async def serving(
    sandbox: AsyncSandbox, port: int = 8000, options: str = ""
) -> AsyncIterator[AsyncCommandHandle]:
    """The service listens inside, for the length of the block."""
    await sandbox.write("service.py", _SERVICE.read_bytes())
    command = f"exec python3 service.py {port} {options}"
    handle = await sandbox.run(command, wait=False, close_input=False, timeout=0)
    assert (await anext(handle)).data == "listening\n"
    yield handle
    await handle.kill()
