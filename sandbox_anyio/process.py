"""Commands in a sandbox with the manners of `anyio.open_process` and `anyio.run_process`.

    done = await run_process(sandbox, ["sort", "-u"], input=b"b\\na\\n")
    async with await open_process(sandbox, "make 2>&1") as process:
        async for data in process.stdout: ...

What is not as with a local process, because the protocol has it otherwise:

* The only signal is SIGKILL. `terminate` is `kill`; other signals are refused.
* A variable in `env` joins the sandbox's own; the environment is not replaced.
* Standard input carries UTF-8 and is empty unless bytes or a pipe are given: there is none to
  inherit. Output that is not piped nor captured is copied to ours.
* Without input, output comes over an event stream, as the bytes that the server keeps. With
  input (or where a server has no event streams) it comes over a WebSocket, as text: bytes that
  are no UTF-8 are U+FFFD then, so the stream ends before them, with an error. ``errors="replace"``
  lets them pass.
* An output pipe holds 256 KiB, and what else one read brought; when it is full the command is held
  back, with both of its streams, as one wire carries both.
* Who closes an output pipe drops what comes; the command gets no SIGPIPE.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess
from typing import Any, Protocol, Self, TypedDict, Unpack

import anyio
import anyio.to_thread
import attrs
from anyio.abc import Process

from sandbox_proto.errors import SandboxOperationError
from sandbox_proto.flows.commands import CommandSpec
from sandbox_proto.machines.exec_output import STREAMS
from sandbox_proto.machines.output_pipes import PIPE_BYTES, Errors, OutputPipes
from sandbox_proto.wire.models import RunConfig

from .process_handle import ProcessHandle
from .process_streams import RECEIVE_BYTES, ProcessInput, ProcessOutput
from .sandbox import AsyncSandbox

Command = str | bytes | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]
CAPTURE = -100
"""Like `PIPE`, but the output is for the result alone, however much it is."""
_OWN = {"stdout": 1, "stderr": 2}


class HasFileno(Protocol):
    """A file of this machine."""

    def fileno(self) -> int:
        """Its descriptor."""


Redirection = int | HasFileno | None
"""`PIPE`, `DEVNULL`, `STDOUT` (of stderr), a file of this machine, or None: our own."""


class ProcessOptions(TypedDict, total=False):
    """How to run a command.

    :ivar cwd: working directory, in the sandbox.
    :ivar env: further environment variables.
    :ivar user: who runs it: ``name``, ``uid``, ``name:group`` or ``uid:gid``.
    :ivar executable: the shell's path in the sandbox; default ``/bin/bash``.
    :ivar timeout: the command's limit in whole seconds, kept by the server; 0, the default, is
        none. Cancelling is the better limit: it kills the command.
    :ivar idle_timeout: seconds without a connection of ours until it is killed; default 300.
    :ivar errors: ``strict`` or ``replace``, see the module's text.
    :ivar headers: headers for this command's connections only.
    """

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    user: str | int | None
    executable: str | None
    timeout: int
    idle_timeout: int
    errors: Errors
    headers: Mapping[str, str] | None


class SandboxProcess(Process):
    """A command in a sandbox, as anyio shows a process of this machine.

    At the end of its block it is waited for, with its input closed and its output dropped; if
    it writes more than a pipe holds after that, or if the wait is cancelled, it is killed.

    :ivar args: the command, as it was given.
    """

    def __init__(self, args: Any, handle: ProcessHandle, plan: Redirections) -> None:
        self.args = args
        self._handle, self._plan = handle, plan
        self._stdin = ProcessInput(handle) if plan.input_piped else None
        self._outputs = {name: ProcessOutput(handle, name) for name in plan.piped}

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<{type(self).__name__} {self.args!r}: {state}>"

    @property
    def pid(self) -> int:
        """The process id inside the sandbox.

        :raises SandboxOperationError: the server did not tell it.
        """
        if self._handle.pid is None:
            raise SandboxOperationError("the server did not tell the process id", "command")
        return self._handle.pid

    @property
    def command_id(self) -> str:
        """The id by which any client can attach to this command."""
        return self._handle.command_id

    @property
    def returncode(self) -> int | None:
        """How it ended: -9 after a kill of ours, else the server's number (128 + n: signal n).

        None while it runs, as far as we know: somebody has to read or wait.
        """
        return self._handle.returncode

    @property
    def stdin(self) -> ProcessInput | None:
        """Standard input, if it was to be a pipe."""
        return self._stdin

    @property
    def stdout(self) -> ProcessOutput | None:
        """Standard output, if it was to be a pipe."""
        return self._outputs.get("stdout")

    @property
    def stderr(self) -> ProcessOutput | None:
        """Standard error, if it was to be a pipe."""
        return self._outputs.get("stderr")

    async def wait(self) -> int:
        """Wait for the end. The command is held back meanwhile if a pipe of its fills up.

        :raises CommandTimeoutError: it ran longer than its limit.
        :raises SandboxTimeoutError: it was killed, and the server did not confirm that in 5 s.
        :raises SandboxConnectionError: the connection was lost and could not be had again.
        """
        await self._handle.let_others_run()
        await self._handle.drive_until(lambda: self._handle.over)
        if self._handle.failure is not None:
            raise self._handle.failure
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Kill the whole process group (SIGKILL). Somebody has to `wait`, who sees to it."""
        self._handle.ask_kill()

    def terminate(self) -> None:
        """The same as `kill`: the protocol has no politer way."""
        self.kill()

    def send_signal(self, signal: int) -> None:
        """Kill it.

        :param signal: SIGKILL.
        :raises ValueError: it is another one.
        """
        if signal != _SIGKILL:
            raise ValueError(
                f"only SIGKILL can be sent to a command, not {signal!r}; for others run "
                "`kill` in the sandbox, with the process's pid"
            )
        self.kill()

    async def aclose(self) -> None:
        """Close the streams and wait for the end; see the class's text."""
        handle = self._handle
        try:
            await handle.close_input()
            for name in STREAMS:
                handle.drop(name)
            most = handle.pipes.dropped + PIPE_BYTES
            await handle.drive_until(lambda: handle.over or handle.pipes.dropped > most)
        finally:
            await handle.leave()

    # --- for `run_process`, of whatever face ------------------------------------------

    async def finish(
        self, *, check: bool, before_kill: Callable[[], Awaitable[object]] | None = None
    ) -> CompletedProcess[bytes]:
        """Wait for the end, copying what is to be copied; what was captured is in the result.

        When this fails or is cancelled the command is killed.

        :param before_kill: tries to end it in another way; has to shield itself.
        """
        try:
            await self._copy()
            returncode = await self.wait()
        except BaseException:
            try:
                if before_kill is not None and not self._handle.over:
                    await before_kill()
            finally:
                await self._handle.leave()
            raise
        stdout, stderr = (self._captured(name) for name in STREAMS)
        if check and returncode:
            raise CalledProcessError(returncode, self.args, stdout, stderr)
        return CompletedProcess(self.args, returncode, stdout, stderr)

    def _captured(self, name: str) -> bytes | None:
        if name not in self._plan.captured:
            return None
        if (trouble := self._handle.pipes.trouble(name)) is not None:
            raise SandboxOperationError(trouble, "command")
        return self._handle.pipes.take_all(name)

    async def _copy(self) -> None:
        handle, copied = self._handle, self._plan.copied
        going_on = bool(copied)
        while going_on:
            await handle.drive_until(lambda: handle.over or any(map(handle.pipes.has, copied)))
            going_on = not handle.over
            for name, descriptor in copied.items():
                while data := handle.take(name, RECEIVE_BYTES):
                    await anyio.to_thread.run_sync(
                        _write_all, descriptor, data, abandon_on_cancel=True
                    )


