"""Sandboxes from Python: the asynchronous client, on asyncio and trio alike.

    async with AsyncSandboxClient() as client:
        async with client.sandbox() as sb:
            print((await sb.run("echo hello")).stdout)

The names are those of `langsmith.sandbox`, which this package replaces. `open_local_host`
gives a host of one's own, offline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.errors import (
    CommandTimeoutError,
    DataplaneNotConfiguredError,
    LangSmithError,
    QuotaExceededError,
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
    TunnelConnectionRefusedError,
    TunnelError,
    TunnelPortNotAllowedError,
    TunnelUnsupportedVersionError,
    ValidationError,
)
from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.wire.models import (
    ExecutionResult,
    MissingOutput,
    OutputChunk,
    ResourceStatus,
    RunConfig,
)

from .client import AsyncSandboxClient
from .command import AsyncCommandHandle
from .sandbox import AsyncSandbox

if TYPE_CHECKING:
    from .local.launch import LocalHost, open_local_host
    from .local.runtime.base import RuntimeUnavailableError

__all__ = [
    "AsyncCommandHandle",
    "AsyncSandbox",
    "AsyncSandboxClient",
    "CommandTimeoutError",
    "DataplaneNotConfiguredError",
    "ExecTimeouts",
    "ExecutionResult",
    "LangSmithError",
    "LocalHost",
    "MissingOutput",
    "OutputChunk",
    "PoolLimits",
    "QuotaExceededError",
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
    "SandboxAPIError",
    "SandboxAuthenticationError",
    "SandboxClientError",
    "SandboxConnectTimeoutError",
    "SandboxConnectionError",
    "SandboxNotReadyError",
    "SandboxOperationError",
    "SandboxProtocolError",
    "SandboxRetryableConnectionError",
    "SandboxServerReloadError",
    "SandboxTimeoutError",
    "TunnelConnectionRefusedError",
    "TunnelError",
    "TunnelPortNotAllowedError",
    "TunnelUnsupportedVersionError",
    "ValidationError",
    "open_local_host",
]

# The embedded host is not loaded by those who only want a client.
_LAZY = {
    "LocalHost": ".local.launch",
    "open_local_host": ".local.launch",
    "RuntimeUnavailableError": ".local.runtime.base",
}


def __getattr__(name: str) -> Any:
    if (module := _LAZY.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module, __name__), name)
