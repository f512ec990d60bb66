"""A sandbox built by bubblewrap, as the host holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, NoReturn

import anyio
import attrs

from . import messages, processes
from .base import (
    CommandSpec,
    PendingFile,
    RunningCommand,
    SandboxDiedError,
    SandboxPathError,
    SpawnError,
)
from .identity import Identity
from .link import CommandEnd, Refused, SupervisorLink


class BubblewrapSandbox:
    """One sandbox. See `RunningSandbox` for what it promises.

    Descriptors it handed out keep the sandbox's file system alive in the kernel: close
    them before building again on the same writable layer.
    """

    def __init__(self, link: SupervisorLink, owner: Identity | None, search_path: str) -> None:
        self._link = link
        self._owner = owner
        self.died = link.died
        self.search_path = search_path
        self._standing = anyio.Lock()
        self._going_on: anyio.Event | None = None

    async def spawn(self, command: CommandSpec) -> RunningCommand:
        """Start a process."""
        await self.wait_until_it_moves()
        body = {
            "do": "exec",
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": command.cwd,
            "user": command.user,
            "pty": command.pty,
        }
        try:
            if command.pty:
                return await self._spawn_on_terminal(body)
            return await self._spawn_on_pipes(body)
        except Refused as refused:
            raise SpawnError(refused.message) from None

    async def _spawn_on_pipes(self, body: Mapping[str, Any]) -> RunningCommand:
        pipes = _Pipes(self._owner)
        end = CommandEnd()
        try:
            number, answer = await self._link.ask(body, pipes.theirs, undo="kill", command=end)
        except BaseException:
            messages.close_all(pipes.ours)
            raise
        finally:
            messages.close_all(pipes.theirs)
        answer.close()
        stdin, stdout, stderr = pipes.ours
        return BubblewrapCommand(
            self._link, end, number, pid=_pid(answer), stdin=stdin, stdout=stdout, stderr=stderr
        )

    async def _spawn_on_terminal(self, body: Mapping[str, Any]) -> RunningCommand:
        end = CommandEnd()
        number, answer = await self._link.ask(body, undo="kill", command=end)
        terminal = self._take_descriptor(answer)
        if not os.isatty(terminal):
            self._condemn(terminal)
        os.set_blocking(terminal, False)
        return BubblewrapCommand(
            self._link,
            end,
            number,
            pid=_pid(answer),
            stdin=terminal,
            stdout=terminal,
            stderr=None,
        )

    async def open_file(self, path: str, *, user: str | None = None) -> int:
        """Open a regular file for reading."""
        _, answer = await self._ask_about_path(path, {"do": "open", "path": path, "user": user})
        descriptor = self._take_descriptor(answer)
        self._check_file(descriptor, os.O_RDONLY)
        return descriptor

    async def create_file(self, path: str, *, user: str | None = None) -> PendingFile:
        """Begin to write a file."""
        await self.wait_until_it_moves()
        body = {"do": "create", "path": path, "user": user}
        number, answer = await self._ask_about_path(path, body, undo="abort")
        descriptor = self._take_descriptor(answer)
        self._check_file(descriptor, os.O_WRONLY)
        return BubblewrapPendingFile(self, self._link, number, path, descriptor)

    async def search(self, question: Mapping[str, Any]) -> int:
        """Search files; see `RunningSandbox`."""
        await self.wait_until_it_moves()
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        path = question["path"]
        body = {"do": "search", "path": path, "user": None, "question": dict(question)}
        try:
            os.set_blocking(ours, False)
            _, answer = await self._link.ask(body, [theirs])
        except Refused as refused:
            os.close(ours)
            raise _path_error(refused, path) from None
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        answer.close()
        return ours

    async def home(self) -> str:
        """The directory that relative paths start from."""
        return self._link.home

    async def open_socket(self, family: Literal["inet", "inet6"]) -> socket.socket:
        """An unconnected, non-blocking TCP socket in the sandbox's network."""
        try:
            _, answer = await self._link.ask({"do": "socket", "family": family})
        except Refused as refused:
            raise OSError(refused.code or errno.EIO, refused.message) from None
        descriptor = self._take_descriptor(answer)
        try:
            made = socket.socket(fileno=descriptor)
        except OSError:
            self._condemn(descriptor)
        expected = socket.AF_INET6 if family == "inet6" else socket.AF_INET
        if (made.family, made.type) != (expected, socket.SOCK_STREAM):
            self._condemn(made.detach())
        made.setblocking(False)
        return made

    async def freeze(self) -> None:
        """Stop every process, until `thaw`."""
        await self._ask_plainly({"do": "freeze"})

    async def thaw(self) -> None:
        """Let the processes go on."""
        await self._ask_plainly({"do": "thaw"})

    @contextlib.asynccontextmanager
    async def standstill(self) -> AsyncIterator[None]:
        """A stretch in which nothing in the sandbox changes."""
        async with self._standing:
            self._going_on = anyio.Event()
            try:
                await self.freeze()
                yield
            finally:
                try:
                    with anyio.CancelScope(shield=True):  # bounded by the link's patience
                        await self.thaw()
                finally:
                    self._going_on.set()
                    self._going_on = None

    async def wait_until_it_moves(self) -> None:
        """Wait for the end of a standstill, if there is one."""
        while self._going_on is not None:
            await self._going_on.wait()

    async def destroy(self) -> None:
        """End every process and unmount."""
        await self._link.wait_until_gone()

    # --- What a supervisor's answer is worth -----------------------------------------

    async def _ask_plainly(self, body: Mapping[str, Any]) -> None:
        try:
            _, answer = await self._link.ask(body)
        except Refused as refused:
            raise OSError(refused.code or errno.EIO, refused.message) from None
        answer.close()

    async def _ask_about_path(
        self, path: str, body: Mapping[str, Any], undo: str | None = None
    ) -> tuple[int, messages.Message]:
        try:
            return await self._link.ask(body, undo=undo)
        except Refused as refused:
            raise _path_error(refused, path) from None

    def _take_descriptor(self, answer: messages.Message) -> int:
        if len(answer.descriptors) != 1:
            self._condemn(*answer.descriptors)
        return answer.descriptors.pop()

    def _check_file(self, descriptor: int, mode: int) -> None:
        status = os.fstat(descriptor)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if not stat.S_ISREG(status.st_mode) or flags & os.O_ACCMODE != mode or flags & os.O_PATH:
            self._condemn(descriptor)

    def _condemn(self, *descriptors: int) -> NoReturn:
        """End a sandbox whose supervisor sent what no honest one sends."""
        messages.close_all(descriptors)
        self._link.shut_down()
        raise SandboxDiedError("the sandbox's supervisor broke the rules, and was ended")


