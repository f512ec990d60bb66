"""What a flow asks of its driver, and what the driver answers.

A flow is a generator: it yields an *effect*, is sent the matching *outcome*, and
returns its result. The driver only ever sends; trouble is an outcome (`Broke`),
not an exception. Flows do not yield effects by hand but use the helpers below,
which turn outcomes into values or raise inside the flow:

    response = yield from perform(context, request)

A flow never yields while it is being closed, so closing one is always safe.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

import attrs

from ..config import ClientConfig
from ..errors import (
    ErrorContext,
    LocalProtocolError,
    SandboxClientError,
    SandboxProtocolError,
)
from ..faults import Fault
from ..plans.retry import Random, Repeatability, outcome_is_unknown, retry_delay
from ..plans.timeouts import Timeouts
from ..wire.error_bodies import context_of
from ..wire.http import Request, Response
from ..wire.ids import Entropy

# A control-plane answer larger than this is not an answer but an attack or a mistake.
MAX_JSON_BYTES = 64 * 1024 * 1024


@attrs.frozen
class Perform:
    """Make one HTTP request.

    :ivar stream: hand a successful response over with its body unread (`Response.stream`).
    :ivar max_body_bytes: the largest body to gather, or None.
    :ivar stream_errors: with `stream`: any other response, too.
    """

    request: Request
    timeouts: Timeouts
    stream: bool = False
    max_body_bytes: int | None = MAX_JSON_BYTES
    stream_errors: bool = False


@attrs.frozen
class WaitUntil:
    """Sleep until this moment of the driver's clock; a moment in the past is now."""

    when: float


Effect = Perform | WaitUntil


@attrs.frozen
class Answered:
    """A response arrived, whatever its status.

    :ivar began: the driver's clock when the request was begun.
    """

    response: Response
    now: float
    began: float

    @property
    def result(self) -> Response:
        """The same by a name that both outcomes of a request have."""
        return self.response


@attrs.frozen
class Broke:
    """No response arrived.

    :ivar began: the driver's clock when the request was begun.
    """

    fault: Fault
    now: float
    began: float

    @property
    def result(self) -> Fault:
        """The same by a name that both outcomes of a request have."""
        return self.fault


@attrs.frozen
class Woke:
    """The wait is over."""

    now: float


Outcome = Answered | Broke | Woke

T = TypeVar("T")
Flow = Generator[Effect, Outcome | None, T]


@attrs.frozen(kw_only=True)
class FlowContext:
    """What a flow is given instead of a clock, chance and an environment.

    :ivar now: the driver's monotonic clock when the flow began.
    :ivar random: for jitter.
    :ivar entropy: for keys and ids.
    """

    config: ClientConfig
    random: Random
    entropy: Entropy
    now: float


def exchange(effect: Perform) -> Flow[Answered | Broke]:
    """One request, one outcome, no repetition."""
    outcome = yield effect
    if isinstance(outcome, (Answered, Broke)):
        return outcome
    raise LocalProtocolError(f"a flow that asked for a request was sent {outcome!r}")


def wait_until(when: float) -> Flow[float]:
    """Sleep. Returns the driver's clock afterwards."""
    outcome = yield WaitUntil(when)
    if isinstance(outcome, Woke):
        return outcome.now
    raise LocalProtocolError(f"a flow that asked to wait was sent {outcome!r}")


@attrs.frozen
class Performed:
    """A response with what led to it.

    :ivar now: the driver's clock when it arrived.
    :ivar attempts: how many requests were made.
    :ivar may_have_run: an earlier attempt, whose answer was lost, may have been carried out.
    """

    request: Request
    response: Response
    now: float
    attempts: int
    may_have_run: bool = False

    def read(self, parse: Callable[[Any], T]) -> T:
        """Make something of the response's JSON.

        :raises SandboxProtocolError: it is not JSON, or not what `parse` takes.
        """
        try:
            return parse(self.response.json())
        except SandboxProtocolError as error:
            raise self.blame(error) from None

    def blame(self, error: SandboxClientError) -> SandboxClientError:
        """Attach where it came from to an error made from this response."""
        return error.in_context(context_of(self.request, self.response, attempts=self.attempts))


class Attempts:
    """The attempts at one request, as the retry policy has them.

    :ivar made: how many there were.
    :ivar may_have_run: one before the last, whose answer was lost, may have been carried out.
    """

    def __init__(self, context: FlowContext) -> None:
        self.made = 0
        self.may_have_run = False
        self._context = context
        self._repeats = 0
        self._began: float | None = None

    def next_after(self, outcome: Answered | Broke, repeat: Repeatability) -> float | None:
        """When to make the next one, on the driver's clock; None: this outcome stands."""
        self.made += 1
        if self._began is None:
            self._began = outcome.began
        delay = retry_delay(
            outcome.result,
            repeat,
            attempt=self._repeats,
            policy=self._context.config.retry,
            random=self._context.random,
            elapsed=outcome.now - self._began,
        )
        if delay is None:
            return None
        self.may_have_run = self.may_have_run or outcome_is_unknown(outcome.result)
        if not (isinstance(outcome, Broke) and outcome.fault.stale):
            self._repeats += 1  # a stale connection is nobody's failure
        return outcome.now + delay

    def performed(self, request: Request, outcome: Answered | Broke) -> Performed:
        """The outcome that stands.

        :raises SandboxConnectionError: no response could be had (or a subclass that says why).
        """
        if isinstance(outcome, Broke):
            raise connection_error(request, outcome.fault, attempts=self.made)
        return Performed(request, outcome.response, outcome.now, self.made, self.may_have_run)


def perform(context: FlowContext, effect: Perform, repeat: Repeatability) -> Flow[Performed]:
    """Make a request, repeating it as the retry policy and `repeat` allow.

    :raises SandboxConnectionError: no response could be had (or a subclass that says why).
    """
    attempts = Attempts(context)
    while True:
        outcome = yield from exchange(effect)
        when = attempts.next_after(outcome, repeat)
        if when is None:
            return attempts.performed(effect.request, outcome)
        yield from wait_until(when)


def connection_error(request: Request, fault: Fault, *, attempts: int) -> SandboxClientError:
    """The error for a request that got no response."""
    target = f"{request.method} {request.url.without_query()}"
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    error = attrs.evolve(fault, message=f"{target}: {fault.message}{tried}").to_error()
    return error.in_context(
        ErrorContext(request.method, request.url.without_query(), attempts=attempts)
    )
