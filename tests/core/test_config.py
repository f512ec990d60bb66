"""Where the API is, who asks, and with what patience (protocol/01 sections 3 to 6)."""

from __future__ import annotations

import math
import warnings

import attrs
import pytest

from sandbox_proto.config import (
    DEFAULT_ENDPOINT,
    ClientConfig,
    ExecTimeouts,
    default_base,
    env_value,
    read_features,
)
from sandbox_proto.plans.retry import RetryPolicy

from ._helpers import KEY, make_config, make_context, make_request

# --- section 3.1 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        (None, "https://api.smith.langchain.com/api/v2/sandboxes"),
        ("   ", "https://api.smith.langchain.com/api/v2/sandboxes"),
        ("https://h/", "https://h/api/v2/sandboxes"),
        ("https://h/api", "https://h/api/v2/sandboxes"),
        ("https://h/api/", "https://h/api/v2/sandboxes"),
        ("https://h/api/v1", "https://h/api/v2/sandboxes"),
        ("https://h/api/v1///", "https://h/api/v2/sandboxes"),
        ("https://h/p", "https://h/p/api/v2/sandboxes"),
        ("https://h/p/api/v1", "https://h/p/api/v2/sandboxes"),
        ("https://h/api/v2", "https://h/api/v2/api/v2/sandboxes"),
        ("https://h/v2/sandboxes", "https://h/v2/sandboxes/api/v2/sandboxes"),
        (" https://h", " https://h/api/v2/sandboxes"),
    ],
)
def test_the_base_url_derived_from_the_environment(endpoint, base):
    environ = {} if endpoint is None else {"LANGSMITH_ENDPOINT": endpoint}
    assert default_base(environ) == base
    assert ClientConfig.from_env(environ).api_endpoint == base


@pytest.mark.parametrize(
    ("argument", "base"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1///", "http://h:1"),
        ("http://h/v2/sandboxes/", "http://h/v2/sandboxes"),
        ("", DEFAULT_ENDPOINT + "/api/v2/sandboxes"),
        (None, DEFAULT_ENDPOINT + "/api/v2/sandboxes"),
    ],
)
def test_an_explicit_endpoint_is_used_as_it_is_but_for_slashes_at_its_end(argument, base):
    assert ClientConfig.from_env({}, api_endpoint=argument).api_endpoint == base


@pytest.mark.parametrize("endpoint", ["h", "/api", "ftp://h", "https://", "https://u:p@h", "//h"])
def test_an_endpoint_that_is_no_absolute_http_url_is_refused_at_once(endpoint):
    with pytest.raises(ValueError, match="URL"):
        ClientConfig.from_env({}, api_endpoint=endpoint)


@pytest.mark.parametrize(
    ("endpoint", "root"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h/v2/sandboxes", "http://h"),
        ("http://h/api/v2/sandboxes", "http://h"),
        ("http://h/api/v1/v2/sandboxes", "http://h"),
        ("http://h/x", "http://h/x"),
    ],
)
def test_the_api_root_of_the_registries(endpoint, root):
    assert make_config(api_endpoint=endpoint).api_root == root


# --- section 4 ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "value"),
    [
        ({}, None),
        ({"LANGSMITH_X": "a"}, "a"),
        ({"LANGCHAIN_X": "b"}, "b"),
        ({"LANGSMITH_X": "a", "LANGCHAIN_X": "b"}, "a"),
        ({"LANGSMITH_X": "", "LANGCHAIN_X": "b"}, "b"),
        ({"LANGSMITH_X": " \t", "LANGCHAIN_X": "b"}, "b"),
        ({"LANGSMITH_X": " ", "LANGCHAIN_X": " "}, None),
        ({"LANGSMITH_X": " a "}, " a "),
        ({"X": "c"}, None),
    ],
)
def test_variables_are_looked_up_under_both_prefixes_and_blank_is_unset(environ, value):
    assert env_value(environ, "X") == value


@pytest.mark.parametrize(
    ("argument", "environ", "key"),
    [
        ("arg", {"LANGSMITH_API_KEY": "env"}, "arg"),
        (None, {"LANGSMITH_API_KEY": "env"}, "env"),
        ("", {"LANGCHAIN_API_KEY": "env"}, "env"),
        (None, {}, None),
    ],
)
def test_the_api_key_comes_from_the_argument_else_from_the_environment(argument, environ, key):
    assert ClientConfig.from_env(environ, api_key=argument).api_key == key


TIMEOUT_VARIABLES = {
    "SANDBOX_WS_TIMEOUT_OPEN": ("open", 30.0),
    "SANDBOX_WS_TIMEOUT_PING_INTERVAL": ("ping_interval", 30.0),
    "SANDBOX_WS_TIMEOUT_PING": ("pong", 60.0),
    "SANDBOX_WS_TIMEOUT_CLOSE": ("close", 0.01),
    "SANDBOX_WS_TIMEOUT_CONNECT_BUDGET": ("connect_budget", 120.0),
    "SANDBOX_SSE_TIMEOUT_READ": ("sse_read", 60.0),
}


@pytest.mark.parametrize("variable", TIMEOUT_VARIABLES)
@pytest.mark.parametrize("prefix", ["LANGSMITH_", "LANGCHAIN_"])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0.5", 0.5), (" 3 ", 3.0), ("0", None), ("-1", None), ("inf", None)],
)
def test_a_timeout_variable_sets_its_limit_and_nothing_else(variable, prefix, text, seconds):
    field, _ = TIMEOUT_VARIABLES[variable]
    timeouts = ClientConfig.from_env({prefix + variable: text}).exec_timeouts
    assert timeouts == attrs.evolve(ExecTimeouts(), **{field: seconds})


