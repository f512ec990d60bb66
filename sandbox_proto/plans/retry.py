"""When to make a request again, and after how long (protocol/04 section 1).

The schedule is the vendor's. What may be repeated is not: the vendor repeats every
request after 502, 503 and 504, which can run an operation twice. Here every request
carries how repeatable it is, and trouble carries how far the request had got.
"""

from __future__ import annotations

import enum
from math import isfinite
from typing import Protocol

import attrs

from ..faults import Fault, FaultKind, Phase
from ..wire.http import Response
from ..wire.times import parse_http_date


class Random(Protocol):
    """The only thing asked of a `random.Random`."""

    def random(self) -> float:
        """A number in [0, 1)."""


class Repeatability(enum.Enum):
    """How a request may be repeated."""

    SAFE = "safe"
    """It changes nothing: repeat freely."""
    KEYED = "keyed"
    """Repeating has no further effect, because an id or a client-chosen name says so."""
    UNSAFE = "unsafe"
    """Repeat only when it provably was not carried out."""


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently requests are repeated.

    :ivar max_retries: repetitions after the first attempt; 0 disables them.
    :ivar initial: first backoff in seconds; it doubles with each attempt.
    :ivar jitter: up to this many seconds are added at random.
    :ivar max_backoff: cap of the backoff after 502, 503, 504 and connection failures, seconds.
    :ivar max_retry_after: cap of a wait that the server asked for, seconds. (Ours: the vendor
        waits as long as it is told, times two to the power of the attempt.)
    :ivar total: no attempt begins later than this after the first, in seconds; None is no limit.
    """

    max_retries: int = attrs.field(default=3, validator=attrs.validators.ge(0))
    initial: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    jitter: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    max_backoff: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    max_retry_after: float = attrs.field(default=120.0, validator=attrs.validators.ge(0))
    total: float | None = None


_GATEWAY_TROUBLE = (502, 503, 504)


def outcome_is_unknown(outcome: Response | Fault) -> bool:
    """Whether the server may have carried out a request although it did not say so."""
    if isinstance(outcome, Fault):
        return outcome.phase > Phase.NOTHING_SENT
    return outcome.status in _GATEWAY_TROUBLE


def retry_delay(
    outcome: Response | Fault,
    repeat: Repeatability,
    *,
    attempt: int,
    policy: RetryPolicy,
    random: Random,
    elapsed: float = 0.0,
) -> float | None:
    """Seconds to wait before the next attempt, or None to accept the outcome.

    :param attempt: 0 for the first attempt.
    :param elapsed: seconds since the first attempt began.
    """
    delay = _delay(outcome, repeat, attempt, policy, random)
    if delay is not None and policy.total is not None and elapsed + delay > policy.total:
        return None
    return delay


def _delay(
    outcome: Response | Fault,
    repeat: Repeatability,
    attempt: int,
    policy: RetryPolicy,
    random: Random,
) -> float | None:
    if isinstance(outcome, Fault) and outcome.stale and _may_repeat_after(outcome, repeat):
        # The server closed a kept connection just as we used it: nobody's failure, and the
        # next attempt gets a fresh one.
        return 0.0
    if attempt >= policy.max_retries:
        return None
    jitter = policy.jitter * random.random()
    factor = 2.0**attempt
    backoff = min(policy.initial * factor + jitter, policy.max_backoff)
    if isinstance(outcome, Fault):
        return backoff if _may_repeat_after(outcome, repeat) else None
    if outcome.status == 429:
        # Refused before it was carried out, hence repeatable whatever it was.
        asked = _asked_wait(outcome)
        return min((1.0 if asked is None else asked) * factor + jitter, policy.max_retry_after)
    if outcome.status in _GATEWAY_TROUBLE and repeat is not Repeatability.UNSAFE:
        asked = _asked_wait(outcome) or 0.0
        return max(backoff, min(asked, policy.max_retry_after))
    return None


def _may_repeat_after(fault: Fault, repeat: Repeatability) -> bool:
    if fault.kind is FaultKind.TLS:
        return False  # the certificate will not become better
    if fault.while_connecting:
        return True
    if fault.kind is not FaultKind.DISCONNECTED:
        return False
    return fault.phase is Phase.NOTHING_SENT or repeat is not Repeatability.UNSAFE


def _asked_wait(response: Response) -> float | None:
    """What ``Retry-After`` asks for, in seconds: a number, or a date beside the ``Date`` header."""
    value = response.header("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value, response.header("date"))
    return max(seconds, 0.0) if isfinite(seconds) else None


def _seconds_until(date: str, answered_at: str | None) -> float | None:
    # Both dates are the server's, so no clock of ours is needed and none can disagree.
    then, answered = parse_http_date(date), parse_http_date(answered_at)
    return None if then is None or answered is None else max(then - answered, 0.0)
