"""Creating a sandbox: never twice, never left behind (flows.creation, design section 6)."""

from __future__ import annotations

import pytest

from sandbox_proto.errors import (
    QuotaExceededError,
    ResourceCreationError,
    ResourceTimeoutError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxProtocolError,
    SandboxTimeoutError,
)
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.creation import Creation
from sandbox_proto.wire.creation import CreationSpec

from ._helpers import Talk, fault, make_context, refusal, reply

BOXES = "/api/v2/sandboxes/boxes"
POST = f"POST {BOXES}"
NOW = 1000.0


class Scene:
    """One creation and the server it meets."""

    def __init__(self, *answers, name=None, wait_for_ready=True, timeout=30.0, **settings):
        self.talk = Talk(answers, now=NOW)
        context = make_context(now=NOW, **settings)
        self.creation = Creation(
            context, CreationSpec(name=name), timeout=timeout, wait_for_ready=wait_for_ready
        )
        self.name = self.creation.name

    def run(self):
        return self.talk.run(self.creation.run())

    def fail(self):
        with pytest.raises(SandboxClientError) as caught:
            self.run()
        return caught.value

    @property
    def requests(self):
        return [self.short(request) for request in self.talk.requests]

    def short(self, request):
        path = f"{BOXES}/{self.name}"
        return request.replace(path, "box").replace(BOXES, "boxes")


def box(status="ready", **more):
    return reply(201, {"name": "box", "status": status, "id": "id-1", **more})


def found(status="ready", *, created_at=None, date=None, **more):
    fields = {"name": "box", "status": status, "id": "id-1", **more}
    if created_at is not None:
        fields["created_at"] = created_at
    headers = {} if date is None else {"date": date}
    return reply(200, fields, **headers)


NOT_FOUND = refusal(404)
GONE = reply(204)
CONFLICT = refusal(409, "Conflict", "there is a sandbox of this name")
LOST = {
    phase: fault(FaultKind.DISCONNECTED, phase)
    for phase in (Phase.PARTLY_SENT, Phase.SENT, Phase.RESPONSE_BEGUN)
}
UNKNOWN = {
    **{f"cut when {phase.name}": trouble for phase, trouble in LOST.items()},
    "502": refusal(502),
    "503": refusal(503),
    "504": refusal(504),
}
each_unknown = pytest.mark.parametrize("trouble", UNKNOWN.values(), ids=UNKNOWN)


def test_the_plain_case_is_one_request():
    scene = Scene(box())
    assert scene.run().id == "id-1"
    assert scene.requests == ["POST boxes"]


# --- the answer is lost ---------------------------------------------------------------


@each_unknown
@pytest.mark.parametrize("name", [None, "mine"])
def test_an_unknown_outcome_is_reconciled_by_name_before_anything_else(trouble, name):
    young = found(created_at="2026-01-01T00:00:00Z", date="Thu, 01 Jan 2026 00:00:01 GMT")
    scene = Scene(trouble, young, name=name)
    assert scene.run().id == "id-1"
    assert scene.requests == ["POST boxes", "GET box"]
    assert scene.talk.sleeps == []


@each_unknown
@pytest.mark.parametrize("name", [None, "mine"])
def test_if_it_does_not_exist_it_is_asked_for_again_with_the_same_name(trouble, name):
    scene = Scene(trouble, NOT_FOUND, box(), name=name)
    assert scene.run().id == "id-1"
    assert scene.requests == ["POST boxes", "GET box", "POST boxes"]
    first, _, second = (each.request for each in scene.talk.performed)
    assert first == second
    assert scene.talk.sleeps == [1.5]


@each_unknown
def test_a_conflict_with_an_earlier_attempt_is_a_success(trouble):
    scene = Scene(trouble, NOT_FOUND, CONFLICT, found())
    assert scene.run().id == "id-1"
    assert scene.requests == ["POST boxes", "GET box", "POST boxes", "GET box"]


def test_a_conflict_with_somebody_elses_sandbox_is_raised():
    scene = Scene(CONFLICT, name="mine")
    error = scene.fail()
    assert (type(error), error.status) == (SandboxClientError, 409)
    assert scene.requests == ["POST boxes"]


