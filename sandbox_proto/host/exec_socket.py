"""The server's end of one exec WebSocket (protocol/06): text in, messages out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..wire.exec_messages import (
    ExecError,
    Execute,
    Exit,
    MalformedMessage,
    Started,
    decode_object,
)
from ..wire.ids import Entropy, uuid7_hex
from ..wire.models import OutputChunk
from .commands import Attachment, Command, CommandTable


class ExecSocket:
    """One attachment from its first message to its last.

    :ivar to_spawn: the command the driver has to start, right after `receive` set it.
    """

    def __init__(self, table: CommandTable, box_id: str, entropy: Entropy) -> None:
        self._table, self._box_id, self._entropy = table, box_id, entropy
        self._attachment: Attachment | None = None
        self._error: ExecError | None = None
        self._close_stdin_first = False
        self.to_spawn: Command | None = None
        self.finished = False

    @property
    def command(self) -> Command | None:
        """The command this socket is attached to."""
        return None if self._attachment is None else self._attachment.command

    def receive(self, text: str | bytes, *, now: float, wall: float) -> None:
        """A message of the client; what is wrong with it is answered, never raised.

        :param wall: wall-clock seconds, for the id of a command whose client chose none.
        """
        if self.finished or self._error is not None:
            return
        try:
            self._receive(_read_object(text), now, wall)
        except MalformedMessage as error:
            self._error = ExecError(str(error), "CommandError")

    def _receive(self, fields: dict[str, Any], now: float, wall: float) -> None:
        kind = fields.get("type")
        if self._attachment is None:
            self._open(kind, fields, now, wall)
            return
        command = self._attachment.command
        match kind:
            case "input":
                command.write_input(_typed(fields, "data", str, ""))
            case "close_stdin":
                command.close_stdin()
            case "kill":
                command.kill()
            case _:
                pass  # a newer client's message

    def _open(self, kind: object, fields: dict[str, Any], now: float, wall: float) -> None:
        match kind:
            case "close_stdin":
                # The vendor's client may say this before `reconnect`; it holds afterwards.
                self._close_stdin_first = True
                return
            case "execute":
                message = read_execute(fields, uuid7_hex(unix_seconds=wall, entropy=self._entropy))
                command, new = self._table.get_or_create(self._box_id, message)
                self.to_spawn = command if new else None
                self._attachment = command.attach({}, now=now)
            case "reconnect":
                found = self._table.find(self._box_id, _typed(fields, "command_id", str, ""))
                if isinstance(found, ExecError):
                    self._error = found
                    return
                offsets = {name: _typed(fields, f"{name}_offset", int, 0) for name in found.streams}
                self._attachment = found.attach(offsets, now=now)
            case _:
                raise MalformedMessage(
                    f"the first message must be execute or reconnect, not {kind!r}"
                )
        if self._close_stdin_first:
            self._attachment.command.close_stdin()

    def next_message(self, *, now: float) -> Started | OutputChunk | Exit | ExecError | None:
        """What the client is to be told next, or None until something changes."""
        if self.finished:
            return None
        message: Started | OutputChunk | Exit | ExecError | None = self._error
        if message is None and self._attachment is not None:
            message = self._attachment.next_message(now=now)
        if isinstance(message, (Exit, ExecError)):
            self.finished = True
        return message

    def disconnected(self, *, now: float) -> None:
        """The client is gone."""
        if self._attachment is not None:
            self._attachment.command.detach(self._attachment, now=now)


def _read_object(text: str | bytes) -> dict[str, Any]:
    fields = decode_object(text)
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can spell halves of characters, which nothing else can hold
        raise MalformedMessage("a message holds half a character") from None
    return fields


def read_execute(fields: Mapping[str, Any], fallback_id: str) -> Execute:
    """Read an `execute` message.

    :raises MalformedMessage: a field is missing, of the wrong type or out of range.
    """
    if not isinstance(fields.get("command"), str):
        raise MalformedMessage("'execute' needs a 'command' string")
    env, cwd = fields.get("env"), fields.get("cwd")
    run_config = fields.get("run_config")
    if run_config and (env or cwd):
        raise MalformedMessage("run_config cannot be combined with env or cwd")
    if run_config is not None and not isinstance(run_config, Mapping):
        raise MalformedMessage("run_config must be an object")
    for variables in (env, (run_config or {}).get("env_vars")):
        if variables is not None and not _is_environment(variables):
            raise MalformedMessage("environment variables must be an object with string values")
    message = Execute(
        command=fields["command"],
        command_id=_typed(fields, "command_id", str, "") or fallback_id,
        timeout_seconds=_typed(fields, "timeout_seconds", int, 60),
        shell=_typed(fields, "shell", str, "/bin/bash"),
        idle_timeout_seconds=_typed(fields, "idle_timeout_seconds", int, 300),
        kill_on_disconnect=_typed(fields, "kill_on_disconnect", bool, False),
        ttl_seconds=_typed(fields, "ttl_seconds", int, 600),
        env=env,
        cwd=_typed(fields, "cwd", str, ""),
        run_config=run_config,
        close_stdin=_typed(fields, "close_stdin", bool, False),
        pty=_typed(fields, "pty", bool, False),
    )
    for name, least in (("timeout_seconds", 0), ("idle_timeout_seconds", -1), ("ttl_seconds", -1)):
        if getattr(message, name) < least:
            raise MalformedMessage(f"{name} must be at least {least}")
    return message


def _is_environment(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values())


def _typed(fields: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        raise MalformedMessage(f"{name} must be of type {kind.__name__}, not {value!r:.60}")
    return value
