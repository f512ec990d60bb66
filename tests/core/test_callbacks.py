"""What a callback's signature must say, and what its body tells (protocol/10 §5.2 to §5.4)."""

from __future__ import annotations

import hashlib
import json

import pytest

from sandbox_proto.errors import SandboxTokenVerificationError
from sandbox_proto.wire.tokens import (
    SandboxCallback,
    SandboxCallbackIdentity,
    SandboxCallbackRequest,
    read_callback,
)

NOW = 1_700_000_000.0
GONE = object()
BODY = {"host": "h", "port": 443, "identity": {"tenant_id": "t", "sandbox_id": "s"}}
REQUEST = {"method": "GET", "url": "https://h/p", "scheme": "https", "host": "h", "path": "/p"}
CLAIMS = {
    "exp": NOW + 100,
    "iat": NOW,
    "iss": "https://i",
    "aud": "https://cb/x",
    "sub": "langsmith-sandbox-callback",
}


def payload(claims):
    return json.dumps({name: value for name, value in claims.items() if value is not GONE}).encode()


def refused(text=""):
    return pytest.raises(SandboxTokenVerificationError, match=text)


def callback(body=BODY, *, sent=None, audience=None, issuer=None, **claims):
    """Sign `body`, receive `sent` (the same unless told otherwise)."""
    raw = body if isinstance(body, bytes) else payload(body)
    said = {**CLAIMS, "body_sha256": hashlib.sha256(raw).hexdigest(), **claims}
    received = raw if sent is None else sent
    return read_callback(payload(said), body=received, audience=audience, issuer=issuer, now=NOW)


def test_a_short_callback():
    assert callback() == SandboxCallback(
        host="h",
        port=443,
        identity=SandboxCallbackIdentity("t", "s", None, None),
        request=None,
    )


def test_a_full_callback():
    identity = {**BODY["identity"], "organization_id": "o", "ls_user_id": "u"}
    request = {
        **REQUEST,
        "query": "a=b",
        "headers": {"Accept": ["x", "y"], "Empty": []},
        "body_base64": "aGk=",
        "body_truncated": True,
        "more": 1,
    }
    assert callback({**BODY, "identity": identity, "request": request}) == SandboxCallback(
        host="h",
        port=443,
        identity=SandboxCallbackIdentity("t", "s", "o", "u"),
        request=SandboxCallbackRequest(
            method="GET",
            url="https://h/p",
            scheme="https",
            host="h",
            path="/p",
            query="a=b",
            headers={"Accept": ["x", "y"], "Empty": []},
            body=b"hi",
            body_truncated=True,
        ),
    )


@pytest.mark.parametrize("nothing", [None, GONE])
def test_what_a_full_callback_may_leave_out(nothing):
    left_out = dict.fromkeys(["query", "headers", "body_base64", "body_truncated"], nothing)
    request = {name: value for name, value in left_out.items() if value is not GONE}
    made = callback({**BODY, "request": {**REQUEST, **request}}).request
    assert (made.query, made.headers, made.body, made.body_truncated) == (None, {}, b"", False)


@pytest.mark.parametrize("request_", [None, {}])
def test_no_request_is_no_request(request_):
    assert callback({**BODY, "request": request_}).request is None


@pytest.mark.parametrize("port", [443, "443", 443.0])
def test_a_port_may_be_written_in_several_ways(port):
    assert callback({**BODY, "port": port}).port == 443


def test_a_body_may_be_text_or_any_bytes():
    raw = json.dumps({**BODY, "host": "grüße"}, ensure_ascii=False)
    for sent in (raw, raw.encode(), bytearray(raw.encode()), memoryview(raw.encode())):
        assert callback(raw.encode(), sent=sent).host == "grüße"


def _with(name, value):
    return {**BODY, name: value}


def _identity(**more):
    return {**BODY, "identity": {**BODY["identity"], **more}}


