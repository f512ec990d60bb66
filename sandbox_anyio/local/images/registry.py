"""Pulling from a registry (the distribution protocol, version 2), on our own HTTP client.

Nothing a registry says is taken at its word: documents and blobs must have the digests by
which they are asked for. Redirects are followed for these alone, a few at most, and never
with the registry's credentials to another place, nor from https to anything else.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import BinaryIO, Final, cast
from urllib.parse import urljoin

import anyio
import anyio.to_thread
import attrs

from sandbox_proto.config import ClientConfig
from sandbox_proto.errors import SandboxClientError, SandboxConnectionError, SandboxProtocolError
from sandbox_proto.flows.effects import FlowContext, Perform, Performed, perform
from sandbox_proto.plans.retry import Repeatability, RetryPolicy
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.http import Request, Response, merge_headers
from sandbox_proto.wire.urls import Origin, Url, with_query

from ...http import HttpPool, ResponseStream
from ...runner import FlowRun
from .challenges import Challenge, Credentials, parse_challenges
from .errors import ImageError
from .manifests import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT, Descriptor
from .references import RegistryReference, is_digest

_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MAX_ANSWER: Final = 64 * 1024  # of an error, or with a token
_PIECE: Final = 1024 * 1024
_TRANSFERS: Final = 4  # attempts at one blob, each going on where the last was cut off
_ACCEPTED: Final = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))


@attrs.frozen(kw_only=True)
class Patience:
    """How long and how often a registry is tried.

    :ivar seconds: for connecting, and for each piece of an answer.
    :ivar slowest: bytes per second; a blob that comes more slowly is given up.
    :ivar retry: how requests are repeated.
    """

    seconds: float = 30.0
    slowest: float = 4096.0
    retry: RetryPolicy = attrs.field(
        factory=lambda: RetryPolicy(max_retries=2, initial=0.5, jitter=0.5, max_retry_after=30.0)
    )


class Registry:
    """One repository of one registry, and what is known about how to be let in."""

    def __init__(
        self,
        pool: HttpPool,
        reference: RegistryReference,
        credentials: Credentials | None,
        patience: Patience,
    ) -> None:
        self._pool = pool
        self._reference = reference
        self._credentials = credentials
        self._patience = patience
        self._base = f"{reference.scheme}://{reference.host}/v2/{reference.repository}"
        try:
            self._origin: Origin = Url.parse(self._base).origin
        except ValueError as error:
            raise ImageError(f"{reference.text!r} is no image reference: {error}") from None
        self._authorization: str | None = None
        self._config = ClientConfig(api_endpoint=self._base, retry=patience.retry)

    # --- What there is ----------------------------------------------------------------

    async def manifest(self, version: str) -> tuple[bytes, str | None, str]:
        """A manifest or an index: its bytes, its media type and its digest.

        :param version: a tag, or a digest which it must then have.
        """
        response = await self._get(
            f"{self._base}/manifests/{version}",
            {"accept": _ACCEPTED},
            Timeouts.uniform(self._patience.seconds),
            max_bytes=MAX_DOCUMENT,
        )
        if not response.successful:
            raise self._refused(response, version)
        digest = "sha256:" + hashlib.sha256(response.body).hexdigest()
        promised = version if is_digest(version) else response.header("docker-content-digest")
        if promised is not None and is_digest(promised) and promised != digest:
            raise ImageError(
                f"{self._reference.text!r} arrived damaged: its manifest does not have the "
                f"digest {promised}"
            )
        return response.body, _media_type(response), digest

    async def blob(self, blob: Descriptor, file: BinaryIO) -> None:
        """Write a blob to a file, which is at its beginning. Its size and digest are right then.

        What was cut off is gone on with.
        """
        allowed = 2 * self._patience.seconds + blob.size / self._patience.slowest
        received = _Received(blob, file)
        with anyio.move_on_after(allowed) as deadline:
            await self._transfer(received)
        if deadline.cancelled_caught:
            raise ImageError(
                f"{self._reference.registry} is too slow: {received.count} of {blob.size} bytes "
                f"of a layer came within {allowed:.0f} s"
            )
        received.verify(self._reference.text)

    async def _transfer(self, received: _Received) -> None:
        for attempt in range(_TRANSFERS):
            before = received.count
            try:
                await self._receive(received)
            except SandboxProtocolError as error:
                raise ImageError(
                    f"{self._reference.registry} sent something else than a layer: {error}"
                ) from None
            except SandboxConnectionError as error:
                if attempt == _TRANSFERS - 1 or received.count == before:
                    raise ImageError(
                        f"{self._reference.registry} broke off in the middle of a layer: {error}"
                    ) from None
            else:
                return

    async def _receive(self, received: _Received) -> None:
        seconds = self._patience.seconds
        headers = {"range": f"bytes={received.count}-"} if received.count else {}
        response = await self._get(
            f"{self._base}/blobs/{received.blob.digest}",
            headers,
            Timeouts(connect=seconds, read=seconds, write=seconds, pool=None),
            max_bytes=max(received.blob.size + 1, _MAX_ANSWER),
            stream=True,
        )
        if not response.successful:
            raise self._refused(response, None)
        stream = cast("ResponseStream", response.stream)
        try:
            if received.count and not _goes_on_at(response, received.count):
                await received.restart()
            while (chunk := await stream.next_chunk()) is not None:
                await received.add(chunk)
        except SandboxConnectionError:
            await received.flush()
            raise
        finally:
            stream.close()
        await received.flush()

    # --- Asking -----------------------------------------------------------------------

    async def _get(
        self,
        address: str,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        *,
        max_bytes: int,
        stream: bool = False,
    ) -> Response:
        """GET, with whatever it takes to be let in, and over redirects."""
        url = Url.parse(address)
        may_identify = True
        redirects = 0
        while True:
            own = url.origin == self._origin
            authorization = (
                {"authorization": self._authorization} if own and self._authorization else {}
            )
            response = await self._perform(
                Perform(
                    Request("GET", url, self._headers(headers, authorization)),
                    timeouts,
                    stream=stream,
                    max_body_bytes=max_bytes,
                )
            )
            if response.status == 401 and own and may_identify:
                may_identify = False
                await self._identify(response)
            elif response.status in _REDIRECTS:
                redirects += 1
                if redirects > _MAX_REDIRECTS:
                    raise ImageError(f"{self._reference.registry} redirects without an end")
                url = self._follow(url, response)
            else:
                return response

    def _headers(self, *layers: Mapping[str, str]) -> dict[str, str]:
        try:
            return merge_headers({"user-agent": self._config.user_agent}, *layers)
        except ValueError:
            raise ImageError(
                f"{self._reference.registry} gave a token that cannot be sent"
            ) from None

    def _follow(self, url: Url, response: Response) -> Url:
        location = response.header("location") or ""
        try:
            there = Url.parse(urljoin(str(url), location))
        except ValueError as error:
            raise ImageError(
                f"{self._reference.registry} redirects to where no image can be: {error}"
            ) from None
        if url.origin.secure and not there.origin.secure:
            raise ImageError(
                f"{self._reference.registry} redirects to {there.origin}, which is not encrypted"
            )
        return there

    async def _perform(self, effect: Perform) -> Response:
        now = self._pool.network.now()
        context = FlowContext(
            config=self._config,
            random=random.Random(),
            entropy=self._pool.network.entropy,
            now=now,
        )
        flow = perform(context, effect, Repeatability.SAFE)
        try:
            return (await FlowRun[Performed](self._pool).drive(flow)).response
        except SandboxClientError as error:
            raise ImageError(f"{self._reference.registry} cannot be asked: {error}") from None

    # --- Being let in -----------------------------------------------------------------

    async def _identify(self, refusal: Response) -> None:
        """Get what a challenge asks for, if that is possible."""
        challenges = [
            challenge
            for name, value in refusal.headers
            if name == "www-authenticate"
            for challenge in parse_challenges(value)
        ]
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                self._authorization = f"Bearer {await self._token(challenge)}"
                return
        for challenge in challenges:
            if challenge.scheme == "basic" and self._credentials is not None:
                self._authorization = self._credentials.basic()
                return

    async def _token(self, challenge: Challenge) -> str:
        parameters = challenge.parameters
        query = {
            "scope": parameters.get("scope", f"repository:{self._reference.repository}:pull"),
            **({"service": parameters["service"]} if "service" in parameters else {}),
        }
        try:
            url = Url.parse(_with_more_query(parameters["realm"], query))
        except ValueError as error:
            raise ImageError(
                f"{self._reference.registry} names an impossible place for tokens: {error}"
            ) from None
        if self._origin.secure and not url.origin.secure:
            raise ImageError(
                f"{self._reference.registry} wants tokens fetched from {url.origin}, which is "
                "not encrypted"
            )
        credentials = self._credentials
        headers = {"authorization": credentials.basic()} if credentials is not None else {}
        response = await self._perform(
            Perform(
                Request("GET", url, self._headers(headers)),
                Timeouts.uniform(self._patience.seconds),
                max_body_bytes=_MAX_ANSWER,
            )
        )
        if not response.successful:
            raise ImageError(
                f"{url.origin} gives no token for {self._reference.text!r} ({response.status}): "
                f"{self._who()}"
            )
        token = _token_in(response)
        if token is None:
            raise ImageError(f"{url.origin} answered without a token")
        return token

    def _who(self) -> str:
        if self._credentials is None:
            return "it may need a user name and a password"
        return f"the user name {self._credentials.username!r} or the password is not accepted"

    # --- Being refused ----------------------------------------------------------------

    def _refused(self, response: Response, version: str | None) -> ImageError:
        """What to tell people; the version that was asked for is None if it was a blob."""
        reference, registry = self._reference, self._reference.registry
        codes = _error_codes(response)
        if response.status in (401, 403):
            return ImageError(
                f"not authorized to pull {reference.text!r}: there is no such image at "
                f"{registry}, or {self._who()}"
            )
        if response.status == 404 and version is None:
            return ImageError(f"{registry} has lost a layer of {reference.text!r}")
        if response.status == 404 and "NAME_UNKNOWN" in codes:
            return ImageError(f"there is no image {reference.repository!r} at {registry}")
        if response.status == 404 and version is not None:
            kind = "digest" if is_digest(version) else "tag"
            return ImageError(
                f"there is no image {reference.repository!r} at {registry} with the {kind} "
                f"{version!r}"
            )
        if response.status == 429:
            return ImageError(f"{registry} wants no more requests for now: try again later")
        return ImageError(f"{registry} answered {response.status} for {reference.text!r}")


class _Received:
    """What has arrived of a blob. Written in large pieces, off the event loop."""

    def __init__(self, blob: Descriptor, file: BinaryIO) -> None:
        self.blob = blob
        self.count = 0
        self._file = file
        self._hash = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._held = 0

    async def add(self, chunk: bytes) -> None:
        self._pieces.append(chunk)
        self._held += len(chunk)
        if self._held >= _PIECE:
            await self.flush()

    async def flush(self) -> None:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if data:
            await anyio.to_thread.run_sync(self._write, data)

    async def restart(self) -> None:
        """What comes now comes from the beginning."""
        self.count = 0
        self._hash = hashlib.sha256()
        await anyio.to_thread.run_sync(self._rewind)

    def verify(self, what: str) -> None:
        """Refuse a blob that is not what it should be.

        :raises ImageError: its size or its digest is wrong.
        """
        if self.count != self.blob.size:
            raise ImageError(
                f"{what!r} arrived damaged: a layer has {self.count} bytes instead of "
                f"{self.blob.size}"
            )
        if "sha256:" + self._hash.hexdigest() != self.blob.digest:
            raise ImageError(
                f"{what!r} arrived damaged: a layer does not have the digest {self.blob.digest}"
            )

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self._file.flush()
        self.count += len(data)

    def _rewind(self) -> None:
        self._file.seek(0)
        self._file.truncate()


def _goes_on_at(response: Response, position: int) -> bool:
    """Whether this is the rest that was asked for, and not the whole again."""
    told = response.header("content-range") or ""
    return response.status == 206 and told.lower().startswith(f"bytes {position}-")


def _media_type(response: Response) -> str | None:
    value = response.header("content-type")
    return None if value is None else value.partition(";")[0].strip()


def _with_more_query(url: str, query: Mapping[str, str]) -> str:
    if "?" in url:
        return f"{url}&{with_query('', query).removeprefix('?')}"
    return with_query(url, query)


def _token_in(response: Response) -> str | None:
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    token = document.get("token") or document.get("access_token")
    return token if isinstance(token, str) else None


def _error_codes(response: Response) -> set[str]:
    try:
        errors = json.loads(response.body)["errors"]
        return {str(error["code"]) for error in errors}
    except (ValueError, RecursionError, LookupError, TypeError):
        return set()
