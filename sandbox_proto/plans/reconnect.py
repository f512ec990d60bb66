"""Whether and when to connect a tunnel's session again (protocol/09 section 5)."""

from __future__ import annotations

from .retry import Random

_FIRST_BACKOFF = 0.5
_MAX_BACKOFF = 8.0
_MAX_RETRY_AFTER = 120.0


class ReconnectPlan:
    """The attempts after a session ended or could not be had, until one succeeds.

    :ivar failures: how many there were in a row.
    """

    def __init__(self, most: int, random: Random) -> None:
        """
        :param most: how many attempts follow a failure; 0 is none.
        """
        self._most, self._random = most, random
        self.failures = 0

    def succeeded(self) -> None:
        """A session is open: what comes next is a new story."""
        self.failures = 0

    def next_delay(self, *, final: bool, retry_after: float | None) -> float | None:
        """Seconds until the next attempt, or None to give up.

        :param final: another attempt would end the same way.
        :param retry_after: what the server asked us to wait, in seconds.
        """
        self.failures += 1
        if final or self.failures > self._most:
            return None
        if retry_after is not None:
            return min(retry_after, _MAX_RETRY_AFTER)
        backoff = min(_FIRST_BACKOFF * 2.0 ** (self.failures - 1), _MAX_BACKOFF)
        return backoff * (0.8 + 0.2 * self._random.random())