@each_unknown
def test_a_sandbox_that_is_still_booting_is_waited_for(trouble):
    booting, ready = reply(200, {"status": "provisioning"}), reply(200, {"status": "ready"})
    scene = Scene(trouble, found("provisioning"), booting, ready, found())
    assert scene.run().status == "ready"
    assert scene.requests == [
        *("POST boxes", "GET box", "GET box/status", "GET box/status", "GET box"),
    ]
    assert scene.talk.sleeps == [1.0]


def test_who_does_not_want_to_wait_gets_it_as_it_is():
    scene = Scene(UNKNOWN["504"], found("provisioning"), wait_for_ready=False)
    assert scene.run().status == "provisioning"
    assert scene.requests == ["POST boxes", "GET box"]


@pytest.mark.parametrize(("name", "deleted"), [(None, True), ("mine", False)])
def test_a_reconciled_sandbox_that_fails_is_removed_if_nobody_knows_its_name(name, deleted):
    young = found(
        "provisioning", created_at="2026-01-01T00:00:00Z", date="Thu, 01 Jan 2026 00:00:01 GMT"
    )
    failed = reply(200, {"status": "failed", "status_message": "no disk"})
    scene = Scene(UNKNOWN["504"], young, failed, GONE, name=name)
    error = scene.fail()
    assert (type(error), str(error)) == (ResourceCreationError, "no disk")
    assert ("DELETE box" in scene.requests) == deleted


def test_the_time_for_becoming_ready_counts_from_the_beginning():
    booting = reply(200, {"status": "provisioning"})
    scene = Scene(UNKNOWN["504"], found("provisioning"), booting, GONE, timeout=3.0)
    scene.talk.latency = 1.0
    assert type(scene.fail()) is ResourceTimeoutError
    assert scene.requests[-1] == "DELETE box"


# --- whose is it? ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("created_at", "date", "ours"),
    [
        ("2026-01-01T00:00:10Z", "Thu, 01 Jan 2026 00:00:10 GMT", True),
        ("2026-01-01T00:00:06Z", "Thu, 01 Jan 2026 00:00:10 GMT", True),  # 4 s: as old as we
        ("2026-01-01T00:00:04.5+00:00", "Thu, 01 Jan 2026 00:00:10 GMT", True),  # and a tolerance
        ("2026-01-01T00:00:03Z", "Thu, 01 Jan 2026 00:00:10 GMT", False),
        ("2025-12-31T00:00:00Z", "Thu, 01 Jan 2026 00:00:10 GMT", False),
        ("2026-01-01T00:00:10", "Thu, 01 Jan 2026 00:00:10 GMT", True),  # naive is UTC
        ("2026-01-01T02:00:10+02:00", "Thu, 01 Jan 2026 00:00:10 GMT", True),
        ("2026-01-01T00:00:10+02:00", "Thu, 01 Jan 2026 00:00:10 GMT", False),
        ("2026-01-01T00:00:10Z", None, False),
        ("2026-01-01T00:00:10Z", "now", False),
        (None, "Thu, 01 Jan 2026 00:00:10 GMT", False),
        ("today", "Thu, 01 Jan 2026 00:00:10 GMT", False),
    ],
)
def test_a_sandbox_of_the_users_name_is_ours_only_if_it_is_younger_than_our_request(
    created_at, date, ours
):
    answer, later = found(created_at=created_at, date=date), found(created_at=created_at)
    scene = Scene(UNKNOWN["504"], answer, CONFLICT, later, name="mine")
    scene.talk.latency = 2.0  # so the question is answered four seconds after we began
    if ours:
        assert scene.run().id == "id-1"
        assert scene.requests == ["POST boxes", "GET box"]
    else:
        error = scene.fail()
        assert error.status == 409, "it is somebody else's: the name is taken"
        assert "DELETE box" not in scene.requests


def test_a_generated_name_is_proof_enough():
    scene = Scene(UNKNOWN["504"], found(created_at="1999-01-01T00:00:00Z"))
    assert scene.run().id == "id-1"


# --- it ends badly --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "deletes"), [(None, ["DELETE box"]), ("mine", [])])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(408, "Timeout"), ResourceTimeoutError),
        (reply(201, body=b"<html>"), SandboxProtocolError),
        (reply(201, body=b"[]"), SandboxProtocolError),
        (reply(201, {"name": 5}), SandboxProtocolError),
    ],
)
def test_what_may_exist_under_a_name_nobody_knows_is_deleted(answer, error, name, deletes):
    scene = Scene(answer, GONE, name=name)
    assert type(scene.fail()) is error
    assert scene.requests == ["POST boxes", *deletes]