def _request(**more):
    request = {name: value for name, value in {**REQUEST, **more}.items() if value is not GONE}
    return {**BODY, "request": request}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"x", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"5", "not a JSON object"),
        (b"{}", "'identity'"),
        (_with("host", GONE), "'host'"),
        (_with("host", None), "'host'"),
        (_with("host", 5), "'host'"),
        (_with("port", GONE), "'port'"),
        (_with("port", None), "'port'"),
        (_with("port", "x"), "'port'"),
        (_with("port", []), "'port'"),
        (_with("port", float("inf")), "'port'"),
        (_with("port", float("nan")), "'port'"),
        (_with("identity", None), "'identity'"),
        (_with("identity", []), "'identity'"),
        (_with("identity", {}), "'tenant_id'"),
        (_with("identity", {"tenant_id": "t"}), "'sandbox_id'"),
        (_identity(tenant_id=5), "'tenant_id'"),
        (_identity(sandbox_id=None), "'sandbox_id'"),
        (_identity(organization_id=5), "'organization_id'"),
        (_identity(ls_user_id=[]), "'ls_user_id'"),
        (_with("request", 5), "'request'"),
        (_with("request", []), "'request'"),
        *((_request(**{name: GONE}), f"'{name}'") for name in REQUEST),
        *((_request(**{name: None}), f"'{name}'") for name in REQUEST),
        (_request(url=5), "'url'"),
        (_request(query=5), "'query'"),
        (_request(headers=[]), "'headers'"),
        (_request(headers={"a": "b"}), "'headers'"),
        (_request(headers={"a": None}), "'headers'"),
        (_request(headers={"a": [5]}), "'headers'"),
        (_request(body_base64=5), "'body_base64'"),
        (_request(body_base64="aGk"), "'body_base64'"),
        (_request(body_base64="a Gk="), "'body_base64'"),
        (_request(body_base64="aGk=\n"), "'body_base64'"),
        (_request(body_base64="_-8="), "'body_base64'"),
        (_request(body_base64="é"), "'body_base64'"),
        (_request(body_truncated=1), "'body_truncated'"),
    ],
)
def test_a_malformed_body_is_refused(body, text):
    with refused(text):
        callback(body)


@pytest.mark.parametrize("name", ["exp", "iat", "iss", "aud", "sub", "body_sha256"])
@pytest.mark.parametrize("nothing", [None, GONE])
def test_these_claims_must_be_there_in_a_callback(name, nothing):
    with refused(f"no '{name}' claim"):
        callback(**{name: nothing})


@pytest.mark.parametrize(
    "claimed",
    [
        hashlib.sha256(payload(BODY)).hexdigest().upper(),
        hashlib.sha256(b"other").hexdigest(),
        hashlib.sha256(payload(BODY)).hexdigest()[:-1],
        "",
        "é" * 64,
        "\ud800",
        5,
        ["x"],
    ],
)
def test_a_signature_is_bound_to_the_body(claimed):
    with refused("another body"):
        callback(body_sha256=claimed)


@pytest.mark.parametrize("sent", [b"", b"{}", payload(BODY) + b" ", "{}", "\ud800"])
def test_another_body_is_refused(sent):
    with refused("another body"):
        callback(sent=sent)


def test_text_that_utf_8_cannot_hold_is_not_taken_for_something_it_can():
    with refused("another body"):
        callback({**BODY, "host": "?"}, sent=json.dumps(BODY).replace('"h"', '"\ud800"'))


@pytest.mark.parametrize("subject", ["user-1", "", 5])
def test_a_user_token_is_no_signature(subject):
    with refused("not a callback"):
        callback(sub=subject)


def test_a_callback_for_us():
    seen = []

    def is_y(audience):
        seen.append(audience)
        return audience == "y"

    assert callback(audience="https://cb/x").port == 443
    assert callback(audience=lambda audience: audience.endswith("/x")).port == 443
    assert callback(aud=["x", "y", "z"], audience=is_y).port == 443
    assert seen == ["x", "y"]


@pytest.mark.parametrize(
    ("audiences", "audience"),
    [
        ("https://cb/x", "https://cb/y"),
        ("https://cb/x", "https://cb/x/"),
        ("https://cb/x", ""),
        ("", ""),
        ("https://cb/x", lambda audience: False),
        ([], lambda audience: True),
        (["a", 5], lambda audience: True),
        (5, lambda audience: True),
        (5, None),
        ({"a": 1}, None),
    ],
)
def test_a_callback_for_somebody_else(audiences, audience):
    with refused("aud"):
        callback(aud=audiences, audience=audience)


def test_what_a_predicate_raises_is_its_own():
    with pytest.raises(KeyError, match="boom"):
        callback(audience=lambda audience: {}["boom"])


def test_the_issuer_of_a_callback():
    assert callback(issuer="https://i/").port == 443
    with refused("another issuer"):
        callback(issuer="https://j")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"exp": 0, "audience": "no"}, "expired"),
        ({"audience": lambda audience: False, "issuer": "no"}, "another issuer"),
        ({"audience": lambda audience: False, "sub": "user-1"}, "no audience matches"),
        ({"sub": "user-1", "sent": b""}, "not a callback"),
        ({"sent": b"not JSON"}, "another body"),
    ],
)
def test_checks_come_in_the_protocol_s_order(wrong, text):
    with refused(text):
        callback(**wrong)
