"""Starting commands, and attaching to them: from a user's arguments to a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..machines.exec_session import ExecSession
from ..wire.creation import run_config_payload
from ..wire.exec_messages import Execute, Reconnect
from ..wire.ids import uuid7_hex
from ..wire.models import RunConfig
from ..wire.urls import Url
from .control import HeaderLayer
from .effects import FlowContext


@attrs.frozen(kw_only=True)
class CommandSpec:
    """What to run and how (protocol/12 section 3.2, protocol/06 section 3.1).

    :ivar command: text for the shell.
    :ivar timeout: the command's limit in seconds, enforced by the server; 0 is none.
    :ivar close_input: close standard input at once; None: yes, unless there is a terminal.
    :ivar idle_timeout: seconds without an attached client until it is killed; -1 is never.
    :ivar ttl_seconds: seconds the finished command stays reconnectable; -1 is for ever.
    """

    command: str
    timeout: int = 60
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    run_config: RunConfig | Mapping[str, Any] | None = None
    close_input: bool | None = None
    shell: str = "/bin/bash"
    idle_timeout: int = 300
    kill_on_disconnect: bool = False
    ttl_seconds: int = 600
    pty: bool = False

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.command, str):
            raise TypeError(f"command must be a string for the shell, not {self.command!r}")
        if self.run_config is not None and (self.env is not None or self.cwd is not None):
            raise ValueError(
                "run_config cannot be combined with env or cwd: "
                "put env_vars and work_dir into the run_config"
            )
        for name, least in (("timeout", 0), ("idle_timeout", -1), ("ttl_seconds", -1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}, not {value!r}"
                )
        for text in (self.command, self.shell, self.cwd or ""):
            if "\0" in text:
                raise ValueError("a command, shell or directory cannot hold a NUL character")

    def execute(self, command_id: str) -> Execute:
        """The message that starts the command."""
        closes = not self.pty if self.close_input is None else self.close_input
        return Execute(
            command=self.command,
            command_id=command_id,
            timeout_seconds=self.timeout,
            shell=self.shell,
            idle_timeout_seconds=self.idle_timeout,
            kill_on_disconnect=self.kill_on_disconnect,
            ttl_seconds=self.ttl_seconds,
            env=self.env,
            cwd=self.cwd,
            run_config=run_config_payload(self.run_config),
            close_stdin=closes and not self.pty,
            pty=self.pty,
        )


def start_command(
    context: FlowContext,
    base: str,
    spec: CommandSpec,
    *,
    unix_seconds: float,
    headers: HeaderLayer = None,
) -> ExecSession:
    """A session that starts a command.

    :param base: the data plane's base URL.
    :param unix_seconds: wall-clock time, for the command's id.
    """
    command_id = uuid7_hex(unix_seconds=unix_seconds, entropy=context.entropy)
    return _session(context, base, spec.execute(command_id), headers)


def attach_to_command(
    context: FlowContext,
    base: str,
    opening: Reconnect,
    *,
    stdin_closed: bool = False,
    pty: bool = False,
    headers: HeaderLayer = None,
) -> ExecSession:
    """A session that attaches to a command started earlier, by whomever."""
    return _session(context, base, opening, headers, stdin_closed=stdin_closed, pty=pty)


def _session(
    context: FlowContext,
    base: str,
    opening: Execute | Reconnect,
    headers: HeaderLayer,
    *,
    stdin_closed: bool = False,
    pty: bool = False,
) -> ExecSession:
    return ExecSession(
        Url.parse(base + "/execute/ws"),
        context.config.request_headers(headers),
        opening,
        timeouts=context.config.exec_timeouts,
        random=context.random,
        entropy=context.entropy,
        now=context.now,
        stdin_closed=stdin_closed,
        pty=pty,
    )
