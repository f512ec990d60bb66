"""Tokens verified with real keys from a real server, with and without a loop (protocol/10 §5)."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from sandbox_anyio.verifier import SandboxTokenVerifier
from sandbox_proto.errors import SandboxTokenVerificationError

from ._tokens import (
    AUDIENCE,
    CALLBACK_BODY,
    CALLBACK_URL,
    ISSUER,
    KeyServer,
    Way,
    base64url,
    callback_signature,
    claims,
    sign,
    signed_with_the_public_key,
    user_token,
)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        yield server


@pytest.fixture
def verifier(server: KeyServer) -> SandboxTokenVerifier:
    return SandboxTokenVerifier(api_url=server.url)


@pytest.fixture(params=["async", "sync"])
def way(request: pytest.FixtureRequest) -> Way:
    """Plain calls are made in the loop's own thread here."""
    return Way(request.param)


def refused(text: str = "") -> Any:
    return pytest.raises(SandboxTokenVerificationError, match=text)


# --- what is accepted ----------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["ed", "rsa", "ec"])
async def test_a_good_user_token(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer, key: str
) -> None:
    expiry = int(time.time()) + 100
    token = user_token(key, email="e@x", name="N", exp=expiry)
    user = await way.user(verifier, token, issuer=ISSUER + "/")
    assert (user.subject, user.email, user.name) == ("user-1", "e@x", "N")
    assert user.expires_at.timestamp() == expiry
    assert user == await way.user(verifier, token, audience=f"https://{AUDIENCE}/path")
    assert server.fetches == 1
    assert server.heads[0].startswith("GET /.well-known/jwks.json HTTP/1.1\r\n")


@pytest.mark.anyio
async def test_a_good_callback(way: Way, verifier: SandboxTokenVerifier) -> None:
    signature = callback_signature()
    callback = await way.callback(verifier, signature, aud=CALLBACK_URL, issuer=ISSUER)
    assert (callback.host, callback.port, callback.identity.sandbox_id) == ("h", 443, "s")
    assert callback == await way.callback(
        verifier, signature, body=CALLBACK_BODY.decode(), aud=lambda url: url == CALLBACK_URL
    )


@pytest.mark.anyio
async def test_what_has_a_leeway_is_accepted(way: Way, verifier: SandboxTokenVerifier) -> None:
    now = time.time()
    for changes in ({"exp": now - 25}, {"nbf": now + 25}, {"iat": now + 25}):
        assert (await way.user(verifier, user_token(**changes))).subject == "user-1"


# --- what is refused -----------------------------------------------------------------


def _tampered() -> str:
    head, _, signature = user_token().split(".")
    return f"{head}.{base64url(json.dumps(claims(sub='evil')).encode())}.{signature}"


def _with_header(header: bytes) -> str:
    return f"{base64url(header)}.e30.c2ln"


NOW = time.time()

UNREADABLE: list[tuple[Callable[[], Any], str]] = [
    (lambda: "", "empty"),
    (lambda: None, "empty"),
    (lambda: "abc", "malformed"),
    (lambda: "a.b", "malformed"),
    (lambda: "a.b.c", "malformed"),
    (lambda: "\ud800.b.c", "malformed"),
    (lambda: " " + user_token(), "malformed"),
    (lambda: 5, "malformed"),
    (lambda: _with_header(b"[]"), "malformed"),
    (lambda: _with_header(b"[" * 100_000), "malformed"),
    (lambda: _with_header(b'{"alg":"EdDSA","kid":5}'), "malformed"),
    (lambda: sign(b"{}", crit=["x"], x=1), "malformed"),
    (lambda: _with_header(b'{"kid":"ed"}'), "not accepted"),
    (lambda: _with_header(b'{"kid":"ed","alg":["EdDSA"]}'), "not accepted"),
    (lambda: jwt.encode(claims(), "x" * 32, "HS256", headers={"kid": "ed"}), "not accepted"),
    (signed_with_the_public_key, "not accepted"),
    (lambda: jwt.encode(claims(), None, "none", headers={"kid": "ed"}), "not accepted"),
    (lambda: sign(b"{}", kid=None), "does not name the key"),
    (lambda: sign(b"{}", kid=""), "does not name the key"),
]

