"""Starts a command in a process of its own, says what it is called, and vanishes.

The argument is a JSON object: `kind`, `endpoint`, `api_key`, `sandbox`, `command`, `options`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from typing import Any

from langsmith import sandbox as vendor


async def done(value: Any) -> Any:
    """What a call returns, whether or not it wants to be awaited."""
    return await value if inspect.isawaitable(value) else value


async def start(asked: dict[str, Any]) -> None:
    """Start it, read a piece of its standard output, and leave without a goodbye."""
    cls = vendor.SandboxClient if asked["kind"] == "sync" else vendor.AsyncSandboxClient
    client = cls(api_endpoint=asked["endpoint"], api_key=asked["api_key"])
    sandbox = await done(client.get_sandbox(asked["sandbox"]))
    handle = await done(sandbox.run(asked["command"], wait=False, **asked["options"]))
    chunks = aiter(handle) if asked["kind"] == "async" else iter(handle)
    while not handle.last_stdout_offset:
        await done(anext(chunks) if asked["kind"] == "async" else next(chunks))
    begun = {
        "command_id": handle.command_id,
        "pid": handle.pid,
        "offset": handle.last_stdout_offset,
    }
    print(json.dumps(begun), flush=True)
    os._exit(0)


asyncio.run(start(json.loads(sys.argv[1])))
