"""Secrets and proxy rules: what builders make, take over, copy and refuse (protocol/11 §1, §2)."""

from __future__ import annotations

import types
import typing
import warnings

import pytest

from sandbox_proto.wire import typed_dicts
from sandbox_proto.wire.proxy_rules import attribution, aws_auth, gcp_auth, proxy_config
from sandbox_proto.wire.secrets import opaque_secret, workspace_secret

KEY = {"type": "opaque", "value": "key"}
SECRET = {"type": "workspace_secret", "value": "{SECRET}"}
STATIC = {"access_key_id": KEY, "secret_access_key": SECRET}


# --- secrets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NAME", "{NAME}"),
        ("  NAME ", "{NAME}"),
        ("{NAME}", "{NAME}"),
        (" {NAME} ", "{NAME}"),
        ("{ NAME }", "{ NAME }"),
        ("two words", "{two words}"),
        ("a{b}c", "{a{b}c}"),
        ("{{NAME}}", "{{NAME}}"),
        ("}{", "{}{}"),
    ],
)
def test_a_workspace_secret_is_a_reference_in_braces(name, value):
    assert workspace_secret(name) == {"type": "workspace_secret", "value": value}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "name must not be empty"),
        (" \t", "name must not be empty"),
        (None, "name must be a string"),
        (5, "name must be a string"),
        (b"NAME", "name must be a string"),
        ("{NAME", "braces"),
        ("NAME}", "braces"),
        ("{", "braces"),
        ("}", "braces"),
        ("{}", "between its braces"),
        ("{  }", "between its braces"),
    ],
)
def test_a_workspace_secret_needs_a_name(name, text):
    with pytest.raises(ValueError, match=text):
        workspace_secret(name)


def test_an_opaque_secret_loses_the_whitespace_around_it():
    assert opaque_secret(" a b\n") == {"type": "opaque", "value": "a b"}


@pytest.mark.parametrize("value", ["", "  ", None, 5, b"x", ["x"]])
def test_an_opaque_secret_needs_a_value(value):
    with pytest.raises(ValueError, match=r"^value must"):
        opaque_secret(value)


# --- the proxy's configuration -------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"rules": []}),
        ({"rules": None}, {"rules": []}),
        ({"rules": []}, {"rules": []}),
        ({"rules": ({"name": "r"},)}, {"rules": [{"name": "r"}]}),
        ({"rules": iter([{"name": "r"}])}, {"rules": [{"name": "r"}]}),
        ({"access_control": {}}, {"rules": [], "access_control": {}}),
        (
            {"access_control": {"allow_list": ["a"], "anything": 1}},
            {"rules": [], "access_control": {"allow_list": ["a"], "anything": 1}},
        ),
    ],
)
def test_a_proxy_config_always_has_rules(given, made):
    assert proxy_config(**given) == made


def test_rules_are_passed_by_reference_and_the_containers_are_new():
    rule, allowed = {"name": "r"}, ["a"]
    rules, control = [rule], {"allow_list": allowed}
    made = proxy_config(rules=rules, access_control=control)
    assert made["rules"][0] is rule
    assert made["rules"] is not rules
    assert made["access_control"] is not control
    assert made["access_control"]["allow_list"] is allowed


