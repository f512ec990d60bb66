"""When signing keys are fetched, and from where (protocol/10 §5.1, §5.5)."""

from __future__ import annotations

import json

import pytest

from sandbox_proto.errors import SandboxTokenVerificationError
from sandbox_proto.plans.jwks import (
    FRESH_SECONDS,
    REFETCH_SECONDS,
    FetchFirst,
    JwksCache,
    UnknownKey,
    UseKey,
    choose_jwks_url,
    jwks_error,
    jwks_request,
    read_key_set,
)
from sandbox_proto.wire.urls import Url

from ._helpers import reply

URL = Url.parse("https://api.test/.well-known/jwks.json?token=hunter2")


@pytest.fixture
def cache():
    """A cache that was filled at 1000 with the keys a and b."""
    cache = JwksCache()
    cache.replace({"a": "key a", "b": "key b"}, now=1000.0)
    return cache


# --- the cache -----------------------------------------------------------------------


def test_the_numbers_are_those_of_the_protocol():
    assert (FRESH_SECONDS, REFETCH_SECONDS) == (300.0, 30.0)


@pytest.mark.parametrize("now", [0.0, -5.0, 1e9])
def test_nothing_is_known_before_the_first_fetch(now):
    assert JwksCache().look_up("a", now=now) == FetchFirst()


@pytest.mark.parametrize(
    ("age", "advice"),
    [
        (0, UseKey("key a")),
        (29.9, UseKey("key a")),
        (30, UseKey("key a")),
        (299.9, UseKey("key a")),
        (300, FetchFirst()),
        (1e6, FetchFirst()),
    ],
)
def test_a_known_key_is_good_for_five_minutes(cache, age, advice):
    assert cache.look_up("a", now=1000 + age) == advice


@pytest.mark.parametrize(
    ("age", "advice"),
    [
        (0, UnknownKey()),
        (29.9, UnknownKey()),
        (30, FetchFirst()),
        (299, FetchFirst()),
        (300, FetchFirst()),
    ],
)
def test_an_unknown_key_is_worth_a_fetch_once_in_half_a_minute(cache, age, advice):
    assert cache.look_up("c", now=1000 + age) == advice


def test_looking_up_changes_nothing(cache):
    for _ in range(3):
        assert cache.look_up("c", now=1040.0) == FetchFirst()
        assert cache.look_up("a", now=1040.0) == UseKey("key a")


def test_a_new_set_replaces_the_old_one_completely(cache):
    cache.replace({"b": "new b", "c": "key c"}, now=1100.0)
    assert cache.look_up("a", now=1100.0) == UnknownKey()
    assert cache.look_up("b", now=1399.0) == UseKey("new b")
    assert cache.look_up("c", now=1399.0) == UseKey("key c")
    assert cache.look_up("b", now=1400.0) == FetchFirst()


def test_the_set_is_the_cache_s_own(cache):
    keys = {"a": "key a"}
    cache.replace(keys, now=1000.0)
    keys["c"] = "smuggled"
    assert cache.look_up("c", now=1000.0) == UnknownKey()


def test_a_failed_fetch_does_not_count(cache):
    cache.failed("no answer")
    assert cache.look_up("c", now=1030.0) == FetchFirst()
    assert cache.look_up("a", now=1299.0) == UseKey("key a")
    assert cache.look_up("a", now=1300.0) == FetchFirst()
    empty = JwksCache()
    empty.failed("no answer")
    assert empty.look_up("a", now=0.0) == FetchFirst()


def test_two_failures_for_the_same_reason_are_two(cache):
    assert cache.last_failure is None
    cache.failed("no answer")
    first = cache.last_failure
    cache.failed("no answer")
    assert cache.last_failure.reason == first.reason == "no answer"
    assert cache.last_failure != first


# --- the answer ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 203, 299])
def test_any_success_will_do_and_what_is_no_object_is_left_out(status):
    keys = [{"kid": "a"}, 5, None, "x", ["y"], {"kid": "b", "kty": "unheard of"}]
    answer = reply(status, {"keys": keys, "more": 1})
    assert read_key_set(URL, answer) == [{"kid": "a"}, {"kid": "b", "kty": "unheard of"}]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (reply(302, {"keys": []}, location="https://elsewhere"), "answered 302"),
        (reply(404, {"keys": []}), "answered 404"),
        (reply(500), "answered 500"),
        (reply(204), "not JSON"),
        (reply(200, body=b"<html>"), "not JSON"),
        (reply(200, body=b"\xff"), "not JSON"),
        (reply(200, body=b"[" * 100_000), "not JSON"),
        (reply(200, [{"kid": "a"}]), "list named 'keys'"),
        (reply(200, {}), "list named 'keys'"),
        (reply(200, {"keys": None}), "list named 'keys'"),
        (reply(200, {"keys": {"a": 1}}), "list named 'keys'"),
        (reply(200, {"keys": "abc"}), "list named 'keys'"),
    ],
)
def test_what_is_no_key_set_is_told(answer, text):
    with pytest.raises(SandboxTokenVerificationError, match=text) as caught:
        read_key_set(URL, answer)
    assert "https://api.test/.well-known/jwks.json" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_request_carries_no_credentials():
    request = jwks_request(URL)
    assert (request.method, request.url, request.body) == ("GET", URL, ())
    assert request.headers.keys() == {"accept", "user-agent"}


