"""A client in a process of its own, which carries a large file both ways and tells its memory.

The argument is a JSON object: `backend`, `endpoint`, `api_key`, `size`, `directory`, `parallel`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from sandbox_anyio import AsyncSandboxClient


def peak(pid: int | str = "self") -> int:
    """The most memory that a process has had at a time, in bytes, since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def forget_peak(pid: int | str = "self") -> None:
    """Count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))


async def carry(asked: dict[str, Any]) -> None:
    up, down = Path(asked["directory"], "up"), Path(asked["directory"], "down")
    make(up, asked["size"])
    told: dict[str, Any] = {}
    async with (
        AsyncSandboxClient(
            api_endpoint=asked["endpoint"], api_key=asked["api_key"], trust_env=False
        ) as client,
        client.sandbox() as sandbox,
    ):
        await sandbox.upload(b"warm", "/home/user/warm")
        await sandbox.download("/home/user/warm", down)
        before = peak()
        forget_peak()
        began = time.perf_counter()
        await sandbox.upload(up, "/home/user/big")
        told["up"] = time.perf_counter() - began
        began = time.perf_counter()
        await sandbox.download("/home/user/big", down, parallel=asked["parallel"])
        told["down"] = time.perf_counter() - began
        told["grown"] = peak() - before
    told["equal"] = digest(up) == digest(down)
    print(json.dumps(told))


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    anyio.run(carry, arguments, backend=arguments["backend"])
