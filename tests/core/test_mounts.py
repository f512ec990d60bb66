"""Mounts, and mounts with their credentials (protocol/11 §3, §4)."""

from __future__ import annotations

import types

import pytest

from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.mounts import (
    check_provider_conflict,
    context_hub_mount,
    gcs_mount,
    git_mount,
    mount_config,
    s3_mount,
)
from sandbox_proto.wire.proxy_rules import aws_auth, gcp_auth, proxy_config

KEY = {"type": "opaque", "value": "key"}
SECRET = {"type": "workspace_secret", "value": "{SECRET}"}
PLACE = {"id": "m", "mount_path": "/mnt/m"}
URL = "https://git.test/owner/repo"

S3 = s3_mount(**PLACE, bucket="b")
GCS = gcs_mount(**PLACE, bucket="b")
GIT = git_mount(**PLACE, remote_url=URL)
HUB = context_hub_mount(**PLACE, repo="o/r")
ROLE = aws_auth(role_arn="r")
STATIC = aws_auth(access_key_id=KEY, secret_access_key=SECRET)
ACCOUNT = gcp_auth(service_account_json=KEY)

BUILDERS = {
    "s3": lambda **more: s3_mount(**{**PLACE, "bucket": "b", **more}),
    "gcs": lambda **more: gcs_mount(**{**PLACE, "bucket": "b", **more}),
    "git": lambda **more: git_mount(**{**PLACE, "remote_url": URL, **more}),
    "contexthub": lambda **more: context_hub_mount(**{**PLACE, "repo": "o/r", **more}),
}


# --- single mounts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "block"),
    [
        (
            S3,
            {
                "endpoint_url": "https://s3.amazonaws.com",
                "region": "us-east-1",
                "bucket": "b",
                "path_style": False,
            },
        ),
        (GCS, {"bucket": "b"}),
        (GIT, {"remote_url": URL}),
        (HUB, {"repo": "o/r"}),
    ],
)
def test_what_is_not_given_is_not_sent(made, block):
    assert made == {**PLACE, "type": made["type"], made["type"]: block}


