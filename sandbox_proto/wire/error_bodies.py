"""From an error response to the right exception (protocol/03 sections 2 and 3).

The tables of protocol/03 are written here as `match`-free sequences of rules, in
their exact order, because the order is part of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .. import errors
from .http import Request, Response


@attrs.frozen
class ErrorDetail:
    """What an error body says.

    :ivar message: for people; never empty.
    :ivar type: the machine-readable type (``detail.error``), or None.
    :ivar error_id: the server's id of the failure, or None.
    :ivar items: the complaints of a validation error, else empty.
    """

    message: str
    type: str | None = None
    error_id: str | None = None
    items: tuple[Any, ...] = ()

    @property
    def field(self) -> str | None:
        """The last element of the first complaint's location."""
        first = self.items[0] if self.items else None
        location = first.get("loc") if isinstance(first, Mapping) else None
        if isinstance(location, Sequence) and not isinstance(location, str) and location:
            return str(location[-1])
        return None

    @property
    def complaints(self) -> list[Mapping[str, Any]]:
        """The complaints that are objects."""
        return [item for item in self.items if isinstance(item, Mapping)]


def read_detail(request: Request, response: Response, *, lists: bool = True) -> ErrorDetail:
    """Extract message, type and complaints from an error response.

    :param lists: whether a list ``detail`` holds complaints (control plane) or is opaque
        (data plane, protocol/03 section 2.4).
    """
    fallback = (
        f"{request.method} {request.url.without_query()} "
        f"was answered with {response.status} {response.reason}".rstrip()
    )
    try:
        body = response.json()
    except errors.SandboxProtocolError:
        return ErrorDetail(fallback)
    detail = body.get("detail") if isinstance(body, Mapping) else None
    match detail:
        case Mapping():
            error_id = _text_or_none(detail.get("error_id"))
            message = _text_or_none(detail.get("message")) or fallback
            if error_id:
                message += f" (error_id={error_id})"
            return ErrorDetail(message, _text_or_none(detail.get("error")), error_id)
        case list() if lists and detail:
            texts = [
                str(item["msg"]) if item.get("msg") is not None else str(item)
                for item in detail
                if isinstance(item, Mapping)
            ]
            return ErrorDetail("; ".join(texts) or fallback, items=tuple(detail))
        case str() if detail:
            return ErrorDetail(detail)
        case _:
            return ErrorDetail(fallback if not detail else str(detail))


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def context_of(request: Request, response: Response, *, attempts: int = 1) -> errors.ErrorContext:
    """Where an error answer came from, without secrets."""
    detail = read_detail(request, response)
    return errors.ErrorContext(
        method=request.method,
        url=request.url.without_query(),
        status=response.status,
        error_id=detail.error_id,
        request_id=response.header("x-request-id"),
        retry_after=retry_after_seconds(response.header("retry-after")),
        attempts=attempts,
    )


def retry_after_seconds(value: str | None) -> float | None:
    """``Retry-After`` in seconds, or None if it is absent, a date, negative or not finite."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def quota_type(message: str) -> str | None:
    """Which quota a message speaks of (protocol/03 section 2.6); the first match wins."""
    text = message.lower()
    if "sandbox" in text and ("count" in text or "limit" in text):
        return "sandbox_count"
    return next((kind for kind in ("cpu", "memory", "storage") if kind in text), None)


def control_plane_error(request: Request, response: Response) -> errors.SandboxClientError:
    """The generic mapping of protocol/03 section 3.1."""
    detail = read_detail(request, response)
    status = response.status
    if status in (401, 403):
        return errors.SandboxAuthenticationError(detail.message)
    if status == 404:
        return errors.ResourceNotFoundError(detail.message)
    if status == 422:
        return errors.ValidationError(detail.message, detail.field, detail.complaints, detail.type)
    if status == 429:
        return _too_much(response, detail)
    if status == 502 and detail.type == "ConnectionError":
        return errors.SandboxConnectionError(detail.message)
    if status == 500:
        return errors.SandboxAPIError(detail.message)
    return errors.SandboxClientError(detail.message)


def _too_much(response: Response, detail: ErrorDetail) -> errors.QuotaExceededError:
    """A quota that is used up, or a rate that is too high: what names no quota is a rate."""
    kind = quota_type(detail.message)
    if kind is None and retry_after_seconds(response.header("retry-after")):
        return errors.RateLimitError(detail.message)
    return errors.QuotaExceededError(detail.message, kind)


def creation_error(request: Request, response: Response) -> errors.SandboxClientError:
    """The mapping for ``POST /boxes`` (protocol/03 section 3.2)."""
    detail = read_detail(request, response)
    status = response.status
    if status == 408:
        return errors.ResourceTimeoutError(detail.message, "sandbox")
    if status == 422 and any(item.get("type") == "value_error" for item in detail.complaints):
        return errors.ValidationError(detail.message, detail.field, detail.complaints)
    if status == 422:
        return errors.ResourceCreationError(detail.message, "sandbox", detail.type)
    if status == 503:
        unschedulable = detail.type or "Unschedulable"
        return errors.ResourceCreationError(detail.message, "sandbox", unschedulable)
    return control_plane_error(request, response)


def data_plane_error(request: Request, response: Response) -> errors.SandboxClientError:
    """The mapping for files, search and exec requests (protocol/03 section 3.4)."""
    detail = read_detail(request, response, lists=False)
    status, kind = response.status, detail.type
    operations = {"WriteError": "write", "ReadError": "read", "CommandError": "command"}
    if kind in operations:
        return errors.SandboxOperationError(detail.message, operations[kind], kind)
    if status == 403:
        return errors.SandboxOperationError(detail.message, None, "PermissionDenied")
    if status == 502 and kind == "ConnectionError":
        return errors.SandboxConnectionError(detail.message)
    if (status, kind) in ((400, "NotReady"), (503, "ServiceUnavailable")):
        return errors.SandboxNotReadyError(detail.message)
    if status == 404 or kind == "FileNotFound":
        return errors.ResourceNotFoundError(detail.message, "file")
    return errors.SandboxClientError(detail.message)
