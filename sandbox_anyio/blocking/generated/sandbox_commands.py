"""What is in ``sandbox_anyio/sandbox_commands.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, overload

import attrs

from ..base import BlockingSandbox
from ..callers import callback_in_caller

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import Literal, Unpack

    from sandbox_proto.wire.command_models import ExecutionResult
    from sandbox_proto.wire.models import RunConfig

    from ...command_output import OutputCallback
    from ...sandbox_commands import RunOptions
    from ..command import CommandHandle


@attrs.define
class CommandMethods(BlockingSandbox):
    """See `Sandbox`."""

    @overload
    def run(
        self,
        command: str | Sequence[str],
        *,
        wait: Literal[True] = True,
        **options: Unpack[RunOptions],
    ) -> ExecutionResult: ...

    @overload
    def run(
        self, command: str | Sequence[str], *, wait: Literal[False], **options: Unpack[RunOptions]
    ) -> CommandHandle: ...

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: int = 60,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        close_input: bool | None = None,
        shell: str = "/bin/bash",
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        idle_timeout: int = 300,
        kill_on_disconnect: bool = False,
        ttl_seconds: int = 600,
        pty: bool = False,
        headers: Mapping[str, str] | None = None,
        wait: bool = True,
        input: str | bytes | None = None,
        check: bool = False,
        text: bool = True,
        max_output: int | None = None,
        spill_to: str | PathLike[str] | None = None,
        detach: bool = False,
    ) -> ExecutionResult | CommandHandle:
        """Run a command (protocol/06).

        Ctrl-C in a waiting `run` kills the command's process group, which takes at most a
        few seconds. No call waits for ever: when the server has not reported the end 30 s
        after the command's own limit, the command is killed and the call fails.

        :param command: text for the shell; or a program and its arguments, which are quoted.
        :param timeout: the command's limit in seconds, at least 0; 0 is none.
        :param env: further environment variables. Not together with `run_config`.
        :param cwd: working directory. Not together with `run_config`.
        :param run_config: user, working directory and environment of this command.
        :param close_input: close standard input at once. Default: yes, except on a terminal.
        :param shell: the shell's path inside the sandbox.
        :param on_stdout: called with each piece of standard output, in this thread.
        :param on_stderr: called with each piece of standard error, in this thread.
        :param idle_timeout: seconds without an attached client until the command is killed;
            -1 is never.
        :param kill_on_disconnect: kill it as soon as no client is attached.
        :param ttl_seconds: seconds the finished command stays reconnectable; -1 is for ever.
        :param pty: give it a terminal of 80x24; stderr is then part of stdout.
        :param headers: headers for this command's connections only.
        :param wait: wait for the end; False returns a handle as soon as the command runs.
        :param input: what the command reads; then its standard input is closed.
        :param check: raise an error if the exit code is not 0. Needs `wait`.
        :param text: False: callbacks get bytes, and the result has `stdout_bytes` and
            `stderr_bytes`, as the process wrote them. Needs an event stream.
        :param max_output: how many bytes of each stream the result keeps: the head and the
            tail; ``result.omitted`` says what is not there. Default: all.
        :param spill_to: a directory in which the files ``stdout`` and ``stderr`` get all of the
            output; then `max_output` is 1 MiB, unless it is given.
        :param detach: let the command go on after Ctrl-C, or when the block of
            the handle ends.
        :returns: the result, whatever the exit code; or the handle.
        :raises ValueError: the arguments contradict each other or are out of range.
        :raises CommandFailedError: `check`, and the exit code is not 0.
        :raises CommandTimeoutError: the command ran longer than `timeout`.
        :raises SandboxOperationError: the server reported another failure of the command.
        :raises SandboxConnectionError: the connection failed and could not be had again.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        """
        ended = self._call(
            lambda it: cast(Any, it).run(
                command,
                timeout=timeout,
                env=env,
                cwd=cwd,
                run_config=run_config,
                close_input=close_input,
                shell=shell,
                on_stdout=callback_in_caller(on_stdout),
                on_stderr=callback_in_caller(on_stderr),
                idle_timeout=idle_timeout,
                kill_on_disconnect=kill_on_disconnect,
                ttl_seconds=ttl_seconds,
                pty=pty,
                headers=headers,
                wait=wait,
                input=input,
                check=check,
                text=text,
                max_output=max_output,
                spill_to=spill_to,
                detach=detach,
            )
        )
        return self._result_or_handle(ended)

    def reconnect(
        self,
        command_id: str,
        *,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        stdin_closed: bool = False,
        pty: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> CommandHandle:
        """Attach to a command that was started earlier, by this client or another.

        :param command_id: its id, see `CommandHandle.command_id`.
        :param stdout_offset: the byte of standard output to continue from.
        :param stderr_offset: the byte of standard error to continue from.
        :param stdin_closed: its standard input is known to be closed.
        :param pty: it has a terminal.
        :param headers: headers for this handle's connections only.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        """
        made = self._call(
            lambda it: it.reconnect(
                command_id,
                stdout_offset=stdout_offset,
                stderr_offset=stderr_offset,
                stdin_closed=stdin_closed,
                pty=pty,
                headers=headers,
            )
        )
        return self._handle(made)