def test_everything_that_can_be_given():
    place = {"id": " m ", "mount_path": " /mnt/m "}
    cache = {"max_size_bytes": 1, "writeback_seconds": 2, "unknown": 3}
    kept = {"max_size_bytes": 1, "writeback_seconds": 2}
    assert s3_mount(
        **place,
        bucket=" b ",
        region=" r ",
        prefix=" p/ ",
        endpoint_url=" http://minio ",
        path_style=True,
        read_only=False,
        cache=cache,
        encryption={"kms_key": " k ", "unknown": 1},
    ) == {
        **PLACE,
        "type": "s3",
        "s3": {
            "endpoint_url": "http://minio",
            "region": "r",
            "bucket": "b",
            "path_style": True,
            "prefix": "p/",
        },
        "read_only": False,
        "cache": kept,
        "encryption": {"kms_key": "k"},
    }
    assert gcs_mount(**place, bucket=" b ", prefix=" p ", read_only=True, cache=cache) == {
        **PLACE,
        "type": "gcs",
        "gcs": {"bucket": "b", "prefix": "p"},
        "read_only": True,
        "cache": kept,
    }
    assert git_mount(
        **place,
        remote_url=URL,
        ref={"type": "tag", "name": " v1 ", "unknown": 1},
        refresh_interval_seconds=1,
    ) == {
        **PLACE,
        "type": "git",
        "git": {
            "remote_url": URL,
            "ref": {"type": "tag", "name": "v1"},
            "refresh_interval_seconds": 1,
        },
    }
    assert context_hub_mount(**place, repo=" o/r ", initial_pull_only=False) == {
        **PLACE,
        "type": "contexthub",
        "contexthub": {"repo": "o/r", "initial_pull_only": False},
    }


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("field", ["id", "mount_path"])
@pytest.mark.parametrize("value", ["", " ", None, 5])
def test_a_mount_has_an_id_and_a_place(kind, field, value):
    with pytest.raises(ValueError, match=f"^{field} must"):
        BUILDERS[kind](**{field: value})


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        ("s3", {"bucket": " "}, "^bucket"),
        ("s3", {"region": ""}, "^region"),
        ("s3", {"region": None}, "^region"),
        ("s3", {"endpoint_url": ""}, "^endpoint_url"),
        ("s3", {"prefix": " "}, "^prefix"),
        ("s3", {"prefix": 5}, "^prefix"),
        ("s3", {"cache": 5}, "^cache must be a mapping"),
        ("s3", {"cache": "max_size_bytes"}, "^cache must be a mapping"),
        ("s3", {"encryption": {}}, "^encryption's kms_key"),
        ("s3", {"encryption": {"kms_key": " "}}, "^encryption's kms_key"),
        ("s3", {"encryption": "key"}, "^encryption must be a mapping"),
        ("gcs", {"bucket": ""}, "^bucket"),
        ("gcs", {"prefix": ""}, "^prefix"),
        ("gcs", {"cache": 5}, "^cache must be a mapping"),
        ("git", {"ref": "main"}, "^ref must be a dictionary"),
        ("git", {"ref": types.MappingProxyType({"type": "tag", "name": "n"})}, "^ref must be"),
        ("git", {"ref": {"name": "main"}}, "^ref's type"),
        ("git", {"ref": {"type": "commit", "name": "n"}}, "^ref's type"),
        ("git", {"ref": {"type": " tag ", "name": "n"}}, "^ref's type"),
        ("git", {"ref": {"type": ["tag"], "name": "n"}}, "^ref's type"),
        ("git", {"ref": {"type": "tag"}}, "^ref's name"),
        ("git", {"ref": {"type": "branch", "name": " "}}, "^ref's name"),
        ("git", {"refresh_interval_seconds": 0}, "^refresh_interval_seconds"),
        ("git", {"refresh_interval_seconds": 0.5}, "^refresh_interval_seconds"),
        ("git", {"refresh_interval_seconds": float("nan")}, "^refresh_interval_seconds"),
        ("git", {"refresh_interval_seconds": "60"}, "^refresh_interval_seconds"),
        ("contexthub", {"repo": " "}, "^repo"),
        ("contexthub", {"repo": None}, "^repo"),
    ],
)
def test_a_mount_that_cannot_work_is_refused(kind, given, text):
    with pytest.raises(ValueError, match=text):
        BUILDERS[kind](**given)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "HTTPS://git.test/r",
        "https://git.test:8443/r",
        "https://[::1]/r",
        "https://git.test//",
        "https://git.test/r?",
        "https://git.test/r;x",
        "https://git.test/gr\u00fc\u00dfe",
    ],
)
def test_a_remote_is_stored_as_it_was_given(url):
    assert git_mount(**PLACE, remote_url=url)["git"] == {"remote_url": url}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "not empty"),
        (None, "must be a string"),
        (5, "must be a string"),
        (f" {URL}", "whitespace"),
        (f"{URL}\n", "whitespace"),
        ("https://git.test/a b", "whitespace"),
        ("https://git.test/a\u00a0b", "whitespace"),
        ("https://git.test/a\x85", "whitespace"),
        ("https://git.test/a\0", "NUL"),
        ("http://git.test/r", "https URL"),
        ("ssh://git.test/r", "https URL"),
        ("git@git.test:r", "https URL"),
        ("//git.test/r", "https URL"),
        ("https:///r", "https URL with a host"),
        ("https://:443/r", "https URL with a host"),
        ("https://[::1/r", "malformed"),
        ("https://user@git.test/r", "user name or password"),
        ("https://user:hunter2@git.test/r", "user name or password"),
        ("https://:hunter2@git.test/r", "user name or password"),
        ("https://git.test", "path"),
        ("https://git.test/", "path"),
        ("https://git.test/r?q=1", "no query"),
        ("https://git.test/r#f", "no fragment"),
    ],
)
def test_a_remote_is_an_https_url_of_a_repository_without_secrets(url, text):
    with pytest.raises(ValueError, match=f"^remote_url .*{text}") as caught:
        git_mount(**PLACE, remote_url=url)
    assert "hunter2" not in str(caught.value)


