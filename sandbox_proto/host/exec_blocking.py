"""The server's end of one blocking execution (protocol/08): a request in, its answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..wire.command_models import OutputChunk
from ..wire.exec_messages import ExecError, Exit
from ..wire.ids import Entropy, uuid7_hex
from .commands import Attachment, Command, CommandTable
from .exec_fields import read_blocking
from .messages import HostError, HostResponse

KEPT_BYTES = 16 * 1024 * 1024


@attrs.define
class _Collected:
    """The beginning of a stream.

    :ivar size: how many bytes the whole of it has.
    """

    pieces: list[str] = attrs.field(factory=list)
    kept: int = 0
    size: int = 0

    def add(self, text: str, limit: int) -> None:
        data = text.encode()
        if self.kept == self.size:  # behind a cut nothing is kept, however little it is
            head = data if self.kept + len(data) <= limit else data[: limit - self.kept]
            text = head.decode(errors="ignore")  # the cut may be inside a character
            self.pieces.append(text)
            self.kept += len(text.encode())
        self.size += len(data)


class BlockingExec:
    """One command that lives and dies with its request.

    Whoever asked may not ask again on his own: so no answer is one that clients repeat.

    :ivar to_spawn: the command the driver has to start, right after `start` set it.
    """

    def __init__(
        self, table: CommandTable, box_id: str, entropy: Entropy, *, kept: int = KEPT_BYTES
    ) -> None:
        """
        :param kept: how many bytes of each stream the answer holds at most.
        """
        self._table, self._box_id, self._entropy, self._limit = table, box_id, entropy, kept
        self._attachment: Attachment | None = None
        self._collected = {"stdout": _Collected(), "stderr": _Collected()}
        self._drained = False
        self.to_spawn: Command | None = None

    @property
    def command(self) -> Command | None:
        """The command that was asked for."""
        return None if self._attachment is None else self._attachment.command

    def start(self, fields: Mapping[str, Any], *, now: float, wall: float) -> None:
        """Start the command.

        :param fields: the body of the request.
        :param wall: wall-clock seconds, for the command's id.
        :raises HostError: the body is not what it should be.
        """
        fresh = uuid7_hex(unix_seconds=wall, entropy=self._entropy)
        message, argv = read_blocking(fields, fresh)
        self.to_spawn, _ = self._table.get_or_create(self._box_id, message, argv)
        self._attachment = self.to_spawn.attach({}, now=now)

    def response(self, *, now: float) -> HostResponse | None:
        """Collect what was written. Returns the answer when there is one."""
        assert self._attachment is not None
        if self._drained:
            text = "the host is shutting down, and the command ended with it"
            return HostError(500, "InternalError", text).response()
        while (message := self._attachment.next_message(now=now)) is not None:
            match message:
                case OutputChunk(stream, text):
                    self._collected[stream].add(text, self._limit)
                case Exit(exit_code):
                    return self._result(exit_code)
                case ExecError(text, error_type):
                    status = 408 if error_type == "CommandTimeout" else 400
                    return HostError(status, "CommandError", text).response()
        return None

    def _result(self, exit_code: int) -> HostResponse:
        texts = {name: "".join(each.pieces) for name, each in self._collected.items()}
        cuts = [
            f"[{name} was cut: the first {each.kept} of its {each.size} bytes are here]\n"
            for name, each in self._collected.items()
            if each.kept < each.size
        ]
        if cuts and texts["stderr"] and not texts["stderr"].endswith("\n"):
            texts["stderr"] += "\n"
        texts["stderr"] += "".join(cuts)
        return HostResponse(200, {**texts, "exit_code": exit_code})

    def drain(self) -> None:
        """The host is about to end."""
        self._drained = True

    def disconnected(self, *, now: float) -> None:
        """The request is over. If it was given up, so is the command."""
        if self._attachment is not None:
            self._attachment.command.detach(self._attachment, now=now)
