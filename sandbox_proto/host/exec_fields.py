"""The fields of a command as clients send them, checked once for every transport."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from ..wire.exec_messages import Execute, MalformedMessage
from .messages import HostError

_LEAST = {"timeout_seconds": 0, "idle_timeout_seconds": -1, "ttl_seconds": -1}
_FOREVER = -1


class ConflictingFields(MalformedMessage):
    """Fields that exclude each other."""


def read_execute(fields: Mapping[str, Any], fallback_id: str) -> Execute:
    """Read what starts a command (protocol/06 section 3.1).

    :param fallback_id: its id, if the client chose none.
    :raises MalformedMessage: a field is missing, of the wrong type or out of range.
    """
    if not isinstance(fields.get("command"), str):
        raise MalformedMessage("'execute' needs a 'command' string")
    env, cwd = fields.get("env"), fields.get("cwd")
    run_config = fields.get("run_config")
    if run_config and (env or cwd):
        raise ConflictingFields("run_config cannot be combined with env or cwd")
    if run_config is not None and not isinstance(run_config, Mapping):
        raise MalformedMessage("run_config must be an object")
    for variables in (env, (run_config or {}).get("env_vars")):
        if variables is not None and not _is_environment(variables):
            raise MalformedMessage("environment variables must be an object with string values")
    message = Execute(
        command=fields["command"],
        command_id=typed_field(fields, "command_id", str, "") or fallback_id,
        timeout_seconds=typed_field(fields, "timeout_seconds", int, 60),
        shell=typed_field(fields, "shell", str, "/bin/bash"),
        idle_timeout_seconds=typed_field(fields, "idle_timeout_seconds", int, 300),
        kill_on_disconnect=typed_field(fields, "kill_on_disconnect", bool, False),
        ttl_seconds=typed_field(fields, "ttl_seconds", int, 600),
        env=env,
        cwd=typed_field(fields, "cwd", str, ""),
        run_config=run_config,
        close_stdin=typed_field(fields, "close_stdin", bool, False),
        pty=typed_field(fields, "pty", bool, False),
    )
    for name, least in _LEAST.items():
        if getattr(message, name) < least:
            raise MalformedMessage(f"{name} must be at least {least}")
    return message


def read_stream_start(fields: Mapping[str, Any], fallback_id: str) -> Execute:
    """Read what starts a command over an event stream (protocol/07 section 1.1).

    There is nothing to write with, so input is closed from the start.

    :raises HostError: a field is missing, of the wrong type or out of range.
    """
    own = {"close_stdin": True, "pty": False, "kill_on_disconnect": False}
    try:
        check_text(fields)
        return read_execute({**fields, **own}, fallback_id)
    except MalformedMessage as error:
        raise refusal(error) from None


def read_blocking(
    fields: Mapping[str, Any], fallback_id: str
) -> tuple[Execute, tuple[str, ...] | None]:
    """Read what runs a command in one request, in either dialect (protocol/08 section 2).

    Such a command has no life beyond its request.

    :return: the command, and its words if no shell is to read them.
    :raises HostError: a field is missing, of the wrong type or out of range.
    """
    command, argv = fields.get("command"), None
    limit = fields.get("timeout_seconds")
    own = {
        "command_id": fallback_id,
        "timeout_seconds": fields.get("timeout") if limit is None else limit,
        "idle_timeout_seconds": _FOREVER,
        "kill_on_disconnect": True,
        "ttl_seconds": 0,
        "close_stdin": True,
        "pty": False,
    }
    try:
        check_text(fields)
        if isinstance(command, list):
            argv = _words(command)
            command = shlex.join(argv)
        return read_execute({**fields, **own, "command": command}, fallback_id), argv
    except MalformedMessage as error:
        raise refusal(error) from None


def read_offsets(fields: Mapping[str, Any]) -> dict[str, int]:
    """Read from where a client wants the streams of a command.

    :raises MalformedMessage: an offset is no integer.
    """
    return {name: typed_field(fields, f"{name}_offset", int, 0) for name in ("stdout", "stderr")}


def refusal(error: MalformedMessage) -> HostError:
    """The answer to a request with bad fields (protocol/13 number 61)."""
    conflict = isinstance(error, ConflictingFields)
    return HostError(400, "InvalidRequest" if conflict else "CommandError", str(error))


def check_text(fields: Mapping[str, Any]) -> None:
    """Refuse halves of characters, which JSON can spell and nothing else can hold.

    :raises MalformedMessage: there is one.
    """
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedMessage("a message holds half a character") from None


def typed_field(fields: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    """A field that may be missing, or null.

    :raises MalformedMessage: it is of another type.
    """
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        raise MalformedMessage(f"{name} must be of type {kind.__name__}, not {value!r:.60}")
    return value


def _words(command: list[Any]) -> tuple[str, ...]:
    if not command or not all(isinstance(word, str) for word in command):
        raise MalformedMessage("a 'command' list needs at least one word, and strings only")
    return tuple(command)


def _is_environment(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values())