class BubblewrapCommand:
    """One process in a sandbox, leader of a session of its own."""

    def __init__(
        self,
        link: SupervisorLink,
        end: CommandEnd,
        number: int,
        *,
        pid: int,
        stdin: int,
        stdout: int,
        stderr: int | None,
    ) -> None:
        self._link = link
        self._end = end
        self._number = number
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    async def wait(self) -> int:
        """Wait for the end; a command whose sandbox is gone was killed."""
        await self._end.event.wait()
        return self._end.code

    async def kill(self) -> None:
        """SIGKILL the whole process group and every descendant that can be found."""
        with contextlib.suppress(SandboxDiedError, Refused):
            _, answer = await self._link.ask({"do": "kill", "command": self._number})
            answer.close()

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size. Not after its descriptor was closed."""
        with contextlib.suppress(OSError):
            processes.resize_terminal(self.stdout, columns, rows)


@attrs.define(eq=False)
class BubblewrapPendingFile:
    """A file that is being written in a sandbox."""

    _sandbox: BubblewrapSandbox
    _link: SupervisorLink
    _number: int
    _path: str
    fd: int
    _finished: bool = False

    async def commit(self) -> None:
        """Move it into place."""
        await self._sandbox.wait_until_it_moves()
        self._finish()
        try:
            _, answer = await self._link.ask({"do": "commit", "upload": self._number})
        except Refused as refused:
            raise _path_error(refused, self._path) from None
        answer.close()

    async def abort(self) -> None:
        """Throw it away."""
        if not self._finished:
            self._finish()
            with contextlib.suppress(SandboxDiedError, Refused):
                _, answer = await self._link.ask({"do": "abort", "upload": self._number})
                answer.close()

    def _finish(self) -> None:
        if self._finished:
            raise ValueError("this file was committed or aborted before")
        self._finished = True
        os.close(self.fd)


class _Pipes:
    """Three pipes for a command's standard streams, made on this side of the wall.

    So nothing has to be taken from the supervisor, and a cancelled caller knows what to close.
    """

    def __init__(self, owner: Identity | None) -> None:
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += os.pipe2(os.O_CLOEXEC)
            stdin_read, stdin_write, stdout_read, stdout_write, stderr_read, stderr_write = opened
            self.theirs = (stdin_read, stdout_write, stderr_write)
            self.ours = (stdin_write, stdout_read, stderr_read)
            for descriptor in self.ours:
                os.set_blocking(descriptor, False)
            if owner is not None:
                # Opening /dev/stdout opens the pipe again, as its owner's rights allow.
                for descriptor in self.theirs:
                    os.fchown(descriptor, owner.user, owner.group)
        except BaseException:
            messages.close_all(opened)
            raise


def _pid(answer: messages.Message) -> int:
    pid = answer.body.get("pid")
    return pid if isinstance(pid, int) and 0 < pid < 1 << 31 else 0


def _path_error(refused: Refused, path: str) -> SandboxPathError:
    return SandboxPathError(refused.code or errno.EIO, refused.message, path)
