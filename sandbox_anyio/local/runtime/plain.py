"""No isolation: ordinary processes of this machine, in a directory of their own.

For machines where nothing else works, and only for those who ask for it by name. Every
path is the host's, every command has the host process's rights.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.to_thread
import attrs
from anyio.abc import TaskGroup

from ...background import background_tasks
from . import messages, processes, searching
from .base import (
    CommandSpec,
    Isolation,
    PendingFile,
    RunningCommand,
    SandboxDiedError,
    SandboxPathError,
    SandboxSpec,
    SpawnError,
)
from .plain_layers import PlainLayers, refuse_images

_STOP_SECONDS: Final = 2.0
_STOP_POLL_SECONDS: Final = 0.001

ISOLATION: Final = Isolation(
    label="none",
    description="no isolation: commands run with all the rights of the host process",
    details=dict.fromkeys(
        (
            "files",
            "processes",
            "network",
            "system calls",
            "process count",
            "memory",
            "cpu",
            "file size",
            "disk",
        ),
        "not enforced",
    ),
)


class PlainRuntime:
    """Runs commands on the bare machine. Obtained from `open_plain`."""

    isolation = ISOLATION
    search_path: str = os.pathsep.join(
        (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    )

    def __init__(self, state: Path, tasks: TaskGroup) -> None:
        self.layers = PlainLayers()
        self._state = state
        self._tasks = tasks
        self._sandboxes: set[PlainSandbox] = set()

    async def build(self, spec: SandboxSpec) -> PlainSandbox:
        """Make a sandbox's directory. Layers are copied into it when it is new.

        :raises RuntimeUnavailableError: it was to have a system of its own.
        """
        if spec.system != "host":
            refuse_images()
        if not spec.upper.is_dir():
            spec.upper.mkdir(mode=0o700, parents=True)
            for layer in reversed(spec.layers):
                await anyio.to_thread.run_sync(
                    functools.partial(
                        shutil.copytree, layer, spec.upper, symlinks=True, dirs_exist_ok=True
                    )
                )
        sandbox = PlainSandbox(spec.upper, self._tasks)
        self._sandboxes.add(sandbox)
        return sandbox

    async def remove_tree(self, path: Path) -> None:
        """Delete a directory of this runtime's.

        :raises ValueError: it is not below the state directory.
        """
        await anyio.to_thread.run_sync(_remove_tree, self._state, path)

    async def aclose(self) -> None:
        """End what still runs."""
        with anyio.CancelScope(shield=True):
            for sandbox in self._sandboxes:
                await sandbox.destroy()
        self._sandboxes.clear()


class PlainSandbox:
    """A directory, and the commands that were started in it."""

    def __init__(self, home: Path, tasks: TaskGroup) -> None:
        self.died = anyio.Event()
        self.search_path = PlainRuntime.search_path
        self._home = home
        self._tasks = tasks
        self._commands: list[PlainCommand] = []

    async def spawn(self, command: CommandSpec) -> RunningCommand:
        """Start a process."""
        if self.died.is_set():
            raise SandboxDiedError("the sandbox is gone")
        _require_own_user(command.user)
        started = _start(command, str(self._home))
        self._commands.append(started)
        self._tasks.start_soon(started.watch)
        return started

    async def open_file(self, path: str, *, user: str | None = None) -> int:
        """Open a regular file for reading."""
        return _open_regular(path)

    async def create_file(self, path: str, *, user: str | None = None) -> PendingFile:
        """Begin to write a file."""
        return _begin_upload(path)

    async def search(self, question: Mapping[str, Any]) -> int:
        """Search files, in a thread; see `RunningSandbox`."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        walk = searching.Walk(question, theirs)
        threading.Thread(target=walk.run, args=(_open_readable,), daemon=True).start()
        return ours

    async def home(self) -> str:
        """The directory that relative paths start from."""
        return str(self._home)

    async def open_socket(self, family: Literal["inet", "inet6"]) -> socket.socket:
        """An unconnected, non-blocking TCP socket of this machine."""
        made = socket.socket(socket.AF_INET6 if family == "inet6" else socket.AF_INET)
        made.setblocking(False)
        return made

    async def freeze(self) -> None:
        """Stop every process that can be found."""
        if not await _until(self._all_stand):
            raise OSError(errno.EBUSY, "some process did not stop")

    def _all_stand(self) -> bool:
        table = processes.read_table()
        moving = {pid for pid in self._living(table) if table[pid].state not in "Tt"}
        processes.send_signal(moving, signal.SIGSTOP)
        return not moving

    async def thaw(self) -> None:
        """Let the processes go on."""
        processes.send_signal(self._living(processes.read_table()), signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def standstill(self) -> AsyncIterator[None]:
        """A stretch in which every process that can be found is stopped."""
        if self.died.is_set():
            raise SandboxDiedError("the sandbox is gone")
        try:
            await self.freeze()
            yield
        finally:
            with anyio.CancelScope(shield=True):  # does not wait
                await self.thaw()

    async def destroy(self) -> None:
        """End every process that can be found."""
        if self.died.is_set():
            return
        with anyio.CancelScope(shield=True):
            for command in self._commands:
                await command.kill()
            for command in self._commands:
                await command.wait()
            await _until(lambda: not self._living(processes.read_table()))
        self.died.set()

    def _living(self, table: Mapping[int, processes.Process]) -> set[int]:
        return {pid for command in self._commands for pid in command.family(table)}


class PlainCommand:
    """One process of this machine, leader of a session of its own."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: int, stdout: int, stderr: int | None
    ) -> None:
        self.pid = process.pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._process = process
        self._ended = anyio.Event()

    async def watch(self) -> None:
        """Reap the process at its end, whoever waits. Cancelling this ends it first."""
        try:
            await self._reap()
        finally:
            if self._process.returncode is None:
                await self.kill()
                with anyio.CancelScope(shield=True):
                    await self._reap()
            self._ended.set()

    async def _reap(self) -> None:
        if hasattr(os, "pidfd_open"):
            handle = os.pidfd_open(self.pid)
            try:
                await anyio.wait_readable(handle)
            finally:
                os.close(handle)
            self._process.wait()
        else:
            await anyio.to_thread.run_sync(self._process.wait, limiter=anyio.CapacityLimiter(1))

    async def wait(self) -> int:
        """Wait for the end."""
        await self._ended.wait()
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def family(self, table: Mapping[int, processes.Process]) -> set[int]:
        """The command's living processes, as far as they can be found."""
        if self._process.returncode is not None and self.pid in table:
            return set()  # its number belongs to a stranger by now
        return processes.family(self.pid, table)

    async def kill(self) -> None:
        """SIGKILL the whole process group and every descendant that can be found."""
        processes.kill_family(self.pid, {os.getpid()}, reaped=self._process.returncode is not None)

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size. Not after its descriptor was closed."""
        with contextlib.suppress(OSError):
            processes.resize_terminal(self.stdout, columns, rows)


@attrs.define(eq=False)
class PlainPendingFile:
    """A file that is being written."""

    _destination: Path
    _temporary: Path
    _mode: int
    _owner: tuple[int, int] | None
    fd: int
    _finished: bool = False

    async def commit(self) -> None:
        """Move it into place."""
        self._finish()
        with _path_errors(str(self._destination)):
            try:
                if self._owner is not None:
                    with contextlib.suppress(PermissionError):
                        os.chown(self._temporary, *self._owner)
                self._temporary.chmod(self._mode)
                self._temporary.rename(self._destination)
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise

    async def abort(self) -> None:
        """Throw it away."""
        if not self._finished:
            self._finish()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._finished:
            raise ValueError("this file was committed or aborted before")
        self._finished = True
        os.close(self.fd)


async def _until(done: Callable[[], bool]) -> bool:
    """Ask again and again, for a bounded time. Returns the last answer."""
    with anyio.move_on_after(_STOP_SECONDS):
        while True:
            if done():
                return True
            await anyio.sleep(_STOP_POLL_SECONDS)
    return False


def _start(command: CommandSpec, home: str) -> PlainCommand:
    directory = command.cwd or home
    if not Path(directory).is_dir():
        raise SpawnError(f"no such directory: {directory}")
    try:
        return _start_in(command, directory)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpawnError(f"{command.argv[0] if command.argv else ''}: {reason}") from None


def _start_in(command: CommandSpec, directory: str) -> PlainCommand:
    opened: list[int] = []
    stderr: int | None = None
    try:
        if command.pty:
            master, slave, _ = processes.open_terminal()
            opened += [master, slave]
            theirs = (slave, slave, slave)
            stdin = stdout = master
        else:
            for _ in range(3):
                opened += os.pipe()
            theirs = (opened[0], opened[3], opened[5])
            stdin, stdout, stderr = opened[1], opened[2], opened[4]
        process = subprocess.Popen(
            list(command.argv),
            env=dict(command.env),
            cwd=directory,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            start_new_session=True,
            # The terminal becomes the new session's own, so that ^C means its jobs.
            preexec_fn=(
                functools.partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0) if command.pty else None
            ),
        )
    except BaseException:
        messages.close_all(opened)
        raise
    messages.close_all(set(theirs))
    for descriptor in set(opened) - set(theirs):
        os.set_blocking(descriptor, False)
    return PlainCommand(process, stdin, stdout, stderr)


def _require_own_user(user: str | None) -> None:
    own = {str(os.geteuid())}
    with contextlib.suppress(KeyError):
        own.add(pwd.getpwuid(os.geteuid()).pw_name)
    if user is not None and user.partition(":")[0] not in own:
        raise SpawnError(
            f"cannot run as {user!r}: without isolation commands run as the host process's user"
        )


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def _open_regular(path: str) -> int:
    with _path_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _require_regular(os.fstat(descriptor), path)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _open_readable(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError:
        return _open_regular(path)


def _begin_upload(path: str) -> PlainPendingFile:
    with _path_errors(path):
        if path.endswith(("/", "/.", "/..")):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        destination = Path(os.path.realpath(path))
        mode, owner = 0o644, None
        with contextlib.suppress(FileNotFoundError):
            status = destination.stat()
            _require_regular(status, path)
            mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        destination.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary = destination.with_name(f".sandbox-upload-{os.urandom(8).hex()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return PlainPendingFile(destination, temporary, mode, owner, descriptor)


@contextlib.contextmanager
def _path_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = error.strerror or str(error)
        raise SandboxPathError(error.errno or errno.EIO, message, path) from None
    except ValueError as error:  # a NUL, or no file name at all
        raise SandboxPathError(errno.EINVAL, str(error), path) from None


def _remove_tree(state: Path, path: Path) -> None:
    absolute = path.absolute()
    if ".." in absolute.parts or state not in absolute.parents:
        raise ValueError(f"{path} is not below the state directory {state}")
    if absolute.is_dir():
        absolute.chmod(0o700)
        for directory, names, _ in os.walk(absolute):
            for name in names:  # opened before the walk comes to them
                if not Path(directory, name).is_symlink():
                    Path(directory, name).chmod(0o700)
        shutil.rmtree(absolute)


def _prepare(state_dir: Path) -> Path:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return state_dir.absolute()


@contextlib.asynccontextmanager
async def open_plain(state_dir: Path) -> AsyncIterator[PlainRuntime]:
    """A runtime that does not isolate, with its sandboxes' directories below `state_dir`."""
    state = _prepare(state_dir)
    async with background_tasks() as tasks:
        runtime = PlainRuntime(state, tasks)
        try:
            yield runtime
        finally:
            await runtime.aclose()