# `signal` is the name of a parameter above, as it is in anyio.
_SIGKILL = signal.SIGKILL


@attrs.frozen(kw_only=True)
class Redirections:
    """Where a command's streams lead.

    :ivar input: the bytes of standard input; None: it is a pipe, or empty.
    :ivar input_piped: it is a pipe.
    :ivar piped: the outputs that are streams of the process.
    :ivar captured: those that are for the result.
    :ivar copied: those that are written to a file of this machine -> its descriptor.
    :ivar merged: standard error goes where standard output goes.
    """

    input: bytes | None = None
    input_piped: bool = False
    piped: tuple[str, ...] = ()
    captured: tuple[str, ...] = ()
    copied: dict[str, int] = attrs.field(factory=dict)
    merged: bool = False

    @classmethod
    def of(
        cls,
        stdin: bytes | bytearray | memoryview | Redirection,
        stdout: Redirection,
        stderr: Redirection,
    ) -> Self:
        """From what `subprocess` calls them.

        :raises ValueError: a stream cannot lead there.
        """
        given = bytes(stdin) if isinstance(stdin, (bytes, bytearray, memoryview)) else None
        if given is None and stdin not in (PIPE, DEVNULL, None):
            raise ValueError(
                "standard input in a sandbox is PIPE, DEVNULL or bytes: a file of this machine "
                "cannot be read there"
            )
        ways = {"stdout": stdout, "stderr": stderr}
        merged = ways["stderr"] == STDOUT
        if merged:
            del ways["stderr"]
        return cls(
            input=given or None,
            input_piped=given is None and stdin == PIPE,
            piped=tuple(name for name, way in ways.items() if way == PIPE),
            captured=tuple(name for name, way in ways.items() if way == CAPTURE),
            copied={
                name: descriptor
                for name, way in ways.items()
                if (descriptor := _descriptor(name, way)) is not None
            },
            merged=merged,
        )


def _descriptor(name: str, way: Redirection) -> int | None:
    if way is None:
        return _OWN[name]
    if not isinstance(way, int):
        return way.fileno()
    if way in (PIPE, CAPTURE, DEVNULL):
        return None
    if way < 0:
        raise ValueError(f"{name} cannot be redirected to {way!r}")
    return way