def test_an_error_says_where_and_why():
    assert str(jwks_error(URL, "no answer")) == (
        "no signing keys from https://api.test/.well-known/jwks.json: no answer"
    )


# --- the place -----------------------------------------------------------------------

WELL_KNOWN = "/.well-known/jwks.json"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"api_url": "https://h"}, f"https://h{WELL_KNOWN}"),
        ({"api_url": "https://h/api/v1/?x=y"}, f"https://h{WELL_KNOWN}"),
        ({"api_url": "https://h:8443/x"}, f"https://h:8443{WELL_KNOWN}"),
        ({"api_url": "https://[2001:db8::1]/x"}, f"https://[2001:db8::1]{WELL_KNOWN}"),
        ({"api_url": "HTTPS://H"}, f"https://h{WELL_KNOWN}"),
        ({"jwks_url": "https://k/keys?x=1"}, "https://k/keys?x=1"),
        ({"jwks_url": "https://k"}, "https://k/"),
        ({"jwks_url": "https://k/keys", "api_url": "http://unused"}, "https://k/keys"),
        ({"jwks_url": "", "api_url": "https://h"}, f"https://h{WELL_KNOWN}"),
        ({"api_url": "http://localhost:1984/api"}, f"http://localhost:1984{WELL_KNOWN}"),
        ({"api_url": "http://LOCALHOST"}, f"http://localhost{WELL_KNOWN}"),
        ({"api_url": "http://127.0.0.1:1"}, f"http://127.0.0.1:1{WELL_KNOWN}"),
        ({"api_url": "http://127.9.9.9"}, f"http://127.9.9.9{WELL_KNOWN}"),
        ({"api_url": "http://[::1]:1"}, f"http://[::1]:1{WELL_KNOWN}"),
        ({"jwks_url": "http://localhost/keys"}, "http://localhost/keys"),
        ({"api_url": "http://h", "allow_insecure": True}, f"http://h{WELL_KNOWN}"),
        ({"jwks_url": "http://10.0.0.1/k", "allow_insecure": True}, "http://10.0.0.1/k"),
    ],
)
def test_where_the_keys_are(given, url):
    assert str(choose_jwks_url({"LANGSMITH_ENDPOINT": "https://unused"}, **given)) == url


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, f"https://api.smith.langchain.com{WELL_KNOWN}"),
        ({"LANGSMITH_ENDPOINT": " "}, f"https://api.smith.langchain.com{WELL_KNOWN}"),
        ({"LANGSMITH_ENDPOINT": "https://e/api/v1"}, f"https://e{WELL_KNOWN}"),
        ({"LANGCHAIN_ENDPOINT": "https://c/x"}, f"https://c{WELL_KNOWN}"),
        (
            {"LANGCHAIN_ENDPOINT": "https://c", "LANGSMITH_ENDPOINT": "https://s"},
            f"https://s{WELL_KNOWN}",
        ),
    ],
)
@pytest.mark.parametrize("given", [{}, {"api_url": "", "jwks_url": ""}])
def test_without_a_url_the_environment_tells(environ, url, given):
    assert str(choose_jwks_url(environ, **given)) == url


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"api_url": "http://h"}, r"^api_url must be an https URL, not http://h/: .*allow_insec"),
        ({"jwks_url": "http://h/k"}, r"^jwks_url must be an https URL, not http://h/k"),
        ({"api_url": "http://localhost.evil"}, r"^api_url must be an https URL"),
        ({"api_url": "http://10.0.0.1"}, r"^api_url must be an https URL"),
        ({"api_url": "http://0.0.0.0"}, r"^api_url must be an https URL"),
        ({"api_url": "http://127.1"}, r"^api_url must be an https URL"),
        ({"api_url": "ftp://localhost"}, r"^api_url: not an absolute http"),
        ({"api_url": "ftp://h", "allow_insecure": True}, r"^api_url: not an absolute http"),
        ({"api_url": "ws://localhost"}, r"^api_url must be .* not a WebSocket's"),
        ({"api_url": "wss://h"}, r"^api_url must be .* not a WebSocket's"),
        ({"api_url": "localhost"}, r"^api_url: not an absolute http"),
        ({"api_url": " "}, r"^api_url: not an absolute http"),
        ({"api_url": "https://"}, r"^api_url: not an absolute http"),
        ({"jwks_url": "/keys"}, r"^jwks_url: not an absolute http"),
        ({"jwks_url": "https://u:hunter2@h/k"}, r"^jwks_url: .* user name or password"),
        ({"api_url": "https://h:0"}, r"^api_url: .*port"),
    ],
)
def test_keys_that_others_could_replace_are_not_trusted(given, text):
    with pytest.raises(ValueError, match=text) as caught:
        choose_jwks_url({}, **given)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://e.test", "e.test"])
def test_an_endpoint_that_will_not_do_is_named(endpoint):
    with pytest.raises(ValueError, match="the ENDPOINT variable"):
        choose_jwks_url({"LANGSMITH_ENDPOINT": endpoint})


def test_key_sets_are_json_as_it_comes():
    assert read_key_set(URL, reply(200, body=json.dumps({"keys": []}).encode())) == []
