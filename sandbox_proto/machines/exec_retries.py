"""When to attach again, and after how long (protocol/06 sections 8 and 10, 07 section 5).

And what the user is told when it comes to an end.
"""

from __future__ import annotations

from ..errors import (
    CommandTimeoutError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxConnectTimeoutError,
    SandboxOperationError,
    SandboxRetryableConnectionError,
    SandboxServerReloadError,
)
from ..plans.retry import Random
from ..wire.exec_messages import ExecError, Execute, Reconnect
from .exec_link import LinkEnded, LinkEnding
from .exec_transports import Transport

MAX_ATTEMPTS = 5
_FIRST_BACKOFF = 0.5
_MAX_BACKOFF = 8.0
_FINAL = frozenset({LinkEnding.REFUSED, LinkEnding.LOST})


class AttachRetries:
    """The budget of attachments to one command.

    :ivar attempts: how many failed in a row.
    :ivar budget_end: when the phase before the command's start is over; None: never.
    """

    def __init__(self, random: Random, budget_end: float | None) -> None:
        self.attempts = 0
        self.budget_end = budget_end
        self._random = random

    def refill(self) -> None:
        """An attachment proved worth something."""
        self.attempts = 0

    def next_delay(
        self, ended: LinkEnded, transport: Transport, started: bool, now: float
    ) -> float | None:
        """An attachment failed: seconds to wait before the next one, or None to give up.

        :param started: the command has been seen running.
        """
        self.attempts += 1
        if self.attempts > MAX_ATTEMPTS or (
            ended.ending in _FINAL and not (started and transport is Transport.WEBSOCKET)
        ):
            return None
        delay = self._delay(ended, transport, started)
        if started or self.budget_end is None:
            return delay
        left = self.budget_end - now
        return min(delay, left) if left > 0 else None

    def _delay(self, ended: LinkEnded, transport: Transport, started: bool) -> float:
        backoff = min(_FIRST_BACKOFF * 2.0 ** (self.attempts - 1), _MAX_BACKOFF)
        jittered = backoff * (0.8 + 0.2 * self._random.random())
        if transport is not Transport.WEBSOCKET:
            return jittered if ended.retry_after is None else ended.retry_after
        if started:
            return 0.0 if ended.ending is LinkEnding.GOING_AWAY else backoff
        if ended.ending in (LinkEnding.CLEAN, LinkEnding.GOING_AWAY):
            return backoff
        return jittered if ended.retry_after is None else ended.retry_after


def final_error(ended: LinkEnded, attempts: int, started: bool) -> SandboxClientError:
    """What the user is told when an attachment failed for the last time."""
    if ended.error is not None:
        return ended.error
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    what = "lost the command's output" if started else "could not start the command"
    message = f"{what}: {ended.message}{tried}"
    if started or ended.ending is LinkEnding.REFUSED:
        return SandboxConnectionError(message)
    match ended.ending:
        case LinkEnding.UNREACHABLE:
            return SandboxConnectTimeoutError(message)
        case LinkEnding.GOING_AWAY:
            return SandboxServerReloadError(message)
        case LinkEnding.CLEAN:
            return SandboxOperationError(message, "command")
        case _:
            return SandboxRetryableConnectionError(message, retry_after=ended.retry_after)


def exec_error(event: ExecError, opening: Execute | Reconnect) -> SandboxClientError:
    """What the server's last word means (protocol/03 section 3.7)."""
    if event.error_type == "CommandTimeout":
        limit = opening.timeout_seconds if isinstance(opening, Execute) else None
        return CommandTimeoutError(event.error, limit)
    attaching = isinstance(opening, Reconnect)
    message = event.error
    if attaching and event.error_type in ("CommandNotFound", "SessionExpired"):
        message = f"command {opening.command_id}: {event.error}"
    operation = "reconnect" if attaching else "command"
    return SandboxOperationError(message, operation, event.error_type)


def overdue_error(opening: Execute, grace: float | None, also: str) -> CommandTimeoutError:
    """The command's limit and the grace are over, and the server has not told its end."""
    limit = opening.timeout_seconds
    return CommandTimeoutError(
        f"the command has a limit of {limit} s; {grace:g} s later the server had not reported "
        f"its end {also}",
        limit,
    )
