"""Our builders beside the vendor's: the same calls, the same dictionaries, the same refusals."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest

from sandbox_proto.wire import mounts, proxy_rules, secrets, typed_dicts

vendor = pytest.importorskip(
    "langsmith.sandbox", reason="the vendor's package is part of the extra 'test'"
)

BUILDERS = {
    **{name: getattr(secrets, name) for name in ("workspace_secret", "opaque_secret")},
    **{
        name: getattr(proxy_rules, name)
        for name in ("proxy_config", "attribution", "aws_auth", "gcp_auth")
    },
    **{
        name: getattr(mounts, name)
        for name in ("s3_mount", "gcs_mount", "git_mount", "context_hub_mount", "mount_config")
    },
}

# One call a line, in the names of `_names`.
SAME = """
workspace_secret("  A B ")
workspace_secret("{A}")
workspace_secret(" { A } ")
workspace_secret("{A")
workspace_secret("A}")
workspace_secret("{")
workspace_secret("}{")
workspace_secret("{}")
workspace_secret("{  }")
workspace_secret("{{A}}")
workspace_secret("A{B}C")
workspace_secret(" ")
workspace_secret(5)
opaque_secret(" x ")
opaque_secret(" ")
opaque_secret(None)
opaque_secret(b"x")
proxy_config()
proxy_config(rules=[])
proxy_config(rules="ab")
proxy_config(rules=b"ab")
proxy_config(rules={"a": 1})
proxy_config(rules={1})
proxy_config(rules=[{}])
proxy_config(rules=[{"a": 1}, 5])
proxy_config(rules=({"a": 1},))
proxy_config(rules=(rule for rule in [{"a": 1}]))
proxy_config(rules=[{"type": "aws"}])
proxy_config(rules=[{"type": "aws", "aws": 5}])
proxy_config(rules=[{"type": "aws", "aws": {}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": ""}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": " "}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": " r "}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": 0}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": None}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": "r", "x": 1}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": "r", "access_key_id": None}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": "r", "session_tags": {}}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": "r", "session_tags": None}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": "r", "session_tags": {"a": "b"}}}])
proxy_config(rules=[{"type": "aws", "aws": {"role_arn": "r", "session_tags": {"a": ""}}}])
proxy_config(rules=[{"type": "aws", "aws": {"session_tags": {"a": "b"}}}])
proxy_config(rules=[{"type": "aws", "aws": {"access_key_id": W}}])
proxy_config(rules=[{"type": "aws", "aws": {"access_key_id": 5, "x": 1, "session_tags": {}}}])
proxy_config(rules=[{"type": "aws", "aws": {"access_key_id": W, "session_tags": {"a": "b"}}}])
proxy_config(rules=[{"type": "gcp"}])
proxy_config(rules=[{"type": "gcp", "gcp": 5}])
proxy_config(rules=[{"type": "gcp", "gcp": {}}])
proxy_config(rules=[{"type": "gcp", "gcp": {"scopes": []}}])
proxy_config(rules=[{"type": "gcp", "gcp": {"scopes": [" a "]}}])
proxy_config(rules=[{"type": "gcp", "gcp": {"scopes": "a"}}])
proxy_config(rules=[{"type": "gcp", "gcp": {"scopes": [""]}}])
proxy_config(rules=[{"type": "azure"}, {"type": 5}])
proxy_config(rules=[gcp_auth(service_account_json=W)])
proxy_config(rules=[aws_auth(role_arn="r"), gcp_auth(service_account_json=W, scopes=["a"])])
proxy_config(no_proxy=["a"], access_control={"x": 1})
proxy_config(no_proxy=5)
proxy_config(access_control={})
proxy_config(access_control=[])
attribution(headers={"X-B": "b", "X-A": 5})
attribution(headers={}, name="  n ", enabled=False)
attribution(headers={}, name=" ")
aws_auth()
aws_auth(role_arn=" r ", name=" n ", enabled=None)
aws_auth(role_arn="")
aws_auth(role_arn=" ")
aws_auth(role_arn=0)
aws_auth(role_arn="r", session_tags={})
aws_auth(role_arn="r", session_tags={" a ": " b "})
aws_auth(role_arn="r", session_tags={"": "b"})
aws_auth(role_arn="r", session_tags={"a": 5})
aws_auth(role_arn="r", session_tags=[("a", "b")])
aws_auth(role_arn="r", access_key_id={})
aws_auth(role_arn="r", secret_access_key=W)
aws_auth(role_arn="", access_key_id=W, secret_access_key=W)
aws_auth(access_key_id=W)
aws_auth(secret_access_key=W)
aws_auth(access_key_id=W, secret_access_key={})
aws_auth(access_key_id="", secret_access_key=W)
aws_auth(access_key_id=W, secret_access_key=W, session_tags=[])
aws_auth(access_key_id=W, secret_access_key=W, session_tags={"a": "b"})
aws_auth(session_tags={"a": "b"})
aws_auth(role_arn="r", name="")
aws_auth(role_arn="r", env_vars={})
aws_auth(role_arn="r", env_vars={" A ": " b "})
aws_auth(role_arn="r", env_vars={"A": "1", " A ": "2"})
aws_auth(role_arn="r", env_vars={"A": " "})
aws_auth(role_arn="r", env_vars={" ": "b"})
aws_auth(role_arn="r", env_vars=[("A", "b")])
gcp_auth(service_account_json=None)
gcp_auth(service_account_json=W, scopes=[" a ", "b"], name=" n ", env_vars={"A": "b"})
gcp_auth(service_account_json=W, scopes=[])
gcp_auth(service_account_json=W, scopes="a")
gcp_auth(service_account_json=W, scopes=b"a")
gcp_auth(service_account_json=W, scopes={"a"})
gcp_auth(service_account_json=W, scopes=[5])
gcp_auth(service_account_json=W, name=" ")
s3_mount(id=" a ", mount_path=" /m ", bucket=" b ")
s3_mount(id="", mount_path="/m", bucket="b")
s3_mount(id="a", mount_path=5, bucket="b")
s3_mount(id="a", mount_path="relative", bucket="b", region=" r ", prefix=" p ")
s3_mount(**PLACE, bucket="b", region=None)
s3_mount(**PLACE, bucket="b", prefix="")
s3_mount(**PLACE, bucket="b", endpoint_url=" http://x ", path_style=None)
s3_mount(**PLACE, bucket="b", endpoint_url="")
s3_mount(**PLACE, bucket="b", read_only=False, cache={})
s3_mount(**PLACE, bucket="b", cache={"max_size_bytes": None, "x": 3})
s3_mount(**PLACE, bucket="b", cache={"writeback_seconds": "x"})
s3_mount(**PLACE, bucket="b", encryption={})
s3_mount(**PLACE, bucket="b", encryption={"kms_key": " k ", "x": 1})
gcs_mount(**PLACE, bucket=" b ", prefix=" p ", read_only=True, cache={})
gcs_mount(**PLACE, bucket="")
gcs_mount(id=None, mount_path="/m", bucket="b")
git_mount(id=" a ", mount_path=" /m ", remote_url=URL)
git_mount(**PLACE, remote_url=" https://h/p")
git_mount(**PLACE, remote_url="https://h/p q")
git_mount(**PLACE, remote_url="https://h/p\\x00")
git_mount(**PLACE, remote_url="https://h/p\\x01")
git_mount(**PLACE, remote_url="https://h/p\\u00a0q")
git_mount(**PLACE, remote_url="https://h")
git_mount(**PLACE, remote_url="https://h/")
git_mount(**PLACE, remote_url="https://h//")
git_mount(**PLACE, remote_url="http://h/p")
git_mount(**PLACE, remote_url="HTTPS://h:abc/p")
git_mount(**PLACE, remote_url="git@h:p")
git_mount(**PLACE, remote_url="https:///p")
git_mount(**PLACE, remote_url="https://[::1/p")
git_mount(**PLACE, remote_url="https://[::1]/p")
git_mount(**PLACE, remote_url="https://u@h/p")
git_mount(**PLACE, remote_url="https://:p@h/p")
git_mount(**PLACE, remote_url="https://@h/p")
git_mount(**PLACE, remote_url="https://h/p?q=1")
git_mount(**PLACE, remote_url="https://h/p?")
git_mount(**PLACE, remote_url="https://h/p#f")
git_mount(**PLACE, remote_url="")
git_mount(**PLACE, remote_url=5)
git_mount(**PLACE, remote_url=URL, ref={"type": "tag", "name": " n ", "x": 1})
git_mount(**PLACE, remote_url=URL, ref={"type": "commit", "name": "n"})
git_mount(**PLACE, remote_url=URL, ref={"type": "branch"})
git_mount(**PLACE, remote_url=URL, ref="main")
git_mount(**PLACE, remote_url=URL, refresh_interval_seconds=1)
git_mount(**PLACE, remote_url=URL, refresh_interval_seconds=1.5)
git_mount(**PLACE, remote_url=URL, refresh_interval_seconds=0)
context_hub_mount(id=" a ", mount_path=" /m ", repo=" o/r ", initial_pull_only=False)
context_hub_mount(**PLACE, repo="")
mount_config(mounts=[])
mount_config(mounts={"a": 1})
mount_config(mounts="ab")
mount_config(mounts=None)
mount_config(mounts=[{}])
mount_config(mounts=[{"type": "azure_blob"}])
mount_config(mounts=[{"a": 1}])
mount_config(mounts=[{"type": "git", "whatever": {"Access_Token": 1, 5: 1}}])
mount_config(mounts=(mount for mount in [GIT]))
mount_config(mounts=[{"type": "git", "access_key_id": 1}])
mount_config(mounts=[{"type": "git", "git": {"deep": [{"credential": None}]}}])
mount_config(mounts=[GIT], auth={})
mount_config(mounts=[GIT], auth="")
mount_config(mounts=[GIT], auth=[{}])
mount_config(mounts=[GIT], auth=[{"type": "x"}])
mount_config(mounts=[GIT], auth=[ROLE])
mount_config(mounts=[S3])
mount_config(mounts=[GCS])
mount_config(mounts=[S3], auth=(aws_auth(role_arn=" r ", enabled=False),))
mount_config(mounts=[S3], auth=[aws_auth(role_arn="r", session_tags={})])
mount_config(mounts=[S3], auth=[ROLE, ROLE])
mount_config(mounts=[S3], auth=[aws(role_arn=" ")])
mount_config(mounts=[S3], auth=[aws(role_arn="", access_key_id=W, secret_access_key=W)])
mount_config(mounts=[S3], auth=[aws(role_arn=None, access_key_id=W, secret_access_key=W)])
mount_config(mounts=[S3], auth=[aws(role_arn="r", x=1)])
mount_config(mounts=[S3], auth=[aws()])
mount_config(mounts=[S3], auth=[{"type": "aws"}])
mount_config(mounts=[S3], auth=[aws(access_key_id=W)])
mount_config(mounts=[S3], auth=[key("s")])
mount_config(mounts=[S3], auth=[key({"type": "plaintext", "value": "v"})])
mount_config(mounts=[S3], auth=[key({"type": "opaque", "value": " "})])
mount_config(mounts=[S3], auth=[key({"type": "opaque", "value": " v ", "z": 1})])
mount_config(mounts=[S3], auth=[key(W, session_tags={"a": "b"})])
mount_config(mounts=[GCS, S3], auth=[gcp_auth(service_account_json=W, scopes=["a"]), ROLE])
mount_config(mounts=[GCS], auth=[{"type": "gcp", "gcp": {}}])
mount_config(mounts=[GCS], auth=[{"type": "gcp", "gcp": {"service_account_json": W, "scopes": 5}}])
mount_config(mounts=[S3], proxy_config={"rules": [{"type": "aws", "enabled": True}, 5]})
mount_config(mounts=[S3], proxy_config={"rules": [{"type": "aws", "enabled": 1}]})
mount_config(mounts=[S3], proxy_config={"rules": [{"type": "aws"}]})
mount_config(mounts=[S3], proxy_config={})
mount_config(mounts=[GCS], proxy_config={"rules": [{"type": "gcp", "enabled": True}]})
mount_config(mounts=[S3], auth=[ROLE], proxy_config={"rules": [{"type": "aws"}]})
mount_config(mounts=[S3], auth=[ROLE], proxy_config={"rules": [{"type": "gcp"}, 5]})
mount_config(mounts=[S3], auth=[ROLE], proxy_config={"rules": ()})
mount_config(mounts=[GIT], proxy_config={"rules": [{"type": "aws"}]})
mount_config(mounts=[GIT], proxy_config={"rules": ()})
"""

# Where a mistake brings the vendor's builders down with some other error, ours say ValueError.
TIDIER = """
proxy_config(rules=5)
attribution(headers=None)
attribution(headers=[("a", "b")])
gcp_auth(service_account_json=W, scopes=5)
s3_mount(**PLACE, bucket="b", cache=5)
s3_mount(**PLACE, bucket="b", encryption="key")
git_mount(**PLACE, remote_url=URL, ref={"type": ["tag"], "name": "n"})
git_mount(**PLACE, remote_url=URL, refresh_interval_seconds="5")
mount_config(mounts=5)
mount_config(mounts=[{"type": ["s3"]}])
mount_config(mounts=[GIT], auth=None)
mount_config(mounts=[GIT], proxy_config=5)
mount_config(mounts=[S3], auth=[aws(access_key_id={"type": ["opaque"], "value": "v"})])
"""

# What the vendor's builders let pass and ours refuse, because it could only fail later.
STRICTER = """
gcp_auth(service_account_json=W, scopes={"a": 1})
s3_mount(**PLACE, bucket="b", cache=[])
git_mount(**PLACE, remote_url="https://:443/p")
mount_config(mounts=[{"type": "git", "git": ({"access_token": 1},)}])
"""


def _calls(table: str) -> list[str]:
    return [line for line in table.splitlines() if line]


def _names(builders: dict[str, Any]) -> dict[str, Any]:
    secret = builders["workspace_secret"]("K")

    def aws(**fields: Any) -> dict[str, Any]:
        return {"type": "aws", "aws": fields}

    def key(value: Any, **more: Any) -> dict[str, Any]:
        return aws(access_key_id=secret, secret_access_key=value, **more)

    return {
        **builders,
        "aws": aws,
        "key": key,
        "W": secret,
        "S3": {"type": "s3"},
        "GCS": {"type": "gcs"},
        "GIT": {"type": "git"},
        "ROLE": builders["aws_auth"](role_arn="r"),
        "PLACE": {"id": "a", "mount_path": "/m"},
        "URL": "https://h/p",
    }


def _outcome(call: str, builders: dict[str, Any]) -> Any:
    """What a call returns and what it warns of, or the error it raises."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            return eval(call, _names(builders)), [each.category for each in seen]
        except Exception as error:
            return error


