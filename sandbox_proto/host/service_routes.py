"""Services of sandboxes, and links to their files: minting, granting, checking (protocol/10).

Two kinds of access to a port: a *token*, which whoever has it may use until it ends; and a
*login* grant, which stands until it is taken back. There is one user here, so both of its
audiences are that user's browser: its URL carries a token that only the grant keeps alive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

import attrs

from .boxes import Box
from .effects import HostFlow, Record, Save
from .lifecycle import Lifecycle
from .listing import Query, Sorting, list_page
from .messages import HostError, HostRequest, HostResponse
from .tokens import read_token, sign_token

MAX_TOKEN_SECONDS = 86_400
MAX_EMBED_ORIGINS = 5
AUTH_PATH = "/_svc/auth"
COOKIE = "sandbox_service"
TOKEN_HEADER = "x-langsmith-sandbox-service-token"
LOCAL_USER = "local-user"

_ORIGIN = re.compile(r"(https://[^/?#@\s]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?)")
_DISPOSITIONS = ("attachment", "inline")
_SANDBOX_FLAGS = frozenset(
    {
        "allow-downloads",
        "allow-forms",
        "allow-modals",
        "allow-orientation-lock",
        "allow-pointer-lock",
        "allow-popups",
        "allow-presentation",
        "allow-scripts",
        "allow-top-navigation-by-user-activation",
        "allow-same-origin",
    }
)


@attrs.frozen
class ServiceAccess:
    """What a request to a service may do.

    :ivar user: who is signed in, in login mode.
    :ivar embed_origins: sites that may show it in a frame.
    :ivar token: what let the request in.
    """

    box: Box
    port: int
    user: str | None
    embed_origins: tuple[str, ...]
    token: str


@attrs.frozen
class DownloadGrant:
    """One file, to be sent as the link says."""

    box_id: str
    path: str
    content_type: str | None
    disposition: str | None
    policy: str | None


def service_label(box_id: str, port: int) -> str:
    """What stands for a sandbox and a port in host names and paths."""
    return f"{box_id}--{port}"


def read_service_label(label: str) -> tuple[str, int] | None:
    """A sandbox's id and a port, or None if the label is none."""
    box_id, separator, port = label.rpartition("--")
    if not separator or not port.isdigit() or not 1 <= int(port) <= 65535:
        return None
    return box_id, int(port)


