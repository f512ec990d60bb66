"""What a command's session tells the application, and the accounts of its output."""

from __future__ import annotations

import attrs

from ..errors import SandboxClientError
from ..wire.exec_messages import NO_OFFSET
from ..wire.models import ExecutionResult, MissingOutput, OutputChunk


@attrs.frozen
class CommandStarted:
    """The command runs (or ran: it may be a replay)."""

    command_id: str
    pid: int | None


@attrs.frozen
class OutputLost:
    """Bytes of output are gone for good."""

    missing: MissingOutput


@attrs.frozen
class Reattaching:
    """The attachment was lost; another is made after `delay` seconds."""

    reason: str
    delay: float


@attrs.frozen
class CommandExited:
    """The command ended. Nothing follows."""

    exit_code: int


@attrs.frozen
class CommandFailed:
    """The command or our hold of it failed. Nothing follows.

    :ivar may_be_running: whether the command may still be running on the server.
    """

    error: SandboxClientError
    may_be_running: bool


SessionEvent = (
    CommandStarted | OutputChunk | OutputLost | Reattaching | CommandExited | CommandFailed
)


class OutputLedger:
    """Counts the bytes of both streams, so that each is delivered once or told missing.

    Offsets count bytes of the UTF-8 encoding of the text (protocol/06 section 5).
    """

    def __init__(self, stdout: int = 0, stderr: int = 0) -> None:
        """
        :param stdout: offset of the first byte of standard output wanted.
        :param stderr: offset of the first byte of standard error wanted.
        """
        self.offsets = {"stdout": stdout, "stderr": stderr}

    def take(self, chunk: OutputChunk) -> tuple[OutputLost | None, OutputChunk | None]:
        """Enter a chunk. Returns the gap before it, if any, and what of it is new, if anything."""
        data = chunk.data
        size = len(data) if data.isascii() else len(data.encode())
        expected = self.offsets[chunk.stream]
        if chunk.offset in (expected, NO_OFFSET):  # nearly always
            self.offsets[chunk.stream] = expected + size
            if chunk.offset == NO_OFFSET:
                chunk = OutputChunk(chunk.stream, data, expected)
            return None, chunk
        if chunk.offset > expected:
            self.offsets[chunk.stream] = chunk.offset + size
            return OutputLost(MissingOutput(chunk.stream, expected, chunk.offset)), chunk
        return None, self._new_part(chunk, expected)

    def _new_part(self, chunk: OutputChunk, expected: int) -> OutputChunk | None:
        """What of a replayed chunk was not delivered before."""
        fresh = chunk.data.encode()[expected - chunk.offset :]
        if not fresh:
            return None
        self.offsets[chunk.stream] = expected + len(fresh)
        # The cut can fall into a character only if the server miscounts; lose no more than that.
        return OutputChunk(chunk.stream, fresh.decode(errors="ignore"), expected)


class OutputCollector:
    """Keeps a command's output for its result."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.missing: list[MissingOutput] = []

    def add(self, event: OutputChunk | OutputLost) -> None:
        """Keep a chunk, or remember a gap."""
        if isinstance(event, OutputChunk):
            self._parts[event.stream].append(event.data)
        else:
            self.missing.append(event.missing)

    def result(self, exit_code: int) -> ExecutionResult:
        """The result of the finished command."""
        return ExecutionResult(
            "".join(self._parts["stdout"]),
            "".join(self._parts["stderr"]),
            exit_code,
            tuple(self.missing),
        )
