"""Talking to a service inside a sandbox through its URL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import attrs

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.flows.effects import Broke, Perform, connection_error, exchange
from sandbox_proto.flows.services import request_to_service
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.http import Request, Response, StreamedBody, json_body, merge_headers
from sandbox_proto.wire.services import ServiceGrant
from sandbox_proto.wire.urls import Url

from .http import ResponseStream
from .log import client_log

if TYPE_CHECKING:
    from .base import ClientBase
    from .websocket import AsyncWebSocket

DEFAULT_TIMEOUT = 5.0


class ServiceStatusError(SandboxClientError):
    """A service answered with an error, and `raise_for_status` was asked to say so.

    :ivar response: the answer.
    """

    def __init__(self, response: ServiceAnswer) -> None:
        super().__init__(f"the service answered {response.status_code} {response.reason}".rstrip())
        self.response = response


@attrs.define
class ServiceAnswer:
    """What a service answered, as far as it is there.

    :ivar status_code: the HTTP status, whatever it is.
    :ivar headers: names in lower case; of repeated ones the last.
    :ivar content: the body; of a streamed answer, empty until `read`.
    """

    status_code: int
    headers: dict[str, str]
    content: bytes
    reason: str = ""

    @property
    def status(self) -> int:
        """The same as `status_code`."""
        return self.status_code

    @property
    def is_success(self) -> bool:
        """2xx."""
        return 200 <= self.status_code < 300

    @property
    def text(self) -> str:
        """The body as text, in the charset it names, else UTF-8; what is not is replaced."""
        _, _, charset = self.headers.get("content-type", "").partition("charset=")
        try:
            return self.content.decode(charset.strip("\"' ;") or "utf-8", errors="replace")
        except LookupError:
            return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The body parsed as JSON.

        :raises ValueError: it is none.
        """
        return json.loads(self.content)

    def raise_for_status(self) -> Self:
        """Returns the answer itself, if its status is below 400.

        :raises ServiceStatusError: it is not.
        """
        if self.status_code >= 400:
            raise ServiceStatusError(self)
        return self


