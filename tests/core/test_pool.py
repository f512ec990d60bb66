"""Which connection a request gets: every slot in one state, nobody forgotten."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.plans.pool import PoolLimits, PoolPlan, SlotState
from sandbox_proto.wire.urls import Origin

A, B, C = (Origin("http", name, 80) for name in "abc")
CONNECTING, HELD, IDLE, CLOSED = SlotState


class PoolModel(RuleBasedStateMachine):
    """The plan beside a plain account of who holds what."""

    @initialize(size=st.integers(1, 3), patience=st.sampled_from([0.0, 10.0]))
    def begin(self, size, patience):
        self.limits = PoolLimits(max_connections=size, max_idle=patience)
        self.plan = PoolPlan(self.limits)
        self.now = 0.0
        self.waiting = []  # tickets without a slot, in order
        self.leases = {}  # ticket -> slot
        self.idle = {}  # slot -> since when
        self.open = set()
        self.is_shut = False

    def settle(self):
        """Act on what the plan decided, as a driver would."""
        for slot in self.plan.take_closing():
            assert slot.state is CLOSED
            assert slot in self.open, "closed twice, or never opened"
            self.open.remove(slot)
            self.idle.pop(slot, None)
        for ticket in self.plan.take_granted():
            assert ticket in self.waiting, "granted twice"
            self.waiting.remove(ticket)
            slot = ticket.slot
            assert slot.origin == ticket.origin
            assert slot not in self.leases.values(), "one slot, two holders"
            if slot.state is HELD:
                assert slot in self.idle
                newest = max(
                    since for other, since in self.idle.items() if other.origin == slot.origin
                )
                assert self.idle.pop(slot) == newest, "the last used is given out first"
            else:
                assert slot.state is CONNECTING
                assert not any(other.origin == slot.origin for other in self.idle)
                self.open.add(slot)
            self.leases[ticket] = slot

    def holding(self, *states):
        return [ticket for ticket, slot in self.leases.items() if slot.state in states]

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: not self.is_shut)
    @rule(origin=st.sampled_from([A, B, C]))
    def request(self, origin):
        ticket = self.plan.request(origin, now=self.now)
        self.waiting.append(ticket)
        self.settle()
        stale = [s for s, since in self.idle.items() if self.now - since >= self.limits.max_idle]
        assert not stale, "what was unused for too long is closed"

    @precondition(lambda self: self.holding(CONNECTING))
    @rule(data=st.data())
    def connection_stands(self, data):
        ticket = data.draw(st.sampled_from(self.holding(CONNECTING)))
        self.plan.connected(ticket.slot)
        self.settle()

    @precondition(lambda self: self.holding(HELD))
    @rule(data=st.data())
    def release(self, data):
        ticket = data.draw(st.sampled_from(self.holding(HELD)))
        slot = self.leases.pop(ticket)
        if not self.is_shut:
            self.idle[slot] = self.now
        self.plan.release(slot, now=self.now)
        self.settle()

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def discard(self, data):
        ticket = data.draw(st.sampled_from(list(self.leases)))
        self.plan.discard(self.leases.pop(ticket))
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up_waiting(self, data):
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.plan.withdraw(ticket)
        self.settle()

    @precondition(lambda self: not self.is_shut)
    @rule(origin=st.sampled_from([A, B, C]))
    def give_up_at_the_very_moment_of_the_grant(self, origin):
        ticket = self.plan.request(origin, now=self.now)
        slot = ticket.slot
        if slot is None:
            self.waiting.append(ticket)
            self.settle()
            return
        assert self.plan.take_granted() == [ticket]
        was_idle_since = slot.idle_since if slot.state is HELD else None
        if was_idle_since is None:
            self.open.add(slot)
        self.plan.withdraw(ticket)
        # What was idle is idle again, and as old as before; what was new is closed again.
        assert slot.state is (CLOSED if was_idle_since is None else IDLE)
        assert was_idle_since in (None, slot.idle_since)
        self.settle()

    @rule(origin=st.sampled_from([A, B, C]))
    def take_out(self, origin):
        slot = self.plan.take_out(origin, now=self.now)
        if slot is not None:
            since = self.idle.pop(slot)
            assert since == max([since, *(self.idle[s] for s in self.idle if s.origin == origin)])
            assert slot.state is CLOSED
            self.open.remove(slot)
        self.settle()
        assert slot is not None or not any(other.origin == origin for other in self.idle)

    @rule(origin=st.sampled_from([A, B, C]))
    def adopt(self, origin):
        room = not self.is_shut and len(self.open) < self.limits.max_connections
        slot = self.plan.adopt(origin, now=self.now)
        assert (slot is not None) == room
        if slot is not None:
            self.open.add(slot)
            self.idle[slot] = self.now
        self.settle()

    @rule(origin=st.sampled_from([A, B, C]))
    def distrust(self, origin):
        self.plan.drop_idle(origin)
        self.settle()
        assert not any(slot.origin == origin for slot in self.idle)

    @precondition(lambda self: not self.is_shut)
    @rule()
    def shut(self):
        self.is_shut = True
        self.plan.shut()
        self.settle()

    @invariant()
    def the_accounts_agree(self):
        if not hasattr(self, "plan"):
            return
        assert self.plan.open_slots == len(self.open) <= self.limits.max_connections
        held = set(self.leases.values())
        assert held | set(self.idle) == self.open
        assert not held & set(self.idle)
        assert all(slot.state in (CONNECTING, HELD) for slot in held)
        assert all(slot.state is IDLE for slot in self.idle)
        assert self.plan.take_closing() == self.plan.take_granted() == []

    @invariant()
    def nobody_waits_while_there_is_room(self):
        if not hasattr(self, "plan") or not self.waiting or self.is_shut:
            return  # whoever waits on a closed pool is told, and withdraws
        assert len(self.open) == self.limits.max_connections
        assert not self.idle, "an idle connection of another origin makes room"

    @invariant()
    def nothing_idles_in_a_closed_pool(self):
        if getattr(self, "is_shut", False):
            assert not self.idle


PoolModel.TestCase.settings = settings(max_examples=120, stateful_step_count=25)
TestPoolModel = PoolModel.TestCase


# --- the rules one by one -------------------------------------------------------------


def make(size=2, max_idle=100.0):
    return PoolPlan(PoolLimits(max_connections=size, max_idle=max_idle))


def lease(plan, origin=A, now=0.0):
    """A slot whose connection stands."""
    slot = plan.request(origin, now=now).slot
    if slot.state is CONNECTING:
        plan.connected(slot)
    return slot


def test_a_connection_is_used_again():
    plan = make()
    slot = lease(plan)
    plan.release(slot, now=1)
    assert plan.request(A, now=2).slot is slot
    assert plan.open_slots == 1


def test_the_last_used_is_given_out_first():
    plan = make(size=3)
    slots = [lease(plan) for _ in range(3)]
    for moment, slot in enumerate(slots):
        plan.release(slot, now=moment)
    assert [plan.request(A, now=5).slot for _ in range(3)] == slots[::-1]


def test_waiting_tickets_are_served_first_come_first_served():
    plan = make(size=1)
    slot = lease(plan)
    tickets = [plan.request(A, now=0) for _ in range(3)]
    plan.take_granted()
    for ticket in tickets:
        plan.release(slot, now=1)
        assert plan.take_granted() == [ticket]
        assert ticket.slot is slot


def test_one_waiting_for_another_origin_is_not_passed_over_for_ever():
    plan = make(size=1)
    slot = lease(plan, A)
    first = plan.request(B, now=0)
    plan.request(A, now=0)
    plan.release(slot, now=1)
    assert first.slot is not None
    assert slot in plan.take_closing()


def test_the_longest_idle_makes_room_for_another_origin():
    plan = make(size=2)
    old, new = lease(plan, A), lease(plan, B)
    plan.release(old, now=1)
    plan.release(new, now=2)
    plan.request(C, now=3)
    assert plan.take_closing() == [old]


@pytest.mark.parametrize(("now", "closed"), [(10.9, False), (11.0, True), (1e6, True)])
def test_what_was_unused_for_too_long_is_closed(now, closed):
    plan = make(max_idle=10.0)
    slot = lease(plan)
    plan.release(slot, now=1.0)
    fresh = plan.request(A, now=now).slot
    assert (fresh is not slot) == closed
    assert plan.take_closing() == ([slot] if closed else [])


def test_a_slot_given_back_unused_is_as_old_as_before():
    plan = make(size=3, max_idle=10.0)
    old, new = lease(plan), lease(plan)
    plan.release(old, now=0.0)
    ticket = plan.request(A, now=5.0)  # takes `old`
    plan.release(new, now=6.0)
    plan.withdraw(ticket)
    plan.take_closing()
    plan.request(B, now=11.0)
    assert plan.take_closing() == [old], "it expires in its turn, though a younger one was released"


def test_discarding_makes_room_for_who_waits():
    plan = make(size=1)
    slot = lease(plan)
    waiting = plan.request(B, now=0)
    plan.take_granted()
    plan.discard(slot)
    assert plan.take_granted() == [waiting]
    assert plan.take_closing() == [slot]


@pytest.mark.parametrize("stage", ["waiting", "connecting", "held"])
def test_withdrawing_hands_the_turn_to_the_next(stage):
    plan = make(size=1)
    if stage == "held":
        plan.release(lease(plan), now=0)
    if stage == "waiting":
        blocker = lease(plan)
    first, second = plan.request(A, now=0), plan.request(A, now=0)
    plan.withdraw(first)
    if stage == "waiting":
        plan.release(blocker, now=1)
    assert second.slot is not None
    assert second in plan.take_granted()


@pytest.mark.parametrize("how", ["release", "discard", "withdraw"])
def test_a_closed_pool_closes_what_comes_back(how):
    plan = make()
    idle = lease(plan, B)
    ticket = plan.request(A, now=0)
    plan.connected(ticket.slot)
    plan.release(idle, now=0)
    plan.shut()
    assert plan.take_closing() == [idle]
    if how == "release":
        plan.release(ticket.slot, now=1)
    elif how == "discard":
        plan.discard(ticket.slot)
    else:
        plan.withdraw(ticket)
    assert plan.take_closing() == [ticket.slot]
    assert plan.open_slots == 0


def test_a_closed_pool_takes_no_requests():
    plan = make()
    plan.shut()
    with pytest.raises(LocalProtocolError):
        plan.request(A, now=0)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda plan, slot: plan.connected(slot),
        lambda plan, slot: (plan.release(slot, now=0), plan.release(slot, now=0)),
        lambda plan, slot: (plan.discard(slot), plan.discard(slot)),
        lambda plan, slot: (plan.discard(slot), plan.release(slot, now=0)),
        lambda plan, slot: (plan.release(slot, now=0), plan.discard(slot)),
    ],
)
def test_a_slot_is_given_back_once_by_its_holder(misuse):
    plan = make()
    slot = lease(plan)
    with pytest.raises(LocalProtocolError):
        misuse(plan, slot)


@pytest.mark.parametrize("limits", [{"max_connections": 0}, {"max_idle": -1.0}])
def test_a_pool_has_sane_limits(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        PoolLimits(**limits)
