"""What the embedded host asks of a runtime, and nothing more.

A runtime builds sandboxes out of directories and starts processes in them. It
hands out file descriptors; the host moves the bytes, keeps the clocks and
applies backpressure. Everything that *decides* (which layers, which limits,
when to kill) lives above, in `sandbox_proto.host`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import anyio
import attrs


@attrs.frozen
class Isolation:
    """What stands between a sandbox and this machine, in words people can judge.

    :ivar label: short machine-readable name: ``"namespaces"`` or ``"none"``.
    :ivar description: one honest sentence for people.
    :ivar details: capability -> ``"enforced"``, ``"best effort"`` or ``"not enforced"``
        (memory, processes, file size, disk, network, system calls, ...).
    """

    label: str
    description: str
    details: Mapping[str, str]


class RuntimeUnavailableError(Exception):
    """No sandbox can be built here. The message says what to install or to set."""


class SandboxDiedError(Exception):
    """The sandbox's processes are gone; nothing can be started in it any more."""


class SpawnError(Exception):
    """A command could not be started (no such shell, directory or user)."""


class SandboxPathError(OSError):
    """A path inside a sandbox could not be used; `errno` says why."""


@attrs.frozen
class SandboxSpec:
    """What to build a sandbox from.

    :ivar id: the sandbox's id; also the name of its directory.
    :ivar layers: read-only directories below the writable one, topmost first. They
        lie over the runtime's own base, which is always at the bottom.
    :ivar upper: the writable layer. Created if missing; survives `destroy`.
    :ivar work: overlayfs' scratch directory, on the same file system as `upper`.
    """

    id: str
    layers: tuple[Path, ...]
    upper: Path
    work: Path


@attrs.frozen
class CommandSpec:
    """One process to start.

    :ivar argv: the program and its arguments.
    :ivar env: the whole environment of the process.
    :ivar cwd: absolute working directory, or None for the sandbox's home.
    :ivar user: ``name``, ``uid``, ``name:group`` or ``uid:gid``; None is the sandbox's root.
    :ivar pty: give it a terminal of 80x24 (stdout and stderr are then one).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None = None
    user: str | None = None
    pty: bool = False


class RunningCommand(Protocol):
    """A process in a sandbox. The descriptors belong to the caller, who closes them.

    :ivar pid: its process id as seen inside the sandbox.
    :ivar stdin: write end (with a pty: the terminal itself, same number as `stdout`).
    :ivar stdout: read end, non-blocking.
    :ivar stderr: read end, non-blocking, or None with a pty.
    """

    pid: int
    stdin: int
    stdout: int
    stderr: int | None

    async def wait(self) -> int:
        """Wait for the end. Returns the exit code, or 128 + the signal that ended it."""

    async def kill(self) -> None:
        """SIGKILL the whole process group and every descendant that can be found."""

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size (only with a pty)."""


class PendingFile(Protocol):
    """A file being written under a temporary name beside its destination.

    :ivar fd: open for writing, blocking regular file; `commit` and `abort` close it.
    """

    fd: int

    async def commit(self) -> None:
        """Move it into place in one step; an existing file's mode and owner are kept."""

    async def abort(self) -> None:
        """Throw it away. Harmless after `commit`."""


class RunningSandbox(Protocol):
    """One built sandbox.

    :ivar died: set when the sandbox's processes are gone, whatever the reason.
    """

    died: anyio.Event

    async def spawn(self, command: CommandSpec) -> RunningCommand:
        """Start a process.

        :raises SpawnError: it could not be started.
        :raises SandboxDiedError: there is no sandbox any more.
        """

    async def open_file(self, path: str, *, user: str | None = None) -> int:
        """Open a regular file for reading; the caller closes the descriptor.

        `path` is absolute and resolved inside the sandbox's root: neither ``..`` nor a
        symbolic link leads out.

        :raises SandboxPathError: ENOENT, EISDIR, EACCES, or EINVAL for what is no regular file.
        """

    async def create_file(self, path: str, *, user: str | None = None) -> PendingFile:
        """Begin to write a file (mode 0644; missing parents are made with mode 0755).

        :raises SandboxPathError: EISDIR, EACCES, ENOSPC, ENOTDIR, ...
        """

    async def home(self) -> str:
        """The directory that relative paths start from, for files and commands alike."""

    async def open_socket(self, family: Literal["inet", "inet6"]) -> socket.socket:
        """An unconnected, non-blocking TCP socket that lives in the sandbox's network."""

    async def freeze(self) -> None:
        """Stop every process, until `thaw`; returns when all stand still."""

    async def thaw(self) -> None:
        """Let the processes go on."""

    async def destroy(self) -> None:
        """End every process and unmount. The upper directory stays. Idempotent."""


class Runtime(Protocol):
    """Builds sandboxes. Obtained from `open_runtime`, closed by leaving its block.

    :ivar isolation: what stands between its sandboxes and this machine.
    :ivar search_path: the PATH of commands whose environment names none.
    """

    isolation: Isolation
    search_path: str

    async def build(self, spec: SandboxSpec) -> RunningSandbox:
        """Build a sandbox; when this returns, commands can be started in it.

        :raises RuntimeUnavailableError: it could not be built; the message says why.
        """

    async def remove_tree(self, path: Path) -> None:
        """Delete a directory of this runtime's, whose files may have odd owners and modes."""

    async def aclose(self) -> None:
        """Destroy what still runs. Leaves no process and no mount behind."""