def _both(call: str) -> tuple[Any, Any]:
    theirs = {name: getattr(vendor, name) for name in BUILDERS}
    return _outcome(call, BUILDERS), _outcome(call, theirs)


@pytest.mark.parametrize("call", _calls(SAME))
def test_a_call_does_the_same_here_and_there(call: str) -> None:
    ours, theirs = _both(call)
    if isinstance(theirs, Exception):
        assert isinstance(theirs, ValueError)
        assert isinstance(ours, ValueError), ours
    else:
        assert ours == theirs


@pytest.mark.parametrize("call", _calls(TIDIER))
def test_a_mistake_that_escapes_there_is_named_here(call: str) -> None:
    ours, theirs = _both(call)
    assert isinstance(theirs, (TypeError, AttributeError))
    assert isinstance(ours, ValueError), ours


@pytest.mark.parametrize("call", _calls(STRICTER))
def test_a_mistake_that_passes_there_is_refused_here(call: str) -> None:
    ours, theirs = _both(call)
    assert isinstance(theirs, tuple), theirs
    assert isinstance(ours, ValueError), ours


@pytest.mark.parametrize("name", BUILDERS)
def test_the_signatures_are_the_same(name: str) -> None:
    def shape(function: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(each.name, each.kind, each.default) for each in parameters]

    assert shape(BUILDERS[name]) == shape(getattr(vendor, name))


TYPES = [name for name in vars(typed_dicts) if name[0].isupper() and hasattr(vendor, name)]


@pytest.mark.parametrize("name", TYPES)
def test_the_types_are_the_same(name: str) -> None:
    ours, theirs = getattr(typed_dicts, name), getattr(vendor, name)
    if hasattr(theirs, "__required_keys__"):
        assert ours.__required_keys__ == theirs.__required_keys__
        assert ours.__optional_keys__ == theirs.__optional_keys__
    elif name == "SandboxMount":
        assert [each.__name__ for each in ours.__args__] == [
            each.__name__ for each in theirs.__args__
        ]
    else:
        assert ours == theirs


def test_no_type_is_missing() -> None:
    assert len(TYPES) == 25
