"""The control plane of a host: every decision, no deed.

`Host.respond` gives a flow (as the client's flows are): it yields what is to be done,
is told that it is done, and returns the answer. Records live here in memory; what must
outlive the process is handed to the driver (`Save`) before it is acknowledged.
"""

from __future__ import annotations

import hmac
from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs

import attrs

from ..errors import LocalProtocolError
from ..wire.ids import Entropy, sandbox_name, uuid4_text
from .boxes import Box, check_name, new_box, timestamp
from .messages import HostError, HostRequest, HostResponse
from .routing import DATA_PLANE, Match, find_route

DEFAULT_CREATE_TIMEOUT = 30.0
# A sandbox that is neither ready nor failed after this long never will be (protocol/02 §1.5).
WAKE_PATIENCE = 10.0

# --- what the driver is asked to do ---------------------------------------------------


@attrs.frozen
class Save:
    """Store the record durably (None: forget it) before anything else is answered."""

    box_id: str
    document: Mapping[str, Any] | None


@attrs.frozen
class Boot:
    """Begin to build the sandbox; report the outcome by `Host.booted` or `Host.boot_failed`."""

    box_id: str


@attrs.frozen
class Demolish:
    """End every process of the sandbox and delete its files."""

    box_id: str


@attrs.frozen
class AwaitChange:
    """Wait until `Host.changed` names this box, or until `deadline`."""

    box_id: str
    deadline: float


HostEffect = Save | Boot | Demolish | AwaitChange


@attrs.frozen
class HostDone:
    """The effect was carried out; `now` is the driver's monotonic clock."""

    now: float


T = TypeVar("T")
HostFlow = Generator[HostEffect, HostDone, T]


@attrs.frozen(kw_only=True)
class HostSettings:
    """What is decided once per host.

    :ivar api_keys: the keys that are accepted; empty: everybody is.
    :ivar wall_offset: wall-clock seconds minus the driver's monotonic clock.
    """

    api_keys: tuple[str, ...] = attrs.field(default=(), repr=False)
    wall_offset: float = 0.0


