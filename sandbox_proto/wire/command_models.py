"""What commands leave: pieces of output, results, gaps (protocol/12 section 5)."""

from __future__ import annotations

import attrs


@attrs.frozen
class MissingOutput:
    """Bytes of output that were lost before they could be read.

    :ivar stream: ``stdout`` or ``stderr``.
    :ivar start: offset of the first lost byte.
    :ivar end: offset of the first byte after the gap.
    """

    stream: str
    start: int
    end: int


@attrs.define
class ExecutionResult:
    """What a finished command left behind.

    :ivar stdout: all of its standard output, as text.
    :ivar stderr: all of its standard error, as text.
    :ivar exit_code: 0 is success; 128 + n means ended by signal n.
    :ivar missing: the gaps in the output, in order; empty when it is complete.
    :ivar omitted: what came and was not kept, because of `max_output`.
    :ivar stdout_bytes: standard output as the process wrote it, where the transport has it
        (event streams); else None.
    :ivar stderr_bytes: the same of standard error.
    """

    stdout: str
    stderr: str
    exit_code: int
    missing: tuple[MissingOutput, ...] = ()
    omitted: tuple[MissingOutput, ...] = attrs.field(default=(), kw_only=True)
    stdout_bytes: bytes | None = attrs.field(default=None, kw_only=True, repr=False, eq=False)
    stderr_bytes: bytes | None = attrs.field(default=None, kw_only=True, repr=False, eq=False)

    @property
    def success(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def complete(self) -> bool:
        """Whether no byte of the output was lost."""
        return not self.missing


@attrs.frozen
class CommandOutcome:
    """What was known of a command when it, or our hold of it, failed.

    :ivar command_id: by which any client can attach to it, while the server keeps it.
    :ivar stdout: its standard output until then.
    :ivar stderr: its standard error until then.
    :ivar missing: the gaps in them.
    :ivar may_be_running: whether it may still be running on the server.
    """

    command_id: str
    stdout: str = attrs.field(repr=False)
    stderr: str = attrs.field(repr=False)
    missing: tuple[MissingOutput, ...]
    may_be_running: bool


@attrs.define
class OutputChunk:
    """A piece of a command's output.

    :ivar stream: ``stdout`` or ``stderr``.
    :ivar data: the text.
    :ivar offset: byte offset of its first byte in the stream.
    :ivar raw: the bytes that became the text, where the transport has them; else None.
    """

    stream: str
    data: str
    offset: int
    raw: bytes | None = attrs.field(default=None, kw_only=True, repr=False, eq=False)

    def as_bytes(self) -> bytes:
        """The bytes as the process wrote them, where the transport has them; else the text's."""
        return self.data.encode() if self.raw is None else self.raw