@pytest.mark.parametrize(
    "cleanup", [NOT_FOUND, refusal(500), fault(FaultKind.READ_TIMEOUT, Phase.SENT)]
)
def test_trouble_while_cleaning_up_does_not_hide_the_trouble_before(cleanup):
    scene = Scene(refusal(408, "Timeout", "too slow"), cleanup)
    error = scene.fail()
    assert (type(error), str(error)) == (ResourceTimeoutError, "too slow")


@pytest.mark.parametrize(
    "answer",
    [refusal(400), refusal(401), refusal(422, "ImagePull"), refusal(500), refusal(409)],
)
def test_a_definite_refusal_leaves_nothing_to_clean_up(answer):
    scene = Scene(answer)
    scene.fail()
    assert scene.requests == ["POST boxes"]


def test_a_quota_refusal_is_repeated_without_asking_whether_it_exists():
    scene = Scene(refusal(429, message="cpu"), refusal(429, message="cpu"), box())
    scene.run()
    assert scene.requests == ["POST boxes"] * 3
    exhausted = Scene(*[refusal(429, message="cpu")] * 4)
    assert type(exhausted.fail()) is QuotaExceededError
    assert exhausted.requests == ["POST boxes"] * 4


def test_where_no_connection_could_be_made_there_is_nothing_to_ask_about():
    scene = Scene(fault(FaultKind.UNREACHABLE), box())
    scene.run()
    assert scene.requests == ["POST boxes"] * 2


def test_persistent_gateway_trouble_ends_as_the_last_answer_says():
    scene = Scene(*[refusal(503, "NoRoom", "full"), NOT_FOUND] * 4, NOT_FOUND)
    error = scene.fail()
    assert (type(error), error.error_type) == (ResourceCreationError, "NoRoom")
    assert error.context.attempts == 4
    assert scene.requests == ["POST boxes", "GET box"] * 4 + ["DELETE box"]
    assert scene.talk.sleeps == [1.5, 2.5, 4.5]


@pytest.mark.parametrize("kind", [FaultKind.READ_TIMEOUT, FaultKind.DEADLINE, FaultKind.PROTOCOL])
def test_other_trouble_behind_the_request_is_reconciled_but_not_repeated(kind):
    trouble = fault(kind, Phase.SENT, seconds=60.0)
    assert Scene(trouble, found()).run().id == "id-1"
    scene = Scene(trouble, NOT_FOUND, GONE)
    error = scene.fail()
    assert isinstance(error, SandboxConnectionError)
    assert isinstance(error, SandboxTimeoutError) == (kind is not FaultKind.PROTOCOL)
    assert scene.requests == ["POST boxes", "GET box", "DELETE box"]


@pytest.mark.parametrize(
    "answer", [refusal(401), refusal(500), reply(200, body=b"?"), LOST[Phase.SENT]]
)
def test_if_the_question_itself_fails_the_creation_goes_on(answer):
    repeated = [answer] * (4 if answer is LOST[Phase.SENT] else 1)
    scene = Scene(UNKNOWN["504"], *repeated, box())
    assert scene.run().id == "id-1"


# --- cancelled ------------------------------------------------------------------------


def begun(scene, effects=1):
    """Run the creation up to (and into) its n-th effect, then drop it as a cancellation does."""
    flow = scene.creation.run()
    outcome = None
    for _ in range(effects - 1):
        outcome = scene.talk.step(flow.send(outcome))
    flow.send(outcome)
    flow.close()


def undo(scene, phase, *answers):
    """The requests of the compensation, or None if there is none."""
    context = make_context(now=NOW + 5)
    flow = scene.creation.undo(context, phase)
    if flow is None:
        return None
    scene.talk = Talk(answers, now=NOW + 5)
    scene.talk.run(flow)
    return scene.requests


def test_before_anything_was_asked_there_is_nothing_to_undo():
    assert undo(Scene(), Phase.NOTHING_SENT) is None
    assert undo(Scene(), Phase.RESPONSE_BEGUN) is None


def test_a_request_of_which_nothing_was_sent_needs_no_undoing():
    scene = Scene()
    begun(scene)
    assert undo(scene, Phase.NOTHING_SENT) is None