@pytest.mark.parametrize("variable", TIMEOUT_VARIABLES)
@pytest.mark.parametrize("text", ["soon", "1,5", "nan", "5s"])
def test_what_is_no_number_of_seconds_warns_and_leaves_the_default(variable, text):
    with pytest.warns(UserWarning, match=f"{variable} should be a number"):
        timeouts = ExecTimeouts.from_env({"LANGSMITH_" + variable: text})
    field, default = TIMEOUT_VARIABLES[variable]
    assert getattr(timeouts, field) == default


def test_the_default_timeouts_are_the_protocols():
    defaults = dict(TIMEOUT_VARIABLES.values())
    timeouts = ExecTimeouts.from_env({})
    assert {field: getattr(timeouts, field) for field in defaults} == defaults
    assert make_config().timeout == 10.0


# --- section 5 ------------------------------------------------------------------------

SSE = frozenset({"sandbox_sse_exec"})


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("", frozenset()),
        ("sandbox_sse_exec", SSE),
        (" Sandbox-SSE-Exec ", SSE),
        ("nosandbox_sse_exec", frozenset()),
        ("sandbox_sse_exec,no-sandbox-sse-exec", frozenset()),
        ("no_sandbox_sse_exec,sandbox_sse_exec", SSE),
        (",,sandbox_sse_exec,", SSE),
    ],
)
def test_feature_tokens(text, features):
    environ = {"LANGSMITH_EXPERIMENTAL_FEATURES": text}
    assert read_features(environ) == features
    assert ClientConfig.from_env(environ).features == features


@pytest.mark.parametrize("text", ["mystery", "nomystery", "no"])
def test_an_unknown_feature_warns_and_is_ignored(text):
    with pytest.warns(UserWarning, match="unknown experimental feature"):
        assert read_features({"LANGSMITH_EXPERIMENTAL_FEATURES": f"{text},sandbox_sse_exec"}) == SSE


def test_features_are_read_under_one_prefix_only():
    assert read_features({"LANGCHAIN_EXPERIMENTAL_FEATURES": "sandbox_sse_exec"}) == frozenset()


# --- section 6.1 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "layers", "expected"),
    [
        ({}, (), {"x-api-key": KEY}),
        ({"api_key": None}, (), {}),
        ({"headers": {"X-API-KEY": "other"}}, (), {"x-api-key": "other"}),
        ({"headers": {"x-api-key": "c"}}, ({"X-Api-Key": "call"},), {"x-api-key": "call"}),
        (
            {"headers": {"X-Service-Key": "s", "A": "1"}},
            ({"a": "2"}, None, {"B": "3"}),
            {"x-api-key": KEY, "x-service-key": "s", "a": "2", "b": "3"},
        ),
    ],
)
def test_key_then_client_then_call_headers_in_lower_case(settings, layers, expected):
    headers = make_config(**settings).request_headers(*layers)
    assert headers == {"accept": "*/*", "user-agent": "sandbox-proto", **expected}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "a\r\nEvil: 1"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x", "a\x7fb"),
        ("x", "\u20ac"),
        ("x", 5),
        ("x\r\nEvil", "1"),
        ("x y", "1"),
        ("x:", "1"),
        ("", "1"),
        ("\u00e4", "1"),
        ("x\x7f", "1"),
        ("x\0", "1"),
        ("Host", "elsewhere"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
    ],
)
def test_headers_that_could_inject_or_contradict_are_refused_and_named(name, value):
    for config, layer in ((make_config(headers={name: value}), {}), (make_config(), {name: value})):
        with pytest.raises(ValueError, match="header") as caught:
            config.request_headers(layer)
        assert repr(name) in str(caught.value) or repr(name.lower()) in str(caught.value)


def test_a_refused_header_value_is_not_shown():
    with pytest.raises(ValueError, match="authorization") as caught:
        make_config(headers={"authorization": "Bearer s3cret\n"}).request_headers({"b": "\n\n\0"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", ["plain", "a\tb", "caf\u00e9", "  trimmed\t"])
def test_what_a_header_may_hold_passes(value):
    assert make_config(headers={"x": value}).request_headers()["x"] == value.strip(" \t")


# --- secrets, ranges ------------------------------------------------------------------


@pytest.mark.parametrize(
    "holder",
    [
        make_config(headers={"authorization": "s3cret-header"}),
        make_context(headers={"authorization": "s3cret-header"}),
        make_request(headers={"x-api-key": KEY, "authorization": "s3cret-header"}),
        make_request("POST", body=(b"s3cret-header",)),
    ],
    ids=["config", "context", "request", "body"],
)
def test_secrets_do_not_show_in_a_repr(holder):
    assert KEY not in repr(holder)
    assert "s3cret" not in repr(holder)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"timeout": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="timeout"):
        ClientConfig.from_env({}, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"max_retries": -1}, {"initial": -1}, {"jitter": -1}, {"max_backoff": -0.1}],
)
def test_a_retry_policy_has_no_negative_numbers(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        RetryPolicy(**settings)


def test_explicit_settings_win_over_the_environment():
    environ = {
        "LANGSMITH_SANDBOX_WS_TIMEOUT_OPEN": "1",
        "LANGSMITH_EXPERIMENTAL_FEATURES": "sandbox_sse_exec",
    }
    timeouts = ExecTimeouts(open=9)
    config = ClientConfig.from_env(environ, exec_timeouts=timeouts, features=frozenset())
    assert (config.exec_timeouts.open, config.features) == (9, frozenset())


def test_reading_a_clean_environment_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isfinite(ClientConfig.from_env({}).timeout)
