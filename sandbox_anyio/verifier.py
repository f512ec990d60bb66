"""Checking the tokens that the service signs, for programs behind a service URL or a callback.

    verifier = SandboxTokenVerifier()
    user = await verifier.averify_user_token(request.headers[USER_TOKEN_HEADER], audience=host)

What a token must say is decided in `sandbox_proto.wire.tokens`, when keys are fetched in
`sandbox_proto.plans.jwks`. Here are the clock, the fetching and the signature (PyJWT).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import RunVar

from sandbox_proto.errors import SandboxTokenVerificationError
from sandbox_proto.flows.effects import (
    Answered,
    Broke,
    Perform,
    connection_error,
    exchange,
)
from sandbox_proto.plans.jwks import (
    MAX_JWKS_BYTES,
    Advice,
    FailedFetch,
    FetchFirst,
    JwksCache,
    UseKey,
    choose_jwks_url,
    jwks_error,
    jwks_request,
    read_key_set,
)
from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.route import RoutePlan
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.http import Response
from sandbox_proto.wire.tokens import (
    CALLBACK_ALGORITHMS,
    CALLBACK_SIGNATURE_HEADER,
    USER_ALGORITHMS,
    USER_TOKEN_HEADER,
    AudienceMatcher,
    SandboxCallback,
    SandboxCallbackIdentity,
    SandboxCallbackRequest,
    SandboxUser,
    read_callback,
    read_user_token,
    service_audience,
    signing_key,
)
from sandbox_proto.wire.urls import Url

from .anyio_network import AnyioNetwork
from .http import HttpPool
from .runner import FlowRun

if TYPE_CHECKING:
    from jwt import PyJWK

__all__ = [
    "CALLBACK_SIGNATURE_HEADER",
    "USER_TOKEN_HEADER",
    "AudienceMatcher",
    "SandboxCallback",
    "SandboxCallbackIdentity",
    "SandboxCallbackRequest",
    "SandboxTokenVerifier",
    "SandboxUser",
]


class SandboxTokenVerifier:
    """Verifies user tokens and callback signatures against the service's published keys.

    Keys are fetched when they are first needed and kept for some minutes. One verifier
    serves any number of threads and event loops; making one does no I/O.

    :param api_url: any URL of the API; the keys are at a well-known place of its origin.
        Default: ``LANGSMITH_ENDPOINT`` (or ``LANGCHAIN_ENDPOINT``).
    :param jwks_url: where exactly the keys are; wins over `api_url`.
    :param timeout: patience in seconds for connecting to that place and for each piece of its
        answer.
    :param allow_insecure_jwks: fetch keys from other machines over plain http. Whoever sits on
        the way can then sign what they like.
    :raises ValueError: the URL, the timeout or a proxy variable is not usable.
    :raises ImportError: the packages that check signatures are missing.
    """

    def __init__(
        self,
        *,
        api_url: str | None = None,
        jwks_url: str | None = None,
        timeout: float = 10.0,
        allow_insecure_jwks: bool = False,
    ) -> None:
        _require_packages()
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        self._url = choose_jwks_url(
            os.environ, api_url=api_url, jwks_url=jwks_url, allow_insecure=allow_insecure_jwks
        )
        self._routes = RoutePlan.from_env(os.environ)
        self._timeouts = Timeouts.uniform(timeout)
        self._cache: JwksCache[PyJWK] = JwksCache()
        # One fetch at a time: one lock for all threads, and one for each event loop.
        self._thread_lock = threading.Lock()
        self._loop_lock: RunVar[anyio.Lock] = RunVar("sandbox_anyio.verifier")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url.without_query()!r})"

    # --- user tokens ------------------------------------------------------------------

    def verify_user_token(
        self, token: str, *, audience: str, issuer: str | None = None
    ) -> SandboxUser:
        """Who sent a request to a service.

        Blocks while keys are fetched; in a coroutine use `averify_user_token`.

        :param token: the value of the request's `USER_TOKEN_HEADER`.
        :param audience: the service's host as in the ``Host`` header, or its URL.
        :param issuer: who must have issued the token; default: not checked.
        :raises SandboxTokenVerificationError: the token is not good, or there are no keys to tell.
        :raises ValueError: the audience is a URL without a host.
        """
        audience = service_audience(audience)
        algorithm, kid = signing_key(_read_header(token), USER_ALGORITHMS)
        payload = _signed_payload(token, algorithm, self._key(kid))
        return read_user_token(payload, audience=audience, issuer=issuer, now=time())

    async def averify_user_token(
        self, token: str, *, audience: str, issuer: str | None = None
    ) -> SandboxUser:
        """Who sent a request to a service; see `verify_user_token`."""
        audience = service_audience(audience)
        algorithm, kid = signing_key(_read_header(token), USER_ALGORITHMS)
        payload = _signed_payload(token, algorithm, await self._akey(kid))
        return read_user_token(payload, audience=audience, issuer=issuer, now=time())

    # --- callbacks --------------------------------------------------------------------

    def verify_callback(
        self,
        *,
        body: bytes | str,
        signature: str,
        aud: AudienceMatcher | None = None,
        issuer: str | None = None,
    ) -> SandboxCallback:
        """What the egress proxy of a sandbox asks.

        Blocks while keys are fetched; in a coroutine use `averify_callback`.

        :param body: the request's body, exactly as it was received.
        :param signature: the value of its `CALLBACK_SIGNATURE_HEADER`.
        :param aud: the callback's URL as it was configured, or a predicate; default: not checked.
        :param issuer: who must have signed; default: not checked.
        :raises SandboxTokenVerificationError: the signature is not good or not this body's, the
            body is malformed, or there are no keys to tell.
        """
        algorithm, kid = signing_key(_read_header(signature), CALLBACK_ALGORITHMS)
        payload = _signed_payload(signature, algorithm, self._key(kid))
        return read_callback(payload, body=body, audience=aud, issuer=issuer, now=time())

    async def averify_callback(
        self,
        *,
        body: bytes | str,
        signature: str,
        aud: AudienceMatcher | None = None,
        issuer: str | None = None,
    ) -> SandboxCallback:
        """What the egress proxy of a sandbox asks; see `verify_callback`."""
        algorithm, kid = signing_key(_read_header(signature), CALLBACK_ALGORITHMS)
        payload = _signed_payload(signature, algorithm, await self._akey(kid))
        return read_callback(payload, body=body, audience=aud, issuer=issuer, now=time())

    # --- keys -------------------------------------------------------------------------

    def _key(self, kid: str) -> PyJWK:
        advice, failure = self._advice(kid), self._cache.last_failure
        if isinstance(advice, FetchFirst):
            with self._thread_lock:
                # Whoever held the lock until now may have fetched what is wanted here.
                if isinstance(self._advice(kid), FetchFirst):
                    with self._fetching(failure):
                        self._keep(_fetch(self._url, self._routes, self._timeouts))
                advice = self._advice(kid)
        return self._follow(advice, kid)

    async def _akey(self, kid: str) -> PyJWK:
        advice, failure = self._advice(kid), self._cache.last_failure
        if isinstance(advice, FetchFirst):
            async with self._lock_of_this_loop():
                if isinstance(self._advice(kid), FetchFirst):
                    with self._fetching(failure):
                        self._keep(await _afetch(self._url, self._routes, self._timeouts))
                advice = self._advice(kid)
        return self._follow(advice, kid)

    def _advice(self, kid: str) -> Advice[PyJWK]:
        return self._cache.look_up(kid, now=monotonic())

    def _lock_of_this_loop(self) -> anyio.Lock:
        if (lock := self._loop_lock.get(None)) is None:
            self._loop_lock.set(lock := anyio.Lock())
        return lock

    @contextlib.contextmanager
    def _fetching(self, failure: FailedFetch | None) -> Iterator[None]:
        """Remember a failure; share the one that happened since `failure`, while we waited."""
        latest = self._cache.last_failure
        if latest is not None and latest is not failure:
            raise SandboxTokenVerificationError(latest.reason)
        try:
            yield
        except SandboxTokenVerificationError as error:
            self._cache.failed(str(error))
            raise

    def _keep(self, response: Response) -> None:
        keys = _usable_keys(read_key_set(self._url, response))
        if not keys:
            raise jwks_error(self._url, "none of the keys there can be used")
        self._cache.replace(keys, now=monotonic())

    def _follow(self, advice: Advice[PyJWK], kid: str) -> PyJWK:
        if isinstance(advice, UseKey):
            return advice.key
        raise SandboxTokenVerificationError(
            f"the token is refused: its key {kid!r:.80} is not among those at "
            f"{self._url.without_query()}"
        )


# --- fetching ------------------------------------------------------------------------


async def _afetch(url: Url, routes: RoutePlan, timeouts: Timeouts) -> Response:
    """Fetch a key set on the loop that runs."""
    request = jwks_request(url)
    # A pool for this once: a kept connection would belong to this loop and want closing.
    pool = HttpPool(AnyioNetwork(), routes, PoolLimits(max_connections=1))
    try:
        effect = Perform(request, timeouts, max_body_bytes=MAX_JWKS_BYTES)
        outcome = await FlowRun[Answered | Broke](pool).drive(exchange(effect))
    finally:
        pool.close()
    if isinstance(outcome, Broke):
        error = connection_error(request, outcome.fault, attempts=1)
        raise jwks_error(url, outcome.fault.message) from error
    return outcome.response


def _fetch(url: Url, routes: RoutePlan, timeouts: Timeouts) -> Response:
    """Fetch a key set in this thread, whatever else runs in it."""
    from http.client import HTTPException
    from urllib import request as urllib

    # The two handlers that speak HTTP, and not the usual ones which follow redirects, read
    # files, or look for proxies on their own account.
    opener = urllib.OpenerDirector()
    opener.add_handler(urllib.HTTPHandler())
    opener.add_handler(urllib.HTTPSHandler())
    request = urllib.Request(str(url), headers=dict(jwks_request(url).headers))
    if (proxy := routes.route_to(url.origin).proxy) is not None:
        request.set_proxy(proxy.origin.authority, proxy.origin.scheme)
        if proxy.authorization is not None:
            request.add_header("Proxy-Authorization", proxy.authorization)
    until = monotonic() + (timeouts.total or math.inf)
    try:
        with opener.open(request, timeout=timeouts.read) as response:
            body = b""
            while piece := response.read1(MAX_JWKS_BYTES):
                body += piece
                if len(body) > MAX_JWKS_BYTES:
                    raise jwks_error(url, f"the answer is longer than {MAX_JWKS_BYTES} bytes")
                if monotonic() > until:
                    raise jwks_error(url, f"the answer took longer than {timeouts.total:g} s")
            return Response(response.status, (), body)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # what urllib wraps
        raise jwks_error(url, f"{reason or type(reason).__name__}") from error


# --- signatures ----------------------------------------------------------------------
# PyJWT is imported late: only who verifies tokens needs it.


def _require_packages() -> None:
    try:
        # Another package calls itself `jwt` too: it has no such submodule.
        for name in ("cryptography", "jwt", "jwt.api_jwk"):
            import_module(name)
    except ImportError as error:
        raise ImportError(
            "verifying tokens needs PyJWT and cryptography: pip install 'sandbox-proto[auth]'"
        ) from error


def _read_header(token: str) -> Mapping[str, Any]:
    """A token's header, before anything is known about its signature."""
    from jwt import get_unverified_header

    if not token:
        raise SandboxTokenVerificationError("the token is refused: it is empty")
    try:
        return get_unverified_header(token)
    except Exception as error:  # anybody can send a token: whatever it upsets, it is refused
        raise SandboxTokenVerificationError(
            f"the token is refused: it is malformed ({error})"
        ) from None


def _signed_payload(token: str, algorithm: str, key: PyJWK) -> bytes:
    """What was signed, if it was signed with this key."""
    from jwt import PyJWS

    if key.algorithm_name != algorithm:
        raise SandboxTokenVerificationError(
            f"the token is refused: it is signed with {algorithm}, its key is for "
            f"{key.algorithm_name}"
        )
    try:
        payload: bytes = PyJWS().decode(token, key, algorithms=[algorithm])
    except Exception as error:  # see above
        raise SandboxTokenVerificationError(
            f"the token is refused: its signature is not good ({error})"
        ) from None
    return payload


def _usable_keys(entries: list[dict[str, Any]]) -> dict[str, PyJWK]:
    """The keys that have an id and can be used, by id; of several with one id the first."""
    from jwt import PyJWK

    usable: dict[str, PyJWK] = {}
    for entry in entries:
        try:
            key = PyJWK(entry)
        except Exception:  # a key of a newer kind, or broken: no reason to lose the others
            continue
        if isinstance(kid := entry.get("kid"), str):
            usable.setdefault(kid, key)
    return usable