class Host:
    """See the module's text.

    :ivar boxes: the records by id.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        entropy: Entropy,
        documents: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """
        :param documents: what `Save` stored earlier.
        """
        self._settings = settings
        self._entropy = entropy
        self.boxes: dict[str, Box] = {}
        for document in documents:
            box = Box.from_document(document)
            if box.status in ("ready", "provisioning"):
                box.status = "stopped"  # its processes ended with the host that ran them
            self.boxes[box.id] = box

    # --- requests ---------------------------------------------------------------------

    def respond(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        """The answer to a control-plane request; errors are answers too."""
        try:
            match = self.route(request)
            if match.name in DATA_PLANE:
                raise LocalProtocolError(f"{match.name} is not a control-plane route")
            handler = getattr(self, f"_{match.name}")
            response: HostResponse = yield from handler(request, *match.names, now=now)
            return response
        except HostError as error:
            return error.response()

    def route(self, request: HostRequest) -> Match:
        """The route of a request by somebody who may make it.

        :raises HostError: there is no such route, or the key is missing or wrong.
        """
        match = find_route(request.method, request.path)
        keys = self._settings.api_keys
        given = request.headers.get("x-api-key", "").encode()
        # Every key is compared, so that the time taken tells nothing.
        matches = [hmac.compare_digest(given, key.encode()) for key in keys]
        if keys and True not in matches:
            raise HostError(401, "Unauthorized", "the X-Api-Key header is missing or wrong")
        return match

    def _create_box(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        body = request.json()
        generated = not body.get("name")
        name = sandbox_name(self._entropy) if generated else check_name(body["name"])
        if self._named(name) is not None:
            raise HostError(409, "Conflict", f"there is a sandbox {name!r} already")
        patience = _patience(body) if body.get("wait_for_ready") else None
        at = self._wall(now)
        box = new_box(body, id=uuid4_text(self._entropy), name=name, generated=generated, at=at)
        self.boxes[box.id] = box
        yield from self._start(box)
        if patience is not None:
            yield from self._await_ready(box, now + patience)
        return HostResponse(201, box.public(request.origin))

    def _await_ready(self, box: Box, deadline: float) -> HostFlow[None]:
        """Hold a create request until its sandbox is ready.

        :raises HostError: it failed or took too long; then no record stays that nobody can name.
        """
        now = float("-inf")
        while box.status == "provisioning" and box.id in self.boxes and now < deadline:
            now = (yield AwaitChange(box.id, deadline)).now
        if box.id not in self.boxes:
            raise HostError(409, "Conflict", f"sandbox {box.name!r} was deleted meanwhile")
        if box.status == "failed":
            reason = box.status_message or "the sandbox could not be started"
            yield from self._remove(box)
            raise HostError(422, "SandboxConfig", reason)
        if box.status == "provisioning":
            if box.generated_name:
                yield from self._remove(box)
            raise HostError(408, "Timeout", f"sandbox {box.name!r} was not ready in time")

    def _list_boxes(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        latest = reversed(self.boxes.values())  # decides within a millisecond
        newest_first = sorted(latest, key=lambda box: box.created_at, reverse=True)
        found = [box.public(request.origin) for box in newest_first]
        query = parse_qs(request.query)
        if part := query.get("name_contains"):
            found = [box for box in found if part[0] in box["name"]]
        return HostResponse(
            200, {"items": found, "sandboxes": found, "next_cursor": None, "offset": 0}
        )

    def _get_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, self.find(name).public(request.origin))

    def _get_status(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, self.find(name).public_status)

    def _delete_box(self, request: HostRequest, name: str, *, now: float) -> HostFlow[HostResponse]:
        yield from self._remove(self.find(name))
        return HostResponse(204)

    # --- the data plane ---------------------------------------------------------------

    def open_box(self, reference: str, *, now: float) -> HostFlow[Box]:
        """The sandbox that a data-plane request is for, ready for it; a stopped one is woken.

        :raises HostError: there is none (404), it failed (409), or it takes too long (503).
        """
        box = self.find(reference)
        if box.status == "stopped":
            yield from self._start(box)
        deadline = now + WAKE_PATIENCE
        while box.status == "provisioning" and box.id in self.boxes and now < deadline:
            now = (yield AwaitChange(box.id, deadline)).now
        if box.id not in self.boxes:
            raise _no_box(reference)
        if box.status == "failed":
            raise HostError(409, "SandboxFailed", box.status_message or "the sandbox failed")
        if box.status != "ready":
            raise HostError(
                503,
                "ServiceUnavailable",
                f"sandbox {box.name!r} is {box.status}",
                headers={"retry-after": "1"},
            )
        return box

    def open_box_for_socket(self, reference: str, *, now: float) -> HostFlow[Box]:
        """Like `open_box`; but where there is none, clients of a WebSocket hear 410.

        They take 404 for a server without exec. "Gone" is final too, and shows the message.
        """
        try:
            return (yield from self.open_box(reference, now=now))
        except HostError as error:
            if error.status == 404:
                error.status = 410
            raise

    # --- what the driver reports ------------------------------------------------------

    def booted(self, box_id: str, *, now: float) -> HostFlow[bool]:
        """The sandbox stands. Returns whether it is still wanted."""
        box = self.boxes.get(box_id)
        if box is None:
            return False
        box.status, box.status_message = "ready", None
        yield from self._save(box)
        return box_id in self.boxes

    def boot_failed(self, box_id: str, reason: str, *, now: float) -> HostFlow[None]:
        """The sandbox could not be built, or its processes died."""
        box = self.boxes.get(box_id)
        if box is not None:
            box.status, box.status_message = "failed", reason
            yield from self._save(box)

    # --- inside -----------------------------------------------------------------------

    def find(self, reference: str) -> Box:
        """A sandbox by id or name.

        :raises HostError: there is none.
        """
        box = self.boxes.get(reference) or self._named(reference)
        if box is None:
            raise _no_box(reference)
        return box

    def _named(self, name: str) -> Box | None:
        return next((box for box in self.boxes.values() if box.name == name), None)

    def _start(self, box: Box) -> HostFlow[None]:
        box.status, box.status_message, box.stopped_at = "provisioning", None, None
        yield from self._save(box)
        yield Boot(box.id)

    def _save(self, box: Box) -> HostFlow[None]:
        yield Save(box.id, box.document())

    def _remove(self, box: Box) -> HostFlow[None]:
        # Gone for every other request from here on, its name free again.
        if self.boxes.pop(box.id, None) is not None:
            yield Save(box.id, None)
            yield Demolish(box.id)

    def _wall(self, now: float) -> str:
        return timestamp(now + self._settings.wall_offset)


def _no_box(reference: str) -> HostError:
    return HostError(404, "NotFound", f"there is no sandbox {reference!r:.80}")


def _patience(body: Mapping[str, Any]) -> float:
    value = body.get("timeout")
    if value is None:
        return DEFAULT_CREATE_TIMEOUT
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 86400:
        raise HostError.invalid("timeout", f"timeout must be seconds, 0 to 86400, not {value!r}")
    return float(value)
