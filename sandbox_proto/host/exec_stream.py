"""The server's end of one exec event stream (protocol/07): a request in, events out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..wire.command_models import OutputChunk
from ..wire.exec_messages import ExecError, Exit, MalformedMessage
from ..wire.ids import Entropy, uuid7_hex
from ..wire.sse import (
    HEARTBEAT,
    AckRequired,
    RawOutput,
    StreamEnd,
    StreamMessage,
    encode_event,
)
from .commands import Attachment, Command, CommandTable
from .exec_fields import read_offsets, read_stream_start, refusal, typed_field
from .messages import HostError
from .output import CHUNK_BYTES

HEARTBEAT_SECONDS = 15.0
WINDOW_BYTES = 1024 * 1024
_LONGEST_CHARACTER = 4


class ExecStream:
    """One attachment from its request to the end of its response.

    It cannot be told on the way what arrived. So after every `window` bytes of output the
    response ends with a demand to come back, and what was not acknowledged by coming back
    is kept. A window must fit in a ring with room to spare.

    :ivar to_spawn: the command the driver has to start, right after `start` set it.
    :ivar finished: the response is complete.
    """

    def __init__(
        self,
        table: CommandTable,
        box_id: str,
        entropy: Entropy,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        window: int = WINDOW_BYTES,
    ) -> None:
        """
        :param heartbeat: seconds of silence after which a sign of life is due.
        :param window: how many bytes of output one response carries.
        """
        self._table, self._box_id, self._entropy = table, box_id, entropy
        self._heartbeat, self._window = heartbeat, window
        self._attachment: Attachment | None = None
        self._error: ExecError | None = None
        self._ending: Exit | ExecError | None = None
        self._ended_streams: set[str] = set()
        self._sent = 0
        self._paused = False
        self._silent_since = 0.0
        self._heartbeat_due = False
        self.to_spawn: Command | None = None
        self.finished = False

    @property
    def command(self) -> Command | None:
        """The command this stream is attached to."""
        return None if self._attachment is None else self._attachment.command

    # --- the request ------------------------------------------------------------------

    def start(self, fields: Mapping[str, Any], *, now: float, wall: float) -> None:
        """Start a command, or attach to the one of this id.

        :param fields: the body of the request.
        :param wall: wall-clock seconds, for the id of a command whose client chose none.
        :raises HostError: the body is not what it should be.
        """
        fresh = uuid7_hex(unix_seconds=wall, entropy=self._entropy)
        message = read_stream_start(fields, fresh)
        command, new = self._table.get_or_create(self._box_id, message)
        self.to_spawn = command if new else None
        self._attach(command, {}, now)

    def resume(self, fields: Mapping[str, Any], *, now: float) -> None:
        """Attach to a command from these offsets on, which acknowledges all before them.

        :param fields: the body of the request.
        :raises HostError: the body is not what it should be, or there is no such command.
        """
        try:
            command_id = typed_field(fields, "command_id", str, "")
            offsets = read_offsets(fields)
        except MalformedMessage as error:
            raise refusal(error) from None
        found = self._table.find(self._box_id, command_id)
        if isinstance(found, Command):
            self._attach(found, offsets, now)
        elif found.error_type == "CommandNotFound":
            raise HostError(404, found.error_type, found.error)
        else:
            self._error, self._silent_since = found, now

    def _attach(self, command: Command, offsets: Mapping[str, int], now: float) -> None:
        self._attachment = command.attach(offsets, now=now, acknowledging=True)
        self._silent_since = now

    # --- the response -----------------------------------------------------------------

    def next_event(self, *, now: float) -> bytes | None:
        """What is to be sent next, or None until something changes or the deadline comes."""
        if self.finished:
            return None
        message = self._next_message(now)
        if message is None and not self._heartbeat_due:
            return None
        self._heartbeat_due, self._silent_since = False, now
        if message is None:
            return HEARTBEAT
        self.finished = isinstance(message, (AckRequired, Exit, ExecError))
        return encode_event(message)

    def _next_message(self, now: float) -> StreamMessage | None:
        attachment = self._attachment
        if self._error is not None or attachment is None:
            return self._error
        if self._ending is None:
            if self._sent >= self._window and not self._is_complete(attachment):
                self._paused = True
                attachment.command.park(attachment, now=now)  # before its client can come back
                return AckRequired(attachment.offsets["stdout"], attachment.offsets["stderr"])
            room = min(max(self._window - self._sent, _LONGEST_CHARACTER), CHUNK_BYTES)
            message = attachment.next_message(now=now, limit=room)
            if isinstance(message, OutputChunk):
                data = message.data.encode()
                self._sent += len(data)
                return RawOutput(message.stream, data, message.offset)
            if not isinstance(message, (Exit, ExecError, type(None))):
                return message
            self._ending = message
        return self._next_stream_end(attachment) or self._ending

    def _is_complete(self, attachment: Attachment) -> bool:
        """Whether only the end is left to tell, for which no window is too full."""
        over = attachment.command.ending is not None
        return over and all(map(attachment.at_end, attachment.offsets))

    def _next_stream_end(self, attachment: Attachment) -> StreamEnd | None:
        if attachment.announced:
            for name, offset in attachment.offsets.items():
                if name not in self._ended_streams and attachment.at_end(name):
                    self._ended_streams.add(name)
                    return StreamEnd(name, offset)
        return None

    def drain(self) -> None:
        """The host is about to end; the client may try to resume."""
        self._error = ExecError("the host is shutting down", "ServerShuttingDown")

    def disconnected(self, *, now: float) -> None:
        """The response is over, for whatever reason."""
        self.finished = True
        if self._attachment is not None and not self._paused:
            self._attachment.command.detach(self._attachment, now=now)

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout`."""
        if self.finished or self._heartbeat_due:
            return None
        return self._silent_since + self._heartbeat

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        if (deadline := self.next_deadline()) is not None and now >= deadline:
            self._heartbeat_due = True
