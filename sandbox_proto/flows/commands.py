"""Starting commands, and attaching to them: from a user's arguments to a session."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from ..config import ClientConfig
from ..machines.exec_session import ExecSession
from ..machines.exec_transports import Transport
from ..wire.creation import run_config_payload
from ..wire.exec_messages import Execute, Reconnect
from ..wire.ids import uuid7_hex
from ..wire.models import RunConfig
from .control import HeaderLayer
from .effects import FlowContext


@attrs.frozen(kw_only=True)
class CommandSpec:
    """What to run and how (protocol/12 section 3.2, protocol/06 section 3.1).

    :ivar command: text for the shell; or the program and its arguments, which are quoted for it.
    :ivar timeout: the command's limit in seconds, enforced by the server; 0 is none.
    :ivar close_input: close standard input at once; None: yes, unless there is a terminal.
    :ivar idle_timeout: seconds without an attached client until it is killed; -1 is never.
    :ivar ttl_seconds: seconds the finished command stays reconnectable; -1 is for ever.
    :ivar input: what the command is to read; then its standard input is closed.
    :ivar text: False: the output is wanted as the bytes that the process wrote.
    :ivar text_will_do: with `text` False: where these cannot be had, text is taken.
    :ivar waits: nothing will be said to it, its end is waited for: an event stream will do, which
        takes one round trip on a connection that stands.
    """

    command: str | Sequence[str]
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
    input: str | bytes | None = attrs.field(default=None, repr=False)
    text: bool = True
    text_will_do: bool = False
    waits: bool = False

    def __attrs_post_init__(self) -> None:
        line = self.line
        if self.input is not None:
            self._check_input(self.input)
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
        for text in (line, self.shell, self.cwd or ""):
            if "\0" in text:
                raise ValueError("a command, shell or directory cannot hold a NUL character")

    def _check_input(self, data: str | bytes) -> None:
        if self.close_input or self.pty:
            other = "pty" if self.pty else "close_input"
            raise ValueError(f"input cannot be combined with {other}=True")
        input_text(data)

    @property
    def line(self) -> str:
        """The command as text for the shell.

        :raises TypeError: it is neither text nor a list of strings.
        :raises ValueError: the list is empty.
        """
        command: object = self.command
        if isinstance(command, str):
            return command
        words = None if isinstance(command, bytes) else command
        if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
            raise TypeError(
                f"command must be a string for the shell or a list of strings, not {command!r}"
            )
        if not words:
            raise ValueError("the command's list is empty: its first word must name a program")
        return shlex.join(words)

    @property
    def needs_websocket(self) -> str | None:
        """Which argument only a WebSocket can do, if one does."""
        if self.close_input is False:
            return "close_input=False"
        wanted = {
            "pty=True": self.pty,
            "kill_on_disconnect=True": self.kill_on_disconnect,
            "input": self.input is not None,
        }
        return next((name for name, is_wanted in wanted.items() if is_wanted), None)

    def execute(self, command_id: str) -> Execute:
        """The message that starts the command."""
        closes = self.input is None if self.close_input is None else self.close_input
        return Execute(
            command=self.line,
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


def input_text(data: str | bytes) -> str:
    """Input as the text that travels.

    :raises ValueError: it is not UTF-8: the protocol has no other input.
    """
    if isinstance(data, str):
        data.encode()  # a lone surrogate cannot travel
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"input must be text in UTF-8: {error}") from None


def choose_transports(
    config: ClientConfig,
    needs_websocket: str | None = None,
    *,
    text: bool = True,
    text_will_do: bool = False,
    waits: bool = False,
    refused: Collection[Transport] = (),
) -> tuple[Transport, ...]:
    """The transports to try, in order.

    :param needs_websocket: the argument that no other transport can do; None: there is none.
    :param text: False: the output is wanted as bytes, which only event streams have.
    :param text_will_do: with `text` False: where these cannot be had, text is taken.
    :param waits: see `CommandSpec`.
    :param refused: those that the service has turned out not to know; not tried before others.
    :raises ValueError: the choice cannot do what is asked of it.
    """
    choice = config.exec_transport
    if not text and text_will_do:
        if choice == "auto" and needs_websocket is None:
            return (Transport.SSE, Transport.WEBSOCKET)
        text = choice != "sse" or needs_websocket is not None
    if not text and (needs_websocket or choice not in ("auto", "sse")):
        other = needs_websocket or f"exec_transport={choice!r}"
        raise ValueError(f"text=False needs an event stream, so it cannot go with {other}")
    if choice != "auto":
        if needs_websocket and choice != "websocket":
            raise ValueError(f"exec_transport={choice!r} cannot do {needs_websocket}")
        return (Transport(choice),)
    if not text:
        return (Transport.SSE,)
    if needs_websocket:
        return (Transport.WEBSOCKET,)
    order = [Transport.WEBSOCKET, Transport.SSE, Transport.HTTP]
    if waits or "sandbox_sse_exec" in config.features:
        order = [Transport.SSE, Transport.WEBSOCKET, Transport.HTTP]
    return tuple(sorted(order, key=lambda transport: transport in refused))


def start_command(
    context: FlowContext,
    base: str,
    spec: CommandSpec,
    *,
    unix_seconds: float,
    headers: HeaderLayer = None,
    refused: Collection[Transport] = (),
) -> ExecSession:
    """A session that starts a command.

    :param base: the data plane's base URL.
    :param unix_seconds: wall-clock time, for the command's id.
    :param refused: see `choose_transports`.
    :raises ValueError: the transport that was chosen cannot do what the command needs.
    """
    transports = choose_transports(
        context.config,
        spec.needs_websocket,
        text=spec.text,
        text_will_do=spec.text_will_do,
        waits=spec.waits,
        refused=refused,
    )
    command_id = uuid7_hex(unix_seconds=unix_seconds, entropy=context.entropy)
    session = _session(
        context,
        base,
        spec.execute(command_id),
        headers,
        transports,
        input_is_whole=spec.input is not None,
    )
    if spec.input is not None:
        session.send_input(input_text(spec.input), now=context.now)
        session.close_input(now=context.now)
    return session


def attach_to_command(
    context: FlowContext,
    base: str,
    opening: Reconnect,
    *,
    stdin_closed: bool = False,
    pty: bool = False,
    headers: HeaderLayer = None,
) -> ExecSession:
    """A session that attaches to a command started earlier, by whomever.

    :raises ValueError: the transport that was chosen cannot do that.
    """
    transports = tuple(
        transport
        for transport in choose_transports(context.config)
        if transport is not Transport.HTTP
    )
    if not transports:
        raise ValueError("exec_transport='http' cannot attach to a command")
    return _session(context, base, opening, headers, transports, stdin_closed=stdin_closed, pty=pty)


def _session(
    context: FlowContext,
    base: str,
    opening: Execute | Reconnect,
    headers: HeaderLayer,
    transports: Sequence[Transport],
    *,
    stdin_closed: bool = False,
    pty: bool = False,
    input_is_whole: bool = False,
) -> ExecSession:
    return ExecSession(
        base,
        context.config.request_headers(headers),
        opening,
        transports=transports,
        timeouts=context.config.exec_timeouts,
        random=context.random,
        entropy=context.entropy,
        now=context.now,
        stdin_closed=stdin_closed,
        pty=pty,
        input_is_whole=input_is_whole,
    )
