"""Which connection a request gets: decisions only, no sockets (design section 7).

Every slot is in exactly one state, and changes it only by these calls; ownership is written
down, never inferred. CONNECTING: the holder of a ticket is opening it; HELD: a ticket's
request is on it; IDLE: nobody uses it, and the most recently used is given out first.

    state       on                        then
    ---------   -----------------------   ------------------------------------------------
    CONNECTING  connected                 HELD
                discard, withdraw         CLOSED
    HELD        release, withdraw         IDLE; CLOSED when the pool was shut
                discard                   CLOSED
    IDLE        a request for its origin  HELD
                unused for too long       CLOSED
                room is needed            CLOSED, the longest unused first
                drop_idle, shut           CLOSED

A caller asks for a `Ticket`. When the ticket has a slot, its holder connects it (if it
is CONNECTING) or uses it (if it is HELD), and gives it back with `release`, `discard`
or, having never had one, `withdraw`. Waiting tickets are served first come, first
served.
"""

from __future__ import annotations

import enum
from collections import deque

import attrs

from ..errors import LocalProtocolError
from ..wire.urls import Origin


class SlotState(enum.Enum):
    """Who owns a slot; see the module's text."""

    CONNECTING = "connecting"
    HELD = "held"
    IDLE = "idle"
    CLOSED = "closed"


@attrs.define(eq=False)
class Slot:
    """One connection's place in the pool; `number` is how the driver finds its socket."""

    number: int
    origin: Origin
    state: SlotState
    idle_since: float = 0.0


@attrs.define(eq=False)
class Ticket:
    """A request for a connection; `slot` is set once it is granted."""

    origin: Origin
    slot: Slot | None = None


@attrs.frozen(kw_only=True)
class PoolLimits:
    """Bounds of a pool.

    :ivar max_connections: open connections at most, over all origins.
    :ivar max_idle: seconds a connection may be unused before it is closed.
    """

    max_connections: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    max_idle: float = attrs.field(default=55.0, validator=attrs.validators.ge(0))


class PoolPlan:
    """Hands out slots. After every call, act on `take_granted` and `take_closing`."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._next_number = 0
        self._open: set[Slot] = set()
        self._idle: dict[Origin, list[Slot]] = {}
        self._waiting: deque[Ticket] = deque()
        self._granted: list[Ticket] = []
        self._closing: list[Slot] = []
        self._shut = False

    # --- for the driver ---------------------------------------------------------------

    def take_granted(self) -> list[Ticket]:
        """The tickets that got their slot since the last call, to be woken."""
        granted, self._granted = self._granted, []
        return granted

    def take_closing(self) -> list[Slot]:
        """The slots whose sockets are to be closed."""
        closing, self._closing = self._closing, []
        return closing

    @property
    def open_slots(self) -> int:
        """How many connections exist or are being made."""
        return len(self._open)

    @property
    def held_slots(self) -> list[int]:
        """The numbers of the slots that a request is on."""
        return sorted(slot.number for slot in self._open if slot.state is SlotState.HELD)

    # --- for the callers --------------------------------------------------------------

    def request(self, origin: Origin, *, now: float) -> Ticket:
        """Ask for a connection."""
        if self._shut:
            raise LocalProtocolError("the pool is closed")
        self._expire(now)
        ticket = Ticket(origin)
        self._waiting.append(ticket)
        self._serve()
        return ticket

    def connected(self, slot: Slot) -> None:
        """The slot's connection stands; its holder goes on to use it."""
        self._expect(slot, SlotState.CONNECTING)
        slot.state = SlotState.HELD

    def release(self, slot: Slot, *, now: float) -> None:
        """The holder is done, and the connection can serve another request."""
        self._expect(slot, SlotState.HELD)
        if self._shut:
            self._close(slot)
            return
        slot.state = SlotState.IDLE
        slot.idle_since = now
        idle = self._idle.setdefault(slot.origin, [])
        idle.append(slot)
        if len(idle) > 1 and idle[-2].idle_since > now:  # given back unused, hence older
            idle.sort(key=lambda slot: slot.idle_since)
        self._serve()

    def discard(self, slot: Slot) -> None:
        """The holder is done, and the connection is of no further use (or never stood)."""
        self._expect(slot, SlotState.HELD, SlotState.CONNECTING)
        self._close(slot)
        self._serve()

    def withdraw(self, ticket: Ticket) -> None:
        """The caller gave up waiting. If the slot came at that very moment, it goes on."""
        if ticket.slot is None:
            self._waiting.remove(ticket)
        elif ticket.slot.state is SlotState.CONNECTING:
            self.discard(ticket.slot)
        elif ticket.slot.state is SlotState.HELD:
            self.release(ticket.slot, now=ticket.slot.idle_since)

    def drop_idle(self, origin: Origin) -> None:
        """One idle connection turned out dead; its siblings are no better."""
        for slot in self._idle.pop(origin, []):
            self._close(slot)
        self._serve()

    def take_out(self, origin: Origin, *, now: float) -> Slot | None:
        """An idle connection for something else than a request; the pool counts it no more."""
        self._expire(now)
        idle = self._idle.get(origin)
        if not idle:
            return None
        slot = idle.pop()
        slot.state = SlotState.CLOSED
        self._open.remove(slot)
        self._serve()
        return slot

    def adopt(self, origin: Origin, *, now: float) -> Slot | None:
        """A connection from elsewhere joins those that are idle; None: there is no room for it."""
        if self._shut or len(self._open) >= self._limits.max_connections:
            return None
        slot = Slot(self._next_number, origin, SlotState.HELD)
        self._next_number += 1
        self._open.add(slot)
        self.release(slot, now=now)
        return slot

    def shut(self) -> None:
        """Close everything that is idle now, and everything else as it comes back."""
        self._shut = True
        for origin in list(self._idle):
            self.drop_idle(origin)

    # --- inside -----------------------------------------------------------------------

    def _serve(self) -> None:
        while self._waiting and not self._shut:
            slot = self._slot_for(self._waiting[0].origin)
            if slot is None:
                return
            ticket = self._waiting.popleft()
            ticket.slot = slot
            self._granted.append(ticket)

    def _slot_for(self, origin: Origin) -> Slot | None:
        if idle := self._idle.get(origin):
            slot = idle.pop()
            slot.state = SlotState.HELD
            return slot
        if len(self._open) >= self._limits.max_connections and not self._close_longest_idle():
            return None
        slot = Slot(self._next_number, origin, SlotState.CONNECTING)
        self._next_number += 1
        self._open.add(slot)
        return slot

    def _close_longest_idle(self) -> bool:
        idle = [slot for slots in self._idle.values() for slot in slots]
        if not idle:
            return False
        oldest = min(idle, key=lambda slot: slot.idle_since)
        self._idle[oldest.origin].remove(oldest)
        self._close(oldest)
        return True

    def _expire(self, now: float) -> None:
        for slots in self._idle.values():
            # The longest unused stand first, because the last used is given out first.
            while slots and now - slots[0].idle_since >= self._limits.max_idle:
                self._close(slots.pop(0))

    def _close(self, slot: Slot) -> None:
        slot.state = SlotState.CLOSED
        self._open.remove(slot)
        self._closing.append(slot)

    @staticmethod
    def _expect(slot: Slot, *states: SlotState) -> None:
        if slot.state not in states:
            raise LocalProtocolError(f"slot {slot.number} is {slot.state.value}")
