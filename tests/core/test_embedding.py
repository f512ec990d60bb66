"""Conversations and their carrier, in memory: order of calls, connections, time, undoing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sandbox_proto.config import ClientConfig, ExecTimeouts
from sandbox_proto.embedding import (
    SEND_EOF,
    Carrier,
    FlowContext,
    FlowFailed,
    FlowReturned,
    FlowSession,
    Origin,
    Output,
)
from sandbox_proto.errors import (
    LocalProtocolError,
    ResourceNotFoundError,
    SandboxConnectionError,
)
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.flows import commands, creation, sandboxes
from sandbox_proto.flows.effects import Flow, Perform, exchange, wait_until
from sandbox_proto.machines.exec_events import CommandExited, CommandStarted, Reattaching
from sandbox_proto.machines.tunnel_session import StreamConnected, StreamRoom
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.testing import ModelConnection, ModelHost
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.http import Request, StreamedBody
from sandbox_proto.wire.urls import Url

from ._exec import Line
from ._tunnel import Client, Host, settle

TROUBLES = RetryPolicy(max_retries=2, initial=1.0, jitter=0.0)


class Town:
    """A model host, a clock, and how connections to the host fare.

    :ivar reachable: whether connections can be made; None: nobody answers at all.
    """

    def __init__(self) -> None:
        self.model = ModelHost()
        self.now = 100.0
        self.reachable: bool | None = True
        self.untrusted = False
        self.connections = 0
        self._random = random.Random(5)
        self.config = ClientConfig(
            api_endpoint=self.model.origin, api_key=self.model.api_key, retry=TROUBLES
        )

    def context(self) -> FlowContext:
        return FlowContext(
            config=self.config,
            random=self._random,
            entropy=self._random.randbytes,
            now=self.now,
        )

    def carry(self, conversation: Any, tell: Callable[[Any], None] | None = None) -> Hand:
        return Hand(self, conversation, tell)

    def drive(self, flow: Flow[Any]) -> Any:
        hand = self.carry(FlowSession(flow, now=self.now))
        hand.run()
        [event] = hand.events
        if isinstance(event, FlowFailed):
            raise event.error
        assert isinstance(event, FlowReturned)
        return event.value


class Hand(Carrier[Any]):
    """A carrier by hand: bytes move when `move` is called. Writes down what it was asked."""

    def __init__(
        self, town: Town, conversation: Any, tell: Callable[[Any], None] | None = None
    ) -> None:
        self.events: list[Any] = []
        super().__init__(conversation, tell or self.events.append)
        self.town, self.asked = town, list[str]()
        self.peer: ModelConnection | None = None
        self.queue: list[Output] = []
        self.reads, self.until = False, None
        self.is_over = False

    def now(self) -> float:
        return self.town.now

    def dial(self, origin: Origin) -> None:
        self.asked.append("dial")
        if self.town.reachable is None:
            return
        if not self.town.reachable:
            self.unreachable(origin, "no route", untrusted=self.town.untrusted)
            return
        self.town.connections += 1
        self.peer = self.town.model.connect()
        self.connected()

    def send(self, data: Output) -> None:
        assert self.peer is not None
        self.queue.append(data)

    def hang_up(self) -> None:
        self.asked.append("hang up")
        self.peer = None
        self.queue.clear()

    def attend(self, *, reads: bool, until: float | None) -> None:
        self.reads, self.until = reads, until

    def ended(self) -> None:
        self.asked.append("ended")
        self.is_over = True

    def move(self) -> bool:
        """Carry what both sides have to say. Returns whether that was anything."""
        queued = self.write()
        said = [] if self.peer is None else self.peer.data_to_send(now=self.now())
        for piece in said:
            if self.peer is not None and piece is not SEND_EOF:
                self.received(bytes(piece))
        return bool(queued or said)

    def write(self) -> bool:
        """Carry what is queued for the host. Returns whether that was anything."""
        queue, self.queue = self.queue, []
        for piece in queue:
            if self.peer is not None and piece is not SEND_EOF:
                self.peer.receive_data(bytes(piece), now=self.now())
                self.sent(len(piece))
        return bool(queue)

    def run(self) -> None:
        """To the end, letting time pass when there is nothing else to do."""
        self.drain()
        for _ in range(10_000):
            if self.is_over:
                return
            if not self.move():
                due = [
                    each
                    for each in (self.until, self.town.model.next_deadline())
                    if each is not None
                ]
                assert due, "it waits for ever"
                self.town.now = max(self.town.now, min(due))
                self.town.model.handle_timeout(now=self.town.now)
                self.time_passed()
        raise AssertionError("it does not end")


@pytest.fixture
def town() -> Town:
    return Town()


def create(town: Town) -> Any:
    made = creation.Creation(town.context(), CreationSpec(), timeout=30, wait_for_ready=True)
    return town.drive(made.run())


# --- flows ----------------------------------------------------------------------------


def test_a_flow_keeps_its_connection_from_request_to_request(town: Town) -> None:
    def twice() -> Flow[list[str]]:
        first = yield from sandboxes.list_sandboxes(town.context())
        yield from wait_until(town.now + 3)
        second = yield from sandboxes.list_sandboxes(town.context())
        return [box.name for box in first + second]

    name = create(town).name
    before, began = town.connections, town.now
    assert town.drive(twice()) == [name, name]
    assert town.connections == before + 1
    assert town.now == began + 3


def test_a_kept_connection_that_is_dead_is_nobodys_failure(town: Town) -> None:
    outcomes: list[Any] = []

    def watched() -> Flow[None]:
        request = Request("GET", Url.parse(town.model.origin + "/boxes"), {})
        for _ in range(2):
            outcome = yield from exchange(Perform(request, Timeouts()))
            outcomes.append(outcome.result)

    hand = town.carry(FlowSession(watched(), now=town.now))
    hand.drain()
    while len(outcomes) < 1:
        assert hand.move()
    hand.received(b"")  # instead of the second answer
    assert hand.is_over
    assert isinstance(outcomes[1], Fault) and outcomes[1].stale
    assert hand.asked == ["dial", "hang up", "ended"]


def test_no_connection_is_tried_again_as_the_policy_says(town: Town) -> None:
    town.reachable = False
    began = town.now
    with pytest.raises(SandboxConnectionError, match=r"no route \(3 attempts\)"):
        town.drive(sandboxes.list_sandboxes(town.context()))
    assert town.now == began + 1 + 2


def test_what_is_not_trusted_is_not_tried_again(town: Town) -> None:
    town.reachable, town.untrusted = False, True
    with pytest.raises(SandboxConnectionError, match=r"no route$"):
        town.drive(sandboxes.list_sandboxes(town.context()))


def test_a_connection_that_does_not_come_is_given_up_in_time(town: Town) -> None:
    town.reachable = None
    hand = town.carry(FlowSession(sandboxes.list_sandboxes(town.context()), now=town.now))
    hand.drain()
    assert (hand.asked, hand.until) == (["dial"], 110.0)
    town.now = 110.0
    hand.time_passed()
    assert hand.asked == ["dial", "hang up"]  # and waits for its next attempt
    hand.run()
    [failed] = hand.events
    assert isinstance(failed, FlowFailed) and "within 10 s" in str(failed.error)


def test_the_errors_of_a_flow_are_its_end(town: Town) -> None:
    with pytest.raises(ResourceNotFoundError):
        town.drive(sandboxes.get_sandbox(town.context(), "nobody"))


@pytest.mark.parametrize("streamed", ["answer", "body"])
def test_flows_that_stream_are_refused(town: Town, streamed: str) -> None:
    body = StreamedBody(None) if streamed == "body" else ()
    request = Request("POST", Url.parse(town.model.origin), {}, body)
    effect = Perform(request, Timeouts(), stream=streamed == "answer")
    with pytest.raises(LocalProtocolError, match="Http1Client"):
        town.drive(exchange(effect))


# --- undoing --------------------------------------------------------------------------


def test_a_creation_that_was_given_up_is_undone(town: Town) -> None:
    made = creation.Creation(town.context(), CreationSpec(), timeout=30, wait_for_ready=True)
    session = FlowSession(made.run(), now=town.now)
    assert made.undo(town.context(), session.phase) is None  # nothing was sent
    hand = town.carry(session)
    hand.drain()
    assert session.phase is Phase.NOTHING_SENT
    hand.write()  # the request goes out, and no answer is heard
    assert session.phase > Phase.NOTHING_SENT and not hand.events
    session.close()
    hand.drain()
    assert hand.is_over and hand.asked[-2:] == ["hang up", "ended"] and not hand.events
    undo = made.undo(town.context(), session.phase)
    assert undo is not None
    town.drive(undo)
    assert town.drive(sandboxes.list_sandboxes(town.context())) == []


# --- the carrier ----------------------------------------------------------------------


def command(town: Town, line: str, **more: Any) -> Any:
    base = create(town).dataplane_url
    spec = commands.CommandSpec(command=line, **more)
    return commands.start_command(town.context(), base, spec, unix_seconds=0)


def test_whoever_is_told_may_give_commands_at_once(town: Town) -> None:
    town.model.on_command("work", duration=100.0)
    session = command(town, "work")
    told: list[str] = []

    def tell(event: Any) -> None:
        told.append(type(event).__name__)
        if isinstance(event, CommandStarted):
            session.kill(now=town.now)
            hand.drain()  # in the midst of a drain: nothing happens twice
            assert told == ["CommandStarted"]

    hand = town.carry(session, tell)
    hand.run()
    assert told == ["CommandStarted", "CommandExited"]
    assert hand.asked == ["dial", "hang up", "ended"]


def test_a_lost_connection_is_replaced(town: Town) -> None:
    town.model.on_command("work", stdout="early\n", duration=5.0)
    hand = town.carry(command(town, "work"))
    hand.drain()
    while not any(isinstance(event, CommandStarted) for event in hand.events):
        assert hand.move()
    assert hand.peer is not None
    hand.peer.abandon(now=town.now)
    hand.lost("reset by peer")
    assert hand.asked == ["dial", "hang up"]
    hand.run()
    kinds = [type(event) for event in hand.events]
    assert kinds.count(Reattaching) == 1 and kinds[-1] is CommandExited
    assert "".join(e.data for e in hand.events if isinstance(e, OutputChunk)) == "early\n"
    assert hand.asked == ["dial", "hang up", "dial", "hang up", "ended"]


def test_an_abandoned_conversation_tells_nothing_more(town: Town) -> None:
    town.model.on_command("work", stdout="out\n", duration=5.0)
    told: list[Any] = []

    def tell(event: Any) -> None:
        told.append(event)
        hand.abandon()

    hand = town.carry(command(town, "work"), tell)
    hand.run()
    hand.drain()
    hand.abandon()
    assert len(told) == 1
    assert hand.asked == ["dial", "hang up", "ended"]


# --- what conversations do for those who do not know when -------------------------------


def test_a_session_gives_up_connecting_by_itself() -> None:
    line = Line(timeouts=ExecTimeouts(open=5.0))
    assert line.session.connection_wanted is not None
    line.at(line.now + 4.9)
    assert line.session.connection_wanted is not None
    line.at(line.now + 0.2)
    [again] = line.of(Reattaching)
    assert "no answer in time" in again.reason
    assert line.session.connection_wanted is None


def test_a_late_failure_to_connect_is_nothing_new() -> None:
    line = Line(timeouts=ExecTimeouts(open=5.0))
    line.at(line.now + 5)
    line.session.connect_failed(Fault(FaultKind.CONNECT_TIMEOUT, "late"), now=line.now)
    assert len(line.of(Reattaching)) == 1


def test_who_could_not_send_all_is_told_when_there_is_room() -> None:
    client, host = Client(), Host()
    client.upgrade()
    stream = client.session.open(80, now=0.0)
    settle(client, host)
    host.tunnel.connected(stream, now=0.0)
    settle(client, host)
    assert client.events[-1] == StreamConnected(stream)
    whole = b"x" * 1_000_000
    left, rooms = memoryview(whole), 0
    left = left[client.session.send(stream, left, now=0.0) :]
    assert left
    while left:
        client.flush()
        client.take()
        if client.events[-1] == StreamRoom(stream):
            client.events.pop()
            rooms += 1
            left = left[client.session.send(stream, left, now=0.0) :]
        else:
            break
    assert rooms >= 1
    client.session.reset(stream, now=0.0)
    client.flush()
    client.take()
    assert StreamRoom(stream) not in client.events
