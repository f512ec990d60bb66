"""Every exception a user of this project can meet, readable from top to bottom.

Names, parents, constructors and attributes are those of `langsmith.sandbox`
(protocol/03 section 1), so an ``except`` clause written for it keeps working.
What is ours is additive: every error can also carry *where it came from* (see
`ErrorContext`), and three classes at the end name troubles which the vendor's
client lets escape as raw library errors.

Two classes are not for users but for programmers: `LocalProtocolError` says that
a machine or flow was driven wrongly; it is never caused by the network or a peer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import attrs

if TYPE_CHECKING:
    from .wire.command_models import CommandOutcome, ExecutionResult


@attrs.frozen
class ErrorContext:
    """Where an error came from, for logs and for people. Holds no secret.

    :ivar method: the HTTP method of the request, if one was involved.
    :ivar url: its URL without query, user and password.
    :ivar status: the HTTP status of the answer, if there was one.
    :ivar error_id: the server's id of this failure (``detail.error_id``).
    :ivar request_id: the ``X-Request-Id`` of the answer.
    :ivar retry_after: seconds the server asked us to wait.
    :ivar attempts: how many times the request was made, at least 1.
    """

    method: str | None = None
    url: str | None = None
    status: int | None = None
    error_id: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    attempts: int = 1


def _revive(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """Rebuild a pickled error without calling its constructor (which may want keywords)."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class LangSmithError(Exception):
    """The root of everything this project raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.args, self.__dict__)


class SandboxClientError(LangSmithError):
    """Base of all sandbox errors; raised itself when no better class fits.

    :ivar context: what was asked and answered; an empty one when no request was involved.
    :ivar command: if a command failed: its output so far, and whether it may still be running.
    """

    context: ErrorContext = ErrorContext()
    command: CommandOutcome | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status that caused this error, if one did."""
        return self.context.status

    @property
    def error_id(self) -> str | None:
        """The server's id of this failure, to quote in a support request."""
        return self.context.error_id

    @property
    def request_id(self) -> str | None:
        """The ``X-Request-Id`` of the answer, to quote in a support request."""
        return self.context.request_id

    @property
    def retry_after(self) -> float | None:
        """Seconds the server asked to wait, if it did."""
        return self.context.retry_after

    def in_context(self, context: ErrorContext) -> Self:
        """Attach where this error came from. Returns the error itself."""
        self.context = context
        return self


class SandboxAPIError(SandboxClientError):
    """The control plane failed (500), or its address is wrong (404 on a list call)."""


class SandboxAuthenticationError(SandboxClientError):
    """The control plane refused the credentials (401) or the permission (403)."""


# --- connections ---------------------------------------------------------------------


class SandboxConnectionError(SandboxClientError):
    """The server could not be reached, or the connection failed and was not recovered."""


class SandboxRetryableConnectionError(SandboxConnectionError):
    """A connection failed in a way that a later attempt may cure.

    :ivar retry_after: seconds the server asked to wait, or None.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SandboxConnectTimeoutError(SandboxRetryableConnectionError):
    """A WebSocket could not be opened, or failed with an operating system error."""


class SandboxServerReloadError(SandboxConnectionError):
    """The server went away for a reload (WebSocket close code 1001)."""


# --- resources -----------------------------------------------------------------------


class _ResourceError(SandboxClientError):
    """Shared shape: a message and the type of resource it is about.

    :ivar resource_type: ``sandbox``, ``snapshot``, ``file`` or None.
    """

    def __init__(self, message: str, resource_type: str | None = None) -> None:
        super().__init__(message)
        self.resource_type = resource_type


class ResourceNotFoundError(_ResourceError):
    """There is no such sandbox, snapshot or file (404)."""


class ResourceTimeoutError(SandboxClientError):
    """A resource did not become ready in time.

    :ivar resource_type: ``sandbox`` or ``snapshot``.
    :ivar last_status: the last status seen while waiting, or None.
    """

    def __init__(
        self, message: str, resource_type: str | None = None, last_status: str | None = None
    ) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.last_status = last_status

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} (last_status: {self.last_status})" if self.last_status else text


class ResourceInUseError(_ResourceError):
    """The resource cannot be changed while something uses it."""


class ResourceAlreadyExistsError(_ResourceError):
    """A resource of this name exists already."""


class ResourceNameConflictError(_ResourceError):
    """The new name is taken (409 on update)."""


class ValidationError(SandboxClientError):
    """The server rejected the request's content (422).

    :ivar field: the last element of the first complaint's location, or None.
    :ivar details: the server's complaints, possibly empty.
    :ivar error_type: the server's machine-readable type, or None.
    """

    def __init__(
        self,
        message: str,
        field: str | None = None,
        details: Sequence[Mapping[str, Any]] | None = None,
        error_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.details: list[Mapping[str, Any]] = list(details or ())
        self.error_type = error_type


class QuotaExceededError(SandboxClientError):
    """A quota or rate limit was hit (429).

    :ivar quota_type: ``sandbox_count``, ``cpu``, ``memory``, ``storage`` or None.
    """

    def __init__(self, message: str, quota_type: str | None = None) -> None:
        super().__init__(message)
        self.quota_type = quota_type


class RateLimitError(QuotaExceededError):
    """Too many requests for the moment (429 that names no quota); ours, a kind of the above.

    `retry_after` says how long to wait.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class _TypedOperationError(SandboxClientError):
    """Shared shape of errors that show the server's error type behind the message."""

    error_type: str | None

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [{self.error_type}]" if self.error_type else text


