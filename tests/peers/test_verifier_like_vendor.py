"""Our token verifier beside the vendor's: the same tokens are accepted and refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from sandbox_anyio.verifier import SandboxTokenVerifier
from sandbox_proto import errors

from ..drivers._tokens import (
    AUDIENCE,
    CALLBACK_BODY,
    CALLBACK_URL,
    ISSUER,
    KeyServer,
    callback_signature,
    sign,
    signed_with_the_public_key,
    user_token,
)

vendor = pytest.importorskip(
    "langsmith.sandbox", reason="the vendor's package is part of the extra 'test'"
)

Call = Callable[[Any], Any]  # one call, of whichever verifier
Table = dict[str, Callable[[], Call]]  # made late: tokens age while other tests run


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def theirs(server: KeyServer) -> Any:
    try:
        return vendor.SandboxTokenVerifier(api_url=server.url)
    except ImportError as error:
        pytest.skip(f"the vendor's verifier lacks something: {error}")


@pytest.fixture(scope="module")
def ours(server: KeyServer) -> SandboxTokenVerifier:
    return SandboxTokenVerifier(api_url=server.url)


def user(token: str, audience: str = AUDIENCE, issuer: str | None = ISSUER) -> Call:
    return lambda verifier: verifier.verify_user_token(token, audience=audience, issuer=issuer)


def callback(
    signature: str, *, body: bytes | str = CALLBACK_BODY, aud: Any = None, issuer: Any = None
) -> Call:
    return lambda verifier: verifier.verify_callback(
        body=body, signature=signature, aud=aud, issuer=issuer
    )


def calling(change: dict[str, Any]) -> Call:
    """A good signature for a changed body."""
    payload = {**json.loads(CALLBACK_BODY), **change}
    body = json.dumps(payload).encode()
    return callback(callback_signature(body=body), body=body)


REQUEST = {"method": "GET", "url": "u", "scheme": "https", "host": "h", "path": "/"}

ACCEPTED: Table = {
    "EdDSA": lambda: user(user_token("ed", email="e", name="N", exp=time.time() + 50)),
    "RS256": lambda: user(user_token("rsa")),
    "ES256": lambda: user(user_token("ec")),
    "a list of audiences": lambda: user(user_token(aud=["x", AUDIENCE])),
    "a URL as audience": lambda: user(user_token(), f"https://{AUDIENCE}/path?q"),
    "no issuer wanted": lambda: user(user_token(iss="x"), issuer=None),
    "an empty issuer wanted": lambda: user(user_token(iss="x"), issuer=""),
    "a slash after the issuer wanted": lambda: user(user_token(), issuer=ISSUER + "//"),
    "expired within the leeway": lambda: user(user_token(exp=time.time() - 20)),
    "early within the leeway": lambda: user(user_token(nbf=time.time() + 25, iat=time.time() + 25)),
    "fractions of seconds": lambda: user(user_token(exp=time.time() + 50.5, iat=time.time() - 0.5)),
    "empty address": lambda: user(user_token(email="", name="")),
    "a callback": lambda: callback(callback_signature()),
    "a callback with text": lambda: callback(callback_signature(), body=CALLBACK_BODY.decode()),
    "a callback for us": lambda: callback(callback_signature(), aud=CALLBACK_URL, issuer=ISSUER),
    "a predicate": lambda: callback(callback_signature(aud=["x", "y"]), aud=lambda aud: aud == "y"),
    "a port as text": lambda: calling({"port": "80"}),
    "an empty request": lambda: calling({"request": {}}),
    "a short request": lambda: calling({"request": REQUEST}),
    "a full request": lambda: calling(
        {
            "request": {
                **REQUEST,
                "query": "a=b",
                "headers": {"a": ["b"]},
                "body_base64": "aGk=",
                "body_truncated": True,
            }
        }
    ),
    "nulls in a request": lambda: calling(
        {"request": {**REQUEST, "query": "", "headers": None, "body_base64": None}}
    ),
}

REFUSED: Table = {
    "empty": lambda: user(""),
    "malformed": lambda: user("a.b.c"),
    "HMAC with the public key": lambda: user(signed_with_the_public_key()),
    "no key id": lambda: user(sign(b"{}", kid=None)),
    "an unknown key id": lambda: user(sign(b"{}", kid="zz")),
    "another key's id": lambda: user(sign(b"{}", "ed2", kid="ed")),
    "another algorithm than the key's": lambda: user(sign(b"{}", "rsa", algorithm="PS256")),
    "a critical extension": lambda: user(sign(b"{}", crit=["x"], x=1)),
    "no expiry": lambda: user(user_token(exp=None)),
    "no issue time": lambda: user(user_token(iat=None)),
    "no issuer": lambda: user(user_token(iss=None), issuer=None),
    "no audience": lambda: user(user_token(aud=None)),
    "no subject": lambda: user(user_token(sub=None)),
    "expired": lambda: user(user_token(exp=time.time() - 31)),
    "issued in the future": lambda: user(user_token(iat=time.time() + 3600)),
    "not valid yet": lambda: user(user_token(nbf=time.time() + 3600)),
    "another audience": lambda: user(user_token(), "other"),
    "an audience in other letters": lambda: user(user_token(), AUDIENCE.upper()),
    "an empty audience": lambda: user(user_token(aud=""), ""),
    "another issuer": lambda: user(user_token(), issuer="https://other"),
    "a slash in the token's issuer": lambda: user(
        user_token(iss=ISSUER + "/"), issuer=ISSUER + "/"
    ),
    "a callback's subject": lambda: user(user_token(sub="langsmith-sandbox-callback")),
    "an empty subject": lambda: user(user_token(sub="")),
    "a payload that is a list": lambda: user(sign(b"[1]")),
    "a callback signed with RS256": lambda: callback(callback_signature("rsa")),
    "a user token as a signature": lambda: callback(user_token()),
    "a callback's other subject": lambda: callback(callback_signature(sub="x")),
    "no body hash": lambda: callback(callback_signature(body_sha256=None)),
    "a body hash in capitals": lambda: callback(
        callback_signature(body_sha256=hashlib.sha256(CALLBACK_BODY).hexdigest().upper())
    ),
    "another body": lambda: callback(callback_signature(), body=CALLBACK_BODY + b" "),
    "a callback for another": lambda: callback(callback_signature(), aud=CALLBACK_URL + "/"),
    "a predicate that says no": lambda: callback(callback_signature(), aud=lambda aud: False),
    "no host": lambda: callback(callback_signature(body=b'{"port":1}'), body=b'{"port":1}'),
    "no identity": lambda: calling({"identity": {}}),
    "a port that is no number": lambda: calling({"port": "x"}),
    "half a request": lambda: calling({"request": {"method": "GET", "url": "u"}}),
    "a body that is no base64": lambda: calling({"request": {**REQUEST, "body_base64": "a b"}}),
}


def _plain(value: Any) -> Any:
    """What a verifier returned, of either side, as plain data."""
    if attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value))]
    elif dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        return value
    return type(value).__name__, [(name, _plain(getattr(value, name))) for name in names]


@pytest.mark.parametrize("what", ACCEPTED)
def test_a_token_is_accepted_here_and_there(ours: Any, theirs: Any, what: str) -> None:
    call = ACCEPTED[what]()
    assert _plain(call(ours)) == _plain(call(theirs))


@pytest.mark.parametrize("what", REFUSED)
def test_a_token_is_refused_here_and_there(ours: Any, theirs: Any, what: str) -> None:
    call = REFUSED[what]()
    with pytest.raises(vendor.SandboxTokenVerificationError):
        call(theirs)
    with pytest.raises(errors.SandboxTokenVerificationError):
        call(ours)


@pytest.mark.parametrize("audience", ["https://", "https:///path", "https://[::1"])
def test_an_audience_without_a_host_is_a_mistake_here_and_there(
    ours: Any, theirs: Any, audience: str
) -> None:
    for verifier in (ours, theirs):
        with pytest.raises(ValueError):
            verifier.verify_user_token(user_token(), audience=audience)


# What is malformed in itself and passes there, or brings the vendor's verifier down.
STRICTER: Table = {
    "an expiry as text": lambda: user(user_token(exp=str(int(time.time()) + 50))),
    "an expiry beyond all calendars": lambda: user(user_token(exp=1e18)),
    "an address that is a number": lambda: user(user_token(email=5)),
    "a host that is a number": lambda: calling({"host": 5}),
    "a header that is no list": lambda: calling({"request": {**REQUEST, "headers": {"a": "bc"}}}),
    "headers that are a number": lambda: calling({"request": {**REQUEST, "headers": 5}}),
    "an infinite port": lambda: calling({"port": float("inf")}),
    "a body hash beyond ASCII": lambda: callback(callback_signature(body_sha256="é")),
    "audiences that are numbers": lambda: callback(callback_signature(aud=[5])),
}


@pytest.mark.parametrize("what", STRICTER)
def test_what_is_malformed_is_refused_here(ours: Any, theirs: Any, what: str) -> None:
    call = STRICTER[what]()
    with pytest.raises(errors.SandboxTokenVerificationError):
        call(ours)
    try:
        call(theirs)
    except vendor.SandboxTokenVerificationError:
        pytest.fail("refused there too: this belongs into the other table")
    except Exception:  # down
        pass


def test_the_headers_have_the_same_names() -> None:
    from sandbox_anyio import verifier

    for name in ("USER_TOKEN_HEADER", "CALLBACK_SIGNATURE_HEADER"):
        assert getattr(verifier, name) == getattr(vendor, name)
