"""Transport trouble as data.

Drivers and machines never hand exceptions across the boundary. They say what
went wrong (`FaultKind`), how far the request had got (`Phase`) and one sentence
for people. What to do about it is decided by flows and plans.
"""

from __future__ import annotations

import enum

import attrs

from . import errors


class Phase(enum.IntEnum):
    """How far a request had got when something happened. Ordered: later is larger."""

    NOTHING_SENT = 0
    PARTLY_SENT = 1
    SENT = 2
    RESPONSE_BEGUN = 3


class FaultKind(enum.Enum):
    """What went wrong with a connection or exchange."""

    UNREACHABLE = "unreachable"
    """No connection could be made: refused, no route, no such host, proxy refused."""
    TLS = "tls"
    """The TLS handshake failed, for instance because of the certificate."""
    CONNECT_TIMEOUT = "connect timeout"
    POOL_TIMEOUT = "pool timeout"
    READ_TIMEOUT = "read timeout"
    WRITE_TIMEOUT = "write timeout"
    DEADLINE = "deadline"
    """The time limit of the whole operation passed."""
    LIVENESS = "liveness"
    """The peer stopped answering pings, or fell silent on a stream with heartbeats."""
    DISCONNECTED = "disconnected"
    """The peer closed or reset the connection too early."""
    PROTOCOL = "protocol"
    """The peer broke the protocol."""
    TOO_LARGE = "too large"
    """The peer sent more than the configured bound (headers, body or message)."""
    ABANDONED = "abandoned"
    """Our side gave up: cancelled, or closed."""


_TIMEOUTS = {
    FaultKind.CONNECT_TIMEOUT: "connect",
    FaultKind.POOL_TIMEOUT: "pool",
    FaultKind.READ_TIMEOUT: "read",
    FaultKind.WRITE_TIMEOUT: "write",
    FaultKind.DEADLINE: "operation",
    FaultKind.LIVENESS: "liveness",
}

_CONNECT_FAILURES = frozenset(
    {FaultKind.UNREACHABLE, FaultKind.TLS, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_TIMEOUT}
)


@attrs.frozen
class Fault:
    """One transport failure.

    :ivar kind: what went wrong.
    :ivar message: a sentence for people.
    :ivar phase: how far the request had got.
    :ivar seconds: the value of the limit, for timeouts.
    :ivar stale: a kept connection turned out to be closed before any answer came on it.
    """

    kind: FaultKind
    message: str
    phase: Phase = Phase.NOTHING_SENT
    seconds: float | None = None
    stale: bool = False

    @property
    def while_connecting(self) -> bool:
        """Whether no connection was ever had, so that nothing can have been sent."""
        return self.kind in _CONNECT_FAILURES

    def judged_stale(self) -> Fault:
        """The same on a kept connection: one that ends without any answer was dead already."""
        silent = self.kind is FaultKind.DISCONNECTED and self.phase < Phase.RESPONSE_BEGUN
        return attrs.evolve(self, stale=True) if silent else self

    def to_error(self) -> errors.SandboxConnectionError:
        """The exception a user gets when this fault is final."""
        if (limit := _TIMEOUTS.get(self.kind)) is not None:
            return errors.SandboxTimeoutError(self.message, limit=limit, seconds=self.seconds)
        if self.kind in (FaultKind.PROTOCOL, FaultKind.TOO_LARGE):
            return errors.SandboxProtocolError(self.message)
        return errors.SandboxConnectionError(self.message)
