"""What the tests of the core share: builders, fake chance, and a driver for flows."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import attrs
from hypothesis import strategies as st

from sandbox_proto.config import ClientConfig
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.flows.effects import (
    Answered,
    Broke,
    Flow,
    FlowContext,
    Outcome,
    Perform,
    WaitUntil,
    Woke,
)
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.wire.http import Request, Response, StreamedBody
from sandbox_proto.wire.urls import Url

T = TypeVar("T")

BASE = "https://api.test/api/v2/sandboxes"
KEY = "the-secret-key"
NO_RETRIES = RetryPolicy(max_retries=0)


class FixedRandom:
    """Chance that always says the same (or goes round in a list)."""

    def __init__(self, *values: float) -> None:
        self._values = itertools.cycle(values or (0.5,))

    def random(self) -> float:
        return next(self._values)


def make_config(**settings: Any) -> ClientConfig:
    return ClientConfig(**{"api_endpoint": BASE, "api_key": KEY, **settings})


def make_context(*, now: float = 0.0, chance: float = 0.5, **settings: Any) -> FlowContext:
    return FlowContext(
        config=make_config(**settings),
        random=FixedRandom(chance),
        entropy=random.Random(7).randbytes,
        now=now,
    )


def make_request(
    method: str = "GET",
    url: str = "http://host.test/path",
    *,
    headers: dict[str, str] | None = None,
    body: tuple[bytes, ...] | StreamedBody = (),
) -> Request:
    return Request(method, Url.parse(url), headers or {}, body)


def reply(
    status: int,
    payload: object = None,
    *,
    body: bytes | None = None,
    reason: str = "",
    **headers: str,
) -> Response:
    """A response; header names are written with underscores."""
    if body is None:
        body = b"" if payload is None else json.dumps(payload).encode()
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(status, fields, body, reason)


def refusal(status: int, error: str | None = None, message: str = "no", **headers: str) -> Response:
    """An error response with the canonical body of protocol/03 section 2.1."""
    detail = {"message": message} if error is None else {"error": error, "message": message}
    return reply(status, {"detail": detail}, **headers)


def fault(kind: FaultKind, phase: Phase = Phase.NOTHING_SENT, **more: Any) -> Fault:
    return Fault(kind, kind.value, phase, **more)


Answer = Response | Fault


@attrs.define
class Talk:
    """Runs flows on a virtual clock; the server is a list of answers, or a function.

    :ivar latency: seconds that every request takes.
    :ivar sleeps: how long the flows slept, each time.
    """

    answers: Iterable[Answer] | Callable[[Request], Answer]
    now: float = 0.0
    latency: float = 0.0
    performed: list[Perform] = attrs.field(factory=list)
    sleeps: list[float] = attrs.field(factory=list)
    _left: Iterator[Answer] | None = None

    def _answer(self, request: Request) -> Answer:
        if callable(self.answers):
            return self.answers(request)
        if self._left is None:
            self._left = iter(self.answers)
        return next(self._left)

    @property
    def requests(self) -> list[str]:
        """What was asked, as ``METHOD /target``."""
        return [f"{each.request.method} {each.request.url.target}" for each in self.performed]

    def step(self, effect: Perform | WaitUntil) -> Outcome:
        if isinstance(effect, WaitUntil):
            self.sleeps.append(effect.when - self.now)
            self.now = max(self.now, effect.when)
            return Woke(self.now)
        self.performed.append(effect)
        began = self.now
        self.now += self.latency
        result = self._answer(effect.request)
        if isinstance(result, Fault):
            return Broke(result, self.now, began)
        return Answered(result, self.now, began)

    def run(self, flow: Flow[T]) -> T:
        outcome: Outcome | None = None
        try:
            while True:
                outcome = self.step(flow.send(outcome))
        except StopIteration as stop:
            result: T = stop.value
            return result


def body_json(request: Request) -> Any:
    assert isinstance(request.body, tuple)
    return json.loads(b"".join(bytes(piece) for piece in request.body))


# --- splitting byte streams -----------------------------------------------------------


def cut(data: bytes, points: Sequence[int]) -> list[bytes]:
    """`data` cut at these points, without empty pieces."""
    borders = [0, *sorted({point for point in points if 0 < point < len(data)}), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(borders) if start < stop]


def bytewise(data: bytes) -> list[bytes]:
    return cut(data, range(len(data)))


def cut_points(length: int, *, most: int = 12) -> st.SearchStrategy[list[int]]:
    """Where to cut a stream of this length."""
    return st.lists(st.integers(1, max(length - 1, 1)), max_size=most)
