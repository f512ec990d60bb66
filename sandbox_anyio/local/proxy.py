"""Services in sandboxes, made reachable: HTTP and WebSockets passed on to a port inside.

What goes in by a token must not learn it, so token and cookie are taken off; what the
service says comes back as it is, but for what belongs to one connection alone.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import parse_qs

import anyio

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.flows.effects import Broke, Perform, exchange
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse
from sandbox_proto.host.service_routes import AUTH_PATH, COOKIE, TOKEN_HEADER, ServiceAccess
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.http import Headers, Request, StreamedBody
from sandbox_proto.wire.urls import Url

from ..anyio_network import AnyioNetwork
from ..background import background_tasks
from ..base import ClientBase
from ..dialing import Dial
from ..http import ResponseStream
from ..network import ByteStream
from ..socket_stream import socket_stream
from ..websocket import AsyncWebSocket, open_websocket
from .asgi_types import Receive, Send, send_head, send_response
from .loopback import connect_inside
from .runtime.base import RunningSandbox
from .service import HostService

_USER_HEADERS = "x-langsmith-user-"
# Of one connection, not of the message (RFC 9110 section 7.6.1), or made anew for the next one.
_NOT_FORWARDED = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
# A service may take its time: whoever waits for it decides when it is too long.
_PATIENCE = Timeouts(connect=10.0, read=None, write=None, pool=None)
# The fragment of an URL reaches no server: a script carries the token on, in a header.
_EMBED_PAGE = f"""\
<!doctype html><meta charset="utf-8"><title>Opening the service</title>
<p id="told">Opening the service…</p>
<script>
const given = new URLSearchParams(location.hash.slice(1));
const next = given.get("redirect") || "/";
const headers = {{"{TOKEN_HEADER}": given.get("token") || ""}};
const opening = fetch("{AUTH_PATH}", {{method: "POST", headers}})
  .then(answer => {{
    if (!answer.ok) throw new Error("this link has expired or was taken back");
    location.replace(/^\\/(?![\\/\\\\])/.test(next) ? next : "/");
  }})
  .catch(error => {{ document.getElementById("told").textContent = error.message; }});
</script>
"""


class ServiceProxy:
    """See the module's text.

    For both methods, `label` stands for the sandbox and the port, `path` is what the service
    is asked for.
    """

    def __init__(self, service: HostService) -> None:
        self._service = service

    async def http(
        self, label: str, path: str, request: HostRequest, receive: Receive, send: Send
    ) -> None:
        """Pass on one request, and its answer.

        :raises HostError: the service may not be used, or does not answer.
        """
        if path == AUTH_PATH:
            await send_response(send, self._authenticate(label, request))
            return
        access = self._check(label, request)
        async with self._service_of(access, request) as client:
            body = _RequestBody(receive)
            async with background_tasks() as tasks:
                tasks.start_soon(_cancel_when_gone, body, receive, tasks.cancel_scope)
                await self._exchange(client, _forwarded(request, path, access, body), access, send)

    async def _exchange(
        self, client: ClientBase, request: Request, access: ServiceAccess, send: Send
    ) -> None:
        effect = Perform(request, _PATIENCE, True, max_body_bytes=None, stream_errors=True)
        outcome = await client.drive(lambda context: exchange(effect))
        if isinstance(outcome, Broke):
            raise HostError(502, "BadGateway", outcome.fault.message)
        response = outcome.response
        await send_head(send, response.status, _returned(response.headers, access))
        assert isinstance(response.stream, ResponseStream)
        try:
            while (data := await response.stream.next_chunk()) is not None:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except SandboxClientError:
            return  # the answer ends short, as the service's did
        await send({"type": "http.response.body", "body": b""})

    async def websocket(
        self, label: str, path: str, request: HostRequest, receive: Receive, send: Send
    ) -> None:
        """Pass on a WebSocket, in both directions, until one side ends it.

        :raises HostError: the service may not be used, or refuses.
        """
        access = self._check(label, request)
        async with self._service_of(access, request) as client:
            offered = request.headers.get("sec-websocket-protocol", "")
            onward = _forwarded(request, path, access, None)
            try:
                socket = await open_websocket(
                    client,
                    onward.url,
                    onward.headers,
                    subprotocols=tuple(name.strip() for name in offered.split(",") if name),
                )
            except SandboxClientError as error:
                raise HostError(error.status or 502, "BadGateway", str(error)) from None
            accept = {"type": "websocket.accept", "headers": []}
            await send({**accept, "subprotocol": socket.subprotocol})
            async with background_tasks() as directions:
                directions.start_soon(_relay_inwards, receive, socket, directions.cancel_scope)
                await _relay_outwards(socket, send)

    def _check(self, label: str, request: HostRequest) -> ServiceAccess:
        token = request.headers.get(TOKEN_HEADER) or _cookies(request).get(COOKIE)
        return self._service.host.check_service(label, token, now=anyio.current_time())

    def _authenticate(self, label: str, request: HostRequest) -> HostResponse:
        """Where a browser trades a token in its URL for a cookie."""
        query = parse_qs(request.query)
        token = query.get("token", [""])[0]
        if request.method == "POST":
            token = request.headers.get(TOKEN_HEADER, "")
        elif not token:
            kind = {"content-type": "text/html; charset=utf-8", "referrer-policy": "no-referrer"}
            return HostResponse(200, _EMBED_PAGE.encode(), kind)
        access = self._service.host.check_service(label, token, now=anyio.current_time())
        target = query.get("redirect", ["/"])[0]
        if not target.startswith("/") or target.startswith(("//", "/\\")):
            raise HostError.invalid("redirect", "redirect must be a path on the service")
        # Inside another site's frame a browser keeps only cookies that are marked for it.
        reach = "SameSite=None; Secure; Partitioned" if access.embed_origins else "SameSite=Lax"
        headers = {
            "set-cookie": f"{COOKIE}={access.token}; Path=/; HttpOnly; {reach}",
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
        }
        if request.method == "POST":
            return HostResponse(204, headers=headers)
        return HostResponse(302, headers={**headers, "location": target})

    @asynccontextmanager
    async def _service_of(
        self, access: ServiceAccess, request: HostRequest
    ) -> AsyncIterator[ClientBase]:
        """A client whose every connection leads to the service; using it is activity."""
        box, sandbox = await self._service.open_box(access.box.id)
        with self._service.held(box.id):
            network = AnyioNetwork(dial=_dial_into(sandbox, access.port))
            async with ClientBase(
                api_endpoint=request.origin, api_key="unused", trust_env=False, network=network
            ) as client:
                yield client


class _RequestBody:
    """The body of a request as it comes in.

    :ivar ended: set when no more of it is wanted or to be had.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = anyio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self.ended.is_set():
            raise StopAsyncIteration
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise HostError(400, "InvalidRequest", "the body was cut short")
        if not event.get("more_body"):
            self.ended.set()
        body: bytes = event.get("body", b"")
        return body


