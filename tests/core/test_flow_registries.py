"""Image registries (flows.registries; protocol/02 section 14)."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.registries import call_registries, parse_registries
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.models import Registry

from ._flows import REFUSED, Story, each_unanswered
from ._helpers import BASE, KEY, fault, refusal, reply

LIST = "GET /registries"
CREATE = "POST /registries"
ONE = "/registries/hub"
NEW = {"name": "hub", "url": "https://r.test", "username": "me", "password": "s3cret"}
HUB = {"id": "r1", "name": "hub", "url": "https://r.test", "provider": "HARBOR", "new": 1}
NOT_FOUND = refusal(404, message="the server's words")
CONFLICT = refusal(409, "Conflict", "the server's words")

# Every call: its arguments, and what is asked.
CALLS = {
    "create": (("POST", None), {"body": NEW}, CREATE),
    "list": (("GET", None), {}, LIST),
    "retrieve": (("GET", "hub"), {}, f"GET {ONE}"),
    "update": (("PATCH", "hub"), {"body": {"url": "https://s.test"}}, f"PATCH {ONE}"),
    "rename": (("PATCH", "hub"), {"body": {"name": "new"}}, f"PATCH {ONE}"),
    "delete": (("DELETE", "hub"), {}, f"DELETE {ONE}"),
}
each_call = pytest.mark.parametrize(("args", "more", "asked"), CALLS.values(), ids=CALLS)


def tell(call, *answers):
    """The story of a call that is answered so, and how to begin it."""
    args, more, asked = CALLS[call]
    story = Story(*[(asked, answer) for answer in answers])
    return story, (call_registries, *args), more


def run(call, *answers):
    story, flow, more = tell(call, *answers)
    return story.run(*flow, **more), story


def fail(call, error, *answers):
    story, flow, more = tell(call, *answers)
    return story.fail(error, *flow, **more)


# --- the calls ------------------------------------------------------------------------


@each_call
def test_what_is_sent(args, more, asked):
    story = Story((asked, reply(200, HUB)))
    assert story.run(call_registries, *args, **more, headers={"X-Trace": "t"}) == HUB
    [request] = story.sent
    assert story.bodies == [more.get("body")]
    assert request.headers.get("content-type") == ("application/json" if more else None)
    assert (request.headers["x-api-key"], request.headers["x-trace"]) == (KEY, "t")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (BASE, "https://api.test/api/v2/sandboxes/registries/hub"),
        ("https://api.test/v2/sandboxes", "https://api.test/api/v2/sandboxes/registries/hub"),
        ("https://api.test/x", "https://api.test/x/api/v2/sandboxes/registries/hub"),
    ],
)
def test_the_path_starts_from_the_root_of_the_api(endpoint, url):
    asked = "GET " + url.removeprefix(BASE)
    story = Story((asked, reply(200, HUB)), api_endpoint=endpoint)
    story.run(call_registries, "GET", "hub")
    assert str(story.sent[0].url) == url


def test_a_name_is_one_segment():
    story = Story(("DELETE /registries/a%2Fb%3Fc", reply(204)))
    assert story.run(call_registries, "DELETE", "a/b?c") is None


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_address_another_path_is_refused_unasked(name):
    with pytest.raises(ValueError, match="name"):
        Story().run(call_registries, "DELETE", name)


@pytest.mark.parametrize(
    ("timeout", "expected"), [(None, Timeouts.uniform(10)), (2.5, Timeouts.uniform(2.5))]
)
def test_the_patience_is_the_calls_else_the_clients(timeout, expected):
    story = Story((LIST, reply(200, {})))
    story.run(call_registries, "GET", timeout=timeout)
    assert story.timeouts == [expected]


def test_an_empty_change_is_a_change_all_the_same():
    story = Story((f"PATCH {ONE}", reply(200, HUB)))
    story.run(call_registries, "PATCH", "hub", body={})
    assert story.bodies == [{}]


def test_an_answer_without_a_body_is_none():
    assert run("delete", reply(204))[0] is None


@pytest.mark.parametrize("body", [b"<html>", b"nul", b"\xff"])
def test_an_answer_that_is_no_json_is_a_protocol_error(body):
    assert fail("list", errors.SandboxProtocolError, reply(200, body=body)).status == 200


# --- pages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (None, LIST),
        ({}, LIST),
        ({"page_size": "2", "cursor": "a b"}, LIST + "?page_size=2&cursor=a+b"),
        (
            {"limit": "2", "offset": "4", "name_contains": "x&"},
            LIST + "?limit=2&offset=4&name_contains=x%26",
        ),
        ({"tag": ["a", "b"]}, LIST + "?tag=a&tag=b"),
    ],
)
def test_the_query_of_a_page(query, asked):
    page = {"items": [HUB], "next_cursor": "c", "offset": 0}
    story = Story((asked, reply(200, page)))
    assert story.run(call_registries, "GET", query=query) == page


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ({"items": [HUB, {**HUB, "name": "b"}]}, ["hub", "b"]),
        ({"registries": [HUB]}, ["hub"]),
        ({"items": [HUB], "registries": [{**HUB, "name": "b"}]}, ["hub"]),
        ({"items": None, "registries": [HUB]}, ["hub"]),
        ({"items": []}, []),
        ({"items": None, "registries": None}, []),
        ({}, []),
    ],
)
def test_the_registries_of_a_page(answer, names):
    assert [registry.name for registry in parse_registries(answer)] == names


def test_a_registry_and_what_is_new_about_it():
    [registry] = parse_registries({"items": [HUB]})
    assert registry == Registry("r1", "hub", "https://r.test", provider="HARBOR")
    assert registry.raw == HUB


@pytest.mark.parametrize(
    "answer",
    [
        {"items": [None]},
        {"items": ["hub"]},
        {"items": [{"id": "r1", "name": "hub"}]},
        {"items": [{**HUB, "url": 5}]},
        {"items": "text"},
        None,
        [],
        "text",
        {"items": 5},
    ],
)
def test_what_is_no_list_of_registries_is_a_protocol_error(answer):
    with pytest.raises(errors.SandboxProtocolError):
        parse_registries(answer)


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["retrieve", "update", "rename", "delete"])
def test_a_registry_that_is_not_there(call):
    error = fail(call, errors.ResourceNotFoundError, NOT_FOUND)
    assert (str(error), error.resource_type) == ("there is no registry 'hub'", "registry")


@pytest.mark.parametrize("call", ["create", "list"])
def test_404_where_no_registry_was_named_has_the_servers_words(call):
    error = fail(call, errors.ResourceNotFoundError, NOT_FOUND)
    assert (str(error), error.resource_type) == ("the server's words", None)


@pytest.mark.parametrize(("call", "name"), [("create", "hub"), ("rename", "new")])
def test_a_name_that_is_taken(call, name):
    error = fail(call, errors.ResourceNameConflictError, CONFLICT)
    assert str(error) == f"there is a registry {name!r} already"
    assert (error.resource_type, error.status) == ("registry", 409)


@pytest.mark.parametrize("call", ["update", "delete"])
def test_a_conflict_about_something_else_has_the_servers_words(call):
    story, flow, more = tell(call, CONFLICT)
    with pytest.raises(errors.SandboxClientError) as caught:
        story.run(*flow, **more)
    assert str(caught.value) == "the server's words"


@each_call
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.SandboxClientError),
        (401, errors.SandboxAuthenticationError),
        (403, errors.SandboxAuthenticationError),
        (408, errors.SandboxClientError),
        (422, errors.ValidationError),
        (500, errors.SandboxAPIError),
        (501, errors.SandboxClientError),
        (302, errors.SandboxClientError),
    ],
)
def test_any_other_refusal_is_that_of_the_control_plane(args, more, asked, status, error):
    story = Story((asked, refusal(status, message="why")))
    raised = story.fail(error, call_registries, *args, **more)
    assert (str(raised), raised.status, raised.context.attempts) == ("why", status, 1)
    assert raised.context.method == args[0]
    assert "s3cret" not in repr(raised.context)


# --- repetition -----------------------------------------------------------------------


@each_call
@pytest.mark.parametrize("trouble", [REFUSED, refusal(429), fault(FaultKind.DISCONNECTED)])
def test_what_was_provably_not_carried_out_is_repeated_whatever_it_is(args, more, asked, trouble):
    story = Story((asked, trouble), (asked, reply(200, HUB)))
    story.run(call_registries, *args, **more)
    assert story.waits == [1500]


@pytest.mark.parametrize("call", ["list", "retrieve", "update", "rename", "delete"])
@each_unanswered
def test_what_has_no_further_effect_is_repeated(call, lost):
    _, story = run(call, lost, reply(200, HUB))
    assert story.waits == [1500]
    assert story.sent[0] == story.sent[1]


@each_unanswered
def test_a_registry_is_never_added_twice(lost):
    story, flow, more = tell("create", lost)
    with pytest.raises(errors.SandboxClientError) as caught:
        story.run(*flow, **more)
    assert caught.value.context.attempts == 1


def test_trouble_names_the_request_and_no_secret():
    story = Story((CREATE, fault(FaultKind.READ_TIMEOUT, Phase.SENT, seconds=10.0)))
    error = story.fail(errors.SandboxTimeoutError, call_registries, "POST", body=NEW)
    assert str(error) == f"POST {BASE}/registries: read timeout"


@each_unanswered
def test_a_delete_whose_answer_was_lost_takes_not_found_for_done(lost):
    run("delete", lost, NOT_FOUND)


@each_unanswered
def test_a_rename_whose_answer_was_lost_is_found_under_its_new_name(lost):
    args, more, asked = CALLS["rename"]
    renamed = {**HUB, "name": "new"}
    story = Story((asked, lost), (asked, NOT_FOUND), ("GET /registries/new", reply(200, renamed)))
    assert story.run(call_registries, *args, **more) == renamed


@pytest.mark.parametrize("trouble", [REFUSED, refusal(429)])
def test_a_delete_that_cannot_have_been_carried_out_before_takes_not_found_for_an_error(trouble):
    assert fail("delete", errors.ResourceNotFoundError, trouble, NOT_FOUND).context.attempts == 2