@attrs.define
class ServiceResponse(ServiceAnswer):
    """What a service answered, as `AsyncServiceURL` gives it."""

    _stream: ResponseStream | None = attrs.field(default=None, repr=False, eq=False)

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body piece by piece, as it comes (with ``stream=True``).

        :raises SandboxConnectionError: the connection failed before the end.
        """
        if self._stream is None:
            yield self.content
            return
        try:
            while (chunk := await self._stream.next_chunk()) is not None:
                yield chunk
        finally:
            self._stream.close()

    async def read(self) -> bytes:
        """The whole body, however it comes."""
        if self._stream is not None:
            self.content = b"".join([chunk async for chunk in self.aiter_bytes()])
            self._stream = None
        return self.content

    async def aclose(self) -> None:
        """Stop reading a streamed body."""
        if self._stream is not None:
            self._stream.close()


class AsyncServiceURL:
    """The address of a service in a sandbox, with a token that renews itself.

    The plain properties show what was minted last; the ``get_*`` coroutines renew it first,
    when less than 30 s are left. Obtained from `AsyncSandbox.service`.
    """

    def __init__(
        self,
        browser_url: str,
        service_url: str,
        token: str,
        expires_at: str,
        *,
        embed_url: str = "",
        embed_origins: list[str] | None = None,
        _refresher: Callable[[], Awaitable[ServiceGrant]] | None = None,
        _client: ClientBase | None = None,
    ) -> None:
        self._grant = ServiceGrant(
            browser_url, service_url, token, expires_at, embed_url, list(embed_origins or ())
        )
        self._refresher = _refresher
        self._client = _client
        self._own_client: ClientBase | None = None
        self._refreshing: Any = None

    @classmethod
    def of_grant(
        cls,
        grant: ServiceGrant,
        client: ClientBase,
        refresher: Callable[[], Awaitable[ServiceGrant]],
    ) -> Self:
        """An object for what was minted just now."""
        fields = attrs.asdict(grant)
        embed = {name: fields.pop(name) for name in ("embed_url", "embed_origins")}
        return cls(**fields, **embed, _client=client, _refresher=refresher)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        _refresher: Callable[[], Awaitable[ServiceGrant]] | None = None,
    ) -> Self:
        """From the JSON of a service-url answer; without a refresher it does not renew itself.

        :raises SandboxProtocolError: a field is missing; the text names it.
        """
        grant = ServiceGrant.parse(data)
        return cls(
            grant.browser_url,
            grant.service_url,
            grant.token,
            grant.expires_at,
            embed_url=grant.embed_url,
            embed_origins=grant.embed_origins,
            _refresher=_refresher,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(service_url={self._grant.service_url!r})"

    # --- what was minted last ---------------------------------------------------------

    @property
    def token(self) -> str:
        """The token, as minted last."""
        return self._grant.token

    @property
    def service_url(self) -> str:
        """The base URL for programs."""
        return self._grant.service_url

    @property
    def browser_url(self) -> str:
        """The URL to open in a browser."""
        return self._grant.browser_url

    @property
    def expires_at(self) -> str:
        """When the token ends, as ISO 8601."""
        return self._grant.expires_at

    @property
    def embed_url(self) -> str:
        """The URL for a frame; possibly empty."""
        return self._grant.embed_url

    @property
    def embed_origins(self) -> list[str]:
        """Sites that may show it in a frame."""
        return list(self._grant.embed_origins)

    # --- what is valid now ------------------------------------------------------------

    async def get_token(self) -> str:
        """A token with at least some 30 s left."""
        return (await self._fresh()).token

    async def get_service_url(self) -> str:
        """The base URL for programs."""
        return (await self._fresh()).service_url

    async def get_browser_url(self) -> str:
        """The URL to open in a browser."""
        return (await self._fresh()).browser_url

    async def get_expires_at(self) -> str:
        """When the present token ends, as ISO 8601."""
        return (await self._fresh()).expires_at

    async def get_embed_url(self) -> str:
        """The URL for a frame; possibly empty."""
        return (await self._fresh()).embed_url

    async def _fresh(self) -> ServiceGrant:
        """The grant, renewed if need be: by one caller, for all who ask meanwhile."""
        if self._refresher is None or self._client is None:
            return self._grant
        network = self._client.network
        while self._grant.wants_refresh(wall=network.wall_clock()):
            if self._refreshing is not None:
                await self._refreshing.wait()
                if self._grant.seconds_left(wall=network.wall_clock()) > 0:
                    break  # newer than the question, however short its life
                continue
            self._refreshing = network.event()
            try:
                self._grant = await self._refresher()
            except SandboxClientError as error:
                if self._grant.seconds_left(wall=network.wall_clock()) <= 0:
                    raise
                # The old token is still good, so this trouble is not the caller's yet.
                client_log.warning("a service's token was not renewed: %s", error)
            finally:
                self._refreshing.set()
                self._refreshing = None
            break
        return self._grant

    # --- requests ---------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: str | bytes | AsyncIterable[bytes] | None = None,
        json: Any = None,
        timeout: float | Timeouts = DEFAULT_TIMEOUT,
        stream: bool = False,
    ) -> ServiceResponse:
        """Ask the service. Any status is returned; redirects are not followed; nothing is repeated.

        :param path: below the service's base URL; may hold a query.
        :param params: appended as a query.
        :param content: the body; what comes bit by bit is sent so.
        :param json: the body, as a JSON value.
        :param timeout: seconds for each step, above 0; or in detail.
        :param stream: give a successful answer before its body, for `aiter_bytes`.
        :raises SandboxConnectionError: no answer could be had.
        """
        client = self._require_client()
        own: dict[str, str] = {}
        body: tuple[bytes, ...] | StreamedBody = ()
        if json is not None:
            own, body = {"content-type": "application/json"}, json_body(json)
        elif isinstance(content, str):
            body = (content.encode(),)
        elif isinstance(content, bytes):
            body = (content,)
        elif content is not None:
            body = StreamedBody(content)
        request = request_to_service(
            await self._fresh(),
            method,
            path,
            headers=merge_headers({"accept": "*/*"}, own, headers),
            params=params,
            body=body,
        )
        effect = Perform(request, _patience(timeout), stream, max_body_bytes=None)
        outcome = await client.drive(lambda context: exchange(effect))
        if isinstance(outcome, Broke):
            raise connection_error(request, outcome.fault, attempts=1)
        return _response_of(outcome.response)

    async def get(self, path: str = "/", **kwargs: Any) -> ServiceResponse:
        """`request` with GET."""
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str = "/", **kwargs: Any) -> ServiceResponse:
        """`request` with POST."""
        return await self.request("POST", path, **kwargs)

    async def put(self, path: str = "/", **kwargs: Any) -> ServiceResponse:
        """`request` with PUT."""
        return await self.request("PUT", path, **kwargs)

    async def patch(self, path: str = "/", **kwargs: Any) -> ServiceResponse:
        """`request` with PATCH."""
        return await self.request("PATCH", path, **kwargs)

    async def delete(self, path: str = "/", **kwargs: Any) -> ServiceResponse:
        """`request` with DELETE."""
        return await self.request("DELETE", path, **kwargs)

    async def websocket(
        self,
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: tuple[str, ...] = (),
    ) -> AsyncWebSocket:
        """Open a WebSocket to the service.

        :param path: below the service's base URL; may hold a query.
        :raises SandboxConnectionError: it could not be opened.
        """
        from .websocket import open_websocket

        request: Request = request_to_service(
            await self._fresh(), "GET", path, headers=merge_headers(headers)
        )
        return await open_websocket(
            self._require_client(), request.url, request.headers, subprotocols=subprotocols
        )

    async def aclose(self) -> None:
        """Close the connections of an object that has no client (`from_dict`). Idempotent."""
        if self._own_client is not None:
            await self._own_client.aclose()

    def _require_client(self) -> ClientBase:
        if self._client is None:
            from .base import ClientBase

            # Only for requests to the service itself: no key of anybody's is involved.
            origin = str(Url.parse(self._grant.service_url).origin)
            self._client = self._own_client = ClientBase(api_endpoint=origin, api_key="unused")
        return self._client


def _patience(timeout: float | Timeouts) -> Timeouts:
    if isinstance(timeout, Timeouts):
        return timeout
    # No total: an answer may be long, as long as it keeps coming.
    return Timeouts(connect=timeout, read=timeout, write=timeout, pool=timeout)


def _response_of(response: Response) -> ServiceResponse:
    stream = response.stream
    return ServiceResponse(
        response.status,
        dict(response.headers),
        response.body,
        response.reason,
        stream=stream if isinstance(stream, ResponseStream) else None,
    )