REFUSED: list[tuple[Callable[[], str], str]] = [
    (lambda: sign(b"{}", kid="zz"), "its key 'zz' is not among those"),
    (lambda: sign(b"{}", kid="rsa"), "signed with EdDSA, its key is for RS256"),
    (lambda: sign(b"{}", "rsa", algorithm="PS256"), "signed with PS256, its key is for RS256"),
    (lambda: sign(b"{}", "rsa", algorithm="RS512"), "signed with RS512, its key is for RS256"),
    (_tampered, "signature is not good"),
    (lambda: sign(b"{}", "ed2", kid="ed"), "signature is not good"),
    (lambda: f"{user_token().rpartition('.')[0]}.{base64url(b'short')}", "signature is not good"),
    (lambda: sign(b"[1]"), "not a JSON object"),
    (lambda: sign(b"x"), "not JSON"),
    (lambda: user_token(exp=NOW - 35), "expired"),
    (lambda: user_token(iat=NOW + 3600), "not valid yet"),
    (lambda: user_token(nbf=NOW + 3600), "not valid yet"),
    (lambda: user_token(sub=None), "no 'sub' claim"),
    (lambda: user_token(aud="other"), "audience is another"),
    (lambda: user_token(iss="https://other"), "another issuer"),
    (lambda: user_token(sub="langsmith-sandbox-callback"), "not a user token"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("make", "text"), UNREADABLE)
async def test_what_could_never_be_good_costs_no_fetch(
    way: Way,
    verifier: SandboxTokenVerifier,
    server: KeyServer,
    make: Callable[[], Any],
    text: str,
) -> None:
    token = make()
    with refused(text):
        await way.user(verifier, token)
    with refused(text):
        await way.callback(verifier, token)
    assert server.fetches == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("make", "text"), REFUSED)
async def test_a_user_token_that_is_not_good(
    way: Way, verifier: SandboxTokenVerifier, make: Callable[[], str], text: str
) -> None:
    token = make()
    with refused(text) as caught:
        await way.user(verifier, token, issuer=ISSUER)
    assert token not in str(caught.value)
    assert token.rpartition(".")[2] not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: callback_signature("rsa"), "not accepted"),
        (lambda: callback_signature("ec"), "not accepted"),
        (lambda: user_token(), "no 'body_sha256' claim"),
        (lambda: callback_signature(sub="user-1"), "not a callback"),
        (lambda: callback_signature(body=b"other"), "another body"),
        (lambda: callback_signature(aud="https://other"), "audience is another"),
        (lambda: callback_signature(iss="https://other"), "another issuer"),
        (lambda: callback_signature(exp=NOW - 35), "expired"),
        (lambda: sign(b"{}", "ed2", kid="ed"), "signature is not good"),
    ],
)
async def test_a_callback_that_is_not_good(
    way: Way, verifier: SandboxTokenVerifier, make: Callable[[], str], text: str
) -> None:
    with refused(text):
        await way.callback(verifier, make(), aud=CALLBACK_URL, issuer=ISSUER)


@pytest.mark.anyio
async def test_a_callback_whose_body_is_malformed(way: Way, verifier: SandboxTokenVerifier) -> None:
    with refused("not JSON"):
        await way.callback(verifier, callback_signature(body=b"x"), body=b"x")


@pytest.mark.anyio
async def test_an_audience_that_is_no_host_is_the_caller_s_mistake(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer
) -> None:
    with pytest.raises(ValueError, match="audience"):
        await way.user(verifier, user_token(), audience="https:///path")
    assert server.fetches == 0


# --- construction --------------------------------------------------------------------


def test_the_signatures_are_the_vendor_s() -> None:
    def parameters(function: Any) -> list[tuple[str, str, Any]]:
        return [
            (each.name, each.kind.name, each.default)
            for each in inspect.signature(function).parameters.values()
            if each.name != "self"
        ]

    only, empty = "KEYWORD_ONLY", inspect.Parameter.empty
    assert parameters(SandboxTokenVerifier) == [
        ("api_url", only, None),
        ("jwks_url", only, None),
        ("timeout", only, 10.0),
        ("allow_insecure_jwks", only, False),
    ]
    for method in (SandboxTokenVerifier.verify_user_token, SandboxTokenVerifier.averify_user_token):
        assert parameters(method) == [
            ("token", "POSITIONAL_OR_KEYWORD", empty),
            ("audience", only, empty),
            ("issuer", only, None),
        ]
    for other in (SandboxTokenVerifier.verify_callback, SandboxTokenVerifier.averify_callback):
        assert parameters(other) == [
            ("body", only, empty),
            ("signature", only, empty),
            ("aud", only, None),
            ("issuer", only, None),
        ]


def test_the_environment_names_the_keys(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", f"{server.url}/api/v1")
    verifier = SandboxTokenVerifier()
    assert repr(verifier) == f"SandboxTokenVerifier('{server.url}/.well-known/jwks.json')"
    assert verifier.verify_user_token(user_token(), audience=AUDIENCE).subject == "user-1"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"api_url": "http://h"}, "https"),
        ({"jwks_url": "/keys"}, "jwks_url"),
        ({"api_url": "https://h", "timeout": 0}, "timeout"),
        ({"api_url": "https://h", "timeout": -1.0}, "timeout"),
        ({"api_url": "https://h", "timeout": float("nan")}, "timeout"),
    ],
)
def test_what_cannot_work_is_told_at_once(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SandboxTokenVerifier(**given)
    SandboxTokenVerifier(api_url="http://h", allow_insecure_jwks=True)


@pytest.mark.parametrize("package", ["jwt", "jwt.api_jwk", "cryptography"])
def test_missing_packages_are_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'sandbox-proto\[auth\]'"):
        SandboxTokenVerifier(api_url="https://h")
