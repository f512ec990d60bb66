"""What is mounted into a sandbox, and with whose credentials (protocol/11 sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from .proxy_rules import role_block
from .secrets import listed_objects, stored_secret, trimmed
from .typed_dicts import (
    ContextHubMountConfig,
    ContextHubMountSpec,
    GCSMountConfig,
    GCSMountSpec,
    GitMountConfig,
    GitMountRefSpec,
    GitMountSpec,
    MountCacheConfig,
    MountEncryptionConfig,
    S3MountConfig,
    S3MountSpec,
    SandboxMount,
    SandboxMountAuth,
    SandboxMountAuthConfig,
    SandboxMountConfig,
    SandboxProxyConfig,
)

_MOUNT_TYPES = ("s3", "gcs", "git", "contexthub")
# Bucket mounts and whose credentials they need.
_PROVIDERS = {"s3": "aws", "gcs": "gcp"}
# A mount is shown to everybody who may see the sandbox: credentials belong into `auth`.
_CREDENTIAL_KEYS = frozenset(
    {
        *("access_key_id", "secret_access_key", "session_token", "service_account_json"),
        *("access_token", "refresh_token", "credentials", "credential"),
    }
)
_CACHE_KEYS = ("max_size_bytes", "writeback_seconds")


# --- single mounts -------------------------------------------------------------------


def s3_mount(
    *,
    id: str,
    mount_path: str,
    bucket: str,
    region: str = "us-east-1",
    prefix: str | None = None,
    endpoint_url: str = "https://s3.amazonaws.com",
    path_style: bool = False,
    read_only: bool | None = None,
    cache: MountCacheConfig | None = None,
    encryption: MountEncryptionConfig | None = None,
) -> S3MountSpec:
    """An S3 bucket, or one of a service that speaks its protocol.

    :param id: names the mount in this sandbox.
    :param mount_path: absolute path inside the sandbox.
    :param bucket: the bucket's name.
    :param region: its region.
    :param prefix: mount only what begins with this.
    :param endpoint_url: the service.
    :param path_style: address the bucket in the path rather than in the host name.
    :param read_only: refuse writes.
    :param cache: ``max_size_bytes`` and ``writeback_seconds``; other keys are left out.
    :param encryption: ``kms_key``, the ARN of a key in the bucket's region.
    :raises ValueError: a string is blank, or an argument is of the wrong type.
    """
    s3: S3MountConfig = {
        "endpoint_url": trimmed("endpoint_url", endpoint_url),
        "region": trimmed("region", region),
        "bucket": trimmed("bucket", bucket),
        "path_style": path_style,
    }
    if prefix is not None:
        s3["prefix"] = trimmed("prefix", prefix)
    mount: S3MountSpec = {
        "id": trimmed("id", id),
        "type": "s3",
        "mount_path": trimmed("mount_path", mount_path),
        "s3": s3,
    }
    if read_only is not None:
        mount["read_only"] = read_only
    if cache is not None:
        mount["cache"] = _cache(cache)
    if encryption is not None:
        key = _mapping("encryption", encryption).get("kms_key")
        mount["encryption"] = {"kms_key": trimmed("encryption's kms_key", key)}
    return mount


def gcs_mount(
    *,
    id: str,
    mount_path: str,
    bucket: str,
    prefix: str | None = None,
    read_only: bool | None = None,
    cache: MountCacheConfig | None = None,
) -> GCSMountSpec:
    """A Google Cloud Storage bucket.

    :param id: names the mount in this sandbox.
    :param mount_path: absolute path inside the sandbox.
    :param bucket: the bucket's name.
    :param prefix: mount only what begins with this.
    :param read_only: refuse writes.
    :param cache: ``max_size_bytes`` and ``writeback_seconds``; other keys are left out.
    :raises ValueError: a string is blank, or an argument is of the wrong type.
    """
    gcs: GCSMountConfig = {"bucket": trimmed("bucket", bucket)}
    if prefix is not None:
        gcs["prefix"] = trimmed("prefix", prefix)
    mount: GCSMountSpec = {
        "id": trimmed("id", id),
        "type": "gcs",
        "mount_path": trimmed("mount_path", mount_path),
        "gcs": gcs,
    }
    if read_only is not None:
        mount["read_only"] = read_only
    if cache is not None:
        mount["cache"] = _cache(cache)
    return mount


def git_mount(
    *,
    id: str,
    mount_path: str,
    remote_url: str,
    ref: GitMountRefSpec | None = None,
    refresh_interval_seconds: int | None = None,
) -> GitMountSpec:
    """A public Git repository.

    :param id: names the mount in this sandbox.
    :param mount_path: absolute path inside the sandbox.
    :param remote_url: an https URL without user, password, query and fragment.
    :param ref: ``{"type": "branch" or "tag", "name": ...}``; default: the repository's own.
    :param refresh_interval_seconds: seconds between two looks for news, at least 1.
    :raises ValueError: an argument is not as described; the text shows no password.
    """
    git: GitMountConfig = {"remote_url": _remote_url(remote_url)}
    if ref is not None:
        git["ref"] = _ref(ref)
    if refresh_interval_seconds is not None:
        git["refresh_interval_seconds"] = _at_least_one(
            "refresh_interval_seconds", refresh_interval_seconds
        )
    return {
        "id": trimmed("id", id),
        "type": "git",
        "mount_path": trimmed("mount_path", mount_path),
        "git": git,
    }


def context_hub_mount(
    *, id: str, mount_path: str, repo: str, initial_pull_only: bool | None = None
) -> ContextHubMountSpec:
    """A Context Hub repository, kept in step one way: local changes are overwritten.

    :param id: names the mount in this sandbox.
    :param mount_path: absolute path inside the sandbox.
    :param repo: ``owner/repo``; the owner ``-`` is the current workspace.
    :param initial_pull_only: fetch it once and leave it.
    :raises ValueError: a string is blank.
    """
    hub: ContextHubMountConfig = {"repo": trimmed("repo", repo)}
    if initial_pull_only is not None:
        hub["initial_pull_only"] = initial_pull_only
    return {
        "id": trimmed("id", id),
        "type": "contexthub",
        "mount_path": trimmed("mount_path", mount_path),
        "contexthub": hub,
    }


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def _at_least_one(name: str, value: object) -> int:
    if not isinstance(value, (int, float)) or not value >= 1:
        raise ValueError(f"{name} must be a number that is at least 1")
    return cast("int", value)


def _cache(cache: object) -> MountCacheConfig:
    given = _mapping("cache", cache)
    return cast("MountCacheConfig", {key: given[key] for key in _CACHE_KEYS if key in given})


def _ref(ref: object) -> GitMountRefSpec:
    if not isinstance(ref, dict):
        raise ValueError(f"ref must be a dictionary, not {type(ref).__name__}")
    if (kind := ref.get("type")) not in ("branch", "tag"):
        raise ValueError("ref's type must be 'branch' or 'tag'")
    return {"type": kind, "name": trimmed("ref's name", ref.get("name"))}


def _remote_url(url: object) -> str:
    if not isinstance(url, str) or not url:
        raise ValueError("remote_url must be a string that is not empty")
    if any(character.isspace() or character == "\0" for character in url):
        raise ValueError("remote_url must not hold whitespace or NUL")
    try:
        parts = urlsplit(url)
    except ValueError:  # its text would show a password
        raise ValueError("remote_url is malformed in its host part") from None
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("remote_url must be an https URL with a host")
    if parts.username or parts.password:
        raise ValueError("remote_url must not hold a user name or password")
    if parts.path in ("", "/"):
        raise ValueError("remote_url must have the repository's path")
    if parts.query or parts.fragment:
        raise ValueError("remote_url must have no query and no fragment")
    return url


# --- all of them together ------------------------------------------------------------


def mount_config(
    *,
    mounts: Sequence[SandboxMount],
    auth: Sequence[SandboxMountAuth] = (),
    proxy_config: SandboxProxyConfig | None = None,
) -> SandboxMountConfig:
    """What a sandbox mounts, with the credentials that takes.

    :param mounts: as made by `s3_mount`, `gcs_mount`, `git_mount` and `context_hub_mount`;
        passed on as they are.
    :param auth: as made by `aws_auth` and `gcp_auth`, at most one of each.
    :param proxy_config: the sandbox's proxy configuration, only to check both together; it is
        not part of the result.
    :raises ValueError: a mount has no credentials, credentials have no mount, they are in the
        wrong place, or an argument is malformed.
    """
    checked = _checked_mounts(mounts)
    by_provider = _checked_auth(auth)
    kinds = {mount["type"] for mount in checked}
    for kind, provider in _PROVIDERS.items():
        if kind not in kinds or provider in by_provider:
            continue
        # A bucket of S3 can also be reached by what the proxy signs; one of Google cannot.
        if provider != "aws" or not _signs_aws(proxy_config):
            raise ValueError(f"{kind} mounts need {provider} credentials in auth")
    for kind, provider in _PROVIDERS.items():
        if provider in by_provider and kind not in kinds:
            raise ValueError(f"{provider} credentials in auth are of no use without a {kind} mount")
    config: SandboxMountConfig = {
        "auth": cast("SandboxMountAuthConfig", by_provider),
        "mounts": cast("list[SandboxMount]", checked),
    }
    check_provider_conflict(config, proxy_config)
    return config


def check_provider_conflict(mount_config: Mapping[str, Any], proxy_config: object) -> None:
    """One provider's credentials stand in mounts or in the proxy's rules, not in both.

    :param proxy_config: None: there is nothing to check.
    :raises ValueError: they stand in both (even if the rule is disabled), or the arguments are
        too malformed to tell.
    """
    if proxy_config is None:
        return
    rules = _rules(proxy_config)
    auth = _mapping("mount_config's auth", _mapping("mount_config", mount_config).get("auth", {}))
    for provider in _PROVIDERS.values():
        if provider in auth and _rules_of(provider, rules):
            raise ValueError(
                f"{provider} credentials stand in both mount_config and proxy_config: "
                "give them in one place"
            )


def _checked_mounts(mounts: object) -> list[dict[str, Any]]:
    checked = listed_objects("mounts", mounts)
    if not checked:
        raise ValueError("mounts must not be empty")
    for index, mount in enumerate(checked):
        if mount.get("type") not in _MOUNT_TYPES:
            raise ValueError(f"mounts[{index}]'s type must be one of {', '.join(_MOUNT_TYPES)}")
    for index, mount in enumerate(checked):
        if (key := _credential_key(mount)) is not None:
            raise ValueError(
                f"mounts[{index}] holds {key!r}: credentials belong into auth, not into a mount"
            )
    return checked


def _credential_key(value: object) -> str | None:
    """The first key in a mount that names a credential, however deep."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _CREDENTIAL_KEYS:
                return cast("str", key)
            if (found := _credential_key(item)) is not None:
                return found
    elif isinstance(value, (list, tuple)):
        return next(filter(None, map(_credential_key, value)), None)
    return None