async def _cancel_when_gone(body: _RequestBody, receive: Receive, scope: anyio.CancelScope) -> None:
    """An answer that nobody waits for any more need not be had: it may never end."""
    await body.ended.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _forwarded(
    request: HostRequest, path: str, access: ServiceAccess, body: _RequestBody | None
) -> Request:
    """The request as the service gets it."""
    named = request.headers.get("connection", "").lower().split(",")
    dropped = {*_NOT_FORWARDED, *map(str.strip, named), TOKEN_HEADER, "cookie"}
    headers = {
        name: value
        for name, value in request.headers.items()
        if name not in dropped and not name.startswith(_USER_HEADERS)
    }
    cookies = _cookies(request)
    cookies.pop(COOKIE, None)
    if cookies:
        headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    if access.user is not None:
        headers[f"{_USER_HEADERS}id"] = access.user
        headers[f"{_USER_HEADERS}email"] = f"{access.user}@localhost"
    url = Url.parse(f"{request.origin}{path}{'?' if request.query else ''}{request.query}")
    length = request.headers.get("content-length")
    if body is None or (length is None and "transfer-encoding" not in request.headers):
        if body is not None:
            body.ended.set()
        return Request(request.method, url, headers)
    stream = StreamedBody(body, None if length is None else int(length))
    return Request(request.method, url, headers, stream)


def _cookies(request: HostRequest) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in request.headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip() for name, separator, value in pairs if separator}


def _returned(headers: Headers, access: ServiceAccess) -> list[tuple[str, str]]:
    """The headers of a service's answer as its caller gets them."""
    listed = ",".join(value for name, value in headers if name == "connection").lower()
    dropped = {*_NOT_FORWARDED, *map(str.strip, listed.split(",")), "date"} - {"content-length"}
    kept = [(name, value) for name, value in headers if name not in dropped]
    # A second policy narrows the service's own, so it can only forbid.
    framers = " ".join(("'self'", *access.embed_origins))
    return [*kept, ("content-security-policy", f"frame-ancestors {framers}")]


async def _relay_inwards(
    receive: Receive, socket: AsyncWebSocket, scope: anyio.CancelScope
) -> None:
    """From the caller to the service."""
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        try:
            await socket.send(event["bytes"] if text is None else text)
        except SandboxClientError:
            return  # the other direction learns why
    socket.close(event.get("code") or 1000)
    scope.cancel()


async def _relay_outwards(socket: AsyncWebSocket, send: Send) -> None:
    """From the service to the caller."""
    try:
        async for message in socket:
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except SandboxClientError as error:
        await send({"type": "websocket.close", "code": 1011, "reason": str(error)[:120]})
        return
    # Codes that a peer may not send stand for "there was none" (RFC 6455 section 7.4.1).
    code = socket.close_code
    await send({"type": "websocket.close", "code": 1000 if code in (None, 1005) else code})


def _dial_into(sandbox: RunningSandbox, port: int) -> Dial:
    """Opens connections to a port on the loopback of a sandbox, whatever the name asked for."""

    async def dial(host: str, named_port: int, until: float | None) -> ByteStream:
        try:
            return socket_stream(await connect_inside(sandbox, port))
        except OSError:
            what = f"nothing listens on port {port} in the sandbox"
            raise OSError(errno.ECONNREFUSED, what) from None

    return dial
