"""Sandboxes from Python: the asynchronous client, on asyncio and trio alike, and a synchronous one.

    async with AsyncSandboxClient() as client:
        async with client.sandbox() as sb:
            print((await sb.run("echo hello")).stdout)

The names are those of `langsmith.sandbox`, which this package replaces. `open_local_host`
gives a host of one's own, offline.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox_proto.config import ExecTimeouts
    from sandbox_proto.errors import (
        CommandFailedError,
        CommandTimeoutError,
        DataplaneNotConfiguredError,
        FileChangedError,
        LangSmithError,
        QuotaExceededError,
        RateLimitError,
        ResourceAlreadyExistsError,
        ResourceCreationError,
        ResourceInUseError,
        ResourceNameConflictError,
        ResourceNotFoundError,
        ResourceTimeoutError,
        SandboxAPIError,
        SandboxAuthenticationError,
        SandboxClientError,
        SandboxConnectionError,
        SandboxConnectTimeoutError,
        SandboxNotReadyError,
        SandboxOperationError,
        SandboxProtocolError,
        SandboxRetryableConnectionError,
        SandboxServerReloadError,
        SandboxTimeoutError,
        SandboxTokenVerificationError,
        TunnelConnectionRefusedError,
        TunnelError,
        TunnelPortNotAllowedError,
        TunnelUnsupportedVersionError,
        ValidationError,
    )
    from sandbox_proto.plans.pool import PoolLimits
    from sandbox_proto.plans.retry import RetryPolicy
    from sandbox_proto.plans.timeouts import Timeouts
    from sandbox_proto.wire.command_models import (
        CommandOutcome,
        ExecutionResult,
        MissingOutput,
        OutputChunk,
    )
    from sandbox_proto.wire.file_models import (
        FileChunk,
        FileInfo,
        FileStat,
        GlobResult,
        GrepMatch,
        GrepResult,
    )
    from sandbox_proto.wire.models import (
        DownloadURL,
        Registry,
        ResourceStatus,
        RunConfig,
        ServiceLoginURL,
        Snapshot,
        SnapshotTag,
    )
    from sandbox_proto.wire.mounts import (
        context_hub_mount,
        gcs_mount,
        git_mount,
        mount_config,
        s3_mount,
    )
    from sandbox_proto.wire.proxy_rules import attribution, aws_auth, gcp_auth, proxy_config
    from sandbox_proto.wire.secrets import opaque_secret, workspace_secret
    from sandbox_proto.wire.services import ServiceAccessEntry
    from sandbox_proto.wire.typed_dicts import (
        AccessDelegation,
        AccessDelegationMode,
        AWSMountAuthConfig,
        AWSMountRoleAuthConfig,
        ContextHubMountConfig,
        ContextHubMountSpec,
        DownloadContentDisposition,
        GCPMountAuthConfig,
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
        SandboxProxyRule,
        SandboxProxySecret,
        ServiceAccess,
    )

    from .blocking.client import SandboxClient
    from .blocking.command import CommandHandle
    from .blocking.files import FileReader, FileWriter
    from .blocking.registries import Registries
    from .blocking.sandbox import Sandbox
    from .blocking.service import BlockingServiceResponse, ServiceURL
    from .blocking.tunnel import BlockingTunnelStream, Tunnel
    from .blocking.websocket import WebSocket
    from .client import AsyncSandboxClient
    from .command import AsyncCommandHandle
    from .directory_report import DirectoryReport
    from .file_streams import AsyncFileReader, AsyncFileWriter
    from .local.launch import LocalHost, open_local_host
    from .local.runtime.base import RuntimeUnavailableError
    from .process import ProcessOptions, SandboxProcess, open_process, run_process
    from .sandbox import AsyncSandbox
    from .service import AsyncServiceURL, ServiceResponse, ServiceStatusError
    from .tunnel import AsyncTunnel, TunnelOpening
    from .tunnel_streams import TunnelStream
    from .verifier import (
        CALLBACK_SIGNATURE_HEADER,
        USER_TOKEN_HEADER,
        AudienceMatcher,
        SandboxCallback,
        SandboxCallbackIdentity,
        SandboxCallbackRequest,
        SandboxTokenVerifier,
        SandboxUser,
    )
    from .websocket import AsyncWebSocket

# Loaded when somebody asks for them: no program needs all, and pytest looks into this package
# for its plugin in runs that need nothing of it.
_LAZY = {
    "sandbox_proto.config": ("ExecTimeouts",),
    "sandbox_proto.errors": (
        "CommandFailedError",
        "CommandTimeoutError",
        "DataplaneNotConfiguredError",
        "FileChangedError",
        "LangSmithError",
        "QuotaExceededError",
        "RateLimitError",
        "ResourceAlreadyExistsError",
        "ResourceCreationError",
        "ResourceInUseError",
        "ResourceNameConflictError",
        "ResourceNotFoundError",
        "ResourceTimeoutError",
        "SandboxAPIError",
        "SandboxAuthenticationError",
        "SandboxClientError",
        "SandboxConnectionError",
        "SandboxConnectTimeoutError",
        "SandboxNotReadyError",
        "SandboxOperationError",
        "SandboxProtocolError",
        "SandboxRetryableConnectionError",
        "SandboxServerReloadError",
        "SandboxTimeoutError",
        "SandboxTokenVerificationError",
        "TunnelConnectionRefusedError",
        "TunnelError",
        "TunnelPortNotAllowedError",
        "TunnelUnsupportedVersionError",
        "ValidationError",
    ),
    "sandbox_proto.plans.pool": ("PoolLimits",),
    "sandbox_proto.plans.retry": ("RetryPolicy",),
    "sandbox_proto.plans.timeouts": ("Timeouts",),
    "sandbox_proto.wire.file_models": (
        "FileChunk",
        "FileInfo",
        "FileStat",
        "GlobResult",
        "GrepMatch",
        "GrepResult",
    ),
    "sandbox_proto.wire.command_models": (
        "CommandOutcome",
        "ExecutionResult",
        "MissingOutput",
        "OutputChunk",
    ),
    "sandbox_proto.wire.models": (
        "DownloadURL",
        "Registry",
        "ResourceStatus",
        "RunConfig",
        "ServiceLoginURL",
        "Snapshot",
        "SnapshotTag",
    ),
    "sandbox_proto.wire.services": ("ServiceAccessEntry",),
    "sandbox_anyio.client": ("AsyncSandboxClient",),
    "sandbox_anyio.command": ("AsyncCommandHandle",),
    "sandbox_anyio.directory_report": ("DirectoryReport",),
    "sandbox_anyio.file_streams": (
        "AsyncFileReader",
        "AsyncFileWriter",
    ),
    "sandbox_anyio.sandbox": ("AsyncSandbox",),
    "sandbox_anyio.service": (
        "AsyncServiceURL",
        "ServiceResponse",
        "ServiceStatusError",
    ),
    "sandbox_anyio.websocket": ("AsyncWebSocket",),
    "sandbox_proto.wire.mounts": (
        "context_hub_mount",
        "gcs_mount",
        "git_mount",
        "mount_config",
        "s3_mount",
    ),
    "sandbox_proto.wire.proxy_rules": ("attribution", "aws_auth", "gcp_auth", "proxy_config"),
    "sandbox_proto.wire.secrets": ("opaque_secret", "workspace_secret"),
    "sandbox_proto.wire.typed_dicts": (
        "AWSMountAuthConfig",
        "AWSMountRoleAuthConfig",
        "AccessDelegation",
        "AccessDelegationMode",
        "ContextHubMountConfig",
        "ContextHubMountSpec",
        "DownloadContentDisposition",
        "GCPMountAuthConfig",
        "GCSMountConfig",
        "GCSMountSpec",
        "GitMountConfig",
        "GitMountRefSpec",
        "GitMountSpec",
        "MountCacheConfig",
        "MountEncryptionConfig",
        "S3MountConfig",
        "S3MountSpec",
        "SandboxMount",
        "SandboxMountAuth",
        "SandboxMountAuthConfig",
        "SandboxMountConfig",
        "SandboxProxyConfig",
        "SandboxProxyRule",
        "SandboxProxySecret",
        "ServiceAccess",
    ),
    "sandbox_anyio.blocking.client": ("SandboxClient",),
    "sandbox_anyio.blocking.command": ("CommandHandle",),
    "sandbox_anyio.blocking.files": ("FileReader", "FileWriter"),
    "sandbox_anyio.blocking.registries": ("Registries",),
    "sandbox_anyio.blocking.sandbox": ("Sandbox",),
    "sandbox_anyio.blocking.service": ("BlockingServiceResponse", "ServiceURL"),
    "sandbox_anyio.blocking.tunnel": ("BlockingTunnelStream", "Tunnel"),
    "sandbox_anyio.blocking.websocket": ("WebSocket",),
    "sandbox_anyio.local.launch": ("LocalHost", "open_local_host"),
    "sandbox_anyio.local.runtime.base": ("RuntimeUnavailableError",),
    "sandbox_anyio.process": (
        "ProcessOptions",
        "SandboxProcess",
        "open_process",
        "run_process",
    ),
    "sandbox_anyio.tunnel": ("AsyncTunnel", "TunnelOpening"),
    "sandbox_anyio.tunnel_streams": ("TunnelStream",),
    "sandbox_anyio.verifier": (
        "AudienceMatcher",
        "CALLBACK_SIGNATURE_HEADER",
        "SandboxCallback",
        "SandboxCallbackIdentity",
        "SandboxCallbackRequest",
        "SandboxTokenVerifier",
        "SandboxUser",
        "USER_TOKEN_HEADER",
    ),
}
_HOME_OF = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "CALLBACK_SIGNATURE_HEADER",
    "USER_TOKEN_HEADER",
    "AWSMountAuthConfig",
    "AWSMountRoleAuthConfig",
    "AccessDelegation",
    "AccessDelegationMode",
    "AsyncCommandHandle",
    "AsyncFileReader",
    "AsyncFileWriter",
    "AsyncSandbox",
    "AsyncSandboxClient",
    "AsyncServiceURL",
    "AsyncTunnel",
    "AsyncWebSocket",
    "AudienceMatcher",
    "BlockingServiceResponse",
    "BlockingTunnelStream",
    "CommandFailedError",
    "CommandHandle",
    "CommandOutcome",
    "CommandTimeoutError",
    "ContextHubMountConfig",
    "ContextHubMountSpec",
    "DataplaneNotConfiguredError",
    "DirectoryReport",
    "DownloadContentDisposition",
    "DownloadURL",
    "ExecTimeouts",
    "ExecutionResult",
    "FileChangedError",
    "FileChunk",
    "FileInfo",
    "FileReader",
    "FileStat",
    "FileWriter",
    "GCPMountAuthConfig",
    "GCSMountConfig",
    "GCSMountSpec",
    "GitMountConfig",
    "GitMountRefSpec",
    "GitMountSpec",
    "GlobResult",
    "GrepMatch",
    "GrepResult",
    "LangSmithError",
    "LocalHost",
    "MissingOutput",
    "MountCacheConfig",
    "MountEncryptionConfig",
    "OutputChunk",
    "PoolLimits",
    "ProcessOptions",
    "QuotaExceededError",
    "RateLimitError",
    "Registries",
    "Registry",
    "ResourceAlreadyExistsError",
    "ResourceCreationError",
    "ResourceInUseError",
    "ResourceNameConflictError",
    "ResourceNotFoundError",
    "ResourceStatus",
    "ResourceTimeoutError",
    "RetryPolicy",
    "RunConfig",
    "RuntimeUnavailableError",
    "S3MountConfig",
    "S3MountSpec",
    "Sandbox",
    "SandboxAPIError",
    "SandboxAuthenticationError",
    "SandboxCallback",
    "SandboxCallbackIdentity",
    "SandboxCallbackRequest",
    "SandboxClient",
    "SandboxClientError",
    "SandboxConnectTimeoutError",
    "SandboxConnectionError",
    "SandboxMount",
    "SandboxMountAuth",
    "SandboxMountAuthConfig",
    "SandboxMountConfig",
    "SandboxNotReadyError",
    "SandboxOperationError",
    "SandboxProcess",
    "SandboxProtocolError",
    "SandboxProxyConfig",
    "SandboxProxyRule",
    "SandboxProxySecret",
    "SandboxRetryableConnectionError",
    "SandboxServerReloadError",
    "SandboxTimeoutError",
    "SandboxTokenVerificationError",
    "SandboxTokenVerifier",
    "SandboxUser",
    "ServiceAccess",
    "ServiceAccessEntry",
    "ServiceLoginURL",
    "ServiceResponse",
    "ServiceStatusError",
    "ServiceURL",
    "Snapshot",
    "SnapshotTag",
    "Timeouts",
    "Tunnel",
    "TunnelConnectionRefusedError",
    "TunnelError",
    "TunnelOpening",
    "TunnelPortNotAllowedError",
    "TunnelStream",
    "TunnelUnsupportedVersionError",
    "ValidationError",
    "WebSocket",
    "attribution",
    "aws_auth",
    "context_hub_mount",
    "gcp_auth",
    "gcs_mount",
    "git_mount",
    "mount_config",
    "opaque_secret",
    "open_local_host",
    "open_process",
    "proxy_config",
    "run_process",
    "s3_mount",
    "workspace_secret",
]


def __getattr__(name: str) -> Any:
    if (module := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