# --- all of them together ------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "auth"),
    [
        ({"mounts": [GIT, HUB]}, {}),
        ({"mounts": (GIT,)}, {}),
        ({"mounts": iter([GIT])}, {}),
        ({"mounts": [{"type": "git", "whatever": 1}]}, {}),
        ({"mounts": [S3], "auth": [aws_auth(role_arn=" r ")]}, {"aws": {"role_arn": "r"}}),
        ({"mounts": [S3], "auth": [aws_auth(role_arn="r", enabled=False)]}, {"aws": ROLE["aws"]}),
        ({"mounts": [S3], "auth": [STATIC]}, {"aws": STATIC["aws"]}),
        (
            {"mounts": [S3], "auth": ({"type": "aws", "aws": {"role_arn": "", **STATIC["aws"]}},)},
            {"aws": STATIC["aws"]},
        ),
        (
            {"mounts": [S3], "auth": [{"type": "aws", "aws": {**STATIC["aws"], "more": 1}}]},
            {"aws": STATIC["aws"]},
        ),
        (
            {"mounts": [GCS, S3], "auth": [ACCOUNT, ROLE]},
            {"gcp": {"service_account_json": KEY}, "aws": {"role_arn": "r"}},
        ),
        (
            {"mounts": [GCS], "auth": [gcp_auth(service_account_json=KEY, scopes=["a"])]},
            {"gcp": {"service_account_json": KEY}},
        ),
        ({"mounts": [S3], "proxy_config": proxy_config(rules=[ROLE])}, {}),
        ({"mounts": [GIT], "proxy_config": proxy_config(rules=[ROLE, STATIC])}, {}),
        ({"mounts": [GIT], "proxy_config": {}}, {}),
        (
            {"mounts": [S3], "auth": [ROLE], "proxy_config": {"rules": [{"type": "gcp"}, 5]}},
            {"aws": {"role_arn": "r"}},
        ),
    ],
)
def test_mounts_and_credentials_that_fit(given, auth):
    made = mount_config(**given)
    assert made.keys() == {"auth", "mounts"}
    assert made["auth"] == auth


def test_mounts_are_passed_by_reference_and_secrets_are_reduced_copies():
    mounts = [GIT, S3]
    wordy = {"type": "opaque", "value": " v ", "is_set": True}
    auth = {"type": "aws", "aws": {"access_key_id": wordy, "secret_access_key": SECRET}}
    made = mount_config(mounts=mounts, auth=[auth])
    assert made["mounts"] == mounts
    assert made["mounts"] is not mounts
    assert all(one is other for one, other in zip(made["mounts"], mounts, strict=True))
    assert made["auth"]["aws"]["access_key_id"] == {"type": "opaque", "value": " v "}
    assert made["auth"]["aws"]["secret_access_key"] is not SECRET


def _aws(**aws):
    return {"mounts": [S3], "auth": [{"type": "aws", "aws": aws}]}


def _gcp(gcp):
    return {"mounts": [GCS], "auth": [{"type": "gcp", "gcp": gcp}]}


def _key(key):
    return _aws(access_key_id=key, secret_access_key=SECRET)


def _holding(**more):
    return {"mounts": [GIT, {**GIT, **more}]}


