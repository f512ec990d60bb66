"""The server's end of one exec WebSocket (protocol/06): text in, messages out."""

from __future__ import annotations

from typing import Any

from ..wire.command_models import OutputChunk
from ..wire.exec_messages import ExecError, Exit, MalformedMessage, Started, decode_object
from ..wire.ids import Entropy, uuid7_hex
from .commands import Attachment, Command, CommandTable
from .exec_fields import check_text, read_execute, read_offsets, typed_field

CLOSED, GOING_AWAY = 1000, 1001


class ExecSocket:
    """One attachment from its first message to its last.

    :ivar to_spawn: the command the driver has to start, right after `receive` set it.
    :ivar finished: nothing more is to be said; close with `close_code`.
    """

    def __init__(self, table: CommandTable, box_id: str, entropy: Entropy) -> None:
        self._table, self._box_id, self._entropy = table, box_id, entropy
        self._attachment: Attachment | None = None
        self._error: ExecError | None = None
        self._close_stdin_first = False
        self.to_spawn: Command | None = None
        self.finished = False
        self.close_code = CLOSED

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
            fields = decode_object(text)
            check_text(fields)
            self._receive(fields, now, wall)
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
                command.write_input(typed_field(fields, "data", str, ""))
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
                found = self._table.find(self._box_id, typed_field(fields, "command_id", str, ""))
                if isinstance(found, ExecError):
                    self._error = found
                    return
                self._attachment = found.attach(read_offsets(fields), now=now)
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

    def drain(self) -> None:
        """The host is about to end: so does this attachment, and its client may try again."""
        if not self.finished:
            self.finished = True
            # One client takes 1001 before `started` for the last word (protocol/06 section 8).
            if self._attachment is not None and self._attachment.announced:
                self.close_code = GOING_AWAY

    def disconnected(self, *, now: float) -> None:
        """The client is gone."""
        if self._attachment is not None:
            self._attachment.command.detach(self._attachment, now=now)
