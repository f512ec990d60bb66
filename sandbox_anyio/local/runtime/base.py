"""What the embedded host asks of a runtime, and nothing more.

A runtime builds sandboxes out of directories and starts processes in them. It
hands out file descriptors; the host moves the bytes, keeps the clocks and
applies backpressure. Everything that *decides* (which layers, which limits,
when to kill) lives above, in `sandbox_proto.host`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import anyio
import attrs

System = Literal["host", "layers"]

MAX_ENTRIES: Final = 4_000_000
"""How many entries an archive may have, if nothing else is said."""
MAX_BYTES: Final = 256 << 30
"""How many bytes the files of an archive may have, if nothing else is said."""


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


class LayerError(Exception):
    """No layer can be made of this: it is damaged, too large, or not what it should be."""


class SandboxPathError(OSError):
    """A path inside a sandbox could not be used; `errno` says why."""


@attrs.frozen
class SandboxSpec:
    """What to build a sandbox from.

    :ivar id: the sandbox's id; also the name of its directory.
    :ivar layers: read-only directories below the writable one, topmost first. They
        lie over the runtime's own base, which is always at the bottom. They belong to the
        runtime's identity, as what `Layers` makes does.
    :ivar upper: the writable layer. Created if missing; survives `destroy`.
    :ivar work: overlayfs' scratch directory, on the same file system as `upper`.
    :ivar system: where programs come from: ``"host"`` has this machine's /usr and the like,
        read-only; ``"layers"`` has nothing but what its layers bring.
    """

    id: str
    layers: tuple[Path, ...]
    upper: Path
    work: Path
    system: System = "host"


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
    :ivar search_path: the PATH of commands whose environment names none.
    """

    died: anyio.Event
    search_path: str

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

    async def search(self, question: Mapping[str, Any]) -> int:
        """Search files, beside everything else that happens in the sandbox.

        Returns the read end of a pipe, non-blocking, out of which the findings come as
        `searching` writes them. The caller closes it, which ends the search.

        :param question: see `sandbox_proto.host.search.Search.to_data`.
        :raises SandboxPathError: EAGAIN: there are too many searches.
        :raises SandboxDiedError: there is no sandbox any more.
        """

    async def home(self) -> str:
        """The directory that relative paths start from, for files and commands alike."""

    async def open_socket(self, family: Literal["inet", "inet6"]) -> socket.socket:
        """An unconnected, non-blocking TCP socket that lives in the sandbox's network."""

    async def freeze(self) -> None:
        """Stop every process, until `thaw`; returns when all stand still."""

    async def thaw(self) -> None:
        """Let the processes go on."""

    def standstill(self) -> AbstractAsyncContextManager[None]:
        """A stretch in which nothing in the sandbox changes.

        Every process is stopped, and what would start one or finish an upload waits.

        :raises OSError: some process did not stop.
        :raises SandboxDiedError: there is no sandbox any more.
        """

    async def destroy(self) -> None:
        """End every process and unmount. The upper directory stays. Idempotent."""


@attrs.frozen
class ExtractedTar:
    """What an archive turned out to be.

    :ivar digest: ``sha256:`` and the digest of its uncompressed bytes.
    :ivar entries: how many entries it has.
    :ivar size: the bytes of all its files.
    """

    digest: str
    entries: int
    size: int


class Layers(Protocol):
    """Making, merging and measuring layers: the directories that sandboxes are built of.

    All paths lie below the runtime's state directory, and new layers must not exist yet. A
    layer appears under its name complete or not at all, whenever a process of this host
    ends; `clean` removes what was begun. (A machine that loses power may lose content that
    was not on its disk yet.) What is cancelled leaves nothing behind.
    """

    async def capture_stopped(self, upper: Path, layer: Path) -> None:
        """Make a destroyed sandbox's writable layer a layer, at no cost: it is moved.

        The sandbox can be built again on it, with a fresh writable layer.

        :raises ValueError: a sandbox is still using it.
        """

    async def capture_running(self, sandbox: RunningSandbox, upper: Path, layer: Path) -> float:
        """Copy a running sandbox's writable layer while the sandbox stands still.

        Returns for how long it stood, in seconds.

        :raises SandboxDiedError: there is no sandbox any more.
        :raises OSError: some process did not stop, or the disk is full.
        """

    async def flatten(
        self,
        layers: Sequence[Path],
        target: Path,
        *,
        below: Sequence[Path] = (),
        system: System = "host",
    ) -> None:
        """Merge layers, topmost first, into one that shows and hides the same.

        :param below: the layers that will lie under the new one, topmost first.
        :param system: that of the sandboxes which will be built of it.
        """

    async def extract_tar(
        self,
        archive: Path | int,
        layer: Path,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> ExtractedTar:
        """Make a layer of one layer's archive, as container images have them.

        :param archive: a tar file, plain or compressed by gzip or zstd; a path, or the
            descriptor of a file or pipe, which stays the caller's.
        :raises LayerError: the archive is damaged, too large, or holds what no layer can.
        """

    async def usage(self, path: Path) -> int:
        """The bytes a directory takes up on its disk."""

    async def remove(self, layer: Path) -> None:
        """Delete a layer. Its name is free at once: nobody ever sees half of it.

        :raises OSError: something in it could not be removed; `clean` will try again.
        """

    async def clean(self, directory: Path) -> None:
        """Remove what was begun in a directory and never became a layer.

        To be called when nothing is being made in it.
        """


class Runtime(Protocol):
    """Builds sandboxes. Obtained from `open_runtime`, closed by leaving its block.

    :ivar isolation: what stands between its sandboxes and this machine.
    :ivar search_path: the PATH of commands whose environment names none, on the host's system.
    """

    isolation: Isolation
    search_path: str

    @property
    def layers(self) -> Layers:
        """What can be done to the directories that sandboxes are built of."""

    async def build(self, spec: SandboxSpec) -> RunningSandbox:
        """Build a sandbox; when this returns, commands can be started in it.

        :raises RuntimeUnavailableError: it could not be built; the message says why.
        """

    async def remove_tree(self, path: Path) -> None:
        """Delete a directory of this runtime's, whose files may have odd owners and modes."""

    async def aclose(self) -> None:
        """Destroy what still runs. Leaves no process and no mount behind."""
