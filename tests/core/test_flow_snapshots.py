"""Snapshots: asked for once, found again, waited for (flows.snapshots; protocol/02 9, 12, 04 5)."""

from __future__ import annotations

import itertools

import pytest

from sandbox_proto import errors
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.paging import filters, list_page
from sandbox_proto.flows.snapshots import (
    SNAPSHOTS,
    capture_snapshot,
    create_snapshot,
    delete_snapshot,
    get_snapshot,
    list_tags,
    wait_for_snapshot,
)
from sandbox_proto.testing import ModelHost, World
from sandbox_proto.wire.models import SnapshotTag

from ._flows import (
    LOST,
    PATH,
    REFUSED,
    SNAPSHOT_ID,
    Story,
    each_unanswered,
    http_date,
    timestamp,
)
from ._helpers import Talk, body_json, fault, make_context, refusal, reply

IMAGE = {"name": "img", "docker_image": "python:3.12", "fs_capacity_bytes": 10}
POST = "POST /snapshots"
GET = "GET /snapshots/s1"
FIND = "GET /snapshots?name_contains=img&sort_by=created_at&sort_order=desc"
CAPTURE = "POST /boxes/box/snapshot"
NOT_FOUND = refusal(404, message="the server's words")
LATER = 10.0  # on the server's clock: when it answers a question about its snapshots


def record(status="ready", *, id="s1", name="img", **more):
    return {"id": id, "name": name, "status": status, **more}


def shown(status="ready", **more):
    return reply(200, record(status, **more))


def made(status="building", **more):
    return reply(201, record(status, **more))


def listed(*records, date=LATER):
    page = {"items": list(records), "snapshots": list(records), "next_cursor": None}
    return reply(200, page) if date is None else reply(200, page, date=http_date(date))


def own(status="building", *, created_at=LATER, docker_image="python:3.12", **more):
    """What a create of `IMAGE` makes."""
    return record(status, created_at=timestamp(created_at), docker_image=docker_image, **more)


NOBODY = listed()


# --- get ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        (SNAPSHOT_ID, SNAPSHOT_ID),
        ("img", "img"),
        ("img:v1", "img:v1"),
        ("system/default:latest", "system%2Fdefault:latest"),
        ("team/img", "team%2Fimg"),
        ("img:v1?x=1#y", "img:v1%3Fx%3D1%23y"),
        ("../boxes/box", "..%2Fboxes%2Fbox"),
        ("caf\u00e9:neu", "caf%C3%A9:neu"),
    ],
)
def test_any_reference_is_one_segment_and_its_tag_stays_readable(reference, path):
    story = Story((f"GET /snapshots/{path}", shown(id="other", name="whatever")))
    found = story.run(get_snapshot, reference)
    assert (found.id, found.name) == ("other", "whatever"), "the server says what it means"


@pytest.mark.parametrize("flow", [get_snapshot, delete_snapshot, list_tags])
@pytest.mark.parametrize("reference", ["", ".", ".."])
def test_a_reference_that_would_address_another_path_is_refused_unasked(flow, reference):
    with pytest.raises(ValueError, match="name"):
        Story().run(flow, reference)


def test_a_bare_name_means_its_latest_else_the_newest_untagged_else_the_newest_ready():
    """The fallback of protocol/13 number 37, as a client sees it at a host that has it."""
    model = ModelHost()
    model.images = {"python:3.12": {}, "python:3.13": {}}
    world = World(model)

    def build(image, **more):
        body = {"name": "team/img", "docker_image": image, "fs_capacity_bytes": 10, **more}
        world.now += 10
        return world.drive(create_snapshot(world.context(), body, timeout=60))

    def meant(reference):
        return world.drive(get_snapshot(world.context(), reference)).id

    old, new = build("python:3.12"), build("python:3.13")
    assert (old.tags, new.tags) == (["3.12"], ["3.13"])
    assert meant("team/img") == new.id
    assert meant("team/img:3.12") == meant(old.id) == old.id
    moved = build("python:3.12")
    assert meant("team/img") == old.id, "which has lost its tag"
    latest = build("python:3.13", tag="latest")
    assert meant("team/img") == meant("team/img:latest") == latest.id
    assert meant("team/img:3.12") == moved.id
    with pytest.raises(errors.ResourceNotFoundError) as caught:
        meant("team/img:v9")
    assert str(caught.value) == "there is no snapshot 'team/img:v9'"


