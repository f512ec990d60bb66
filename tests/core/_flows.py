"""Flows as short stories: what is asked and answered, step by step, on a virtual clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, TypeVar

import attrs
import pytest

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows import registries, sandboxes, services, snapshots
from sandbox_proto.flows.effects import Flow, FlowContext
from sandbox_proto.flows.paging import list_page
from sandbox_proto.plans.retry import Repeatability
from sandbox_proto.wire.http import Request, Response

from ._helpers import BASE, Answer, Talk, body_json, fault, make_context

E = TypeVar("E", bound=SandboxClientError)
T = TypeVar("T")

SNAPSHOT_ID = "0b6f1f0e-3c1a-4a55-9d3b-1f1f2c3d4e5f"
PATH = "/api/v2/sandboxes"
START = 1000.0
Step = tuple[str, Answer] | tuple[str, Answer, float]

UNANSWERED = {
    **{
        f"cut when {phase.name}": fault(FaultKind.DISCONNECTED, phase)
        for phase in (Phase.PARTLY_SENT, Phase.SENT, Phase.RESPONSE_BEGUN)
    },
    **{str(status): Response(status, ()) for status in (502, 503, 504)},
}
"""Every way in which a request may have been carried out although nobody said so."""

each_unanswered = pytest.mark.parametrize("lost", UNANSWERED.values(), ids=UNANSWERED)
LOST = UNANSWERED["cut when SENT"]
REFUSED = fault(FaultKind.UNREACHABLE)


class Story:
    """A server that expects exactly these requests in this order, and is asked nothing else.

    A step is the request, as ``METHOD /path?query`` below the base URL; its answer, or the
    fault that came instead; and how many seconds that took, if any.

    :ivar context: of the flow that is told; it begins at `START`.
    """

    def __init__(self, *steps: Step, chance: float = 0.5, **settings: Any) -> None:
        self.context = make_context(now=START, chance=chance, **settings)
        self._steps = deque(steps)
        self._talk = Talk(self._answer, now=START)

    def _answer(self, request: Request) -> Answer:
        asked = f"{request.method} {str(request.url).removeprefix(BASE)}"
        assert self._steps, f"one request too many: {asked}"
        expected, answer, *took = self._steps.popleft()
        assert asked == expected
        self._talk.now += sum(took)
        return answer

    def run(self, flow: Callable[..., Flow[T]], *args: Any, **more: Any) -> T:
        """The result of ``flow(context, ...)``, which must have taken every step."""
        result = self._talk.run(flow(self.context, *args, **more))
        assert not self._steps, f"never asked for: {[step[0] for step in self._steps]}"
        return result

    def fail(self, error: type[E], flow: Callable[..., Flow[Any]], *args: Any, **more: Any) -> E:
        """The error of ``flow(context, ...)``, exactly of this class, after every step."""
        with pytest.raises(error) as caught:
            self._talk.run(flow(self.context, *args, **more))
        assert type(caught.value) is error
        assert not self._steps, f"never asked for: {[step[0] for step in self._steps]}"
        return caught.value

    @property
    def waits(self) -> list[int]:
        """How long was waited, each time, in milliseconds."""
        return [round(1000 * seconds) for seconds in self._talk.sleeps]

    @property
    def took(self) -> int:
        """How long the story took, in milliseconds."""
        return round(1000 * (self._talk.now - START))

    @property
    def sent(self) -> list[Request]:
        """The requests, in order."""
        return [each.request for each in self._talk.performed]

    @property
    def bodies(self) -> list[Any]:
        """Their JSON bodies; None where there was none."""
        return [body_json(request) if request.body else None for request in self.sent]

    @property
    def timeouts(self) -> list[Any]:
        """The patience with each of them."""
        return [each.timeouts for each in self._talk.performed]


# --- the server's clock ---------------------------------------------------------------

_MIDNIGHT = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def http_date(seconds: float) -> str:
    """A moment after midnight, as the ``Date`` header has it."""
    return formatdate(_MIDNIGHT + seconds, usegmt=True)


def timestamp(seconds: float) -> str:
    """A moment after midnight, as ``created_at`` has it."""
    return datetime.fromtimestamp(_MIDNIGHT + seconds, UTC).isoformat()


# --- every call of the control plane --------------------------------------------------


@attrs.frozen
class Call:
    """A flow with its arguments.

    :ivar asked: its first request, as a step of a `Story` has it.
    :ivar repeat: how that may be repeated.
    """

    asked: str
    repeat: Repeatability
    flow: Callable[..., Flow[Any]]
    args: tuple[Any, ...] = ("box",)
    more: dict[str, Any] = attrs.field(factory=dict)

    def __call__(self, context: FlowContext) -> Flow[Any]:
        return self.flow(context, *self.args, **self.more)


SAFE, KEYED, UNSAFE = Repeatability.SAFE, Repeatability.KEYED, Repeatability.UNSAFE
_PATIENCE = {"timeout": 9, "poll_interval": 1.0}
_LINK = {"expires_in_seconds": None, "content_type": None, "content_disposition": None}
_IMAGE = {"name": "img", "docker_image": "python:3.12", "fs_capacity_bytes": 10}
_GRANT = {"port": 80, "expires_in_seconds": 600}

CALLS = {
    "get": Call("GET /boxes/box", SAFE, sandboxes.get_sandbox),
    "status": Call("GET /boxes/box/status", SAFE, sandboxes.get_status),
    "delete": Call("DELETE /boxes/box", KEYED, sandboxes.delete_sandbox),
    "list": Call("GET /boxes", SAFE, sandboxes.list_sandboxes, ()),
    "update": Call("PATCH /boxes/box", KEYED, sandboxes.update_sandbox, ("box", {})),
    "start": Call("POST /boxes/box/start", KEYED, sandboxes.start_sandbox, more={"timeout": 9}),
    "stop": Call("POST /boxes/box/stop", KEYED, sandboxes.stop_sandbox),
    "wait": Call("GET /boxes/box/status", SAFE, sandboxes.wait_for_sandbox, more=_PATIENCE),
    "service": Call(
        "POST /boxes/box/service-url", SAFE, services.mint_service_url, ("box", _GRANT)
    ),
    "login": Call(
        "POST /boxes/box/service-url",
        SAFE,
        services.mint_service_url,
        ("box", {"port": 80, "access": "workspace"}),
    ),
    "link": Call(
        "POST /boxes/box/download-url", SAFE, services.mint_download_url, ("box", "/f"), _LINK
    ),
    "service URLs": Call("GET /boxes/box/service-urls", SAFE, services.list_service_urls),
    "take back": Call(
        "DELETE /boxes/box/service-urls?port=80", SAFE, services.delete_service_urls, ("box", 80)
    ),
    "build": Call("POST /snapshots", UNSAFE, snapshots.create_snapshot, (_IMAGE,), {"timeout": 9}),
    "capture": Call(
        "POST /boxes/box/snapshot",
        UNSAFE,
        snapshots.capture_snapshot,
        ("box", {"name": "img"}),
        {"timeout": 9},
    ),
    "snapshot": Call("GET /snapshots/img:v1", SAFE, snapshots.get_snapshot, ("img:v1",)),
    "snapshots": Call(
        "GET /snapshots?name_contains=x",
        SAFE,
        list_page,
        (snapshots.SNAPSHOTS, {"name_contains": "x"}),
    ),
    "wait for snapshot": Call(
        "GET /snapshots/s1", SAFE, snapshots.wait_for_snapshot, ("s1",), _PATIENCE
    ),
    "delete snapshot": Call(
        f"DELETE /snapshots/{SNAPSHOT_ID}", KEYED, snapshots.delete_snapshot, (SNAPSHOT_ID,)
    ),
    "tags": Call("GET /snapshots-by-name/img", SAFE, snapshots.list_tags, ("img",)),
    "add registry": Call(
        "POST /registries", UNSAFE, registries.call_registries, ("POST",), {"body": {"name": "r"}}
    ),
    "registries": Call(
        "GET /registries?limit=1",
        SAFE,
        registries.call_registries,
        ("GET",),
        {"query": {"limit": "1"}},
    ),
    "registry": Call("GET /registries/r", SAFE, registries.call_registries, ("GET", "r")),
    "change registry": Call(
        "PATCH /registries/r", KEYED, registries.call_registries, ("PATCH", "r"), {"body": {}}
    ),
    "remove registry": Call(
        "DELETE /registries/r", KEYED, registries.call_registries, ("DELETE", "r")
    ),
}
