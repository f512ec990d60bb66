"""What a token with a good signature must say (protocol/10 §5.2, §5.3, §5.4)."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import attrs
import pytest

from sandbox_proto.errors import SandboxTokenVerificationError
from sandbox_proto.wire.tokens import (
    CALLBACK_ALGORITHMS,
    CALLBACK_SIGNATURE_HEADER,
    USER_ALGORITHMS,
    USER_TOKEN_HEADER,
    SandboxCallback,
    SandboxCallbackIdentity,
    SandboxCallbackRequest,
    SandboxUser,
    read_user_token,
    service_audience,
    signing_key,
)

NOW = 1_700_000_000.0
GONE = object()
USER = {"exp": NOW + 100, "iat": NOW, "iss": "https://i", "aud": "svc.test", "sub": "user-1"}


def payload(claims):
    return json.dumps({name: value for name, value in claims.items() if value is not GONE}).encode()


def user(*, audience="svc.test", issuer=None, **claims):
    return read_user_token(payload({**USER, **claims}), audience=audience, issuer=issuer, now=NOW)


def refused(text=""):
    return pytest.raises(SandboxTokenVerificationError, match=text)


def test_the_headers_are_the_vendor_s():
    assert USER_TOKEN_HEADER == "X-Langsmith-User-Token"
    assert CALLBACK_SIGNATURE_HEADER == "X-LangSmith-Signature-JWT"


# --- before the signature ------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    [
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        *("ES256", "ES384", "ES512", "EdDSA"),
    ],
)
def test_user_tokens_may_be_signed_with(algorithm):
    header = {"alg": algorithm, "kid": "k", "typ": "at+jwt"}
    assert signing_key(header, USER_ALGORITHMS) == (algorithm, "k")
    assert (algorithm in CALLBACK_ALGORITHMS) == (algorithm == "EdDSA")


@pytest.mark.parametrize(
    "algorithm", ["HS256", "none", "None", "", "ES256K", "rs256", None, 5, ["RS256"]]
)
def test_no_token_may_be_signed_with(algorithm):
    with refused("not accepted"):
        signing_key({"alg": algorithm, "kid": "k"}, USER_ALGORITHMS)


def test_the_algorithm_is_looked_at_before_the_key_id():
    with refused("not accepted"):
        signing_key({}, USER_ALGORITHMS)


@pytest.mark.parametrize("header", [{}, {"kid": None}, {"kid": ""}, {"kid": 5}, {"kid": ["k"]}])
def test_a_token_names_its_key(header):
    with refused("does not name the key"):
        signing_key({"alg": "EdDSA", **header}, CALLBACK_ALGORITHMS)


@pytest.mark.parametrize(
    ("given", "reduced"),
    [
        ("svc.test", "svc.test"),
        ("svc.test:3000", "svc.test:3000"),
        ("https://svc.test", "svc.test"),
        ("https://svc.test/", "svc.test"),
        ("https://svc.test:443/path?query#fragment", "svc.test:443"),
        ("https://Svc.Test/x", "Svc.Test"),
        ("HTTPS://svc.test/x", "svc.test"),
        ("wss://svc.test/x", "svc.test"),
        ("//svc.test", "//svc.test"),
        ("svc.test/path", "svc.test/path"),
        ("", ""),
    ],
)
def test_an_audience_is_a_host_out_of_a_url(given, reduced):
    assert service_audience(given) == reduced


@pytest.mark.parametrize("given", ["https://", "https:///path", "://", None, 5, ["svc.test"]])
def test_an_audience_has_a_host(given):
    with pytest.raises(ValueError, match="audience"):
        service_audience(given)


# --- user tokens ---------------------------------------------------------------------


def test_a_user():
    assert user(email="e@x", name="N", more=1) == SandboxUser(
        subject="user-1",
        email="e@x",
        name="N",
        expires_at=datetime.fromtimestamp(NOW + 100, UTC),
    )


@pytest.mark.parametrize("nothing", ["", None, GONE])
def test_a_user_without_address_and_name(nothing):
    made = user(email=nothing, name=nothing)
    assert (made.email, made.name) == (None, None)


@pytest.mark.parametrize("name", ["exp", "iat", "iss", "aud", "sub"])
@pytest.mark.parametrize("nothing", [None, GONE])
def test_these_claims_must_be_there(name, nothing):
    with refused(f"no '{name}' claim"):
        user(**{name: nothing})


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": NOW - 29.5}, True),
        ({"exp": NOW - 30}, False),
        ({"exp": NOW - 31}, False),
        ({"iat": NOW + 30}, True),
        ({"iat": NOW + 30.5}, False),
        ({"iat": -5}, True),
        ({"nbf": NOW + 30}, True),
        ({"nbf": NOW + 30.5}, False),
        ({"nbf": 0}, True),
    ],
)
def test_clocks_may_differ_by_half_a_minute(claims, good):
    if good:
        assert user(**claims).subject == "user-1"
    else:
        with refused("expired" if "exp" in claims else "not valid yet"):
            user(**claims)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "moment", ["x", "1700000050", True, [], {}, float("inf"), float("nan"), float("-inf")]
)
def test_times_are_numbers(name, moment):
    with refused(f"'{name}' claim"):
        user(**{name: moment})


def test_a_time_that_is_there_but_null_is_refused():
    with refused("'nbf' claim"):
        user(nbf=None)


@pytest.mark.parametrize("moment", [1e18, 10**30, 1e300])
def test_an_expiry_beyond_all_calendars_is_refused(moment):
    with refused("no date"):
        user(exp=moment)


@pytest.mark.parametrize(
    ("audiences", "audience"),
    [
        ("svc.test", "svc.test"),
        (["svc.test"], "svc.test"),
        (["other", "svc.test"], "svc.test"),
        ("svc.test:443", "svc.test:443"),
    ],
)
def test_a_token_for_us(audiences, audience):
    assert user(aud=audiences, audience=audience).subject == "user-1"


@pytest.mark.parametrize(
    ("audiences", "audience"),
    [
        ("svc.test", "other"),
        ("svc.test", "svc"),
        ("svc.test", "SVC.TEST"),
        ("svc.test", "svc.test:443"),
        ("svc.test", ""),
        ("", ""),
        ([""], ""),
        ([], "svc.test"),
        (["svc.test", 5], "svc.test"),
        ({"svc.test": 1}, "svc.test"),
        (5, "svc.test"),
    ],
)
def test_a_token_for_somebody_else(audiences, audience):
    with refused("aud"):
        user(aud=audiences, audience=audience)


@pytest.mark.parametrize("issuer", ["https://i", "https://i/", "https://i///", None, ""])
def test_a_slash_at_the_end_of_the_expected_issuer_does_not_count(issuer):
    assert user(issuer=issuer).subject == "user-1"


@pytest.mark.parametrize(
    ("issuer", "claimed"),
    [
        ("https://I", "https://i"),
        ("https://other", "https://i"),
        ("https://i/", "https://i/"),
        ("https://i", ["https://i"]),
        ("https://i", 5),
    ],
)
def test_another_issuer(issuer, claimed):
    with refused("another issuer"):
        user(iss=claimed, issuer=issuer)


@pytest.mark.parametrize("subject", ["", "langsmith-sandbox-callback", 5, ["user-1"]])
def test_a_user_has_a_name_of_their_own(subject):
    with refused("not a user token"):
        user(sub=subject)


@pytest.mark.parametrize("claims", [{"email": 5}, {"name": ["N"]}])
def test_a_user_is_not_made_of_numbers(claims):
    with refused("malformed"):
        user(**claims)


@pytest.mark.parametrize("signed", [b"", b"x", b"[1]", b"5", b"\xff", b"[" * 100_000])
def test_a_payload_is_a_json_object(signed):
    with refused("payload is not"):
        read_user_token(signed, audience="svc.test", issuer=None, now=NOW)


# --- results -------------------------------------------------------------------------

FIELDS = {
    SandboxUser: "subject email name expires_at",
    SandboxCallback: "host port identity request",
    SandboxCallbackIdentity: "tenant_id sandbox_id organization_id ls_user_id",
    SandboxCallbackRequest: ("method url scheme host path query headers body body_truncated"),
}


@pytest.mark.parametrize("model", FIELDS)
def test_results_are_frozen_and_have_the_vendor_s_fields(model):
    names = FIELDS[model].split()
    made = model(*names)
    assert [getattr(made, name) for name in names] == names
    assert made == model(**dict(zip(names, names, strict=True)))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(made, names[0], "other")