# --- delete ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "path"),
    [(SNAPSHOT_ID, SNAPSHOT_ID), ("img:v1", "img%3Av1"), ("team/img:v1", "team%2Fimg%3Av1")],
)
@pytest.mark.parametrize("answer", [reply(204), reply(200, body=b"whatever")])
def test_deleting_reads_no_body(reference, path, answer):
    assert Story((f"DELETE /snapshots/{path}", answer)).run(delete_snapshot, reference) is None


@each_unanswered
def test_a_delete_whose_answer_was_lost_takes_not_found_for_done(lost):
    story = Story(
        (f"DELETE /snapshots/{SNAPSHOT_ID}", lost), (f"DELETE /snapshots/{SNAPSHOT_ID}", NOT_FOUND)
    )
    story.run(delete_snapshot, SNAPSHOT_ID)
    assert story.waits == [1500]


@pytest.mark.parametrize("before", [[], [refusal(429)], [REFUSED], [fault(FaultKind.DISCONNECTED)]])
def test_a_delete_that_cannot_have_been_carried_out_before_takes_not_found_for_an_error(before):
    answers = [*before, NOT_FOUND]
    story = Story(*[(f"DELETE /snapshots/{SNAPSHOT_ID}", answer) for answer in answers])
    error = story.fail(errors.ResourceNotFoundError, delete_snapshot, SNAPSHOT_ID)
    assert (error.resource_type, error.context.attempts) == ("snapshot", len(answers))


def test_a_delete_by_bare_name_never_deletes_two():
    # Once the first is gone, the name means the newest that is left (protocol/02 12.3).
    story = Story(("DELETE /snapshots/img", LOST))
    story.fail(errors.SandboxConnectionError, delete_snapshot, "img")


# --- tags and lists -------------------------------------------------------------------


def test_tags_and_where_they_point():
    tags = [{"tag": "a", "snapshot_id": "s1"}, {"tag": "b", "snapshot_id": "s2", "new": 1}]
    story = Story(
        ("GET /snapshots-by-name/team%2Fimg", reply(200, {"name": "team/img", "tags": tags}))
    )
    found = story.run(list_tags, "team/img")
    assert found == [SnapshotTag("a", "s1"), SnapshotTag("b", "s2")]


@pytest.mark.parametrize("body", [{"name": "img", "tags": []}, {"name": "img", "tags": None}, {}])
def test_a_name_without_tags_has_none(body):
    assert Story(("GET /snapshots-by-name/img", reply(200, body))).run(list_tags, "img") == []


def test_a_name_with_a_tag_in_it_is_the_servers_to_refuse():
    refused = refusal(400, "InvalidRequest", "ask for the name alone")
    story = Story(("GET /snapshots-by-name/img%3Av1", refused))
    assert str(story.fail(errors.SandboxClientError, list_tags, "img:v1")) == (
        "ask for the name alone"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"tags": {"a": 1}},
        {"tags": "text"},
        {"tags": ["x"]},
        {"tags": [{"tag": "a"}]},
        {"tags": [{"tag": 1, "snapshot_id": "s"}]},
        [],
        "text",
        {"tags": 5},
    ],
)
def test_what_is_no_list_of_tags_is_a_protocol_error(body):
    story = Story(("GET /snapshots-by-name/img", reply(200, body)))
    error = story.fail(errors.SandboxProtocolError, list_tags, "img")
    assert error.status == 200


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({}, "GET /snapshots"),
        ({"name_contains": "a b"}, "GET /snapshots?name_contains=a+b"),
        ({"limit": 500, "offset": 0}, "GET /snapshots?limit=500&offset=0"),
    ],
)
@pytest.mark.parametrize("field", ["items", "snapshots"])
def test_one_page_of_snapshots(query, asked, field):
    story = Story((asked, reply(200, {field: [record(id="a"), record("building", id="b")]})))
    page = story.run(list_page, SNAPSHOTS, filters(**query))
    assert [(each.id, each.status) for each in page.items] == [("a", "ready"), ("b", "building")]