REFUSED = [
    # 1: the mounts
    ({"mounts": {}}, "^mounts must be a list"),
    ({"mounts": {"a": GIT}}, "^mounts must be a list"),
    ({"mounts": "git"}, "^mounts must be a list"),
    ({"mounts": 5}, "^mounts must be a list"),
    ({"mounts": None}, "^mounts must be a list"),
    ({"mounts": []}, "^mounts must not be empty"),
    ({"mounts": ()}, "^mounts must not be empty"),
    ({"mounts": [GIT, {}]}, r"^mounts\[1\] must be a dictionary"),
    ({"mounts": [5]}, r"^mounts\[0\] must be a dictionary"),
    ({"mounts": [{"id": "m"}]}, r"^mounts\[0\]'s type"),
    ({"mounts": [GIT, {"type": "azure_blob"}]}, r"^mounts\[1\]'s type"),
    ({"mounts": [{"type": ["git"]}]}, r"^mounts\[0\]'s type"),
    # 2: credentials in the wrong place
    (_holding(access_key_id=1), r"^mounts\[1\] holds 'access_key_id'"),
    (_holding(git={"secret_access_key": None}), "holds 'secret_access_key'"),
    (_holding(git={"deep": [1, {"session_token": ""}]}), "holds 'session_token'"),
    (_holding(git={"deep": {"deeper": {"service_account_json": 1}}}), "holds 'service_account"),
    (_holding(git=[[{"access_token": 1}]]), "holds 'access_token'"),
    (_holding(git=({"refresh_token": 1},)), "holds 'refresh_token'"),
    (_holding(credentials={}), "holds 'credentials'"),
    (_holding(credential={}), "holds 'credential'"),
    # 3: the credentials
    ({"mounts": [GIT], "auth": {}}, "^auth must be a list"),
    ({"mounts": [GIT], "auth": "aws"}, "^auth must be a list"),
    ({"mounts": [GIT], "auth": None}, "^auth must be a list"),
    ({"mounts": [S3], "auth": [{}]}, r"^auth\[0\] must be a dictionary"),
    ({"mounts": [S3], "auth": [ROLE, 5]}, r"^auth\[1\] must be a dictionary"),
    ({"mounts": [S3], "auth": [{"type": "azure"}]}, r"^auth\[0\]'s type"),
    ({"mounts": [S3], "auth": [{"type": ["aws"]}]}, r"^auth\[0\]'s type"),
    ({"mounts": [S3], "auth": [ROLE, STATIC]}, "aws credentials twice"),
    ({"mounts": [GCS], "auth": [ACCOUNT, ACCOUNT]}, "gcp credentials twice"),
    ({"mounts": [S3], "auth": [{"type": "aws"}]}, r"^auth\[0\]\.aws must be a dictionary"),
    ({"mounts": [GCS], "auth": [{"type": "gcp", "gcp": 5}]}, r"^auth\[0\]\.gcp must be a dict"),
    (_aws(role_arn=" "), r"^auth\[0\]\.aws\.role_arn"),
    (_aws(role_arn=None, **STATIC["aws"]), r"^auth\[0\]\.aws\.role_arn"),
    (_aws(role_arn="r", session_tags={}), "session_tags are for rules"),
    (_aws(role_arn="r", subject_scope="workspace"), "subject_scope cannot go with a role"),
    (_aws(role_arn="r", access_key_id=None), "access_key_id cannot go with a role"),
    (_aws(**STATIC["aws"], session_tags={"a": "b"}), "session_tags .* need role_arn"),
    (_aws(), "access_key_id must be made by"),
    (_aws(role_arn=""), "access_key_id must be made by"),
    (_aws(access_key_id=KEY), "secret_access_key must be made by"),
    (_key("AKIA"), "access_key_id must be made by"),
    (_key({"type": "plaintext", "value": "v"}), "access_key_id must be made by"),
    (_key({"type": ["opaque"], "value": "v"}), "access_key_id must be made by"),
    (_key({"type": "opaque"}), "access_key_id's value"),
    (_key({"type": "opaque", "value": " "}), "access_key_id's value"),
    (_key({"type": "opaque", "value": 5}), "access_key_id's value"),
    (_gcp({}), "service_account_json must be made by"),
    (_gcp({"service_account_json": "{}"}), "service_account_json must be made by"),
    # 4: mounts without credentials
    ({"mounts": [GIT, S3]}, "^s3 mounts need aws"),
    ({"mounts": [GCS]}, "^gcs mounts need gcp"),
    ({"mounts": [S3], "proxy_config": {"rules": [{"type": "aws"}]}}, "^s3 mounts need aws"),
    (
        {"mounts": [S3], "proxy_config": {"rules": [{"type": "aws", "enabled": 1}]}},
        "^s3 mounts need aws",
    ),
    (
        {"mounts": [S3], "proxy_config": {"rules": [{"type": "aws", "enabled": False}]}},
        "^s3 mounts need aws",
    ),
    (
        {"mounts": [GCS], "proxy_config": {"rules": [{"type": "gcp", "enabled": True}]}},
        "^gcs mounts need gcp",
    ),
    # 5: credentials without mounts
    ({"mounts": [GIT], "auth": [ROLE]}, "^aws credentials .* without a s3 mount"),
    ({"mounts": [S3], "auth": [ROLE, ACCOUNT]}, "^gcp credentials .* without a gcs mount"),
    # 6: the proxy's rules
    ({"mounts": [GIT], "proxy_config": {"rules": ()}}, "^proxy_config's rules must be a list"),
    ({"mounts": [GIT], "proxy_config": {"rules": None}}, "^proxy_config's rules must be a list"),
    ({"mounts": [GIT], "proxy_config": []}, "^proxy_config must be a mapping"),
    ({"mounts": [S3], "proxy_config": 5}, "^proxy_config must be a mapping"),
    (
        {"mounts": [S3], "auth": [ROLE], "proxy_config": proxy_config(rules=[ROLE])},
        "^aws credentials stand in both",
    ),
    (
        {"mounts": [S3], "auth": [ROLE], "proxy_config": {"rules": [5, {"type": "aws"}]}},
        "^aws credentials stand in both",
    ),
    (
        {"mounts": [GCS], "auth": [ACCOUNT], "proxy_config": {"rules": [{"type": "gcp"}]}},
        "^gcp credentials stand in both",
    ),
]