@pytest.mark.parametrize("phase", [Phase.PARTLY_SENT, Phase.SENT, Phase.RESPONSE_BEGUN])
def test_what_exists_is_deleted_by_its_id(phase):
    scene = Scene()
    begun(scene)
    requests = undo(scene, phase, found(), GONE)
    assert requests == ["GET box", "DELETE boxes/id-1"]


def test_the_server_may_still_be_at_it_so_one_not_found_proves_nothing():
    scene = Scene()
    begun(scene)
    requests = undo(scene, Phase.SENT, NOT_FOUND, NOT_FOUND, NOT_FOUND, found(), GONE)
    assert requests == ["GET box"] * 4 + ["DELETE boxes/id-1"]
    assert scene.talk.sleeps == [pytest.approx(wait) for wait in (0.1, 0.2, 0.4)]


def test_but_it_is_not_looked_for_for_ever():
    scene = Scene()
    begun(scene)
    requests = undo(scene, Phase.SENT, *[NOT_FOUND] * 20)
    assert set(requests) == {"GET box"}
    assert 5.0 <= sum(scene.talk.sleeps) < 10.0


def test_somebody_elses_sandbox_is_not_deleted():
    scene = Scene(name="mine")
    begun(scene)
    old = found(created_at="2020-01-01T00:00:00Z", date="Thu, 01 Jan 2026 00:00:00 GMT")
    assert "DELETE boxes/id-1" not in undo(scene, Phase.SENT, *[old] * 20)


def test_our_own_of_the_users_name_is():
    scene = Scene(name="mine")
    begun(scene)
    young = found(created_at="2026-01-01T00:00:00Z", date="Thu, 01 Jan 2026 00:00:06 GMT")
    assert undo(scene, Phase.SENT, young, GONE)[-1] == "DELETE boxes/id-1"


def test_an_earlier_attempt_may_have_made_it_whatever_the_phase_of_the_present_one():
    scene = Scene(UNKNOWN["504"], NOT_FOUND)
    begun(scene, effects=4)  # POST, GET, wait, and the second POST in flight
    assert undo(scene, Phase.NOTHING_SENT, found(), GONE) == ["GET box", "DELETE boxes/id-1"]


def test_a_creation_cancelled_while_the_sandbox_boots_is_undone():
    scene = Scene(UNKNOWN["504"], found("provisioning"))
    begun(scene, effects=3)  # POST, GET, and the first status request in flight
    assert undo(scene, Phase.NOTHING_SENT, found(), GONE)[-1] == "DELETE boxes/id-1"


# --- a server that keeps its word about names -----------------------------------------


class Server:
    """Makes at most one sandbox of each name, and may lose any answer."""

    def __init__(self, losses):
        self.losses = list(losses)
        self.made = []
        self.boxes = {}

    def __call__(self, request):
        loss = self.losses.pop(0) if self.losses else None
        if loss == "before":
            return LOST[Phase.SENT]
        if loss == "gateway before":
            return refusal(504)
        answer = self._answer(request)
        if loss == "after":
            return LOST[Phase.RESPONSE_BEGUN]
        return refusal(502) if loss == "gateway after" else answer

    def _answer(self, request):
        name = request.url.target.removeprefix(BOXES).strip("/")
        if request.method == "POST":
            [key] = [
                part for part in bytes(request.body[0]).split(b'"') if part.startswith(b"sandbox-")
            ]
            if key in self.boxes:
                return CONFLICT
            self.boxes[key] = True
            self.made.append(key)
            return reply(201, {"name": key.decode(), "status": "ready", "id": "id-1"})
        if name.encode() not in self.boxes:
            return NOT_FOUND
        if request.method == "DELETE":
            del self.boxes[name.encode()]
            return GONE
        return reply(200, {"name": name, "status": "ready", "id": "id-1"})


LOSSES = [None, "before", "after", "gateway before", "gateway after"]


@pytest.mark.parametrize("third", LOSSES)
@pytest.mark.parametrize("second", LOSSES)
@pytest.mark.parametrize("first", LOSSES)
def test_whatever_gets_lost_there_is_exactly_one_sandbox(first, second, third):
    server = Server([first, second, third])
    scene = Scene()
    scene.talk.answers = server
    record = scene.run()
    assert record.name == scene.name
    assert server.made == [scene.name.encode()], "two were made"
    assert list(server.boxes) == server.made, "one was left behind"
