"""The life of sandboxes: building, stopping, waking, ending, and what time does to them.

    from           event                       to
    ------------   -------------------------   -----------------------------------------
    (none)         create                      provisioning
    provisioning   built / not built, stale    ready / failed
    ready          idle for too long, stop     stopped (`stopped_at` is set)
    ready          its processes died          failed
    stopped        data-plane request, start   provisioning (`stopped_at` is cleared)
    failed         start                       provisioning
    stopped        its time to live is over    (none)
    any            delete                      (none)

Time is the driver's monotonic clock; moments that outlive the process are stored as
timestamps.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ..machines.base import earliest
from ..wire.ids import Entropy
from .boxes import Box
from .effects import (
    AwaitChange,
    BuildSandbox,
    Demolish,
    Discard,
    Halt,
    HostFlow,
    Launch,
    Record,
    Save,
)
from .messages import HostError
from .state import HostSettings, HostState, box_record, no_box, snapshot_record

# A request that begins something answers when it is done, if that is soon: clients then find
# it done when they first ask, and need not wait for their next question.
SETTLE_PATIENCE = 1.0
WAKE_PATIENCE = 10.0
# A sandbox that is neither ready nor failed after this long never will be (protocol/02 §1.5).
STALE_PROVISIONING = 600.0


@attrs.define
class _Activity:
    last: float
    holds: int = 0


class Lifecycle(HostState):
    """See the module's text."""

    def __init__(
        self,
        settings: HostSettings,
        *,
        entropy: Entropy,
        records: Iterable[Record] = (),
    ) -> None:
        super().__init__(settings, entropy=entropy, records=records)
        self._activity: dict[str, _Activity] = {}
        self._provisioning_since: dict[str, float] = {}

    def recover(self, existing_layers: Iterable[str], *, now: float) -> HostFlow[None]:
        """Begin where an earlier host ended, however it did.

        What ran is stopped; what was being made has failed; a capture that had already made its
        layer keeps it.

        :param existing_layers: the layers that are there.
        """
        layers = set(existing_layers)
        changed: list[Record] = []
        for box in self.boxes.values():
            if box.pending_layer is not None:
                if box.pending_layer in layers:
                    box.layers.insert(0, box.pending_layer)
                box.pending_layer = None
                changed.append(box_record(box))
            if box.status in ("ready", "provisioning"):
                box.status, box.stopped_at = "stopped", self.stamp(now)
                changed.append(box_record(box))
        for snapshot in self.snapshots.values():
            if snapshot.status == "building":
                snapshot.status, snapshot.layers = "failed", []
                snapshot.status_message = "the host ended while the snapshot was being made"
                changed.append(snapshot_record(snapshot))
        if changed:
            yield Save(tuple(changed))
        for box in list(self.boxes.values()):
            if not box.persistent:
                yield Discard(box.id)

    # --- activity ---------------------------------------------------------------------

    def touch(self, box_id: str, *, now: float) -> None:
        """Something happened that counts as activity."""
        self._activity.setdefault(box_id, _Activity(now)).last = now

    def hold(self, box_id: str, *, now: float) -> None:
        """Something begins that counts as activity until `release`."""
        self.touch(box_id, now=now)
        self._activity[box_id].holds += 1

    def release(self, box_id: str, *, now: float) -> None:
        """It is over."""
        if (activity := self._activity.get(box_id)) is not None:
            activity.holds -= 1
            activity.last = now

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout`."""
        return earliest(*(self._deadline_of(box) for box in self.boxes.values()))

    def handle_timeout(self, *, now: float) -> list[HostFlow[None]]:
        """Time passed. Returns what is to be carried out."""
        due = []
        for box in list(self.boxes.values()):
            deadline = self._deadline_of(box)
            if deadline is None or now < deadline:
                continue
            match box.status:
                case "ready":
                    self.touch(box.id, now=now)  # not due again while it is being stopped
                    due.append(self.stop(box, now=now))
                case "stopped":
                    due.append(self.remove(box))
                case "provisioning":
                    due.append(self._fail(box, "the sandbox was not built in time"))
        return due

    def _deadline_of(self, box: Box) -> float | None:
        match box.status:
            case "ready":
                activity = self._activity.get(box.id)
                if not box.idle_ttl_seconds or activity is None or activity.holds:
                    return None
                return activity.last + box.idle_ttl_seconds
            case "stopped":
                stopped = self.moment(box.stopped_at)
                if not box.delete_after_stop_seconds or stopped is None:
                    return None
                return stopped + box.delete_after_stop_seconds
            case "provisioning":
                since = self._provisioning_since.get(box.id)
                return None if since is None else since + STALE_PROVISIONING
            case _:
                return None

    # --- transitions ------------------------------------------------------------------

    def start(self, box: Box, *, now: float) -> HostFlow[None]:
        """Begin to build a sandbox. It is `provisioning` at once."""
        box.status, box.status_message, box.stopped_at = "provisioning", None, None
        self._provisioning_since[box.id] = now
        yield from self.save_box(box)
        yield Launch(self._build(box))

    def _build(self, box: Box) -> HostFlow[None]:
        done = yield BuildSandbox(box.id)
        self._provisioning_since.pop(box.id, None)
        if self.boxes.get(box.id) is not box:  # deleted meanwhile
            yield Demolish(box.id)
        elif done.failure is not None:
            yield from self._fail(box, done.failure)
        else:
            box.status, box.status_message = "ready", None
            self._activity[box.id] = _Activity(done.now)
            yield from self.save_box(box)

    def _fail(self, box: Box, reason: str) -> HostFlow[None]:
        box.status, box.status_message = "failed", reason
        yield from self.save_box(box)

    def died(self, box_id: str, reason: str) -> HostFlow[None]:
        """The sandbox's processes are gone, and nobody here ended them."""
        box = self.boxes.get(box_id)
        if box is not None and box.status == "ready":
            yield from self._fail(box, reason)

    def stop(self, box: Box, *, now: float) -> HostFlow[None]:
        """Stop a ready sandbox: its processes end, its files stay if it is persistent."""
        if box.status != "ready":
            return
        box.status, box.stopped_at = "stopped", self.stamp(now)
        self._activity.pop(box.id, None)
        yield from self.save_box(box)
        yield Halt(box.id)
        if not box.persistent:
            yield Discard(box.id)

    def remove(self, box: Box) -> HostFlow[None]:
        """Delete a sandbox and everything in it."""
        # Gone for every other request from here on, its name free again.
        if self.boxes.pop(box.id, None) is None:
            return
        self._activity.pop(box.id, None)
        ports = [port for owner, port in self.grants if owner == box.id]
        grants = tuple(Record("grant", f"{box.id}:{port}", None) for port in ports)
        for port in ports:
            del self.grants[box.id, port]
        yield Save((Record("box", box.id, None), *grants))
        yield Demolish(box.id)
        yield from self.drop_unused(box.layers)

    def await_built(self, box: Box, *, now: float, deadline: float) -> HostFlow[float]:
        """Wait while a sandbox is being built, until the deadline. Returns the time."""
        while box.status == "provisioning" and box.id in self.boxes and now < deadline:
            now = (yield AwaitChange(box.id, deadline)).now
        return now

    # --- the data plane ---------------------------------------------------------------

    def open_box(self, reference: str, *, now: float) -> HostFlow[Box]:
        """The sandbox that a data-plane request is for, ready for it; a stopped one is woken.

        :raises HostError: there is none (404), it failed (409), or it takes too long (503).
        """
        box = self.find_box(reference)
        if box.status == "stopped":
            yield from self.start(box, now=now)
        now = yield from self.await_built(box, now=now, deadline=now + WAKE_PATIENCE)
        if box.id not in self.boxes:
            raise no_box(reference)
        if box.status == "failed":
            raise HostError(409, "SandboxFailed", box.status_message or "the sandbox failed")
        if box.status != "ready":
            raise HostError(
                503,
                "ServiceUnavailable",
                f"sandbox {box.name!r} is {box.status}",
                headers={"retry-after": "1"},
            )
        self.touch(box.id, now=now)
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