@pytest.mark.parametrize(("given", "text"), REFUSED)
def test_mounts_and_credentials_that_do_not_fit(given, text):
    with pytest.raises(ValueError, match=text):
        mount_config(**given)


@pytest.mark.parametrize("key", ["Credentials", "x_credential", 5, None])
def test_other_keys_in_a_mount_are_nobody_s_business(key):
    assert mount_config(mounts=[{"type": "git", "git": {key: 1}}])["auth"] == {}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"mounts": 5, "auth": 5, "proxy_config": 5}, "^mounts"),
        ({"mounts": [{"type": "x", "credential": 1}], "auth": 5}, r"^mounts\[0\]'s type"),
        ({"mounts": [{"type": "s3", "credential": 1}], "auth": 5}, "holds 'credential'"),
        ({"mounts": [GCS], "auth": 5, "proxy_config": 5}, "^auth"),
        ({"mounts": [GCS], "auth": [ROLE], "proxy_config": 5}, "^gcs mounts need gcp"),
        ({"mounts": [GIT], "auth": [ROLE], "proxy_config": 5}, "^aws credentials .* no use"),
        ({"mounts": [S3], "auth": [ROLE], "proxy_config": 5}, "^proxy_config must be"),
    ],
)
def test_checks_come_in_the_protocol_s_order(given, text):
    with pytest.raises(ValueError, match=text):
        mount_config(**given)


# --- again, when a sandbox is made ---------------------------------------------------

MOUNTED = mount_config(mounts=[S3], auth=[ROLE])


def test_creating_a_sandbox_checks_mounts_against_the_proxy():
    with pytest.raises(ValueError, match="aws credentials stand in both"):
        CreationSpec(mount_config=MOUNTED, proxy_config=proxy_config(rules=[ROLE])).payload("n")
    with pytest.raises(ValueError, match="rules must be a list"):
        CreationSpec(mount_config=MOUNTED, proxy_config={"rules": ()}).payload("n")


@pytest.mark.parametrize("proxied", [None, {}, {"rules": []}, {"rules": [{"type": "gcp"}]}])
def test_creating_a_sandbox_sends_both_when_they_fit(proxied):
    made = CreationSpec(mount_config=MOUNTED, proxy_config=proxied).payload("n")
    assert made["mount_config"] == MOUNTED
    assert made.get("proxy_config") == proxied


def test_a_proxy_without_mounts_is_not_checked():
    assert CreationSpec(proxy_config={"rules": ()}).payload("n")["proxy_config"] == {"rules": ()}


@pytest.mark.parametrize(
    ("mounted", "text"),
    [({"auth": 5}, "auth must be a mapping"), (5, "mount_config must be a mapping")],
)
def test_a_malformed_mount_config_is_told(mounted, text):
    with pytest.raises(ValueError, match=text):
        check_provider_conflict(mounted, {"rules": []})


@pytest.mark.parametrize("mounted", [{}, {"mounts": []}, {"auth": {"azure": {}}}])
def test_only_known_providers_can_conflict(mounted):
    check_provider_conflict(mounted, {"rules": [{"type": "aws"}, {"type": "azure"}]})
