"""Commands in a sandbox: run, attach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import attrs

from sandbox_proto.errors import CommandFailedError
from sandbox_proto.wire.command_models import ExecutionResult
from sandbox_proto.wire.models import RunConfig

from .sandbox_base import SandboxBase

# What runs commands is a third of the package: loaded with the first of them.
if TYPE_CHECKING:
    from sandbox_proto.flows.commands import CommandSpec
    from sandbox_proto.machines.exec_session import ExecSession

    from .command import AsyncCommandHandle
    from .command_output import OutputCallback


class RunOptions(TypedDict, total=False):
    """What `run` takes beside the command, for its two signatures."""

    timeout: int
    env: dict[str, str] | None
    cwd: str | None
    run_config: RunConfig | Mapping[str, Any] | None
    close_input: bool | None
    shell: str
    on_stdout: OutputCallback | None
    on_stderr: OutputCallback | None
    idle_timeout: int
    kill_on_disconnect: bool
    ttl_seconds: int
    pty: bool
    headers: Mapping[str, str] | None
    input: str | bytes | None
    check: bool
    text: bool
    max_output: int | None
    spill_to: str | PathLike[str] | None
    detach: bool


@attrs.define
class CommandMethods(SandboxBase):
    """See `AsyncSandbox`."""

    @overload
    async def run(
        self,
        command: str | Sequence[str],
        *,
        wait: Literal[True] = True,
        **options: Unpack[RunOptions],
    ) -> ExecutionResult: ...

    @overload
    async def run(
        self,
        command: str | Sequence[str],
        *,
        wait: Literal[False],
        **options: Unpack[RunOptions],
    ) -> AsyncCommandHandle: ...

    async def run(
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
    ) -> ExecutionResult | AsyncCommandHandle:
        """Run a command (protocol/06).

        Cancelling a waiting `run` kills the command's process group, which takes at most a
        few seconds. No call waits for ever: when the server has not reported the end 30 s
        after the command's own limit, the command is killed and the call fails.

        :param command: text for the shell; or a program and its arguments, which are quoted.
        :param timeout: the command's limit in seconds, at least 0; 0 is none.
        :param env: further environment variables. Not together with `run_config`.
        :param cwd: working directory. Not together with `run_config`.
        :param run_config: user, working directory and environment of this command.
        :param close_input: close standard input at once. Default: yes, except on a terminal.
        :param shell: the shell's path inside the sandbox.
        :param on_stdout: called with each piece of standard output; may be async.
        :param on_stderr: called with each piece of standard error; may be async.
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
        :param detach: let the command go on when this task is cancelled, or when the block of
            the handle ends.
        :returns: the result, whatever the exit code; or the handle.
        :raises ValueError: the arguments contradict each other or are out of range.
        :raises CommandFailedError: `check`, and the exit code is not 0.
        :raises CommandTimeoutError: the command ran longer than `timeout`.
        :raises SandboxOperationError: the server reported another failure of the command.
        :raises SandboxConnectionError: the connection failed and could not be had again.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        """
        from sandbox_proto.flows.commands import CommandSpec

        from .command import AsyncCommandHandle
        from .command_output import OutputOptions

        if not wait and (on_stdout is not None or on_stderr is not None):
            raise ValueError("callbacks need wait=True; with wait=False, iterate over the handle")
        if check and not wait:
            raise ValueError("check needs wait=True; with wait=False, look at the result")
        output = OutputOptions(
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            text=text,
            max_output=max_output,
            spill_to=spill_to,
            iterable=not wait,
        )
        spec = CommandSpec(
            command=command,
            timeout=timeout,
            env=env,
            cwd=cwd,
            run_config=run_config,
            close_input=close_input,
            shell=shell,
            idle_timeout=idle_timeout,
            kill_on_disconnect=kill_on_disconnect,
            ttl_seconds=ttl_seconds,
            pty=pty,
            input=input,
            text=text,
            waits=wait and not self._client.traced,
        )
        session = self._begin(spec, headers)
        handle = AsyncCommandHandle(
            session,
            self._client,
            lambda handle: self._reattach(handle, spec.pty, headers),
            output,
            detached=detach,
        )
        try:
            if not wait:
                await handle.wait_started()
                return handle
            result = await handle.result
        except BaseException:
            # Over, cancelled, or a callback raised: nobody will ask for this command again.
            await handle.leave()
            raise
        if check and not result.success:
            raise _failure(spec, result)
        return result

    def _begin(self, spec: CommandSpec, headers: Mapping[str, str] | None) -> ExecSession:
        from sandbox_proto.flows.commands import start_command

        return self._client.make(
            start_command,
            self._client.flow_context(),
            self._dataplane(),
            spec,
            unix_seconds=self._client.network.wall_clock(),
            headers=headers,
            refused=tuple(self._client.refused_transports),
        )

    async def reconnect(
        self,
        command_id: str,
        *,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        stdin_closed: bool = False,
        pty: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncCommandHandle:
        """Attach to a command that was started earlier, by this client or another.

        :param command_id: its id, see `AsyncCommandHandle.command_id`.
        :param stdout_offset: the byte of standard output to continue from.
        :param stderr_offset: the byte of standard error to continue from.
        :param stdin_closed: its standard input is known to be closed.
        :param pty: it has a terminal.
        :param headers: headers for this handle's connections only.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        """
        from sandbox_proto.flows.commands import attach_to_command
        from sandbox_proto.wire.exec_messages import Reconnect

        from .command import AsyncCommandHandle

        session = self._client.make(
            attach_to_command,
            self._client.flow_context(),
            self._dataplane(),
            Reconnect(command_id, stdout_offset, stderr_offset),
            stdin_closed=stdin_closed,
            pty=pty,
            headers=headers,
        )
        return AsyncCommandHandle(
            session, self._client, lambda handle: self._reattach(handle, pty, headers)
        )

    async def _reattach(
        self, handle: AsyncCommandHandle, pty: bool, headers: Mapping[str, str] | None
    ) -> AsyncCommandHandle:
        return await self.reconnect(
            handle.command_id,
            stdout_offset=handle.last_stdout_offset,
            stderr_offset=handle.last_stderr_offset,
            stdin_closed=handle.stdin_closed,
            pty=pty,
            headers=headers,
        )


def _failure(spec: CommandSpec, result: ExecutionResult) -> CommandFailedError:
    last_words = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
    said = f": {last_words[0]:.200}" if last_words else ""
    text = f"{spec.line:.100} ended with exit code {result.exit_code}{said}"
    return CommandFailedError(text, result)