@pytest.mark.parametrize(
    "rule",
    [
        {"anything": 1},
        {"type": "azure", "azure": 5},
        {"type": "attribution"},
        {"type": ["aws"]},
        {"type": "aws"},
        {"type": "aws", "aws": "not checked"},
        {"type": "aws", "aws": {}},
        {"type": "aws", "aws": {"access_key_id": KEY}},
        {"type": "aws", "aws": {"access_key_id": 1, "secret_access_key": 2, "more": 3}},
        {"type": "aws", "aws": {**STATIC, "role_arn": ""}},
        {"type": "aws", "aws": {**STATIC, "session_tags": {}}},
        {"type": "aws", "aws": {"role_arn": " r "}},
        {"type": "aws", "aws": {"role_arn": "r", "session_tags": {}}},
        {"type": "aws", "aws": {"role_arn": "r", "session_tags": {"a": "b"}}},
        {"type": "gcp", "gcp": {"scopes": ["a"]}},
        {"type": "gcp", "gcp": {"scopes": (" a ",), "more": 1}},
        aws_auth(role_arn="r", session_tags={"a": "b"}),
        gcp_auth(service_account_json=KEY, scopes=["a"]),
        attribution(headers={"X-Team": "blue"}),
    ],
)
def test_a_rule_that_can_work_is_taken_as_it_is(rule):
    before = repr(rule)
    assert proxy_config(rules=[rule])["rules"] == [rule]
    assert repr(rule) == before


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ("rules", "rules must be a list"),
        ("", "rules must be a list"),
        (b"rules", "rules must be a list"),
        ({"name": "r"}, "rules must be a list"),
        ({}, "rules must be a list"),
        (5, "rules must be a list"),
        ([{}], r"rules\[0\]"),
        ([{"name": "r"}, 5], r"rules\[1\]"),
        ([None], r"rules\[0\]"),
        ([{"type": "aws", "aws": {"role_arn": " "}}], r"rules\[0\]\.aws\.role_arn must not be"),
        ([{"type": "aws", "aws": {"role_arn": None}}], "role_arn must be a string"),
        ([{"type": "aws", "aws": {"role_arn": 0}}], "role_arn must be a string"),
        ([{"type": "aws", "aws": {"role_arn": "r", **STATIC}}], "access_key_id, secret_access_key"),
        ([{"type": "aws", "aws": {"role_arn": "r", "access_key_id": None}}], "access_key_id"),
        ([{"type": "aws", "aws": {"role_arn": "r", "subject_scope": "workspace"}}], "subject_sc"),
        ([{"type": "aws", "aws": {"role_arn": "r", "session_tags": None}}], "session_tags"),
        ([{"type": "aws", "aws": {"role_arn": "r", "session_tags": {"a": ""}}}], "session_tags"),
        ([{"type": "aws", "aws": {"session_tags": {"a": "b"}}}], "need role_arn"),
        ([{"type": "aws", "aws": {**STATIC, "session_tags": {"a": "b"}}}], "need role_arn"),
        ([{"type": "gcp"}], r"rules\[0\]\.gcp\.scopes must be given"),
        ([{"type": "gcp", "gcp": 5}], "scopes must be given"),
        ([{"type": "gcp", "gcp": {}}], "scopes must be given"),
        ([gcp_auth(service_account_json=KEY)], "scopes must be given"),
        ([{"type": "gcp", "gcp": {"scopes": []}}], "scopes must not be empty"),
        ([{"type": "gcp", "gcp": {"scopes": "a"}}], "scopes must be a list"),
        ([{"type": "gcp", "gcp": {"scopes": [""]}}], r"scopes\[0\]"),
        ([{"type": "gcp", "gcp": {"scopes": ["a", 5]}}], r"scopes\[1\]"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(rules, text):
    with pytest.raises(ValueError, match=text):
        proxy_config(rules=rules)


@pytest.mark.parametrize("control", [[], "x", 5, types.MappingProxyType({})])
def test_access_control_is_a_dictionary(control):
    with pytest.raises(ValueError, match="access_control"):
        proxy_config(access_control=control)


@pytest.mark.parametrize("no_proxy", [["a"], [], "a"])
def test_no_proxy_is_dropped_with_a_warning_that_points_at_the_caller(no_proxy):
    with pytest.warns(DeprecationWarning, match="no_proxy") as seen:
        made = proxy_config(no_proxy=no_proxy)
    assert made == {"rules": []}
    assert [warning.filename for warning in seen] == [__file__]


def test_who_gives_no_no_proxy_is_not_warned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proxy_config(no_proxy=None)


# --- attribution ---------------------------------------------------------------------


def test_attribution_lists_headers_in_the_mapping_s_order():
    assert attribution(headers={"X-B": "1", "X-A": "2"}) == {
        "name": "attribution",
        "type": "attribution",
        "enabled": True,
        "headers": [
            {"name": "X-B", "type": "plaintext", "value": "1"},
            {"name": "X-A", "type": "plaintext", "value": "2"},
        ],
    }


def test_of_attribution_only_the_name_is_checked():
    made = attribution(headers={"not a header": 5}, name=" n ", enabled=False)
    assert (made["name"], made["enabled"]) == ("n", False)
    assert made["headers"] == [{"name": "not a header", "type": "plaintext", "value": 5}]
    assert attribution(headers={})["headers"] == []
    for name in ("", " ", None):
        with pytest.raises(ValueError, match=r"^name"):
            attribution(headers={}, name=name)
    for headers in (None, [("X-A", "b")], "X-A"):
        with pytest.raises(ValueError, match=r"^headers"):
            attribution(headers=headers)


# --- credentials ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "block"),
    [
        ({"role_arn": " r "}, {"role_arn": "r"}),
        ({"role_arn": "r", "session_tags": {}}, {"role_arn": "r", "session_tags": {}}),
        (
            {"role_arn": "r", "session_tags": {" a ": " b "}},
            {"role_arn": "r", "session_tags": {" a ": " b "}},
        ),
        (
            {"role_arn": "r", "session_tags": types.MappingProxyType({"a": "b"})},
            {"role_arn": "r", "session_tags": {"a": "b"}},
        ),
        (STATIC, STATIC),
        ({**STATIC, "role_arn": ""}, STATIC),
        ({**STATIC, "session_tags": {}}, STATIC),
        ({"access_key_id": {}, "secret_access_key": "s"}, None),
    ],
)
def test_aws_credentials_are_a_role_or_a_static_key(given, block):
    made = aws_auth(**given)
    assert made == {"name": "aws", "type": "aws", "enabled": True, "aws": block or given}