@pytest.mark.parametrize("item", [{"name": "img"}, {"id": "s1"}, {"id": 5, "name": "img"}, None])
def test_a_snapshot_without_id_or_name_is_a_protocol_error(item):
    story = Story(("GET /snapshots", reply(200, {"items": [item]})))
    story.fail(errors.SandboxProtocolError, list_page, SNAPSHOTS, {})


# --- waiting --------------------------------------------------------------------------

UNTIL_READY = {"timeout": 300, "poll_interval": 2.0}


@pytest.mark.parametrize("status", ["building", "deleting", "brand-new", None])
def test_any_status_but_ready_and_failed_keeps_polling(status):
    unfinished = (GET, reply(200, {"id": "s1", "name": "img", "status": status}))
    story = Story(unfinished, unfinished, (GET, shown(fs_used_bytes=7)))
    ready = story.run(wait_for_snapshot, "s1", **UNTIL_READY)
    assert (ready.status, ready.fs_used_bytes) == ("ready", 7)
    assert story.waits == [2000, 2000]


@pytest.mark.parametrize(
    ("message", "text"),
    [("no such image", "no such image"), (None, "snapshot 'img' failed to build")],
)
def test_failed_ends_it_at_once_with_the_servers_reason(message, text):
    story = Story((GET, shown("building")), (GET, shown("failed", status_message=message)))
    error = story.fail(errors.ResourceCreationError, wait_for_snapshot, "s1", **UNTIL_READY)
    assert (str(error), error.resource_type, error.error_type) == (text, "snapshot", None)
    assert story.waits == [2000]


@pytest.mark.parametrize(
    ("timeout", "interval", "seconds", "waits", "took"),
    [
        (0, 2.0, 0.0, [], 0),
        (0.001, 2.0, 0.0, [1], 1),
        (5, 2.0, 0.0, [2000, 2000, 1000], 5000),
        (4, 2.0, 0.0, [2000, 2000], 4000),
        (1, 0.3, 0.0, [300, 300, 300, 100], 1000),
        (3, 60.0, 0.0, [3000], 3000),
        # What the answers take is part of the time; the last one may come after its end.
        (5, 2.0, 0.5, [2000, 2000], 5500),
        (5, 2.0, 0.25, [2000, 2000, 250], 5250),
        (5, 2.0, 6.0, [], 6000),
    ],
)
def test_the_polls_to_the_millisecond_and_one_more_after_the_last_wait(
    timeout, interval, seconds, waits, took
):
    story = Story(*[(GET, shown("building"), seconds)] * (len(waits) + 1))
    error = story.fail(
        errors.ResourceTimeoutError,
        wait_for_snapshot,
        "s1",
        timeout=timeout,
        poll_interval=interval,
    )
    assert (error.resource_type, error.last_status) == ("snapshot", "building")
    assert str(error) == (
        f"snapshot 'img' was not ready within {timeout:g} s (last_status: building)"
    )
    assert (story.waits, story.took) == (waits, took)


def test_readiness_seen_by_the_request_after_the_last_wait_counts():
    story = Story((GET, shown("building")), (GET, shown(), 9.0))
    assert story.run(wait_for_snapshot, "s1", timeout=1, poll_interval=2.0).status == "ready"
    assert (story.waits, story.took) == ([1000], 10000)


