"""Tokens that the service signs, once their signature is known to be good (protocol/10 section 5).

Two kinds: a *user token* comes with the requests that a service in a sandbox gets and
says who sent them; a *callback signature* comes with the calls that the egress proxy
makes to a program of ours, and is bound to the call's body.

Everything here is pure: the driver checks signatures, holds the keys and tells the time.
Every refusal is a `SandboxTokenVerificationError`, and none shows the token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs

from ..errors import SandboxTokenVerificationError

USER_TOKEN_HEADER = "X-Langsmith-User-Token"
CALLBACK_SIGNATURE_HEADER = "X-LangSmith-Signature-JWT"

USER_ALGORITHMS = frozenset(
    {f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}
)
CALLBACK_ALGORITHMS = frozenset({"EdDSA"})

# How far the signer's clock and ours may be apart, in seconds.
LEEWAY = 30.0

_CALLBACK_SUBJECT = "langsmith-sandbox-callback"
_REQUIRED = ("exp", "iat", "iss", "aud", "sub")

T = TypeVar("T")

AudienceMatcher = str | Callable[[str], bool]
"""An audience, or a predicate that recognises one."""


@attrs.frozen
class SandboxUser:
    """Who sent a request to a service.

    :ivar subject: the user's id.
    :ivar email: the user's address, or None.
    :ivar name: the user's name, or None.
    :ivar expires_at: until when the token is good, in UTC.
    """

    subject: str
    email: str | None
    name: str | None
    expires_at: datetime


@attrs.frozen
class SandboxCallbackIdentity:
    """Which sandbox a callback is about.

    :ivar tenant_id: the workspace.
    :ivar sandbox_id: the sandbox.
    :ivar organization_id: the organisation, if told.
    :ivar ls_user_id: whose sandbox it is; None when a service key made it.
    """

    tenant_id: str
    sandbox_id: str
    organization_id: str | None
    ls_user_id: str | None


@attrs.frozen
class SandboxCallbackRequest:
    """The request that a program in the sandbox is making.

    :ivar query: without the question mark, or None.
    :ivar headers: name -> values.
    :ivar body: what came along of its body.
    :ivar body_truncated: whether the body is longer than that.
    """

    method: str
    url: str
    scheme: str
    host: str
    path: str
    query: str | None
    headers: dict[str, list[str]]
    body: bytes
    body_truncated: bool


@attrs.frozen
class SandboxCallback:
    """What the egress proxy asks about.

    :ivar host: where the sandboxed program wants to connect to.
    :ivar port: and to which port.
    :ivar identity: which sandbox it is.
    :ivar request: the whole request, for callbacks that ask for it, else None.
    """

    host: str
    port: int
    identity: SandboxCallbackIdentity
    request: SandboxCallbackRequest | None


# --- before the signature ------------------------------------------------------------


def signing_key(header: Mapping[str, Any], algorithms: frozenset[str]) -> tuple[str, str]:
    """The algorithm and key id of a token, by its header.

    :param algorithms: what this kind of token may be signed with. Checked first, so that
        nobody can make us fetch keys with tokens that are refused anyway.
    :raises SandboxTokenVerificationError: another algorithm, or no key id.
    """
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise _refusal(f"it is signed with {algorithm!r:.40}, which is not accepted")
    if not isinstance(kid, str) or not kid:
        raise _refusal("it does not name the key it is signed with")
    return algorithm, kid


def service_audience(audience: str) -> str:
    """The audience of a user token: ``host[:port]`` of the service, also out of a full URL.

    :raises ValueError: it is no string, or a URL without a host.
    """
    if not isinstance(audience, str):
        raise ValueError(f"audience must be a string, not {type(audience).__name__}")
    if "://" not in audience:
        return audience
    host = urlsplit(audience).netloc
    if not host:
        raise ValueError(f"audience is a URL without a host: {audience!r}")
    return host


# --- after it ------------------------------------------------------------------------


def read_user_token(
    payload: bytes, *, audience: str, issuer: str | None, now: float
) -> SandboxUser:
    """The user that a token with a good signature tells of.

    :param payload: the signed bytes.
    :param audience: what `service_audience` made of the caller's.
    :param issuer: who must have issued it; a slash at the end does not count; None: anybody
        whose key it is.
    :param now: seconds since the epoch.
    :raises SandboxTokenVerificationError: it is for somebody else, for another time, or no user
        token at all.
    """
    claims = _checked_claims(payload, _REQUIRED, issuer=issuer, now=now)
    _require_audience(claims, audience)
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject or subject == _CALLBACK_SUBJECT:
        raise _refusal("it is not a user token: its subject is no user")
    try:
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
    except (ValueError, OverflowError, OSError):
        raise _refusal("its expiry is no date") from None
    return SandboxUser(
        subject=subject,
        email=_optional(claims, "email", str) or None,
        name=_optional(claims, "name", str) or None,
        expires_at=expires_at,
    )


def read_callback(
    payload: bytes,
    *,
    body: bytes | str,
    audience: AudienceMatcher | None,
    issuer: str | None,
    now: float,
) -> SandboxCallback:
    """The callback that a good signature and the body it is bound to tell of.

    :param payload: the signed bytes.
    :param body: the request's body as it was received.
    :param audience: the callback's URL as it was configured, or a predicate that must be true
        for one of the token's audiences; None: any.
    :param issuer: see `read_user_token`.
    :param now: seconds since the epoch.
    :raises SandboxTokenVerificationError: it is for somebody else, for another time or another
        body, no callback signature at all, or the body is malformed.
    """
    claims = _checked_claims(payload, (*_REQUIRED, "body_sha256"), issuer=issuer, now=now)
    if callable(audience):
        if not any(audience(each) for each in _audiences(claims)):
            raise _refusal("it is meant for somebody else: no audience matches")
    elif audience is not None:
        _require_audience(claims, audience)
    if claims["sub"] != _CALLBACK_SUBJECT:
        raise _refusal("it is not a callback's signature: its subject is another")
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    _require_body(claims, content)
    return _read_callback_body(content)


def _refusal(reason: str) -> SandboxTokenVerificationError:
    return SandboxTokenVerificationError(f"the token is refused: {reason}")


def _checked_claims(
    payload: bytes, required: Sequence[str], *, issuer: str | None, now: float
) -> dict[str, Any]:
    claims = _json_object(payload, "the token is refused: its payload")
    for name in required:
        if claims.get(name) is None:
            raise _refusal(f"it has no {name!r} claim")
    if _moment(claims, "exp") <= now - LEEWAY:
        raise _refusal("it has expired")
    for name in ("iat", "nbf"):
        if name in claims and _moment(claims, name) > now + LEEWAY:
            raise _refusal(f"it is not valid yet ({name})")
    _audiences(claims)
    if issuer and claims["iss"] != issuer.rstrip("/"):
        raise _refusal("it comes from another issuer")
    return claims


def _moment(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refusal(f"its {name!r} claim is not a number")
    if isinstance(value, float) and not isfinite(value):
        raise _refusal(f"its {name!r} claim is not a moment in time")
    return value


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    audiences = claims["aud"]
    if isinstance(audiences, str):
        return [audiences]
    if isinstance(audiences, list) and all(isinstance(each, str) for each in audiences):
        return audiences
    raise _refusal("its 'aud' claim is neither a string nor a list of strings")


def _require_audience(claims: Mapping[str, Any], audience: str) -> None:
    # An empty one would match a token that is meant for nobody in particular.
    if not audience or audience not in _audiences(claims):
        raise _refusal("it is meant for somebody else: its audience is another")


def _require_body(claims: Mapping[str, Any], body: bytes) -> None:
    claimed = claims["body_sha256"]
    actual = hashlib.sha256(body).hexdigest()
    # Text can only be compared in constant time if it is ASCII, and a digest always is.
    same = isinstance(claimed, str) and claimed.isascii() and hmac.compare_digest(claimed, actual)
    if not same:
        raise _refusal("it was made for another body")


# --- what was signed -----------------------------------------------------------------


def _read_callback_body(body: bytes) -> SandboxCallback:
    fields = _json_object(body, "the callback's body")
    identity = _required(fields, "identity", dict)
    request = _optional(fields, "request", dict)
    return SandboxCallback(
        host=_required(fields, "host", str),
        port=_port(fields.get("port")),
        identity=SandboxCallbackIdentity(
            tenant_id=_required(identity, "tenant_id", str),
            sandbox_id=_required(identity, "sandbox_id", str),
            organization_id=_optional(identity, "organization_id", str),
            ls_user_id=_optional(identity, "ls_user_id", str),
        ),
        request=_read_request(request) if request else None,
    )


def _read_request(fields: Mapping[str, Any]) -> SandboxCallbackRequest:
    return SandboxCallbackRequest(
        method=_required(fields, "method", str),
        url=_required(fields, "url", str),
        scheme=_required(fields, "scheme", str),
        host=_required(fields, "host", str),
        path=_required(fields, "path", str),
        query=_optional(fields, "query", str) or None,
        headers=_headers(_optional(fields, "headers", dict) or {}),
        body=_base64(_optional(fields, "body_base64", str) or ""),
        body_truncated=_optional(fields, "body_truncated", bool) or False,
    )


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise SandboxTokenVerificationError(f"{what} is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise SandboxTokenVerificationError(f"{what} is not a JSON object")
    return value


_KINDS = {str: "a string", dict: "an object", bool: "true or false"}


def _malformed(name: str, wanted: str) -> SandboxTokenVerificationError:
    return SandboxTokenVerificationError(
        f"what was signed is malformed: {name!r} should be {wanted}"
    )


def _optional(fields: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = fields.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise _malformed(name, _KINDS[kind])


def _required(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    if (value := _optional(fields, name, kind)) is None:
        raise _malformed(name, f"there, and {_KINDS[kind]}")
    return value


def _port(value: Any) -> int:
    try:
        return int(value)  # some servers write it as a string
    except (TypeError, ValueError, OverflowError):
        raise _malformed("port", "a whole number") from None


def _headers(fields: dict[str, Any]) -> dict[str, list[str]]:
    for values in fields.values():
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise _malformed("headers", "an object with lists of strings")
    return fields


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise _malformed("body_base64", "standard base64") from None