def test_static_secrets_are_taken_over_and_tags_are_copied():
    assert aws_auth(**STATIC)["aws"]["access_key_id"] is KEY
    assert gcp_auth(service_account_json=KEY)["gcp"]["service_account_json"] is KEY
    tags = {"a": "b"}
    assert aws_auth(role_arn="r", session_tags=tags)["aws"]["session_tags"] is not tags


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "role_arn, or both"),
        ({"role_arn": ""}, "role_arn, or both"),
        ({"access_key_id": KEY}, "role_arn, or both"),
        ({"secret_access_key": KEY}, "role_arn, or both"),
        ({"role_arn": " "}, "role_arn must not be"),
        ({"role_arn": 0}, "role_arn must be a string"),
        ({"role_arn": "r", "access_key_id": KEY}, "access_key_id cannot go with a role"),
        ({"role_arn": "r", "secret_access_key": {}}, "secret_access_key cannot go with a role"),
        ({"session_tags": {"a": "b"}}, "need role_arn"),
        ({**STATIC, "session_tags": {"a": "b"}}, "need role_arn"),
        ({"role_arn": "r", "session_tags": [("a", "b")]}, "session_tags must be a mapping"),
        ({"role_arn": "r", "session_tags": ""}, "session_tags must be a mapping"),
        ({"role_arn": "r", "session_tags": {"": "b"}}, "a key of session_tags"),
        ({"role_arn": "r", "session_tags": {5: "b"}}, "a key of session_tags"),
        ({"role_arn": "r", "session_tags": {"a": " "}}, r"session_tags\['a'\]"),
        ({"role_arn": "r", "session_tags": {"a": 5}}, r"session_tags\['a'\]"),
        ({"role_arn": "r", "name": " "}, "^name"),
    ],
)
def test_aws_credentials_of_any_other_form_are_refused(given, text):
    with pytest.raises(ValueError, match=text):
        aws_auth(**given)


@pytest.mark.parametrize("scopes", [["a", " b "], ("a", "b"), iter(["a", "b"])])
def test_gcp_credentials_may_have_scopes(scopes):
    assert gcp_auth(service_account_json=KEY, scopes=scopes) == {
        "name": "gcp",
        "type": "gcp",
        "enabled": True,
        "gcp": {"service_account_json": KEY, "scopes": ["a", "b"]},
    }


def test_gcp_credentials_need_no_scopes_and_check_no_secret():
    assert gcp_auth(service_account_json="{}")["gcp"] == {"service_account_json": "{}"}


