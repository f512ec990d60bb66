"""Where signing keys come from, and when they are fetched (protocol/10 sections 5.1 and 5.5).

A `JwksCache` says what to do about a key id: use this key, fetch the key set first, or
give up. It is safe to ask from several threads while one of them replaces the set.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import attrs

from ..config import DEFAULT_ENDPOINT, env_value
from ..errors import SandboxProtocolError, SandboxTokenVerificationError
from ..wire.http import Request, Response
from ..wire.urls import Url

# How long a fetched key set is good for, in seconds.
FRESH_SECONDS = 300.0
# How old it must be for an unknown key id to be worth another look, in seconds. Without this
# bound anybody who can send tokens could make us fetch at will.
REFETCH_SECONDS = 30.0
# A key set larger than this is not one.
MAX_JWKS_BYTES = 1024 * 1024

_WELL_KNOWN = "/.well-known/jwks.json"

K = TypeVar("K")


@attrs.frozen
class UseKey(Generic[K]):
    """The key is here and fresh."""

    key: K


@attrs.frozen
class FetchFirst:
    """Fetch the key set, `JwksCache.replace` it, and ask again."""


@attrs.frozen
class UnknownKey:
    """The set has no such key, and is too fresh to be fetched again for that."""


Advice = UseKey[K] | FetchFirst | UnknownKey


@attrs.frozen
class _KeySet(Generic[K]):
    keys: Mapping[str, K]
    fetched_at: float


@attrs.frozen(eq=False)
class FailedFetch:
    """One fetch that failed.

    :ivar reason: a sentence for people.
    """

    reason: str


class JwksCache(Generic[K]):
    """The keys of one JWKS by key id.

    :ivar last_failure: the fetch that failed last. A failure changes nothing about the keys, and
        the next call may fetch at once; but who waited for the fetch that failed should share
        its failure. Else a queue of callers would try one after the other, each in its turn,
        for as long as the keys cannot be reached.
    """

    def __init__(self) -> None:
        # Always replaced as a whole, never changed: readers in other threads see one or the other.
        self._held: _KeySet[K] | None = None
        self.last_failure: FailedFetch | None = None

    def look_up(self, kid: str, *, now: float) -> Advice[K]:
        """What to do about a token that names this key.

        :param now: monotonic seconds, by the same clock as in `replace`.
        """
        held = self._held
        if held is None:
            return FetchFirst()
        age = now - held.fetched_at
        if kid in held.keys:
            return UseKey(held.keys[kid]) if age < FRESH_SECONDS else FetchFirst()
        return FetchFirst() if age >= REFETCH_SECONDS else UnknownKey()

    def replace(self, keys: Mapping[str, K], *, now: float) -> None:
        """A fetch succeeded: from now on exactly these keys are valid."""
        self._held = _KeySet(dict(keys), now)

    def failed(self, reason: str) -> None:
        """A fetch failed."""
        self.last_failure = FailedFetch(reason)


# --- fetching ------------------------------------------------------------------------


def choose_jwks_url(
    environ: Mapping[str, str],
    *,
    api_url: str | None = None,
    jwks_url: str | None = None,
    allow_insecure: bool = False,
) -> Url:
    """Where the keys are published.

    :param environ: the environment's variables; ``ENDPOINT`` is read when no URL is given.
    :param api_url: any URL of the API; its origin counts.
    :param jwks_url: the exact URL; wins over `api_url`.
    :param allow_insecure: accept plain http even to other machines.
    :raises ValueError: the URL is no absolute one, or whoever sits between here and there could
        put keys of their own in its place.
    """
    if jwks_url:
        source, text = "jwks_url", jwks_url
    elif api_url:
        source, text = "api_url", api_url
    else:
        source, text = "the ENDPOINT variable", env_value(environ, "ENDPOINT") or DEFAULT_ENDPOINT
    try:
        url = Url.parse(text)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if urlsplit(text).scheme not in ("http", "https"):
        raise ValueError(f"{source} must be an https URL, not a WebSocket's: {url.without_query()}")
    if not (url.origin.secure or allow_insecure or _is_this_machine(url.origin.host)):
        raise ValueError(
            f"{source} must be an https URL, not {url.without_query()}: over plain http anybody on "
            "the way could replace the keys (allow_insecure_jwks=True permits it)"
        )
    return url if jwks_url else Url(url.origin, _WELL_KNOWN)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def jwks_request(url: Url) -> Request:
    """The request for a key set. It carries no credentials: the keys are public."""
    return Request("GET", url, {"accept": "application/json", "user-agent": "sandbox-proto"})


def read_key_set(url: Url, response: Response) -> list[dict[str, Any]]:
    """The keys in an answer, as they are; entries that are no JSON objects are left out.

    :raises SandboxTokenVerificationError: it is not an answer with a key set.
    """
    if not response.successful:
        # Redirects are not followed: the URL was checked, where it leads to was not.
        raise jwks_error(url, f"the server answered {response.status}")
    try:
        document = response.json()
    except SandboxProtocolError as error:
        raise jwks_error(url, str(error)) from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise jwks_error(url, "the answer should be a JSON object with a list named 'keys'")
    return [key for key in keys if isinstance(key, dict)]


def jwks_error(url: Url, reason: str) -> SandboxTokenVerificationError:
    """The error for a key set that could not be had."""
    return SandboxTokenVerificationError(f"no signing keys from {url.without_query()}: {reason}")
