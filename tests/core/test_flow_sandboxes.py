"""Changing, starting, stopping, deleting, waiting (flows.sandboxes; protocol/02 4-8, 04 4)."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.sandboxes import (
    delete_sandbox,
    start_sandbox,
    stop_sandbox,
    update_sandbox,
    wait_for_sandbox,
)

from ._flows import LOST, REFUSED, Story, each_unanswered
from ._helpers import fault, refusal, reply

PATCH = "PATCH /boxes/box"
DELETE = "DELETE /boxes/box"
START = "POST /boxes/box/start"
STOP = "POST /boxes/box/stop"
STATUS = "GET /boxes/box/status"
GET = "GET /boxes/box"
NOT_FOUND = refusal(404, message="the server's words")
ACCEPTED = reply(202, {})
RENAME = {"name": "new"}


def box(status="ready", *, name="box", **more):
    return reply(200, {"name": name, "id": "id-1", "status": status, **more})


def status(value, message=None):
    return reply(200, {"status": value, "status_message": message})


READY = [(STATUS, status("ready")), (GET, box(dataplane_url="http://d"))]

# What proves that an earlier attempt was not carried out.
HARMLESS = [
    [],
    [refusal(429)],
    [REFUSED],
    [fault(FaultKind.DISCONNECTED)],
    [fault(FaultKind.DISCONNECTED, stale=True)],
]
each_harmless = pytest.mark.parametrize(
    "before", HARMLESS, ids=["at once", "429", "refused", "cut unsent", "stale"]
)


# --- update ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "new"},
        {"idle_ttl_seconds": 0, "delete_after_stop_seconds": 60},
        {"run_config": {"env_vars": {"A": "b"}}, "proxy_config": {"rules": []}},
    ],
)
def test_a_change_sends_what_is_set_and_returns_the_sandbox(changes):
    story = Story((PATCH, box("stopped", idle_ttl_seconds=0)))
    record = story.run(update_sandbox, "box", changes)
    assert (record.status, record.idle_ttl_seconds) == ("stopped", 0)
    assert story.bodies == [changes]
    assert story.sent[0].headers["content-type"] == "application/json"


def test_a_taken_name_is_a_conflict_of_sandboxes():
    story = Story((PATCH, refusal(409, "Conflict")))
    error = story.fail(errors.ResourceNameConflictError, update_sandbox, "box", RENAME)
    assert str(error) == "sandbox 'box' cannot be renamed: the name 'new' is taken"
    assert (error.resource_type, error.status) == ("sandbox", 409)


def test_a_conflict_about_something_else_says_so():
    story = Story((PATCH, refusal(409, "Conflict", "sandbox 'box' is provisioning")))
    error = story.fail(
        errors.ResourceNameConflictError, update_sandbox, "box", {"idle_ttl_seconds": 60}
    )
    assert str(error) == "sandbox 'box' is provisioning"


@pytest.mark.parametrize(
    ("changes", "answer", "error"),
    [
        ({"proxy_config": {"rules": []}}, refusal(400, "InvalidRequest"), "SandboxNotReadyError"),
        ({"proxy_config": {}}, refusal(400, "InvalidRequest"), "SandboxNotReadyError"),
        ({"proxy_config": {}, **RENAME}, refusal(400, "InvalidRequest"), "SandboxNotReadyError"),
        ({"proxy_config": {}}, refusal(400, "NotReady"), "SandboxClientError"),
        ({"proxy_config": {}}, refusal(400), "SandboxClientError"),
        ({"proxy_config": {}}, reply(400, body=b"InvalidRequest"), "SandboxClientError"),
        ({"proxy_config": {}}, refusal(422, "InvalidRequest"), "ValidationError"),
        ({"proxy_config": {}}, refusal(409, "InvalidRequest"), "ResourceNameConflictError"),
        ({"proxy_config": {}}, refusal(404, "InvalidRequest"), "ResourceNotFoundError"),
        (RENAME, refusal(400, "InvalidRequest"), "SandboxClientError"),
        ({}, refusal(400, "InvalidRequest"), "SandboxClientError"),
    ],
)
def test_only_proxy_rules_refused_as_invalid_mean_that_it_is_not_ready(changes, answer, error):
    story = Story((PATCH, answer))
    raised = story.fail(getattr(errors, error), update_sandbox, "box", changes)
    assert raised.status == answer.status
    if error in ("SandboxNotReadyError", "ValidationError"):
        assert str(raised) == "no", "the server's words"


@each_unanswered
def test_a_rename_whose_answer_was_lost_is_found_under_its_new_name(lost):
    story = Story((PATCH, lost), (PATCH, NOT_FOUND), ("GET /boxes/new", box(name="new")))
    assert story.run(update_sandbox, "box", RENAME).name == "new"
    assert story.waits == [1500]


@each_unanswered
def test_a_change_whose_answer_was_lost_is_made_again_just_as_before(lost):
    story = Story((PATCH, lost), (PATCH, lost), (PATCH, box(name="new")))
    assert story.run(update_sandbox, "box", RENAME).name == "new"
    assert story.waits == [1500, 2500]
    first, *others = story.sent
    assert all(other == first for other in others)


@each_unanswered
def test_a_change_that_renames_nothing_has_no_other_name_to_be_found_under(lost):
    story = Story((PATCH, lost), (PATCH, NOT_FOUND))
    error = story.fail(
        errors.ResourceNotFoundError, update_sandbox, "box", {"idle_ttl_seconds": 60}
    )
    assert (str(error), error.resource_type) == ("there is no sandbox 'box'", "sandbox")
    assert error.context.attempts == 2


@each_harmless
def test_a_rename_that_cannot_have_been_carried_out_is_looked_for_nowhere(before):
    answers = [*before, NOT_FOUND]
    story = Story(*[(PATCH, answer) for answer in answers])
    error = story.fail(errors.ResourceNotFoundError, update_sandbox, "box", RENAME)
    assert (str(error), error.context.attempts) == ("there is no sandbox 'box'", len(answers))


def test_a_sandbox_that_is_under_neither_name_is_not_found():
    story = Story((PATCH, LOST), (PATCH, NOT_FOUND), ("GET /boxes/new", NOT_FOUND))
    error = story.fail(errors.ResourceNotFoundError, update_sandbox, "box", RENAME)
    assert error.resource_type == "sandbox"


def test_a_name_found_taken_after_a_lost_answer_is_a_conflict():
    story = Story((PATCH, LOST), (PATCH, refusal(409)))
    error = story.fail(errors.ResourceNameConflictError, update_sandbox, "box", RENAME)
    assert error.context.attempts == 2


# --- start and stop -------------------------------------------------------------------


def test_starting_is_asked_for_once_and_then_waited_for():
    slow = [(STATUS, status(value)) for value in ("stopped", "provisioning", "brand-new")]
    story = Story((START, ACCEPTED), *slow, *READY)
    assert story.run(start_sandbox, "box", timeout=120).dataplane_url == "http://d"
    assert story.waits == [1000, 1000, 1000]
    assert story.bodies[0] == {}


@pytest.mark.parametrize("answer", [reply(200), reply(202, body=b"?"), reply(204)])
def test_nobody_reads_the_body_of_the_answer(answer):
    Story((START, answer), *READY).run(start_sandbox, "box", timeout=1)
    assert Story((STOP, answer)).run(stop_sandbox, "box") is None


@pytest.mark.parametrize(
    ("message", "text"),
    [("no disk", "no disk"), (None, "sandbox 'box' failed to start")],
)
def test_a_start_that_fails_says_why(message, text):
    story = Story((START, ACCEPTED), (STATUS, status("failed", message)))
    error = story.fail(errors.ResourceCreationError, start_sandbox, "box", timeout=120)
    assert (str(error), error.resource_type) == (text, "sandbox")


@pytest.mark.parametrize(
    ("timeout", "waits"), [(0, []), (1, [1000]), (2.5, [1000, 1000, 500]), (3, [1000] * 3)]
)
def test_a_start_that_takes_too_long_is_a_timeout_with_the_last_status(timeout, waits):
    story = Story((START, ACCEPTED), *[(STATUS, status("stopped"))] * (len(waits) + 1))
    error = story.fail(errors.ResourceTimeoutError, start_sandbox, "box", timeout=timeout)
    assert (error.resource_type, error.last_status) == ("sandbox", "stopped")
    assert story.waits == waits


def test_the_time_for_starting_counts_from_the_beginning():
    steps = [(START, refusal(503)), (START, ACCEPTED, 2.0), (STATUS, status("provisioning"))]
    story = Story(*steps, (STATUS, status("provisioning")))
    story.fail(errors.ResourceTimeoutError, start_sandbox, "box", timeout=4)
    assert (story.waits, story.took) == ([1500, 500], 4000)


@each_unanswered
def test_starting_what_may_run_already_and_stopping_what_may_have_stopped_is_harmless(lost):
    story = Story((START, lost), (START, ACCEPTED), *READY)
    story.run(start_sandbox, "box", timeout=120)
    assert story.waits == [1500]
    assert story.sent[0] == story.sent[1]
    story = Story((STOP, lost), (STOP, reply(204)))
    story.run(stop_sandbox, "box")
    assert story.waits == [1500]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (NOT_FOUND, errors.ResourceNotFoundError, "there is no sandbox 'box'"),
        (refusal(409, "Conflict", "it is failed"), errors.SandboxClientError, "it is failed"),
        (refusal(403, None, "not yours"), errors.SandboxAuthenticationError, "not yours"),
    ],
)
def test_what_is_refused_is_not_waited_for(answer, error, text):
    assert str(Story((START, answer)).fail(error, start_sandbox, "box", timeout=9)) == text
    assert str(Story((STOP, answer)).fail(error, stop_sandbox, "box")) == text


def test_what_is_stopped_is_not_looked_at_again():
    story = Story((STOP, reply(204)))
    story.run(stop_sandbox, "box", {"X-Trace": "t"})
    assert (story.bodies, story.sent[0].headers["x-trace"]) == ([{}], "t")


# --- delete ---------------------------------------------------------------------------


@each_unanswered
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_delete_whose_answers_were_lost_takes_not_found_for_done(lost, times):
    story = Story(*[(DELETE, lost)] * times, (DELETE, NOT_FOUND))
    assert story.run(delete_sandbox, "box") is None
    assert story.waits == [1500, 2500, 4500][:times]


@each_unanswered
def test_a_delete_that_was_not_carried_out_at_first_is_made_again(lost):
    story = Story((DELETE, lost), (DELETE, reply(204)))
    story.run(delete_sandbox, "box")
    assert story.bodies == [None, None]


def test_one_lost_answer_among_harmless_ones_is_enough():
    story = Story((DELETE, LOST), (DELETE, refusal(429)), (DELETE, REFUSED), (DELETE, NOT_FOUND))
    story.run(delete_sandbox, "box")


@each_harmless
def test_a_delete_that_cannot_have_been_carried_out_before_takes_not_found_for_an_error(before):
    answers = [*before, NOT_FOUND]
    story = Story(*[(DELETE, answer) for answer in answers])
    error = story.fail(errors.ResourceNotFoundError, delete_sandbox, "box")
    assert (error.resource_type, error.context.attempts) == ("sandbox", len(answers))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(403), errors.SandboxAuthenticationError),
        (refusal(409), errors.SandboxClientError),
        (refusal(500), errors.SandboxAPIError),
        (fault(FaultKind.READ_TIMEOUT, Phase.SENT), errors.SandboxTimeoutError),
    ],
)
def test_only_not_found_is_taken_for_done(answer, error):
    story = Story((DELETE, LOST), (DELETE, answer))
    assert story.fail(error, delete_sandbox, "box").context.attempts == 2


def test_gateway_trouble_for_good_is_no_success():
    story = Story(*[(DELETE, refusal(504))] * 4)
    assert story.fail(errors.SandboxClientError, delete_sandbox, "box").status == 504


# --- waiting, to the millisecond ------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "interval", "seconds", "waits", "took"),
    [
        (120, 1.0, 0.0, [1000] * 120, 120_000),
        (0.001, 1.0, 0.0, [1], 1),
        (1, 0.3, 0.0, [300, 300, 300, 100], 1000),
        # What the answers take is part of the time; the last one may come after its end.
        (3, 1.0, 0.5, [1000, 1000], 3500),
        (3, 1.0, 0.25, [1000, 1000, 250], 3250),
        (3, 1.0, 7.0, [], 7000),
        (3, 1.0, 3.0, [], 3000),
        (3, 1.0, 2.999, [1], 5999),
    ],
)
def test_the_polls_and_one_more_after_the_last_wait(timeout, interval, seconds, waits, took):
    story = Story(*[(STATUS, status("provisioning"), seconds)] * (len(waits) + 1))
    story.fail(
        errors.ResourceTimeoutError,
        wait_for_sandbox,
        "box",
        timeout=timeout,
        poll_interval=interval,
    )
    assert (story.waits, story.took) == (waits, took)


def test_retries_of_a_poll_may_make_it_longer_than_its_time():
    trouble = [(STATUS, refusal(503, retry_after="30")), (STATUS, LOST)]
    story = Story((STATUS, status("stopped")), *trouble, *READY)
    story.run(wait_for_sandbox, "box", timeout=1, poll_interval=1.0)
    assert story.waits == [1000, 30_000, 2500]


def test_a_sandbox_that_vanishes_between_its_status_and_itself_is_not_found():
    story = Story((STATUS, status("ready")), (GET, NOT_FOUND))
    story.fail(errors.ResourceNotFoundError, wait_for_sandbox, "box", timeout=1, poll_interval=1.0)


def test_only_the_status_is_polled_and_the_headers_go_with_every_request():
    story = Story((STATUS, status("provisioning")), *READY)
    story.run(wait_for_sandbox, "box", timeout=9, poll_interval=1.0, headers={"X-Trace": "t"})
    assert [request.headers["x-trace"] for request in story.sent] == ["t"] * 3