class ResourceCreationError(_TypedOperationError):
    """A sandbox or snapshot could not be made.

    :ivar resource_type: ``sandbox`` or ``snapshot``.
    :ivar error_type: ``ImagePull``, ``CrashLoop``, ``SandboxConfig``, ``Unschedulable``, ...
    """

    def __init__(
        self, message: str, resource_type: str | None = None, error_type: str | None = None
    ) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.error_type = error_type


# --- inside a sandbox ----------------------------------------------------------------


class DataplaneNotConfiguredError(SandboxClientError):
    """The sandbox has no ``dataplane_url``, so nothing can be run or read in it."""


class SandboxNotReadyError(SandboxClientError):
    """The sandbox is not ready for this operation yet."""


class SandboxOperationError(_TypedOperationError):
    """An operation inside the sandbox failed.

    :ivar operation: ``command``, ``reconnect``, ``read``, ``write``, ``kill``,
        ``send_input`` or None.
    :ivar error_type: the server's machine-readable type, or None.
    """

    def __init__(
        self, message: str, operation: str | None = None, error_type: str | None = None
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.error_type = error_type


class CommandTimeoutError(SandboxOperationError):
    """The command ran longer than its time limit.

    :ivar timeout: the limit in seconds, when known.
    """

    def __init__(self, message: str, timeout: float | None = None) -> None:
        super().__init__(message, operation="command", error_type="CommandTimeout")
        self.timeout = timeout


# --- tunnels -------------------------------------------------------------------------


class TunnelError(SandboxClientError):
    """A tunnel failed."""


class TunnelPortNotAllowedError(TunnelError):
    """The server does not allow tunnels to this port.

    :ivar port: the port inside the sandbox.
    """

    def __init__(self, message: str, *, port: int) -> None:
        super().__init__(message)
        self.port = port


class TunnelConnectionRefusedError(TunnelError):
    """Nothing listens on this port inside the sandbox.

    :ivar port: the port inside the sandbox.
    """

    def __init__(self, message: str, *, port: int) -> None:
        super().__init__(message)
        self.port = port


class TunnelUnsupportedVersionError(TunnelError):
    """The server speaks another version of the tunnel protocol."""


class SandboxTokenVerificationError(SandboxClientError):
    """A user token or callback signature is not genuine."""


# --- ours ----------------------------------------------------------------------------


class SandboxProtocolError(SandboxConnectionError):
    """The server broke the protocol; its connection was thrown away."""


class SandboxTimeoutError(SandboxConnectionError):
    """The client's own time limit for an operation passed.

    :ivar limit: which limit fired: ``connect``, ``read``, ``write``, ``pool``,
        ``operation``, ``kill``, ``output`` or ``liveness``.
    :ivar seconds: its value.
    """

    def __init__(self, message: str, *, limit: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.seconds = seconds


class FileChangedError(SandboxOperationError):
    """A file was changed while it was read, so that its parts do not belong together."""

    def __init__(self, message: str) -> None:
        super().__init__(message, operation="read", error_type="FileChanged")


class CommandFailedError(SandboxOperationError):
    """A command that was to succeed (``check=True``) did not.

    :ivar result: what it left behind.
    """

    def __init__(self, message: str, result: ExecutionResult) -> None:
        super().__init__(message, operation="command")
        self.result = result

    @property
    def exit_code(self) -> int:
        """The command's exit code, which is not 0."""
        return self.result.exit_code


# --- for programmers -----------------------------------------------------------------


class LocalProtocolError(RuntimeError):
    """A machine or flow was used wrongly: a bug in the driver, not in the network."""