def test_without_any_time_a_ready_snapshot_is_returned():
    assert Story((GET, shown())).run(wait_for_snapshot, "s1", timeout=0, poll_interval=2.0)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (NOT_FOUND, errors.ResourceNotFoundError),
        (refusal(500), errors.SandboxAPIError),
        (refusal(401), errors.SandboxAuthenticationError),
        (reply(200, body=b"<html>"), errors.SandboxProtocolError),
        (fault(FaultKind.READ_TIMEOUT, Phase.SENT), errors.SandboxTimeoutError),
    ],
)
def test_a_poll_that_fails_ends_the_waiting(answer, error):
    story = Story((GET, shown("building")), (GET, answer))
    story.fail(error, wait_for_snapshot, "s1", **UNTIL_READY)


def test_every_poll_has_retries_of_its_own():
    trouble = [(GET, refusal(503)), (GET, LOST), (GET, REFUSED)]
    story = Story(*trouble, (GET, shown("building")), *trouble, (GET, shown()))
    story.run(wait_for_snapshot, "s1", **UNTIL_READY)
    assert story.waits == [1500, 2500, 4500, 2000, 1500, 2500, 4500]


# --- create and capture: the plain case -----------------------------------------------

MAKERS = {
    "create": (create_snapshot, (IMAGE,), POST),
    "capture": (capture_snapshot, ("box", {"name": "img"}), CAPTURE),
}
each_maker = pytest.mark.parametrize(("flow", "args", "post"), MAKERS.values(), ids=MAKERS)


@each_maker
def test_it_is_asked_for_once_and_polled_until_ready(flow, args, post):
    story = Story((post, made()), (GET, shown("building")), (GET, shown()))
    assert story.run(flow, *args, timeout=60).status == "ready"
    assert story.bodies == [args[-1], None, None]
    assert story.waits == [2000]


@each_maker
def test_it_is_polled_once_even_if_the_first_answer_says_ready(flow, args, post):
    story = Story((post, made("ready")), (GET, shown(tags=["latest"])))
    assert story.run(flow, *args, timeout=60).tags == ["latest"]


@each_maker
def test_it_is_polled_by_the_id_it_was_given(flow, args, post):
    story = Story(
        (post, made(id=SNAPSHOT_ID, name="another")),
        (f"GET /snapshots/{SNAPSHOT_ID}", shown(id=SNAPSHOT_ID)),
    )
    assert story.run(flow, *args, timeout=60).id == SNAPSHOT_ID


@each_maker
def test_the_headers_of_the_call_go_with_every_request(flow, args, post):
    story = Story((post, LOST), (FIND, NOBODY), (post, made()), (GET, shown()))
    story.run(flow, *args, timeout=60, headers={"X-Trace": "t1"})
    assert [request.headers["x-trace"] for request in story.sent] == ["t1"] * 4
    types = [request.headers.get("content-type") for request in story.sent]
    assert types == ["application/json", None, "application/json", None]


@each_maker
def test_the_polls_end_when_the_time_of_the_call_is_over(flow, args, post):
    story = Story((post, made()), *[(GET, shown("building"))] * 4)
    error = story.fail(errors.ResourceTimeoutError, flow, *args, timeout=5)
    assert (error.resource_type, error.last_status) == ("snapshot", "building")
    assert story.waits == [2000, 2000, 1000]


@each_maker
def test_a_build_that_fails_says_why(flow, args, post):
    story = Story((post, made()), (GET, shown("failed", status_message="cannot pull")))
    error = story.fail(errors.ResourceCreationError, flow, *args, timeout=60)
    assert (str(error), error.resource_type) == ("cannot pull", "snapshot")


def test_a_sandbox_is_addressed_by_one_segment():
    story = Story(("POST /boxes/a%2Fb/snapshot", made()), (GET, shown()))
    story.run(capture_snapshot, "a/b", {"name": "img"}, timeout=60)


# --- a definite refusal ---------------------------------------------------------------


