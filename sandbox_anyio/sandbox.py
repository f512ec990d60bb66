"""One sandbox, for use: run commands, read and write files, let it go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import attrs

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.flows.commands import CommandSpec, attach_to_command, start_command
from sandbox_proto.flows.files import dataplane, read_file, write_file
from sandbox_proto.wire.exec_messages import Reconnect
from sandbox_proto.wire.models import ExecutionResult, RunConfig, SandboxRecord

from .command import AsyncCommandHandle, OutputCallback
from .log import client_log

if TYPE_CHECKING:
    from .client import AsyncSandboxClient

# How long leaving a sandbox's block may take to delete it, in seconds.
DELETE_PATIENCE = 15.0


@attrs.define
class AsyncSandbox(SandboxRecord):
    """A sandbox and what can be done in it.

    As an async context manager it deletes the sandbox on exit if it was made by
    `AsyncSandboxClient.sandbox`, and does nothing if it came from elsewhere.
    """

    _client: AsyncSandboxClient = attrs.field(repr=False, eq=False, kw_only=True)
    _auto_delete: bool = attrs.field(default=True, repr=False, eq=False, kw_only=True)

    @classmethod
    def from_record(
        cls, record: SandboxRecord, client: AsyncSandboxClient, *, auto_delete: bool
    ) -> Self:
        """Give a record its client."""
        fields = {field.name: getattr(record, field.name) for field in attrs.fields(SandboxRecord)}
        return cls(**fields, client=client, auto_delete=auto_delete)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], client: AsyncSandboxClient, auto_delete: bool = True
    ) -> Self:
        """From the JSON of a sandbox.

        :raises SandboxProtocolError: it is not a sandbox object.
        """
        record = SandboxRecord.parse(data)
        return cls.from_record(record, client, auto_delete=auto_delete)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._auto_delete:
            return
        # Also when cancelled: a sandbox that stays behind costs money.
        with self._client.network.shielded(DELETE_PATIENCE) as shield:
            try:
                await self.delete()
            except SandboxClientError as error:
                client_log.warning("sandbox %s was not deleted: %s", self.name, error)
        if shield.expired:
            client_log.warning("sandbox %s was not deleted within %g s", self.name, DELETE_PATIENCE)

    # --- commands ---------------------------------------------------------------------

    @overload
    async def run(
        self,
        command: str,
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
        wait: Literal[True] = True,
    ) -> ExecutionResult: ...

    @overload
    async def run(
        self,
        command: str,
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
        wait: Literal[False],
    ) -> AsyncCommandHandle: ...

    async def run(
        self,
        command: str,
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
    ) -> ExecutionResult | AsyncCommandHandle:
        """Run a command (protocol/06).

        Cancelling a waiting `run` kills the command's process group, which takes at most a
        few seconds. No call waits for ever: when the server has not reported the end 30 s
        after the command's own limit, the command is killed and the call fails.

        :param command: text for the shell.
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
        :returns: the result, whatever the exit code; or the handle.
        :raises ValueError: the arguments contradict each other or are out of range.
        :raises CommandTimeoutError: the command ran longer than `timeout`.
        :raises SandboxOperationError: the server reported another failure of the command.
        :raises SandboxConnectionError: the connection failed and could not be had again.
        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.
        """
        if not wait and (on_stdout is not None or on_stderr is not None):
            raise ValueError("callbacks need wait=True; with wait=False, iterate over the handle")
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
        )
        session = start_command(
            self._client.flow_context(),
            dataplane(self.dataplane_url, self.name),
            spec,
            unix_seconds=self._client.network.wall_clock(),
            headers=headers,
        )
        handle = AsyncCommandHandle(
            session,
            self._client,
            lambda handle: self._reattach(handle, spec.pty, headers),
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            iterable=not wait,
        )
        try:
            if wait:
                return await handle.result
            await handle.wait_started()
        except SandboxClientError:
            raise
        except BaseException:
            # Cancelled, or a callback raised: nobody will ever ask for this command again.
            await handle.end_shielded()
            raise
        return handle

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
        session = attach_to_command(
            self._client.flow_context(),
            dataplane(self.dataplane_url, self.name),
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

    # --- files ------------------------------------------------------------------------

    async def write(
        self,
        path: str,
        content: str | bytes,
        *,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Write a file, replacing what was there; missing parent directories are made.

        :param path: absolute, or relative to the sandbox's home.
        :param content: the whole content; text is encoded as UTF-8.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises SandboxOperationError: it cannot be written (``operation`` is ``write``).
        """
        data = content.encode() if isinstance(content, str) else content
        base = dataplane(self.dataplane_url, self.name)
        await self._client.drive(
            lambda context: write_file(context, base, path, data, timeout=timeout, headers=headers)
        )

    async def read(
        self, path: str, *, timeout: int = 60, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Read a whole file into memory.

        :param path: absolute, or relative to the sandbox's home.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises ResourceNotFoundError: there is no such file (``resource_type`` is ``file``).
        :raises SandboxOperationError: it cannot be read.
        """
        base = dataplane(self.dataplane_url, self.name)
        return await self._client.drive(
            lambda context: read_file(context, base, path, timeout=timeout, headers=headers)
        )

    # --- lifecycle --------------------------------------------------------------------

    async def delete(self, *, headers: Mapping[str, str] | None = None) -> None:
        """Delete the sandbox and everything in it.

        :raises ResourceNotFoundError: it is gone already.
        """
        await self._client.delete_sandbox(self.name, headers=headers)


class SandboxOpening:
    """What `AsyncSandboxClient.sandbox` returns: await it, or enter it, or both."""

    def __init__(self, create: Callable[[], Awaitable[AsyncSandbox]]) -> None:
        self._create = create
        self._sandbox: AsyncSandbox | None = None

    def __await__(self) -> Generator[Any, Any, AsyncSandbox]:
        return self._create().__await__()

    async def __aenter__(self) -> AsyncSandbox:
        self._sandbox = await self._create()
        return await self._sandbox.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._sandbox is not None
        await self._sandbox.__aexit__(exc_type, exc, traceback)
