"""What the runtime's tests share: a sandbox in one line, a command in another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import anyio
import attrs

from sandbox_anyio.local.runtime import (
    DEFAULT_PATH,
    HOME,
    CommandSpec,
    RunningCommand,
    RunningSandbox,
    Runtime,
    SandboxSpec,
    open_runtime,
)

ENVIRONMENT = {"PATH": DEFAULT_PATH, "HOME": HOME}
PATIENCE = 20


@attrs.frozen
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def spec(state: Path, name: str = "one", layers: tuple[Path, ...] = ()) -> SandboxSpec:
    """The directories of one sandbox."""
    place = state / "sandboxes" / name
    return SandboxSpec(id=name, layers=layers, upper=place / "upper", work=place / "work")


@contextlib.asynccontextmanager
async def opened(
    state: Path, isolation: Literal["auto", "none"] = "auto"
) -> AsyncIterator[Runtime]:
    """A runtime, for a bounded time."""
    with anyio.fail_after(PATIENCE):
        async with open_runtime(isolation, state) as runtime:
            yield runtime


@contextlib.asynccontextmanager
async def sandbox_in(
    state: Path, isolation: Literal["auto", "none"] = "auto"
) -> AsyncIterator[RunningSandbox]:
    """A sandbox, for a bounded time."""
    async with opened(state, isolation) as runtime:
        yield await runtime.build(spec(state))


async def read_all(descriptor: int) -> bytes:
    """Read to the end and close. A terminal ends by EIO."""
    data = b""
    try:
        while True:
            await anyio.wait_readable(descriptor)
            try:
                chunk = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            except OSError:
                return data
            if not chunk:
                return data
            data += chunk
    finally:
        os.close(descriptor)


async def read_until(descriptor: int, wanted: bytes) -> bytes:
    """Read until `wanted` has come."""
    data = b""
    while wanted not in data:
        await anyio.wait_readable(descriptor)
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(descriptor, 65536)
            assert chunk, f"ended before {wanted!r}: {data!r}"
            data += chunk
    return data


def close(command: RunningCommand) -> None:
    """Close a command's descriptors."""
    for descriptor in {command.stdin, command.stdout, command.stderr}:
        if descriptor is not None:
            os.close(descriptor)


async def finish(command: RunningCommand) -> Result:
    """Collect a command's output and its end."""
    os.close(command.stdin)
    output: dict[int, bytes] = {}

    async def collect(descriptor: int) -> None:
        output[descriptor] = await read_all(descriptor)

    assert command.stderr is not None
    stdout, stderr = command.stdout, command.stderr
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect, stdout)
        tasks.start_soon(collect, stderr)
    code = await command.wait()
    return Result(code, output[stdout].decode(), output[stderr].decode())


async def run(
    sandbox: RunningSandbox,
    *argv: str,
    env: Mapping[str, str] = ENVIRONMENT,
    cwd: str | None = None,
    user: str | None = None,
) -> Result:
    """Run a command to its end."""
    return await finish(await sandbox.spawn(CommandSpec(argv=argv, env=env, cwd=cwd, user=user)))


async def shell(sandbox: RunningSandbox, script: str) -> Result:
    """Run a shell script to its end."""
    return await run(sandbox, "/bin/sh", "-c", script)


async def start_shell(sandbox: RunningSandbox, script: str) -> RunningCommand:
    """Start a shell script."""
    return await sandbox.spawn(CommandSpec(argv=("/bin/sh", "-c", script), env=ENVIRONMENT))


def open_descriptors() -> set[str]:
    """The numbers of this process's open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def descendants_of(ancestor: int) -> set[int]:
    """The living processes below one, at any depth."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    parents[int(entry.name)] = int(fields[1])
    found = {ancestor}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {ancestor}
        found |= more


def give_to_sandboxes(runtime: Runtime, tree: Path) -> None:
    """Make a tree the sandboxes' own, as what is unpacked into a layer has to be."""
    identity = getattr(runtime, "identity", None)
    if identity is not None:
        for entry in (tree, *tree.rglob("*")):
            os.chown(entry, identity.user, identity.group, follow_symlinks=False)