@each_maker
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(400), errors.SandboxClientError),
        (refusal(403, "Forbidden"), errors.SandboxAuthenticationError),
        (refusal(408), errors.SandboxClientError),
        (refusal(409, "Conflict"), errors.SandboxClientError),
        (refusal(422, "ImagePull"), errors.ValidationError),
        (refusal(500), errors.SandboxAPIError),
        (reply(201, body=b"<html>"), errors.SandboxProtocolError),
        (reply(201, {"name": "img"}), errors.SandboxProtocolError),
    ],
)
def test_a_definite_answer_is_neither_repeated_nor_asked_about(flow, args, post, answer, error):
    story = Story((post, answer))
    assert story.fail(error, flow, *args, timeout=60).context.attempts == 1


def test_404_is_about_the_sandbox_for_a_capture_and_about_nothing_in_particular_otherwise():
    story = Story((CAPTURE, NOT_FOUND))
    error = story.fail(
        errors.ResourceNotFoundError, capture_snapshot, "box", {"name": "img"}, timeout=60
    )
    assert (str(error), error.resource_type) == ("there is no sandbox 'box'", "sandbox")
    story = Story((POST, NOT_FOUND))
    error = story.fail(errors.ResourceNotFoundError, create_snapshot, IMAGE, timeout=60)
    assert (str(error), error.resource_type) == ("the server's words", None)


@each_maker
@pytest.mark.parametrize(
    ("trouble", "waits"),
    [
        (refusal(429), [1500, 2500, 4500]),
        (refusal(429, retry_after="3"), [3500, 6500, 12500]),
        (REFUSED, [1500, 2500, 4500]),
        (fault(FaultKind.CONNECT_TIMEOUT), [1500, 2500, 4500]),
        (fault(FaultKind.DISCONNECTED, Phase.NOTHING_SENT), [1500, 2500, 4500]),
        (fault(FaultKind.DISCONNECTED, Phase.NOTHING_SENT, stale=True), [0, 0, 0]),
    ],
)
def test_what_was_provably_not_carried_out_is_repeated_without_asking(
    flow, args, post, trouble, waits
):
    story = Story(*[(post, trouble)] * 3, (post, made()), (GET, shown()))
    story.run(flow, *args, timeout=60)
    assert story.waits == waits
    first, *others = story.sent[:4]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("trouble", "error", "status"),
    [
        (refusal(429, message="storage"), errors.QuotaExceededError, 429),
        (REFUSED, errors.SandboxConnectionError, None),
    ],
)
def test_and_not_for_ever(trouble, error, status):
    story = Story(*[(POST, trouble)] * 4)
    raised = story.fail(error, create_snapshot, IMAGE, timeout=60)
    assert (raised.status, raised.context.attempts) == (status, 4)


# --- the answer is lost ---------------------------------------------------------------


@each_unanswered
@pytest.mark.parametrize("status", ["building", "ready"])
def test_a_snapshot_whose_answer_was_lost_is_found_again_not_made_twice(lost, status):
    story = Story((POST, lost), (FIND, listed(own(status))), (GET, shown()))
    assert story.run(create_snapshot, IMAGE, timeout=60).id == "s1"
    assert story.waits == []


@each_unanswered
def test_a_capture_whose_answer_was_lost_is_found_again_not_made_twice(lost):
    mine = own(docker_image=None, source_sandbox_id="box-id")
    story = Story((CAPTURE, lost), (FIND, listed(mine)), (GET, shown()))
    found = story.run(capture_snapshot, "box", {"name": "img"}, timeout=60, sandbox_id="box-id")
    assert found.id == "s1"


@each_unanswered
@each_maker
def test_what_the_server_does_not_know_is_asked_for_again_just_as_before(flow, args, post, lost):
    story = Story((post, lost), (FIND, NOBODY), (post, made()), (GET, shown()))
    assert story.run(flow, *args, timeout=60).id == "s1"
    assert story.waits == [1500]
    assert story.sent[0] == story.sent[2]


def test_every_lost_answer_is_asked_about_the_last_one_too():
    story = Story(
        *[(POST, LOST), (FIND, NOBODY)] * 3, (POST, LOST), (FIND, listed(own())), (GET, shown())
    )
    story.run(create_snapshot, IMAGE, timeout=60)
    assert story.waits == [1500, 2500, 4500]


