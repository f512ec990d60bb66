"""Checking the tokens that the service signs, for programs behind a service URL or a callback.

    verifier = SandboxTokenVerifier()
    user = await verifier.averify_user_token(request.headers[USER_TOKEN_HEADER], audience=host)

What a token must say is decided in `sandbox_proto.wire.tokens`, when keys are fetched in
`sandbox_proto.plans.jwks`. Here are the clock, the fetching and the signature (PyJWT).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import RunVar

from sandbox_proto.errors import SandboxTokenVerificationError
from sandbox_proto.flows.effects import Broke, CallTimeouts, Perform, connection_error, exchange
from sandbox_proto.plans.jwks import (
    MAX_JWKS_BYTES,
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
from sandbox_proto.wire.http import Request, Response
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
    :raises ValueError: the URL or the timeout is not usable.
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
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {timeout!r}")
        self._url = choose_jwks_url(
            os.environ, api_url=api_url, jwks_url=jwks_url, allow_insecure=allow_insecure_jwks
        )
        self._timeout = timeout
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
        if isinstance(found := self._cache.look_up(kid, now=monotonic()), FetchFirst):
            with self._thread_lock:
                # Whoever held the lock may have fetched what is wanted here.
                if isinstance(self._cache.look_up(kid, now=monotonic()), FetchFirst):
                    self._keep(_fetch(jwks_request(self._url), self._timeout))
                found = self._cache.look_up(kid, now=monotonic())
        return self._take(kid, found)

    async def _akey(self, kid: str) -> PyJWK:
        if isinstance(found := self._cache.look_up(kid, now=monotonic()), FetchFirst):
            async with self._lock_of_this_loop():
                if isinstance(self._cache.look_up(kid, now=monotonic()), FetchFirst):
                    self._keep(await _afetch(jwks_request(self._url), self._timeout))
                found = self._cache.look_up(kid, now=monotonic())
        return self._take(kid, found)

    def _lock_of_this_loop(self) -> anyio.Lock:
        if (lock := self._loop_lock.get(None)) is None:
            self._loop_lock.set(lock := anyio.Lock())
        return lock

    def _keep(self, response: Response) -> None:
        keys = _usable_keys(read_key_set(self._url, response))
        if not keys:
            raise jwks_error(self._url, "none of the keys there can be used")
        self._cache.replace(keys, now=monotonic())

    def _take(self, kid: str, found: object) -> PyJWK:
        if isinstance(found, UseKey):
            key: PyJWK = found.key
            return key
        raise SandboxTokenVerificationError(
            f"the token is refused: its key {kid!r:.80} is not among those at "
            f"{self._url.without_query()}"
        )
