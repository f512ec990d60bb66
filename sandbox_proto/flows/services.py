"""Addresses of services inside a sandbox, and links to its files (protocol/10, 02 section 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SandboxProtocolError
from ..plans.retry import Repeatability
from ..wire.http import Buffer, Request, StreamedBody
from ..wire.models import DownloadURL, ServiceLoginURL
from ..wire.services import ServiceAccessEntry, ServiceGrant
from ..wire.urls import Url, with_query
from .control import HeaderLayer, box_path, call_control, control_request, require_success
from .effects import Flow, FlowContext
from .paging import Listing, Pages, filters
from .sandboxes import no_such_sandbox

TOKEN_HEADER = "X-Langsmith-Sandbox-Service-Token"
MAX_TOKEN_SECONDS = 86_400
_ACCESS = ("restricted", "workspace")
_DISPOSITIONS = ("attachment", "inline")


def service_request(
    port: object,
    *,
    expires_in_seconds: object,
    access: str | None,
    embed_origins: Sequence[str] | None,
) -> dict[str, Any]:
    """The body of a service-url request, checked (protocol/10 section 1.1).

    :raises ValueError: an argument is out of range; the message names it.
    """
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError(f"port must be 1 to 65535, not {port!r}")
    if not isinstance(expires_in_seconds, int) or not 1 <= expires_in_seconds <= MAX_TOKEN_SECONDS:
        raise ValueError(
            f"expires_in_seconds must be 1 to {MAX_TOKEN_SECONDS}, not {expires_in_seconds!r}"
        )
    if access is not None and access not in _ACCESS:
        raise ValueError(f"access must be one of {', '.join(_ACCESS)}, not {access!r}")
    if isinstance(embed_origins, str):
        raise ValueError("embed_origins must be a list of origins, not one string")
    body: dict[str, Any] = {"port": port}
    if access is None:
        body["expires_in_seconds"] = expires_in_seconds
    else:
        body["access"] = access
    if embed_origins:
        body["embed_origins"] = list(embed_origins)
    return body


def mint_service_url(
    context: FlowContext, name: str, body: Mapping[str, Any], headers: HeaderLayer = None
) -> Flow[ServiceGrant | ServiceLoginURL]:
    """``POST /boxes/{name}/service-url``, in either mode."""
    path = box_path(name, "service-url")
    request = control_request(context, "POST", path, json=dict(body), headers=headers)
    # One token more or less harms nobody: repeat freely.
    done = yield from call_control(context, request, Repeatability.SAFE)
    require_success(done, not_found=no_such_sandbox(name))
    if "access" in body:
        return done.read(lambda answer: ServiceLoginURL.from_dict(_with_defaults(answer, body)))
    return done.read(ServiceGrant.parse)


def _with_defaults(answer: object, body: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise SandboxProtocolError("the answer for a service's URL is not a JSON object")
    return {**answer, "access": answer.get("access") or body["access"]}


def list_service_urls(
    context: FlowContext, name: str, headers: HeaderLayer = None
) -> Flow[list[ServiceAccessEntry]]:
    """``GET /boxes/{name}/service-urls``, all pages."""
    listing = Listing(
        box_path(name, "service-urls"),
        "service_urls",
        ServiceAccessEntry.from_dict,
        lambda entry: str(entry.port),
        "service URLs",
        no_such_sandbox(name),
    )
    return (yield from Pages(listing).rest(context, headers))


def delete_service_urls(
    context: FlowContext, name: str, port: int | None, headers: HeaderLayer = None
) -> Flow[None]:
    """``DELETE /boxes/{name}/service-urls``, of one port or all."""
    path = with_query(box_path(name, "service-urls"), filters(port=port))
    request = control_request(context, "DELETE", path, headers=headers)
    done = yield from call_control(context, request, Repeatability.SAFE)
    require_success(done, not_found=no_such_sandbox(name))


def mint_download_url(
    context: FlowContext,
    name: str,
    path: str,
    *,
    expires_in_seconds: object,
    content_type: str | None,
    content_disposition: str | None,
    headers: HeaderLayer = None,
) -> Flow[DownloadURL]:
    """``POST /boxes/{name}/download-url``.

    :raises ValueError: an argument is out of range; the message names it.
    """
    if expires_in_seconds is not None and (
        not isinstance(expires_in_seconds, int) or expires_in_seconds < 1
    ):
        raise ValueError(f"expires_in_seconds must be at least 1, not {expires_in_seconds!r}")
    if content_disposition is not None and content_disposition not in _DISPOSITIONS:
        allowed = ", ".join(_DISPOSITIONS)
        raise ValueError(
            f"content_disposition must be one of {allowed}, not {content_disposition!r}"
        )
    fields = {
        "path": path,
        "expires_in_seconds": expires_in_seconds,
        "content_type": content_type,
        "content_disposition": content_disposition,
    }
    body = {key: value for key, value in fields.items() if value is not None}
    request = control_request(
        context, "POST", box_path(name, "download-url"), json=body, headers=headers
    )
    done = yield from call_control(context, request, Repeatability.SAFE)
    require_success(done, not_found=no_such_sandbox(name))
    return done.read(DownloadURL.from_dict)


def request_to_service(
    grant: ServiceGrant,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    params: Mapping[str, str] | None = None,
    body: tuple[Buffer, ...] | StreamedBody = (),
) -> Request:
    """A request to the service itself; it carries the token, and no key of ours.

    :param path: may hold a query.
    """
    url = Url.parse(with_query(f"{grant.service_url.rstrip('/')}/{path.lstrip('/')}", params or {}))
    return Request(method.upper(), url, {**headers, TOKEN_HEADER.lower(): grant.token}, body)
