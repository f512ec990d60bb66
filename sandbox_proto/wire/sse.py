"""Server-sent events as text, and exec messages as events (protocol/07 sections 2 and 3)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Any

import attrs

from .exec_messages import (
    ExecError,
    Exit,
    MalformedMessage,
    Started,
    integer_field,
    read_message,
    text_field,
)

MAX_EVENT_BYTES = 16 * 1024 * 1024


@attrs.frozen
class RawOutput:
    """A piece of output as the process wrote it.

    :ivar stream: ``stdout`` or ``stderr``.
    :ivar offset: of its first byte, in bytes of the raw stream.
    """

    stream: str
    data: bytes
    offset: int


@attrs.frozen
class StreamEnd:
    """A stream is complete.

    :ivar offset: how many bytes it had in all.
    """

    stream: str
    offset: int


@attrs.frozen
class AckRequired:
    """The server sends no more until the client resumes, which acknowledges these offsets."""

    stdout_offset: int
    stderr_offset: int


StreamMessage = Started | RawOutput | StreamEnd | AckRequired | Exit | ExecError


_DECODER = json.JSONDecoder()


class SseParser:
    """Bytes in, events out: pairs of an event's name and its data.

    Lines end with LF, CR LF or CR, and with nothing else. Events without a name are dropped, as
    are comments.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def between_events(self) -> bool:
        """Whether nothing of an event has come that is not complete."""
        return not (self._line or self._data or self._name or self._after_cr)

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The events that the next bytes complete.

        :raises MalformedMessage: an event exceeds `MAX_EVENT_BYTES`.
        """
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        # CR LF is one end of a line; the CR of a pair that was cut is the end already.
        *ended, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for line in ended:
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            if (event := self._take(line)) is not None:
                events.append(event)
        self._line += rest
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise MalformedMessage(f"an event exceeds {MAX_EVENT_BYTES} bytes")
        return events

    def finish(self) -> list[tuple[str, bytes]]:
        """The event that is complete but for the blank line, where the stream ended."""
        line, self._line = bytes(self._line), bytearray()
        self._take(line)
        event = self._take(b"")
        return [] if event is None else [event]

    def _take(self, line: bytes) -> tuple[str, bytes] | None:
        if line:
            self._take_field(line)
            return None
        name, data = self._name, b"\n".join(self._data)
        self._name, self._data, self._size = "", [], 0
        return (name, data) if name else None

    def _take_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")  # a comment has an empty name
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace")
        elif field == b"data":
            self._data.append(value)
            self._size += len(value)


def read_output(data: bytes, start: int = 0) -> tuple[list[RawOutput], int]:
    """Read output off the beginning of many events: `SseParser` and `decode_event` for most.

    It takes whole events that are spelled as servers spell output, one behind the other.

    :param start: where the first begins.
    :returns: the output, and where it ends.
    """
    output: list[RawOutput] = []
    while (match := _OUTPUT_HEAD.match(data, start)) is not None:
        begin = match.end()
        end = data.find(b'"', begin)
        if not data.startswith(_OUTPUT_TAIL, end):
            break
        try:
            raw = a2b_base64(data[begin:end], strict_mode=True)
        except binascii.Error:
            break  # it is for `decode_event` to say what is wrong with it
        output.append(RawOutput(match[1].decode(), raw, int(match[2])))
        start = end + len(_OUTPUT_TAIL)
    return output, start


_OUTPUT_HEAD = re.compile(
    rb"event: (stdout|stderr)\ndata: \{"
    rb'"offset": ?(0|[1-9][0-9]{0,17}), ?"data": ?"'
)
_OUTPUT_TAIL = b'"}\n\n'


def decode_event(name: str, data: bytes) -> StreamMessage | None:
    """Read an event; None for kinds this version does not know, and for data that is no JSON.

    :raises MalformedMessage: a field is missing or of the wrong type.
    """
    try:
        fields = _DECODER.decode(data.decode() or "{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    fields["type"] = name
    match name:
        case "stdout" | "stderr":
            return RawOutput(name, _bytes_field(fields), integer_field(fields, "offset"))
        case "stream_end":
            return StreamEnd(text_field(fields, "stream"), integer_field(fields, "offset"))
        case "ack_required":
            return AckRequired(
                integer_field(fields, "stdout_offset"), integer_field(fields, "stderr_offset")
            )
        case "exit":
            return Exit(integer_field({"exit_code": -1, **fields}, "exit_code"))
        case "started" | "error":
            message = read_message(fields)
            assert isinstance(message, (Started, ExecError))
            return message
        case _:
            return None


def encode_event(message: StreamMessage) -> bytes:
    """A message as an event; its JSON is ASCII, because clients break lines at other characters."""
    fields: dict[str, Any]
    match message:
        case RawOutput(name, data, offset):
            fields = {"offset": offset, "data": base64.b64encode(data).decode()}
        case StreamEnd(stream, offset):
            name, fields = "stream_end", {"stream": stream, "offset": offset}
        case AckRequired(stdout, stderr):
            name, fields = "ack_required", {"stdout_offset": stdout, "stderr_offset": stderr}
        case _:
            fields = message.to_json()
            name = fields.pop("type")
    return f"event: {name}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n".encode()


HEARTBEAT = b": still here\n\n"


def _bytes_field(fields: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(text_field(fields, "data"), validate=True)
    except binascii.Error as error:
        raise MalformedMessage(f"output is not base64: {error}") from None
