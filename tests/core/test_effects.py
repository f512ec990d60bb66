"""The contract between a flow and its driver (flows.effects)."""

from __future__ import annotations

import pytest

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.effects import Answered, Broke, Perform, WaitUntil, Woke
from sandbox_proto.flows.files import dataplane, read_file, write_file
from sandbox_proto.flows.sandboxes import (
    delete_sandbox,
    get_sandbox,
    list_sandboxes,
    wait_for_sandbox,
)
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.wire.creation import CreationSpec

from ._helpers import Talk, fault, make_context, refusal, reply


def _create(context):
    return Creation(context, CreationSpec(), timeout=5, wait_for_ready=True).run()


def _undo(context):
    creation = Creation(context, CreationSpec(), timeout=5, wait_for_ready=True)
    flow = creation.run()
    flow.send(None)
    flow.close()
    return creation.undo(context, Phase.SENT)


FLOWS = {
    "get": lambda context: get_sandbox(context, "x"),
    "list": list_sandboxes,
    "delete": lambda context: delete_sandbox(context, "x"),
    "wait": lambda context: wait_for_sandbox(context, "x", timeout=5, poll_interval=1),
    "read": lambda context: read_file(context, "http://d", "/f", timeout=5),
    "write": lambda context: write_file(context, "http://d", "/f", b"x", timeout=5),
    "create": _create,
    "undo": _undo,
}
each_flow = pytest.mark.parametrize("name", FLOWS)

# Whatever is asked is answered with trouble, so that the flows take their longest ways.
TROUBLES = [
    lambda request: refusal(503),
    lambda request: fault(FaultKind.DISCONNECTED, Phase.SENT),
    lambda request: reply(200, {"status": "provisioning"}),
    lambda request: refusal(404) if request.method == "GET" else refusal(504),
]


@each_flow
@pytest.mark.parametrize("trouble", TROUBLES, ids=["503", "cut", "provisioning", "lost"])
def test_a_flow_can_be_dropped_at_every_effect_and_asks_for_nothing_more(name, trouble):
    for stop_after in range(1, 30):
        talk = Talk(trouble)
        flow = FLOWS[name](make_context(retry=RetryPolicy(max_retries=2)))
        outcome = None
        try:
            for _ in range(stop_after):
                effect = flow.send(outcome)
                outcome = talk.step(effect)
        except Exception:
            return  # it ended by itself: every effect has had its turn
        flow.close()  # raises if the flow yields again
        with pytest.raises(StopIteration):
            flow.send(outcome)


@each_flow
@pytest.mark.parametrize("wrong", [None, Woke(1.0)])
def test_a_flow_that_asked_for_a_request_takes_only_its_outcome(name, wrong):
    flow = FLOWS[name](make_context())
    assert isinstance(flow.send(None), Perform)
    with pytest.raises(LocalProtocolError, match="asked for a request"):
        flow.send(wrong)


@pytest.mark.parametrize(
    "wrong", [None, Answered(reply(200), 1.0, 0.0), Broke(fault(FaultKind.UNREACHABLE), 1.0, 0.0)]
)
def test_a_flow_that_asked_to_wait_takes_only_its_waking(wrong):
    flow = FLOWS["get"](make_context())
    flow.send(None)
    assert isinstance(flow.send(Answered(refusal(503), 1.0, 0.0)), WaitUntil)
    with pytest.raises(LocalProtocolError, match="asked to wait"):
        flow.send(wrong)


def test_a_data_plane_that_is_there_is_used():
    assert dataplane("http://d", "x") == "http://d"