async def open_process(
    sandbox: AsyncSandbox,
    command: Command | Iterable[str],
    *,
    stdin: Redirection = PIPE,
    stdout: Redirection = PIPE,
    stderr: Redirection = PIPE,
    **options: Unpack[ProcessOptions],
) -> SandboxProcess:
    """Start a command in a sandbox; see the module's text and `anyio.open_process`.

    :param command: text for the shell; or a program and its arguments.
    :param stdin: `subprocess.PIPE` or `DEVNULL`. Without a pipe the output is exact, see there.
    :param stdout: `PIPE` or `DEVNULL`.
    :param stderr: `PIPE`, `DEVNULL` or `STDOUT`.
    :param options: see `ProcessOptions`.
    :raises ValueError: a stream cannot lead there, or an option is out of range.
    :raises SandboxOperationError: the command could not be started.
    :raises SandboxConnectionError: the server could not be reached.
    """
    plan = Redirections.of(stdin, stdout, stderr)
    if plan.copied:
        name = next(iter(plan.copied))
        raise ValueError(f"{name} must be PIPE or DEVNULL here: only `run_process` copies output")
    return await start_process(sandbox, command, plan, **options)


async def run_process(
    sandbox: AsyncSandbox,
    command: Command | Iterable[str],
    *,
    input: bytes | None = None,
    stdin: Redirection = None,
    stdout: Redirection = PIPE,
    stderr: Redirection = PIPE,
    check: bool = True,
    **options: Unpack[ProcessOptions],
) -> CompletedProcess[bytes]:
    """Run a command in a sandbox to its end; see the module's text and `anyio.run_process`.

    Cancelling it kills the command, which takes at most a few seconds.

    :param command: text for the shell; or a program and its arguments.
    :param input: what it reads, in UTF-8.
    :param stdin: `DEVNULL` or None, which is the same here: nothing.
    :param stdout: `PIPE` captures it; `DEVNULL`, a file of this machine, or None, which is ours.
    :param stderr: the same, or `STDOUT`.
    :param check: raise an error if the return code is not 0.
    :param options: see `ProcessOptions`.
    :raises CalledProcessError: `check`, and the return code is not 0.
    :raises ValueError: a stream cannot lead there, an option is out of range, or the input is no
        UTF-8.
    :raises CommandTimeoutError: it ran longer than its limit.
    :raises SandboxOperationError: it could not be started; or output was captured that
        cannot be had as it was written.
    :raises SandboxConnectionError: the connection failed and could not be had again.
    """
    if stdin is not None and input is not None:
        raise ValueError("only one of stdin and input is allowed")
    if stdin == PIPE:
        raise ValueError("stdin=PIPE is for open_process: here nobody could write to it")
    if isinstance(input, str):
        raise TypeError("input must be bytes, not str")
    captured = [CAPTURE if way == PIPE else way for way in (stdout, stderr)]
    plan = Redirections.of(stdin if input is None else input, *captured)
    process = await start_process(sandbox, command, plan, **options)
    return await process.finish(check=check)


async def start_process(
    sandbox: AsyncSandbox,
    command: Command | Iterable[str],
    plan: Redirections,
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    user: str | int | None = None,
    executable: str | None = None,
    timeout: int = 0,
    idle_timeout: int = 300,
    errors: Errors = "strict",
    headers: Mapping[str, str] | None = None,
) -> SandboxProcess:
    """Start a command whose streams lead where the plan says; for faces, see `open_process`."""
    directory = None if cwd is None else os.fspath(cwd)
    variables = None if env is None else dict(env)
    config = None
    if user is not None:
        config = RunConfig(str(user), directory, variables)
        directory = variables = None
    line = _line(command)
    spec = CommandSpec(
        # The streams are one from the start, as the order of what is written shall be kept.
        command=f"exec 2>&1; {line}" if plan.merged else line,
        timeout=timeout,
        env=variables,
        cwd=directory,
        run_config=config,
        close_input=False if plan.input_piped else None,
        shell=executable or "/bin/bash",
        idle_timeout=idle_timeout,
        input=plan.input,
        text=False,
        text_will_do=True,
    )
    pipes = OutputPipes(piped=(*plan.piped, *plan.copied), captured=plan.captured, errors=errors)
    handle = ProcessHandle(
        sandbox._begin(spec, headers),
        sandbox._client,
        lambda handle: sandbox._reattach(handle, False, headers),
        pipes,
    )
    try:
        await handle.wait_started()
    except BaseException:
        await handle.leave()
        raise
    return SandboxProcess(command, handle, plan)


def _line(command: Command | Iterable[str]) -> str:
    """The command as text for the shell."""
    if isinstance(command, str):
        return command
    if isinstance(command, bytes):
        return command.decode()
    if isinstance(command, os.PathLike):
        return shlex.quote(os.fspath(command))
    words = [os.fsdecode(word) for word in command]
    if not words:
        raise ValueError("the command is empty: its first word must name a program")
    return shlex.join(words)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