def test_gateway_trouble_for_good_ends_as_the_last_answer_says():
    story = Story(*[(POST, refusal(503, "NoRoom", "full")), (FIND, NOBODY)] * 4)
    error = story.fail(errors.SandboxClientError, create_snapshot, IMAGE, timeout=60)
    assert (str(error), error.status, error.context.attempts) == ("full", 503, 4)
    assert story.waits == [1500, 2500, 4500]


def test_an_answer_lost_for_good_ends_as_a_connection_error():
    story = Story(*[(POST, LOST), (FIND, NOBODY)] * 4)
    error = story.fail(errors.SandboxConnectionError, create_snapshot, IMAGE, timeout=60)
    assert str(error).endswith("/snapshots: disconnected (4 attempts)")
    assert error.context.attempts == 4


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.READ_TIMEOUT, errors.SandboxTimeoutError),
        (FaultKind.DEADLINE, errors.SandboxTimeoutError),
        (FaultKind.PROTOCOL, errors.SandboxProtocolError),
        (FaultKind.TOO_LARGE, errors.SandboxProtocolError),
    ],
)
def test_other_trouble_behind_the_request_is_asked_about_but_never_repeated(kind, error):
    trouble = fault(kind, Phase.SENT, seconds=10.0)
    found = Story((POST, trouble, 10.0), (FIND, listed(own())), (GET, shown()))
    assert found.run(create_snapshot, IMAGE, timeout=60).id == "s1"
    unknown = Story((POST, trouble, 10.0), (FIND, NOBODY))
    unknown.fail(error, create_snapshot, IMAGE, timeout=60)


def test_the_question_has_retries_of_its_own():
    story = Story((POST, LOST), (FIND, refusal(503)), (FIND, listed(own())), (GET, shown()))
    assert story.run(create_snapshot, IMAGE, timeout=60).id == "s1"
    assert story.waits == [1500]


def test_a_found_snapshot_that_failed_is_not_built_again():
    story = Story(
        (POST, LOST), (FIND, listed(own("failed"))), (GET, shown("failed", status_message="no"))
    )
    assert str(story.fail(errors.ResourceCreationError, create_snapshot, IMAGE, timeout=60)) == "no"


@pytest.mark.parametrize(
    "answer",
    [
        refusal(500),
        refusal(403),
        reply(200, body=b"<html>"),
        fault(FaultKind.READ_TIMEOUT, Phase.SENT),
        fault(FaultKind.TLS),
    ],
    ids=["500", "403", "no JSON", "timeout", "TLS"],
)
def test_where_the_question_itself_fails_nothing_is_asked_for_twice(answer):
    story = Story((POST, LOST), (FIND, answer))
    story.fail(errors.SandboxConnectionError, create_snapshot, IMAGE, timeout=60)


# --- whose is it? ---------------------------------------------------------------------


def taken_for_ours(*records, date=LATER, **capture):
    """Which of these is taken for what we asked for four seconds ago; None: no one."""
    flow, args, _ = MAKERS["capture" if capture else "create"]
    answers = [LOST, listed(*records, date=date), made("ready"), shown()]
    talk = Talk(answers, latency=2.0)
    talk.run(flow(make_context(), *args, timeout=60, **capture))
    next_asked = talk.requests[2]
    if next_asked.startswith("POST"):
        return None
    return next_asked.removeprefix(f"GET {PATH}/snapshots/")


@pytest.mark.parametrize(
    ("age", "ours"),
    [
        (-1.0, True),  # made while the answer was written
        (0.0, True),
        (4.0, True),  # as old as our request
        (6.0, True),  # and a tolerance, for clocks that are cut to seconds
        (6.001, False),
        (3600.0, False),
    ],
)
def test_a_snapshot_is_ours_only_if_it_is_younger_than_our_request(age, ours):
    assert taken_for_ours(own(created_at=LATER - age)) == ("s1" if ours else None)