def _checked_auth(auth: object) -> dict[str, Any]:
    by_provider: dict[str, Any] = {}
    for index, block in enumerate(listed_objects("auth", auth)):
        provider = block.get("type")
        if provider not in ("aws", "gcp"):
            raise ValueError(f"auth[{index}]'s type must be 'aws' or 'gcp'")
        if provider in by_provider:
            raise ValueError(f"auth holds {provider} credentials twice")
        where = f"auth[{index}].{provider}"
        credentials = block.get(provider)
        if not isinstance(credentials, dict):
            raise ValueError(f"{where} must be a dictionary: use {provider}_auth()")
        reduce = _aws_credentials if provider == "aws" else _gcp_credentials
        by_provider[provider] = reduce(f"{where}.", credentials)
    return by_provider


def _aws_credentials(where: str, aws: dict[str, Any]) -> dict[str, Any]:
    if (role := role_block(aws, where=where, tags_allowed=False)) is not None:
        return role
    return {
        key: stored_secret(where + key, aws.get(key))
        for key in ("access_key_id", "secret_access_key")
    }


def _gcp_credentials(where: str, gcp: dict[str, Any]) -> dict[str, Any]:
    key = "service_account_json"
    return {key: stored_secret(where + key, gcp.get(key))}


def _rules(proxy_config: object) -> list[Any]:
    rules = _mapping("proxy_config", proxy_config).get("rules", [])
    if not isinstance(rules, list):
        raise ValueError(f"proxy_config's rules must be a list, not {type(rules).__name__}")
    return rules


def _rules_of(provider: str, rules: list[Any]) -> list[Mapping[str, Any]]:
    return [rule for rule in rules if isinstance(rule, Mapping) and rule.get("type") == provider]


def _signs_aws(proxy_config: object) -> bool:
    if proxy_config is None:
        return False
    return any(rule.get("enabled") is True for rule in _rules_of("aws", _rules(proxy_config)))
