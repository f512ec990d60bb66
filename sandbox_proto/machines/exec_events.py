"""What a command's session tells the application."""

from __future__ import annotations

import attrs

from ..errors import SandboxClientError
from ..wire.command_models import MissingOutput, OutputChunk


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


@attrs.frozen
class InputInDoubt:
    """The connection was lost while input was on its way: nobody knows what of it arrived."""


SessionEvent = (
    CommandStarted
    | OutputChunk
    | OutputLost
    | InputInDoubt
    | Reattaching
    | CommandExited
    | CommandFailed
)