class ServiceRoutes(Lifecycle):
    """See the module's text."""

    # --- minting ----------------------------------------------------------------------

    def mint_service(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        box = self.find_box(name)
        body = request.json()
        port = _port(body.get("port"))
        origins = _origins(body.get("embed_origins"))
        access = body.get("access")
        if access not in (None, "off", "restricted", "workspace"):
            raise HostError.invalid("access", "access must be restricted, workspace or off")
        if access == "off":
            yield from self._revoke(box.id, [port])
        elif access is not None:
            return (yield from self._grant_login(request, box, port, access, origins, now))
        if self._login_grant(box.id, port) is not None:
            message = f"port {port} has a login grant; take it back before asking for tokens"
            raise HostError(409, "Conflict", message)
        seconds = body.get("expires_in_seconds", 600)
        if not isinstance(seconds, int) or isinstance(seconds, bool):
            seconds = 0
        if not 1 <= seconds <= MAX_TOKEN_SECONDS:
            message = f"expires_in_seconds must be 1 to {MAX_TOKEN_SECONDS}"
            raise HostError.invalid("expires_in_seconds", message)
        expires = self._end_after(seconds, now)
        claims = {"box": box.id, "port": port, "exp": expires, "embed": list(origins)}
        token = sign_token(self.settings.secret, claims)
        earlier = self.grants.get((box.id, port), {}).get("expires", 0)
        yield from self._note_grant(box, port, "token", origins, now, expires=max(expires, earlier))
        urls = _service_urls(request, box.id, port, token)
        return HostResponse(
            200,
            {
                **urls,
                "token": token,
                "expires_at": _whole_seconds(expires),
                "embed_origins": list(origins),
                "access": None,
            },
        )

    def _grant_login(
        self,
        request: HostRequest,
        box: Box,
        port: int,
        access: str,
        origins: tuple[str, ...],
        now: float,
    ) -> HostFlow[HostResponse]:
        yield from self._note_grant(box, port, access, origins, now)
        token = sign_token(self.settings.secret, {"box": box.id, "port": port, "login": True})
        urls = _service_urls(request, box.id, port, token)
        return HostResponse(200, {**urls, "access": access, "embed_origins": list(origins)})

    def _note_grant(
        self,
        box: Box,
        port: int,
        access: str,
        origins: tuple[str, ...],
        now: float,
        *,
        expires: int | None = None,
    ) -> HostFlow[None]:
        """Remember how a port can be reached; a login grant is in force by this alone."""
        grant = {
            "box_id": box.id,
            "port": port,
            "access": access,
            "embed_origins": list(origins),
            "created_at": self.stamp(now),
            "expires": expires,
        }
        self.grants[box.id, port] = grant
        yield Save((Record("grant", f"{box.id}:{port}", grant),))

    def _login_grant(self, box_id: str, port: int) -> dict[str, Any] | None:
        grant = self.grants.get((box_id, port))
        return None if grant is None or grant["access"] == "token" else grant

    def list_services(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        yield from ()
        box = self.find_box(name)
        wall = now + self.settings.wall_offset
        valid = [
            grant
            for (owner, _), grant in self.grants.items()
            if owner == box.id and (grant["expires"] is None or wall < grant["expires"])
        ]
        page = list_page(valid, Query.parse(request.query), _BY_PORT)
        items = [_shown(grant) for grant in page.items]
        return HostResponse(200, {"items": items, "next_cursor": page.next_cursor})

    def delete_services(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        box = self.find_box(name)
        only = Query.parse(request.query).number("port", 1, 65535)
        ports = [port for owner, port in self.grants if owner == box.id and only in (None, port)]
        yield from self._revoke(box.id, ports)
        return HostResponse(204)

    def _revoke(self, box_id: str, ports: list[int]) -> HostFlow[None]:
        gone = [port for port in ports if self.grants.pop((box_id, port), None) is not None]
        if gone:
            yield Save(tuple(Record("grant", f"{box_id}:{port}", None) for port in gone))

    def mint_download(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        yield from ()
        box = self.find_box(name)
        body = request.json()
        path = body.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            raise HostError.invalid("path", "path must name a file")
        seconds = body.get("expires_in_seconds")
        if seconds is not None and (not isinstance(seconds, int) or seconds < 1):
            raise HostError.invalid("expires_in_seconds", "expires_in_seconds must be at least 1")
        expires = None
        if seconds is not None:
            expires = self._end_after(seconds, now)
        claims = {
            "box": box.id,
            "path": path,
            "exp": expires,
            "type": _header_text(body, "content_type"),
            "shown": _disposition(body),
            "csp": _policy(body),
        }
        token = sign_token(self.settings.secret, claims)
        return HostResponse(
            200,
            {
                "download_url": f"{request.origin}/dl/{token}",
                "token": token,
                "expires_at": None if expires is None else _whole_seconds(expires),
            },
        )

    def _end_after(self, seconds: int, now: float) -> int:
        """When something ends that is granted now: a whole second, which clients like best."""
        return int(now + self.settings.wall_offset) + seconds

    def _ended(self, end: int, now: float) -> bool:
        # What the rounding took is given back: nothing lives shorter than was asked for.
        return now + self.settings.wall_offset >= end + 1

    # --- checking ---------------------------------------------------------------------

    def check_service(self, label: str, token: str | None, *, now: float) -> ServiceAccess:
        """Whether a request to a service may pass.

        :param label: what stands for sandbox and port in the request's host name or path.
        :raises HostError: it may not (401), or there is no such sandbox (404).
        """
        target = read_service_label(label)
        if target is None:
            raise HostError(404, "NotFound", f"{label!r:.100} names no service")
        box_id, port = target
        claims = read_token(self.settings.secret, token or "")
        if claims is None or (claims.get("box"), claims.get("port")) != target:
            raise HostError(401, "Unauthorized", "a token for this service is needed")
        box = self.find_box(box_id)
        grant = self._login_grant(box_id, port)
        assert token is not None
        if claims.get("login"):
            if grant is None:
                raise HostError(401, "Unauthorized", "this access was taken back")
            return ServiceAccess(box, port, LOCAL_USER, tuple(grant["embed_origins"]), token)
        if grant is not None:
            raise HostError(401, "Unauthorized", "this service asks for a login now")
        if self._ended(claims["exp"], now):
            raise HostError(401, "Unauthorized", "the token has expired")
        return ServiceAccess(box, port, None, tuple(claims["embed"]), token)

    def check_download(self, token: str, *, now: float) -> DownloadGrant:
        """What a download link gives.

        :raises HostError: nothing: it is not genuine (404), or has expired (403).
        """
        claims = read_token(self.settings.secret, token)
        if claims is None or "path" not in claims:
            raise HostError(404, "NotFound", "this is no download link of ours")
        expires = claims["exp"]
        if expires is not None and self._ended(expires, now):
            raise HostError(403, "Forbidden", "this download link has expired")
        return DownloadGrant(
            claims["box"], claims["path"], claims["type"], claims["shown"], claims["csp"]
        )


def _service_urls(request: HostRequest, box_id: str, port: int, token: str) -> dict[str, str]:
    """Where a service is: by host name for browsers, which know that *.localhost is here; by
    path for programs, whose resolvers often do not."""
    scheme, _, authority = request.origin.partition("://")
    _, separator, own_port = authority.rpartition(":")
    label = service_label(box_id, port)
    by_name = f"{scheme}://{label}.localhost{separator}{own_port if separator else ''}"
    return {
        "service_url": f"{request.origin}/svc/{label}/",
        "browser_url": f"{by_name}{AUTH_PATH}?token={quote(token)}",
        "embed_url": f"{by_name}{AUTH_PATH}#token={quote(token)}",
    }


_BY_PORT: Sorting[dict[str, Any]] = Sorting(
    {"port": lambda grant: -grant["port"]}, "port", lambda grant: ""
)


def _shown(grant: dict[str, Any]) -> dict[str, Any]:
    shown = {
        "port": grant["port"],
        "access": grant["access"],
        "created_at": grant["created_at"],
        "created_by": None,
        "embed_origins": grant["embed_origins"],
    }
    if grant["expires"] is not None:
        shown["expires_at"] = _whole_seconds(grant["expires"])
    return shown


def _port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise HostError.invalid("port", f"port must be 1 to 65535, not {value!r:.40}")
    return value


def _origins(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    fits = isinstance(value, list) and all(
        isinstance(origin, str) and _ORIGIN.fullmatch(origin) for origin in value
    )
    if not fits or len(value) > MAX_EMBED_ORIGINS:  # type: ignore[arg-type]  # a list here
        message = (
            f"embed_origins must be at most {MAX_EMBED_ORIGINS} origins, https://host[:port], "
            "or http:// for this machine"
        )
        raise HostError.invalid("embed_origins", message)
    return tuple(value)  # type: ignore[arg-type]  # a list of strings here


def _header_text(body: Mapping[str, Any], field: str) -> str | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise HostError.invalid(field, f"{field} must be text that a header can hold")
    return value


def _disposition(body: Mapping[str, Any]) -> Literal["attachment", "inline"] | None:
    value = body.get("content_disposition")
    if value is not None and value not in _DISPOSITIONS:
        raise HostError.invalid("content_disposition", "it must be attachment or inline")
    return value


def _policy(body: Mapping[str, Any]) -> str | None:
    """The Content-Security-Policy of a download (protocol/05 section 7); None is none."""
    flags = body.get("csp_sandbox_flags") or []
    if body.get("csp_sandbox") is False:
        if flags:
            raise HostError.invalid("csp_sandbox_flags", "they need csp_sandbox")
        return None
    if not isinstance(flags, list) or not _SANDBOX_FLAGS.issuperset(flags):
        raise HostError.invalid("csp_sandbox_flags", "there is a flag that is not allowed")
    return " ".join(["sandbox", *flags]) + "; default-src 'self' data: blob: 'unsafe-inline'"


def _whole_seconds(unix_seconds: float) -> str:
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