@pytest.mark.parametrize(
    "created_at",
    ["2026-01-01T00:00:10Z", "2026-01-01T00:00:10", "2026-01-01T02:00:10.5+02:00"],
)
def test_timestamps_are_read_in_every_spelling(created_at):
    assert taken_for_ours({**own(), "created_at": created_at}) == "s1"


@pytest.mark.parametrize(
    "other",
    [
        {"name": "img2"},
        {"name": "team/img"},
        {"name": "IMG"},
        {"docker_image": "python:3.13"},
        {"docker_image": None},
    ],
)
def test_another_name_or_image_is_not_ours_however_young(other):
    assert taken_for_ours({**own(), **other}) is None
    assert taken_for_ours({**own(), **other}, own(id="s2")) == "s2"


def test_of_several_that_could_be_ours_it_is_the_newest():
    records = [own(id="s3"), own(id="s2", created_at=LATER - 1), own(id="s1", created_at=0)]
    assert taken_for_ours(*records) == "s3"


def test_a_capture_is_known_by_the_sandbox_it_was_made_of():
    ours = own(docker_image=None, source_sandbox_id="box-id")
    foreign = {**ours, "id": "s2", "source_sandbox_id": "other-id"}
    image = {**ours, "id": "s3", "source_sandbox_id": None}
    assert taken_for_ours(foreign, image, sandbox_id="box-id") is None
    assert taken_for_ours(foreign, image, ours, sandbox_id="box-id") == "s1"
    assert taken_for_ours(own(created_at=0), sandbox_id="box-id") is None


def test_a_capture_by_name_alone_does_not_take_what_was_made_of_something_else():
    assert taken_for_ours(own(docker_image="python:3.12"), sandbox_id=None) is None


@pytest.mark.parametrize(
    ("created_at", "date"),
    [(timestamp(LATER), None), (None, LATER), ("today", LATER)],
    ids=["no Date", "no created_at", "garbage"],
)
def test_where_it_cannot_be_told_whose_it_is_nothing_is_asked_for_twice(created_at, date):
    unclear = {**own(), "created_at": created_at}
    story = Story((POST, LOST), (FIND, listed(unclear, date=date)))
    story.fail(errors.SandboxConnectionError, create_snapshot, IMAGE, timeout=60)


# --- a server that keeps its word -----------------------------------------------------


class Server:
    """Makes a snapshot whenever it is asked to, one every second, and may lose any answer."""

    def __init__(self, losses):
        self.losses = list(losses)
        self.now = 0
        self.made = []

    def __call__(self, request):
        self.now += 1
        loss = self.losses.pop(0) if self.losses else None
        if loss == "before":
            return LOST
        if loss == "gateway before":
            return refusal(504)
        answer = self._answer(request)
        if loss == "after":
            return fault(FaultKind.DISCONNECTED, Phase.RESPONSE_BEGUN)
        return refusal(502) if loss == "gateway after" else answer

    def _answer(self, request):
        if request.method == "POST":
            fields = {"docker_image": None, "source_sandbox_id": "box-id", **body_json(request)}
            if "docker_image" in body_json(request):
                fields["source_sandbox_id"] = None
            new = {"id": f"s{self.now}", "created_at": timestamp(self.now), **fields}
            self.made.append({**new, "status": "ready"})
            return reply(201, new)
        if request.url.without_query().endswith("/snapshots"):
            return listed(*reversed(self.made), date=self.now)
        [found] = [each for each in self.made if request.url.target.endswith("/" + each["id"])]
        return reply(200, found)


LOSSES = [None, "before", "after", "gateway before", "gateway after"]


@pytest.mark.parametrize("first", LOSSES)
@each_maker
def test_whatever_gets_lost_there_is_exactly_one_snapshot(flow, args, post, first):
    known = {"sandbox_id": "box-id"} if flow is capture_snapshot else {}
    for others in itertools.product(LOSSES, repeat=2):
        server = Server([first, *others])
        talk = Talk(server, latency=1.0)
        ready = talk.run(flow(make_context(), *args, timeout=60, **known))
        assert [each["id"] for each in server.made] == [ready.id], [first, *others]