@pytest.mark.parametrize("scopes", [[], (), "a", b"a", {"a": 1}, 5, [""], [5], ["a", " "]])
def test_gcp_scopes_are_a_list_of_something(scopes):
    with pytest.raises(ValueError, match=r"^scopes"):
        gcp_auth(service_account_json=KEY, scopes=scopes)


def _aws(**more):
    return aws_auth(role_arn="r", **more)


def _gcp(**more):
    return gcp_auth(service_account_json=KEY, **more)


@pytest.mark.parametrize("build", [_aws, _gcp])
def test_a_rule_sets_variables_trims_their_names_and_keeps_their_values(build):
    assert "env_vars" not in build()
    made = build(env_vars={" A ": " b ", "C": "d"}, name=" n ", enabled=False)
    assert made["env_vars"] == {"A": " b ", "C": "d"}
    assert (made["name"], made["enabled"]) == ("n", False)
    assert build(env_vars=types.MappingProxyType({"A": "b"}))["env_vars"] == {"A": "b"}


@pytest.mark.parametrize("build", [_aws, _gcp])
@pytest.mark.parametrize(
    "variables", [{}, [], [("A", "b")], "A", {" ": "b"}, {5: "b"}, {"A": " "}, {"A": 5}]
)
def test_variables_are_a_mapping_of_something_to_something(build, variables):
    with pytest.raises(ValueError, match="env_vars"):
        build(env_vars=variables)


def test_no_error_shows_a_secret():
    secret = "hunter2"
    with pytest.raises(ValueError, match="name") as caught:
        workspace_secret("{" + secret)
    assert secret not in str(caught.value)
    with pytest.raises(ValueError, match="role_arn") as caught:
        aws_auth(role_arn="r", access_key_id=opaque_secret(secret))
    assert secret not in str(caught.value)


# --- shapes --------------------------------------------------------------------------

SHAPES = {
    # name: (required, optional)
    "AccessDelegation": ("", "mode permissions"),
    "SandboxProxySecret": ("type value", ""),
    "SandboxMountConfig": ("auth mounts", ""),
    "SandboxMountAuthConfig": ("", "aws gcp"),
    "AWSMountAuthConfig": ("access_key_id secret_access_key", ""),
    "AWSMountRoleAuthConfig": ("role_arn", ""),
    "GCPMountAuthConfig": ("service_account_json", ""),
    "MountCacheConfig": ("", "max_size_bytes writeback_seconds"),
    "MountEncryptionConfig": ("kms_key", ""),
    "S3MountSpec": ("id type mount_path s3", "read_only cache encryption"),
    "S3MountConfig": ("bucket endpoint_url region", "prefix path_style"),
    "GCSMountSpec": ("id type mount_path gcs", "read_only cache"),
    "GCSMountConfig": ("bucket", "prefix"),
    "GitMountSpec": ("id type mount_path git", ""),
    "GitMountConfig": ("remote_url", "ref refresh_interval_seconds"),
    "GitMountRefSpec": ("type name", ""),
    "ContextHubMountSpec": ("id type mount_path contexthub", ""),
    "ContextHubMountConfig": ("repo", "initial_pull_only"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_have_the_keys_of_the_protocol(name):
    required, optional = SHAPES[name]
    shape = getattr(typed_dicts, name)
    assert shape.__required_keys__ == set(required.split())
    assert shape.__optional_keys__ == set(optional.split())


def test_the_aliases_are_those_of_the_protocol():
    assert typing.get_args(typed_dicts.ServiceAccess) == ("restricted", "workspace")
    assert typing.get_args(typed_dicts.DownloadContentDisposition) == ("attachment", "inline")
    assert typing.get_args(typed_dicts.AccessDelegationMode) == ("EXPLICIT",)
    assert [kind.__name__ for kind in typing.get_args(typed_dicts.SandboxMount)] == [
        *("S3MountSpec", "GCSMountSpec", "GitMountSpec", "ContextHubMountSpec")
    ]
    free = (
        typed_dicts.SandboxProxyConfig,
        typed_dicts.SandboxProxyRule,
        typed_dicts.SandboxMountAuth,
    )
    assert free == (dict[str, typing.Any],) * 3
