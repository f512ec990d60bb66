"""From responses to exceptions: protocol/03 sections 2 and 3, row by row, through flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sandbox_proto import errors
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.files import dataplane, read_file, write_file
from sandbox_proto.flows.sandboxes import delete_sandbox, update_sandbox
from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.http import Response

from . import _flows
from ._helpers import BASE, KEY, NO_RETRIES, Talk, fault, make_context, refusal, reply

DATA = "http://d.test/sb"


def _context():
    return make_context(retry=NO_RETRIES)


def _create(context):
    spec = CreationSpec(name="box")
    return Creation(context, spec, timeout=5, wait_for_ready=True).run()


CALLS: dict[str, Callable[[Any], Any]] = {
    **_flows.CALLS,
    "create": _create,
    "read": lambda context: read_file(context, DATA, "/f", timeout=5),
    "write": lambda context: write_file(context, DATA, "/f", b"x", timeout=5),
}
# The registries have 404 and 409 of their own; see test_flow_registries.
CONTROL = [name for name in _flows.CALLS if "regist" not in name]
FEW = ["get", "list", "update", "build"]  # where the rule is plainly one for all
FILES = ["read", "write"]

# A call that makes something asks whether it did, before it gives up.
NOTHING_MADE = {"create": [refusal(404)], "build": [reply(200, {})], "capture": [reply(200, {})]}


def fail(call: str, *answers: Response) -> errors.SandboxClientError:
    """The error of a call that is answered so, and made nothing."""
    with pytest.raises(errors.SandboxClientError) as caught:
        Talk([*answers, *NOTHING_MADE.get(call, [])]).run(CALLS[call](_context()))
    return caught.value


# --- 2.2: the message -----------------------------------------------------------------

FALLBACK = f"GET {BASE}/boxes/box was answered with 418 Teapot"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", FALLBACK),
        (b"", FALLBACK),
        (b"\xff\xfe", FALLBACK),
        (b"[1]", FALLBACK),
        (b'"text"', FALLBACK),
        (b"[" * 100_000, FALLBACK),
        (b"{}", FALLBACK),
        (b'{"error": "E", "message": "top level"}', FALLBACK),
        (b'{"detail": {"error": "E", "message": "m"}}', "m"),
        (b'{"detail": {"message": "m", "error_id": "id7"}}', "m (error_id=id7)"),
        (b'{"detail": {"error_id": "id7"}}', f"{FALLBACK} (error_id=id7)"),
        (b'{"detail": {"message": "m", "error_id": ""}}', "m"),
        (b'{"detail": {"message": "m", "error_id": 7}}', "m"),
        (b'{"detail": {}}', FALLBACK),
        # Where the vendor's clients differ among themselves, the message is the useful one.
        (b'{"detail": {"message": null}}', FALLBACK),
        (b'{"detail": {"message": ""}}', FALLBACK),
        (b'{"detail": [{"msg": "a"}, {"msg": "b"}]}', "a; b"),
        (b'{"detail": [{"msg": "a"}, "odd", 5]}', "a"),
        (b'{"detail": [{"loc": ["x"]}]}', "{'loc': ['x']}"),
        (b'{"detail": ["odd"]}', FALLBACK),
        (b'{"detail": []}', FALLBACK),
        (b'{"detail": "plain"}', "plain"),
        (b'{"detail": ""}', FALLBACK),
        (b'{"detail": null}', FALLBACK),
        (b'{"detail": 0}', FALLBACK),
        (b'{"detail": 42}', "42"),
    ],
)
def test_the_message_of_a_control_plane_error(body, message):
    error = fail("get", reply(418, body=body, reason="Teapot"))
    assert (type(error), str(error)) == (errors.SandboxClientError, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": {"error": "E", "message": "m", "error_id": "i"}}', "m (error_id=i)"),
        (b'{"detail": [{"msg": "a"}]}', "[{'msg': 'a'}]"),
        (b'{"detail": "plain"}', "plain"),
        (b'{"detail": []}', "GET http://d.test/sb/download was answered with 418"),
        (b"not json", "GET http://d.test/sb/download was answered with 418"),
    ],
)
def test_the_message_of_a_data_plane_error(body, message):
    assert str(fail("read", reply(418, body=body))) == message


def test_an_error_says_where_it_came_from():
    answer = refusal(500, message="m", x_request_id="r1", retry_after="7")
    context = fail("get", answer).context
    expected = errors.ErrorContext("GET", f"{BASE}/boxes/box", 500, None, "r1", 7.0, 1)
    assert context == expected


@pytest.mark.parametrize("call", [*_flows.CALLS, "create", *FILES])
def test_every_error_says_where_it_came_from_and_no_secret(call):
    detail = {"error": "Odd", "message": "why", "error_id": "e7"}
    answer = reply(418, {"detail": detail}, x_request_id="r1", retry_after="2.5")
    talk = Talk([answer])
    with pytest.raises(errors.SandboxClientError) as caught:
        talk.run(CALLS[call](_context()))
    error, url = caught.value, talk.performed[0].request.url
    assert (error.status, error.error_id, error.request_id) == (418, "e7", "r1")
    assert error.retry_after == 2.5
    assert (error.context.method, error.context.attempts) == (talk.requests[0].split()[0], 1)
    assert error.context.url == str(url).partition("?")[0]
    assert str(error) == "why (error_id=e7)"
    assert KEY not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 0.25 ", 0.25),
        ("1e3", 1000.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("call", ["get", "create", "read"])
def test_how_long_to_wait_is_told_if_it_is_a_sane_number(call, value, seconds):
    headers = {} if value is None else {"retry_after": value}
    assert fail(call, refusal(500, **headers)).retry_after == seconds


def test_an_error_of_a_file_call_does_not_show_the_query():
    assert fail("read", refusal(500)).context.url == f"{DATA}/download"


# --- 2.3: validation details ----------------------------------------------------------


@pytest.mark.parametrize(
    ("detail", "field", "details"),
    [
        (
            [{"loc": ["body", "vcpus"], "msg": "m"}],
            "vcpus",
            [{"loc": ["body", "vcpus"], "msg": "m"}],
        ),
        (
            [{"loc": ["body", "list", 3], "msg": "m"}],
            "3",
            [{"loc": ["body", "list", 3], "msg": "m"}],
        ),
        ([{"loc": ["a"]}, {"loc": ["b"]}], "a", [{"loc": ["a"]}, {"loc": ["b"]}]),
        ([{"msg": "m"}], None, [{"msg": "m"}]),
        # Where the vendor's client breaks with a raw error:
        ([{"loc": [], "msg": "m"}], None, [{"loc": [], "msg": "m"}]),
        ([{"loc": "vcpus"}], None, [{"loc": "vcpus"}]),
        (["odd", {"loc": ["b"]}], None, [{"loc": ["b"]}]),
        ([], None, []),
        ({"error": "E", "message": "m"}, None, []),
        ("text", None, []),
    ],
)
@pytest.mark.parametrize("call", FEW)
def test_the_complaints_of_a_422(call, detail, field, details):
    error = fail(call, reply(422, {"detail": detail}))
    assert type(error) is errors.ValidationError
    assert (error.field, error.details) == (field, details)


# --- 2.6: the quota -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "quota"),
    [
        ("Sandbox count exceeded", "sandbox_count"),
        ("too many sandboxes: LIMIT reached", "sandbox_count"),
        ("sandbox cpu", "cpu"),
        ("CPU quota", "cpu"),
        ("Memory and CPU", "cpu"),
        ("Memory full", "memory"),
        ("no storage", "storage"),
        ("count and limit", None),
        ("slow down", None),
    ],
)
@pytest.mark.parametrize("call", [*FEW, "create"])
def test_which_quota_a_429_speaks_of(call, message, quota):
    error = fail(call, refusal(429, message=message))
    assert (type(error), error.quota_type) == (errors.QuotaExceededError, quota)


@pytest.mark.parametrize(
    ("message", "retry_after", "expected", "quota"),
    [
        ("slow down", "7", errors.RateLimitError, None),
        ("slow down", "0.5", errors.RateLimitError, None),
        ("Too Many Requests", "1", errors.RateLimitError, None),
        # A quota that is used up stays so: no wait is asked for, or none that would help.
        ("slow down", None, errors.QuotaExceededError, None),
        ("slow down", "0", errors.QuotaExceededError, None),
        ("slow down", "-1", errors.QuotaExceededError, None),
        ("slow down", "soon", errors.QuotaExceededError, None),
        ("cpu quota", "7", errors.QuotaExceededError, "cpu"),
        ("sandbox limit", "7", errors.QuotaExceededError, "sandbox_count"),
        ("storage", "0", errors.QuotaExceededError, "storage"),
    ],
)
@pytest.mark.parametrize("call", ["get", "create", "build"])
def test_a_rate_is_told_apart_from_a_quota(call, message, retry_after, expected, quota):
    headers = {} if retry_after is None else {"retry_after": retry_after}
    error = fail(call, refusal(429, "QuotaExceeded", message, **headers))
    assert (type(error), error.quota_type, error.status) == (expected, quota, 429)
    if expected is errors.RateLimitError:
        assert error.retry_after == float(retry_after)


@pytest.mark.parametrize("call", [*_flows.CALLS, "create"])
def test_every_call_can_meet_a_rate_or_a_quota(call):
    too_fast = fail(call, refusal(429, message="slow down", retry_after="7"))
    assert (type(too_fast), too_fast.retry_after) == (errors.RateLimitError, 7.0)
    used_up = fail(call, refusal(429, message="memory", retry_after="0"))
    assert (type(used_up), used_up.quota_type) == (errors.QuotaExceededError, "memory")


@pytest.mark.parametrize("call", FILES)
@pytest.mark.parametrize("headers", [{}, {"retry_after": "7"}])
def test_429_means_nothing_special_on_the_data_plane(call, headers):
    assert type(fail(call, refusal(429, message="cpu", **headers))) is errors.SandboxClientError


# --- 3.1 to 3.3: the control plane ----------------------------------------------------


GENERIC = [
    (401, None, errors.SandboxAuthenticationError),
    (403, "Forbidden", errors.SandboxAuthenticationError),
    (502, "ConnectionError", errors.SandboxConnectionError),
    (502, None, errors.SandboxClientError),
    (502, "Other", errors.SandboxClientError),
    (500, None, errors.SandboxAPIError),
    (500, "ConnectionError", errors.SandboxAPIError),
    (400, "InvalidRequest", errors.SandboxClientError),
    (409, "Conflict", errors.SandboxClientError),
    (501, None, errors.SandboxClientError),
    (504, None, errors.SandboxClientError),
    (301, None, errors.SandboxClientError),
    (304, None, errors.SandboxClientError),
]


@pytest.mark.parametrize(
    ("call", "status", "type_", "expected"),
    [
        (call, *row)
        for call in [*CONTROL, "create"]
        for row in GENERIC
        if (call, row[0]) != ("update", 409)
    ],
)
def test_the_generic_mapping(call, status, type_, expected):
    error = fail(call, refusal(status, type_, "why"))
    assert (type(error), str(error), error.status) == (expected, "why", status)


@pytest.mark.parametrize("call", CONTROL)
@pytest.mark.parametrize("status", [408, 503])
def test_408_and_503_mean_nothing_special_outside_of_creation(call, status):
    assert type(fail(call, refusal(status))) is errors.SandboxClientError


NO_SANDBOX = ("sandbox", "there is no sandbox 'box'")
MISSING = {
    **{name: NO_SANDBOX for name in CONTROL if "boxes/box" in _flows.CALLS[name].asked},
    "snapshot": ("snapshot", "there is no snapshot 'img:v1'"),
    "wait for snapshot": ("snapshot", "there is no snapshot 's1'"),
    "delete snapshot": ("snapshot", f"there is no snapshot {_flows.SNAPSHOT_ID!r}"),
    "tags": ("snapshot", "there is no snapshot 'img'"),
}


def test_every_call_has_a_404_of_its_own_or_is_named_below():
    assert set(CONTROL) - set(MISSING) == {"list", "snapshots", "build"}


@pytest.mark.parametrize(("call", "expected"), MISSING.items())
def test_404_names_what_is_missing_in_our_words(call, expected):
    error = fail(call, refusal(404, "Odd", "the server's words"))
    assert type(error) is errors.ResourceNotFoundError
    assert (error.resource_type, str(error), error.status) == (*expected, 404)


@pytest.mark.parametrize(("call", "path"), [("list", "/boxes"), ("snapshots", "/snapshots")])
def test_404_on_a_list_call_means_a_wrong_endpoint_and_names_it(call, path):
    error = fail(call, refusal(404))
    assert type(error) is errors.SandboxAPIError
    assert f"there is no Sandbox API at {BASE}{path} " in str(error)
    assert error.status == 404


def test_a_name_that_is_taken_is_a_conflict_only_for_an_update():
    error = fail("update", refusal(409))
    assert (type(error), error.resource_type) == (errors.ResourceNameConflictError, "sandbox")


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("type_", ["InvalidRequest", "NotReady", None])
@pytest.mark.parametrize("changes", [{}, {"proxy_config": {"rules": []}}])
def test_not_ready_needs_a_400_of_that_type_and_proxy_rules(status, type_, changes):
    expected = errors.ValidationError if status == 422 else errors.SandboxClientError
    if (status, type_, bool(changes)) == (400, "InvalidRequest", True):
        expected = errors.SandboxNotReadyError
    talk = Talk([refusal(status, type_, "why")])
    with pytest.raises(errors.SandboxClientError) as caught:
        talk.run(update_sandbox(_context(), "box", changes))
    assert (type(caught.value), str(caught.value)) == (expected, "why")


@pytest.mark.parametrize("call", ["create", "build"])
def test_404_on_a_create_has_no_resource_type_and_the_servers_words(call):
    error = fail(call, refusal(404, message="why"))
    assert (type(error), error.resource_type, str(error)) == (
        errors.ResourceNotFoundError,
        None,
        "why",
    )


VALUE_ERROR = {"loc": ["body", "vcpus"], "msg": "bad", "type": "value_error"}


@pytest.mark.parametrize(
    ("answer", "expected", "attributes"),
    [
        (
            refusal(408, "Timeout"),
            errors.ResourceTimeoutError,
            {"resource_type": "sandbox", "last_status": None},
        ),
        (
            reply(422, {"detail": [VALUE_ERROR]}),
            errors.ValidationError,
            {"field": "vcpus", "details": [VALUE_ERROR]},
        ),
        (
            reply(422, {"detail": [{"loc": ["a"], "type": "x"}, VALUE_ERROR]}),
            errors.ValidationError,
            {"field": "a", "details": [{"loc": ["a"], "type": "x"}, VALUE_ERROR]},
        ),
        (
            reply(422, {"detail": [{"loc": ["a"], "type": "value_error.missing"}]}),
            errors.ResourceCreationError,
            {"resource_type": "sandbox", "error_type": None},
        ),
        (
            refusal(422, "ImagePull", "cannot pull"),
            errors.ResourceCreationError,
            {"resource_type": "sandbox", "error_type": "ImagePull"},
        ),
        (
            refusal(503, "CrashLoop"),
            errors.ResourceCreationError,
            {"resource_type": "sandbox", "error_type": "CrashLoop"},
        ),
        (
            refusal(503),
            errors.ResourceCreationError,
            {"resource_type": "sandbox", "error_type": "Unschedulable"},
        ),
        (
            reply(503, body=b"busy"),
            errors.ResourceCreationError,
            {"error_type": "Unschedulable"},
        ),
        (refusal(429, message="cpu"), errors.QuotaExceededError, {"quota_type": "cpu"}),
    ],
)
def test_the_mapping_of_a_refused_creation(answer, expected, attributes):
    error = fail("create", answer)
    assert type(error) is expected
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert error.status == answer.status


# --- 3.4 and 3.5: the data plane ------------------------------------------------------


@pytest.mark.parametrize("call", FILES)
@pytest.mark.parametrize("status", [400, 403, 409, 502, 507])
@pytest.mark.parametrize(
    ("type_", "operation"),
    [("WriteError", "write"), ("ReadError", "read"), ("CommandError", "command")],
)
def test_the_servers_type_outranks_the_status(call, status, type_, operation):
    error = fail(call, refusal(status, type_, "why"))
    assert type(error) is errors.SandboxOperationError
    assert (error.operation, error.error_type) == (operation, type_)
    assert str(error) == f"why [{type_}]"


@pytest.mark.parametrize("call", FILES)
@pytest.mark.parametrize(
    ("status", "type_", "expected"),
    [
        (502, "ConnectionError", errors.SandboxConnectionError),
        (502, None, errors.SandboxClientError),
        (400, "NotReady", errors.SandboxNotReadyError),
        (503, "ServiceUnavailable", errors.SandboxNotReadyError),
        (503, "NotReady", errors.SandboxClientError),
        (400, "ServiceUnavailable", errors.SandboxClientError),
        (401, "Unauthorized", errors.SandboxClientError),
        (409, "SandboxFailed", errors.SandboxClientError),
        (413, None, errors.SandboxClientError),
        (416, None, errors.SandboxClientError),
        (500, None, errors.SandboxClientError),
        (304, None, errors.SandboxClientError),
    ],
)
def test_the_data_plane_mapping(call, status, type_, expected):
    error = fail(call, refusal(status, type_, "why"))
    assert (type(error), str(error)) == (expected, "why")


@pytest.mark.parametrize("call", FILES)
@pytest.mark.parametrize("type_", [None, "Forbidden", "FileNotFound"])
def test_403_is_a_denied_operation(call, type_):
    error = fail(call, refusal(403, type_, "why"))
    assert type(error) is errors.SandboxOperationError
    assert (error.operation, error.error_type) == (None, "PermissionDenied")


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("read", 404, "there is no file '/f' in the sandbox"),  # 3.5: our words
        ("write", 404, "why"),  # 3.4: the server's
        ("read", 410, "why"),
        ("write", 410, "why"),
    ],
)
def test_a_missing_file(call, status, text):
    error = fail(call, refusal(status, "FileNotFound", "why"))
    assert (type(error), error.resource_type) == (errors.ResourceNotFoundError, "file")
    assert str(error) == text


def test_a_404_on_read_is_a_missing_file_whatever_its_body():
    error = fail("read", reply(404, {"error": "E", "message": "no detail"}))
    assert (type(error), error.resource_type) == (errors.ResourceNotFoundError, "file")


@pytest.mark.parametrize("url", [None, ""])
def test_without_a_dataplane_url_nothing_is_tried(url):
    with pytest.raises(errors.DataplaneNotConfiguredError, match="'box' has no dataplane_url"):
        dataplane(url, "box")


# --- no response at all, and answers that are none ------------------------------------


@pytest.mark.parametrize("call", [*CONTROL, *FILES])
@pytest.mark.parametrize(
    ("kind", "expected", "limit"),
    [
        (FaultKind.UNREACHABLE, errors.SandboxConnectionError, None),
        (FaultKind.TLS, errors.SandboxConnectionError, None),
        (FaultKind.CONNECT_TIMEOUT, errors.SandboxTimeoutError, "connect"),
        (FaultKind.POOL_TIMEOUT, errors.SandboxTimeoutError, "pool"),
        (FaultKind.READ_TIMEOUT, errors.SandboxTimeoutError, "read"),
        (FaultKind.WRITE_TIMEOUT, errors.SandboxTimeoutError, "write"),
        (FaultKind.DEADLINE, errors.SandboxTimeoutError, "operation"),
        (FaultKind.DISCONNECTED, errors.SandboxConnectionError, None),
        (FaultKind.PROTOCOL, errors.SandboxProtocolError, None),
        (FaultKind.TOO_LARGE, errors.SandboxProtocolError, None),
    ],
)
def test_a_fault_becomes_a_connection_error_that_names_the_request(call, kind, expected, limit):
    trouble = fault(kind, Phase.SENT, seconds=3.0)
    talk = Talk([trouble, *NOTHING_MADE.get(call, [])])
    with pytest.raises(errors.SandboxConnectionError) as caught:
        talk.run(CALLS[call](_context()))
    error = caught.value
    request = talk.performed[0].request
    assert type(error) is expected
    assert getattr(error, "limit", None) == limit
    assert str(error) == f"{request.method} {request.url.without_query()}: {kind.value}"
    assert (error.context.method, error.context.attempts) == (request.method, 1)


NOBODY_READS = {"delete", "start", "stop", "take back", "delete snapshot"}


@pytest.mark.parametrize("call", [call for call in CONTROL if call not in NOBODY_READS])
@pytest.mark.parametrize("body", [b"", b"<html>", b'"text"', b"[]", b"\xff", b"nul"])
def test_a_success_that_is_no_json_object_is_a_protocol_error(call, body):
    error = fail(call, reply(200, body=body))
    assert type(error) is errors.SandboxProtocolError


@pytest.mark.parametrize("status", [200, 204, 202])
def test_any_2xx_is_success_for_calls_whose_body_nobody_reads(status):
    talk = Talk([reply(status, body=b"whatever"), reply(status, {"path": "/f"})])
    talk.run(delete_sandbox(_context(), "box"))
    talk.run(write_file(_context(), DATA, "/f", b"x", timeout=5))
    assert talk.requests == [
        "DELETE /api/v2/sandboxes/boxes/box",
        "POST /sb/upload?path=%2Ff",
    ]
