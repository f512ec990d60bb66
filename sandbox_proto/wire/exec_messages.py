"""The JSON messages of the exec WebSocket, both directions (protocol/06 sections 3-4)."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # json's own string reader
from typing import Any

import attrs

from .command_models import OutputChunk

NO_OFFSET = -1
"""What `decode_from_server` puts where a server left the offset out."""

# JSON can spell halves of characters, which no text can hold.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_raw_decode = json.JSONDecoder().raw_decode

_OUTPUT_HEAD = re.compile(
    r'[ \t\n\r]*\{[ \t\n\r]*"type"[ \t\n\r]*:[ \t\n\r]*"(stdout|stderr)"'
    r'[ \t\n\r]*,[ \t\n\r]*"data"[ \t\n\r]*:[ \t\n\r]*"'
)
_OUTPUT_TAIL = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"offset"[ \t\n\r]*:[ \t\n\r]*')


class MalformedMessage(ValueError):
    """A message that is not what the protocol allows; the text says how."""


# --- client to server ----------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Execute:
    """Start a command, or attach to it when the id is known already (protocol/06 section 3.1).

    :ivar command: shell command text.
    :ivar timeout_seconds: server-side limit in seconds, 0 is none.
    :ivar idle_timeout_seconds: seconds without an attached client until it is killed, -1 never.
    :ivar ttl_seconds: seconds the finished command stays reconnectable, -1 for ever.
    :ivar command_id: the idempotency key.
    """

    command: str
    command_id: str
    timeout_seconds: int = 60
    shell: str = "/bin/bash"
    idle_timeout_seconds: int = 300
    kill_on_disconnect: bool = False
    ttl_seconds: int = 600
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    run_config: Mapping[str, Any] | None = None
    close_stdin: bool = False
    pty: bool = False

    def to_json(self) -> dict[str, Any]:
        """The message with its optional fields only where they say something."""
        message: dict[str, Any] = {
            "type": "execute",
            "command": self.command,
            "timeout_seconds": self.timeout_seconds,
            "shell": self.shell,
            "idle_timeout_seconds": self.idle_timeout_seconds,
            "kill_on_disconnect": self.kill_on_disconnect,
            "ttl_seconds": self.ttl_seconds,
            "command_id": self.command_id,
        }
        for name in ("env", "cwd", "run_config", "close_stdin", "pty"):
            if value := getattr(self, name):
                message[name] = value
        return message


@attrs.frozen
class Reconnect:
    """Attach to a command and stream from these byte offsets on."""

    command_id: str
    stdout_offset: int = 0
    stderr_offset: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"type": "reconnect", **attrs.asdict(self)}


@attrs.frozen
class Input:
    """Write text to the command's standard input or terminal."""

    data: str

    def to_json(self) -> dict[str, Any]:
        return {"type": "input", "data": self.data}


@attrs.frozen
class CloseStdin:
    """Half-close standard input."""

    def to_json(self) -> dict[str, Any]:
        return {"type": "close_stdin"}


@attrs.frozen
class Kill:
    """SIGKILL the command's whole process group."""

    def to_json(self) -> dict[str, Any]:
        return {"type": "kill"}


ClientMessage = Execute | Reconnect | Input | CloseStdin | Kill


# --- server to client ----------------------------------------------------------------


@attrs.frozen
class Started:
    """The command runs, or the attachment was accepted."""

    command_id: str
    pid: int | None

    def to_json(self) -> dict[str, Any]:
        return {"type": "started", "command_id": self.command_id, "pid": self.pid}


@attrs.frozen
class Exit:
    """The command ended. Nothing follows."""

    exit_code: int

    def to_json(self) -> dict[str, Any]:
        return {"type": "exit", "exit_code": self.exit_code}


@attrs.frozen
class ExecError:
    """The command or the attachment failed. Nothing follows."""

    error: str
    error_type: str

    def to_json(self) -> dict[str, Any]:
        return {"type": "error", "error": self.error, "error_type": self.error_type}


ServerMessage = Started | OutputChunk | Exit | ExecError


