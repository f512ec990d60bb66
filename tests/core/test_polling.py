"""Waiting for a sandbox to be ready (protocol/04 section 4)."""

from __future__ import annotations

import pytest

from sandbox_proto.errors import (
    ResourceCreationError,
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxAPIError,
    SandboxClientError,
)
from sandbox_proto.flows.sandboxes import wait_for_sandbox

from ._helpers import NO_RETRIES, Talk, make_context, refusal, reply

STATUS = "GET /api/v2/sandboxes/boxes/box/status"
GET = "GET /api/v2/sandboxes/boxes/box"
READY = [reply(200, {"status": "ready"}), reply(200, {"name": "box", "status": "ready"})]


def status(value, message=None):
    return reply(200, {"status": value, "status_message": message})


def wait(talk, *, timeout=10.0, poll_interval=1.0, **settings):
    context = make_context(now=talk.now, **settings)
    return talk.run(wait_for_sandbox(context, "box", timeout=timeout, poll_interval=poll_interval))


def test_a_ready_sandbox_is_fetched_and_returned_at_once():
    talk = Talk(READY)
    assert wait(talk).name == "box"
    assert talk.requests == [STATUS, GET]
    assert talk.sleeps == []


@pytest.mark.parametrize("value", ["provisioning", "stopped", "deleting", "brand-new", None])
def test_any_status_but_ready_and_failed_keeps_polling(value):
    talk = Talk([status(value)] * 3 + READY)
    assert wait(talk).status == "ready"
    assert talk.sleeps == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("message", "text"),
    [("out of disk", "out of disk"), (None, "sandbox 'box' failed to start")],
)
def test_failed_ends_it_with_the_servers_reason(message, text):
    with pytest.raises(ResourceCreationError) as caught:
        wait(Talk([status("provisioning"), status("failed", message)]))
    error = caught.value
    assert (str(error), error.resource_type, error.error_type) == (text, "sandbox", None)


def test_without_any_time_one_request_is_made_all_the_same():
    talk = Talk([status("stopped")])
    with pytest.raises(ResourceTimeoutError) as caught:
        wait(talk, timeout=0)
    assert talk.requests == [STATUS]
    assert (caught.value.resource_type, caught.value.last_status) == ("sandbox", "stopped")


def test_without_any_time_a_ready_sandbox_is_returned():
    assert wait(Talk(READY), timeout=0).status == "ready"


@pytest.mark.parametrize(
    ("timeout", "interval", "sleeps"),
    [
        (3.0, 1.0, [1.0, 1.0, 1.0]),
        (2.5, 1.0, [1.0, 1.0, 0.5]),
        (0.25, 1.0, [0.25]),
        (4.0, 10.0, [4.0]),
    ],
)
def test_the_last_wait_is_cut_to_what_is_left_and_one_more_request_follows(
    timeout, interval, sleeps
):
    talk = Talk([status("provisioning")] * 20, now=1000.0)
    with pytest.raises(ResourceTimeoutError) as caught:
        wait(talk, timeout=timeout, poll_interval=interval)
    assert talk.sleeps == sleeps
    assert len(talk.requests) == len(sleeps) + 1
    assert str(caught.value) == (
        f"sandbox 'box' was not ready within {timeout:g} s (last_status: provisioning)"
    )


def test_readiness_seen_by_the_request_after_the_last_wait_counts():
    talk = Talk([status("provisioning"), *READY])
    assert wait(talk, timeout=0.5).status == "ready"


def test_slow_answers_use_up_the_time_too():
    talk = Talk([status("provisioning")] * 20, latency=3.0)
    with pytest.raises(ResourceTimeoutError):
        wait(talk, timeout=5.0)
    assert talk.sleeps == [1.0]
    assert len(talk.requests) == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusal(404), ResourceNotFoundError),
        (refusal(500), SandboxAPIError),
        (refusal(503), SandboxClientError),
    ],
)
def test_a_refused_request_ends_the_polling(answer, expected):
    with pytest.raises(SandboxClientError) as caught:
        wait(Talk([status("provisioning"), answer]), retry=NO_RETRIES)
    assert type(caught.value) is expected


def test_every_status_request_has_retries_of_its_own():
    talk = Talk([refusal(503), status("provisioning"), refusal(503), *READY])
    assert wait(talk).status == "ready"
    assert talk.sleeps == [1.5, 1.0, 1.5]
