"""Commands in a sandbox with the manners of `trio.run_process` and `trio.Process`.

What is not as with a local process is told in `sandbox_anyio.process`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from subprocess import PIPE, CompletedProcess
from typing import TYPE_CHECKING, Any, Unpack

import trio
import trio.abc

from sandbox_anyio import AsyncSandbox
from sandbox_anyio.process import (
    CAPTURE,
    Command,
    ProcessOptions,
    Redirection,
    Redirections,
    start_process,
)
from sandbox_anyio.process import SandboxProcess as AnyioProcess

from .streams import ReceivePipe, SendPipe

if TYPE_CHECKING:
    from trio import TaskStatus


class SandboxProcess:
    """A command in a sandbox, as trio shows a process of this machine.

    Obtained by ``await nursery.start(run_process, ...)``; see `run_process`.

    :ivar args: the command, as it was given.
    :ivar stdin: a `trio.abc.SendStream`, if it was to be a pipe; else None.
    :ivar stdout: a `trio.abc.ReceiveStream`, if it was to be a pipe; else None.
    :ivar stderr: the same.
    :ivar stdio: `stdin` and `stdout` in one, if both are pipes; else None.
    """

    def __init__(self, process: AnyioProcess) -> None:
        self._process = process
        self.args: Any = process.args
        self.stdin = None if process.stdin is None else SendPipe(process.stdin)
        self.stdout = None if process.stdout is None else ReceivePipe(process.stdout)
        self.stderr = None if process.stderr is None else ReceivePipe(process.stderr)
        self.stdio: trio.StapledStream[SendPipe, ReceivePipe] | None = None
        if self.stdin is not None and self.stdout is not None:
            self.stdio = trio.StapledStream(self.stdin, self.stdout)

    def __repr__(self) -> str:
        return repr(self._process)

    @property
    def pid(self) -> int:
        """The process id inside the sandbox.

        :raises SandboxOperationError: the server did not tell it.
        """
        return self._process.pid

    @property
    def command_id(self) -> str:
        """The id by which any client can attach to this command."""
        return self._process.command_id

    @property
    def returncode(self) -> int | None:
        """How it ended: -9 after a kill of ours, else the server's number (128 + n: signal n).

        None while it runs, as far as we know: `run_process` waits for its end all the time.
        """
        return self._process.returncode

    def poll(self) -> int | None:
        """The same as `returncode`."""
        return self.returncode

    async def wait(self) -> int:
        """Wait for the end. The command is held back meanwhile if a pipe of its fills up.

        :raises CommandTimeoutError: it ran longer than its limit.
        :raises SandboxTimeoutError: it was killed, and the server did not confirm that in 5 s.
        :raises SandboxConnectionError: the connection was lost and could not be had again.
        """
        return await self._process.wait()

    def kill(self) -> None:
        """Kill the whole process group (SIGKILL). Whoever waits for its end sees to it."""
        self._process.kill()

    def terminate(self) -> None:
        """The same as `kill`: the protocol has no politer way."""
        self._process.terminate()

    def send_signal(self, sig: int) -> None:
        """Kill it.

        :param sig: SIGKILL.
        :raises ValueError: it is another one.
        """
        self._process.send_signal(sig)


async def run_process(
    sandbox: AsyncSandbox,
    command: Command,
    *,
    input: bytes | None = None,
    stdin: bytes | bytearray | memoryview | Redirection = b"",
    capture_stdout: bool = False,
    capture_stderr: bool = False,
    check: bool = True,
    stdout: Redirection = None,
    stderr: Redirection = None,
    shell: bool | None = None,
    deadline: float = math.inf,
    deliver_cancel: Callable[[SandboxProcess], Awaitable[object]] | None = None,
    task_status: TaskStatus[SandboxProcess] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ProcessOptions],
) -> CompletedProcess[bytes]:
    """Run a command in a sandbox to its end; see `trio.run_process`.

    Called directly it returns the result. ``await nursery.start(run_process, ...)`` returns a
    `SandboxProcess` while it runs. Whatever cancels it, the command is killed and its end is
    waited for, a few seconds at most.

    :param command: a program and its arguments; or text for the shell.
    :param input: the same as `stdin`, for bytes.
    :param stdin: what it reads, in UTF-8; `subprocess.PIPE` with `nursery.start`.
    :param capture_stdout: standard output is for the result.
    :param capture_stderr: standard error is for the result.
    :param check: raise an error if the return code is not 0.
    :param stdout: `PIPE` with `nursery.start`, `DEVNULL`, a file of this machine, or None: ours.
    :param stderr: the same, or `STDOUT`.
    :param shell: whether the command is text. Default: it may be both.
    :param deadline: the moment of trio's clock (`trio.current_time`) when it is killed.
    :param deliver_cancel: how to end the command when this is cancelled; it is called with the
        process, and cancelled when that has ended. When it returns, the command is killed.
    :param options: see `sandbox_anyio.ProcessOptions`.
    :raises subprocess.CalledProcessError: `check`, and the return code is not 0.
    :raises trio.TooSlowError: it had not ended by the `deadline`.
    :raises UnicodeError: `stdin` is text.
    :raises TypeError: the command does not fit `shell`.
    :raises ValueError: redirections contradict each other or cannot be had, an option is out of
        range, or the input is no UTF-8.
    :raises CommandTimeoutError: it ran longer than its `timeout`, which the server keeps.
    :raises SandboxOperationError: it could not be started; or output was captured that
        cannot be had as it was written.
    :raises SandboxConnectionError: the connection failed and could not be had again.
    """
    if input is not None:
        if not isinstance(stdin, bytes) or stdin:
            raise ValueError("can't specify both stdin and input")
        stdin = input
    _check_command(command, shell)
    if isinstance(stdin, str):
        raise UnicodeError("process stdin must be bytes, not str")
    if task_status is trio.TASK_STATUS_IGNORED:
        for name, way in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if way is PIPE:
                raise ValueError(f"{name}=subprocess.PIPE is only valid with nursery.start")
    plan = Redirections.of(
        stdin,
        _output("stdout", stdout, capture_stdout),
        _output("stderr", stderr, capture_stderr),
    )
    with trio.fail_at(deadline):
        started = await start_process(sandbox, command, plan, **options)
        process = SandboxProcess(started)

        async def end_politely() -> None:
            assert deliver_cancel is not None
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_deliver, deliver_cancel, process, nursery.cancel_scope)
                    await process.wait()
                    nursery.cancel_scope.cancel()

        task_status.started(process)
        return await started.finish(
            check=check, before_kill=None if deliver_cancel is None else end_politely
        )


async def _deliver(
    deliver_cancel: Callable[[SandboxProcess], Awaitable[object]],
    process: SandboxProcess,
    scope: trio.CancelScope,
) -> None:
    await deliver_cancel(process)
    scope.cancel()


def _check_command(command: Command, shell: bool | None) -> None:
    is_text = isinstance(command, (str, bytes))
    if shell is True and not is_text:
        raise TypeError("command must be a string or bytes (not a sequence) if shell=True")
    if shell is False and is_text:
        raise TypeError("command must be a sequence (not a string or bytes) if shell=False")


def _output(name: str, way: Redirection, capture: bool) -> Redirection:
    if not capture:
        return way
    if way is not None:
        raise ValueError(f"can't specify both {name} and capture_{name}")
    return CAPTURE