def encode(message: ClientMessage | ServerMessage) -> str:
    """A message as text for the socket.

    :raises ValueError: it holds text that cannot be sent (a lone surrogate).
    """
    if isinstance(message, OutputChunk):
        fields = {"type": message.stream, "data": message.data, "offset": message.offset}
    else:
        fields = message.to_json()
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    text.encode()  # raises UnicodeEncodeError, a ValueError, before anything is half sent
    return text


def read_output(texts: deque[str]) -> list[OutputChunk]:
    """Read output off the beginning of many messages: `decode_from_server` for most of them.

    It takes the messages that are spelled as servers spell output (type, data and offset, in
    that order and nothing else), looking at nothing twice. The first that is spelled otherwise,
    and all behind it, stay.
    """
    chunks: list[OutputChunk] = []
    head = tail = "\0"  # how the message before was spelled; nothing is spelled so
    stream, start, tail_length = "", 0, 0
    try:
        for text in texts:
            if not text.startswith(head):
                if (match := _OUTPUT_HEAD.match(text)) is None:
                    break
                head, stream, start = match[0], match[1], match.end()
            data, end = scanstring(text, start)
            if not text.startswith(tail, end):
                if (match := _OUTPUT_TAIL.match(text, end)) is None:
                    break
                tail = match[0]
                tail_length = len(tail)
            digits = text[end + tail_length : -1]
            offset = int(digits)
            if str(offset) != digits or text[-1] != "}":
                break  # Python reads more as a number than JSON does
            if not data.isascii():
                data = _LONE_SURROGATE.sub("\ufffd", data)
            chunks.append(OutputChunk(stream, data, offset))
    except ValueError:
        pass  # it is for `decode_from_server` to say what is wrong with it
    if len(chunks) == len(texts):
        texts.clear()
    else:
        for _ in chunks:
            texts.popleft()
    return chunks


def decode_object(data: str | bytes) -> dict[str, Any]:
    """The JSON object in a message.

    :raises MalformedMessage: there is none.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        text = text.lstrip()
        value, end = _raw_decode(text)
        if text[end:].strip():
            raise ValueError("there is more behind the object")
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"a message is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedMessage(f"a message is a JSON {type(value).__name__}, not an object")
    return value


def decode_from_server(data: str | bytes) -> ServerMessage | None:
    """Read a server's message; None for types this version does not know, which are ignored.

    :raises MalformedMessage: it is no JSON object, or a field is missing or of the wrong type.
    """
    return read_message(decode_object(data))


def read_message(fields: Mapping[str, Any]) -> ServerMessage | None:
    """Make a message of its fields; see `decode_from_server`."""
    match fields.get("type"):
        case "stdout" | "stderr" as stream:
            text = text_field(fields, "data")
            if not text.isascii():
                text = _LONE_SURROGATE.sub("\ufffd", text)
            return OutputChunk(stream, text, integer_field(fields, "offset", NO_OFFSET))
        case "started":
            pid = fields.get("pid")
            if pid is not None:
                pid = integer_field(fields, "pid")
            return Started(text_field(fields, "command_id", ""), pid)
        case "exit":
            return Exit(integer_field(fields, "exit_code"))
        case "error":
            return ExecError(
                text_field(fields, "error", "Unknown error"),
                text_field(fields, "error_type", "CommandError"),
            )
        case _:
            return None


def text_field(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A string of a message, or the default where it is absent.

    :raises MalformedMessage: it is missing, or something else.
    """
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise MalformedMessage(_complaint(fields, name, "a string"))
    return value


def integer_field(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of a message, or the default where it is absent.

    :raises MalformedMessage: it is missing, or something else.
    """
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedMessage(_complaint(fields, name, "an integer"))
    return value


def _complaint(fields: Mapping[str, Any], name: str, wanted: str) -> str:
    kind = fields.get("type")
    if name not in fields:
        return f"the {kind!r} message has no {name!r}"
    return f"{name!r} of the {kind!r} message should be {wanted}, not {fields[name]!r:.60}"
