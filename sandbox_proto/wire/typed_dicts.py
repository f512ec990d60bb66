"""Shapes of the dictionaries that users hand in and builders return (protocol/12 section 9).

For type checkers only: at run time they are plain dictionaries. What a server accepts
is wider (protocol/11 sections 5 and 6), and such dictionaries pass through as they are.
"""

# No postponed annotations here: with them `NotRequired` would go unnoticed, and
# `__required_keys__` would lie to everybody who reads these shapes at run time.

from typing import Any, Literal, NotRequired, TypedDict

# --- access --------------------------------------------------------------------------

ServiceAccess = Literal["restricted", "workspace"]
"""Who may open a service in login mode."""

DownloadContentDisposition = Literal["attachment", "inline"]
"""Whether a browser saves a download or shows it."""

AccessDelegationMode = Literal["EXPLICIT"]


class AccessDelegation(TypedDict, total=False):
    """What code in a sandbox may do in its creator's name."""

    mode: AccessDelegationMode
    permissions: list[str]


# --- egress proxy --------------------------------------------------------------------

SandboxProxyConfig = dict[str, Any]
"""What `proxy_config` returns."""

SandboxProxyRule = dict[str, Any]
"""One rule of the egress proxy: what `aws_auth`, `gcp_auth` and `attribution` return."""


class SandboxProxySecret(TypedDict):
    """A secret, or the name of one: what `workspace_secret` and `opaque_secret` return."""

    type: Literal["workspace_secret", "opaque"]
    value: str


# --- credentials of mounts -----------------------------------------------------------

SandboxMountAuth = dict[str, Any]
"""One provider's credentials for mounts: what `aws_auth` and `gcp_auth` return."""


class AWSMountAuthConfig(TypedDict):
    """Static AWS credentials."""

    access_key_id: SandboxProxySecret
    secret_access_key: SandboxProxySecret


class AWSMountRoleAuthConfig(TypedDict):
    """An AWS role to assume."""

    role_arn: str


class GCPMountAuthConfig(TypedDict):
    """A Google service account."""

    service_account_json: SandboxProxySecret


class SandboxMountAuthConfig(TypedDict, total=False):
    """Credentials by provider."""

    aws: AWSMountAuthConfig | AWSMountRoleAuthConfig
    gcp: GCPMountAuthConfig


# --- mounts --------------------------------------------------------------------------


class MountCacheConfig(TypedDict, total=False):
    """How a bucket mount caches: size in bytes, delay before writing back in seconds."""

    max_size_bytes: int
    writeback_seconds: int


class MountEncryptionConfig(TypedDict):
    """The KMS key (its ARN) that objects are encrypted with."""

    kms_key: str


class S3MountConfig(TypedDict):
    """Where an S3 bucket is."""

    endpoint_url: str
    region: str
    bucket: str
    prefix: NotRequired[str]
    path_style: NotRequired[bool]


class S3MountSpec(TypedDict):
    """A mounted S3 bucket."""

    id: str
    type: Literal["s3"]
    mount_path: str
    s3: S3MountConfig
    read_only: NotRequired[bool]
    cache: NotRequired[MountCacheConfig]
    encryption: NotRequired[MountEncryptionConfig]


class GCSMountConfig(TypedDict):
    """Where a Google Cloud Storage bucket is."""

    bucket: str
    prefix: NotRequired[str]


class GCSMountSpec(TypedDict):
    """A mounted Google Cloud Storage bucket."""

    id: str
    type: Literal["gcs"]
    mount_path: str
    gcs: GCSMountConfig
    read_only: NotRequired[bool]
    cache: NotRequired[MountCacheConfig]


class GitMountRefSpec(TypedDict):
    """A branch or a tag, by name."""

    type: Literal["branch", "tag"]
    name: str


class GitMountConfig(TypedDict):
    """Where a Git repository is, and what of it is wanted how fresh (in seconds)."""

    remote_url: str
    ref: NotRequired[GitMountRefSpec]
    refresh_interval_seconds: NotRequired[int]


class GitMountSpec(TypedDict):
    """A mounted Git repository."""

    id: str
    type: Literal["git"]
    mount_path: str
    git: GitMountConfig


class ContextHubMountConfig(TypedDict):
    """Which Context Hub repository, as ``owner/repo``."""

    repo: str
    initial_pull_only: NotRequired[bool]


class ContextHubMountSpec(TypedDict):
    """A mounted Context Hub repository."""

    id: str
    type: Literal["contexthub"]
    mount_path: str
    contexthub: ContextHubMountConfig


SandboxMount = S3MountSpec | GCSMountSpec | GitMountSpec | ContextHubMountSpec


class SandboxMountConfig(TypedDict):
    """Everything a sandbox mounts, with credentials: what `mount_config` returns."""

    auth: SandboxMountAuthConfig
    mounts: list[SandboxMount]
