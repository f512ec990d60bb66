"""The host's ASGI application: HTTP and WebSocket in, the service's answers out."""

from __future__ import annotations

import re

import anyio

from sandbox_proto.host.messages import HostError, HostRequest
from sandbox_proto.host.routing import CONTROL_PLANE, Match

from ..log import local_log
from .asgi_types import Receive, Scope, Send, read_body, refuse_websocket, request_of, send_response
from .blocking_endpoint import BlockingEndpoint
from .exec_endpoint import SocketEndpoint
from .files import FileLook, send_file, store_upload
from .proxy import ServiceProxy
from .runtime.base import SandboxDiedError
from .search_endpoint import answer_search
from .service import HostService
from .stream_endpoint import StreamEndpoint
from .tunnel_endpoint import TunnelEndpoint

# A service by host name, <sandbox>--<port>.localhost, or by path, /svc/<sandbox>--<port>/...
_BY_NAME = re.compile(r"([^.:]+--\d+)\.localhost(:\d+)?")
_BY_PATH = re.compile(r"/svc/([^/]+)(/.*)?")
_SOCKETS: dict[str, type[SocketEndpoint | TunnelEndpoint]] = {
    "exec_socket": SocketEndpoint,
    "tunnel": TunnelEndpoint,
}
_DOWNLOAD = re.compile(r"/dl/([^/]+)")


class HostApp:
    """The application for an ASGI server."""

    def __init__(self, service: HostService) -> None:
        self._service = service
        self._proxy = ServiceProxy(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope, scope["method"])
        try:
            if (service := _service_in(request)) is not None:
                await self._proxy.http(*service, request, receive, send)
            elif (link := _DOWNLOAD.fullmatch(request.path)) is not None:
                await self._send_linked(link[1], request, send)
            else:
                await self._api(scope, request, receive, send)
        except HostError as error:
            await send_response(send, error.response())
        except SandboxDiedError as error:
            ended = HostError(503, "ServiceUnavailable", f"the sandbox ended meanwhile: {error}")
            await send_response(send, ended.response())
        except Exception:
            local_log.exception("request %s %s failed", request.method, request.path)
            failure = HostError(500, "InternalError", "the host failed; see its log")
            await send_response(send, failure.response())

    async def _api(self, scope: Scope, request: HostRequest, receive: Receive, send: Send) -> None:
        match = self._service.host.route(request)
        if match.name in CONTROL_PLANE:
            request = request_of(scope, scope["method"], await read_body(receive))
            await send_response(send, await self._service.respond(request))
        else:
            await self._data_plane(match, scope, request, receive, send)

    async def _data_plane(
        self, match: Match, scope: Scope, request: HostRequest, receive: Receive, send: Send
    ) -> None:
        if match.name in _SOCKETS:
            raise HostError(426, "UpgradeRequired", "this is a WebSocket endpoint")
        if match.name in ("start_stream", "resume_stream", "execute"):
            request = request_of(scope, scope["method"], await read_body(receive))
            await self._execute(match, request, receive, send)
            return
        box, sandbox = await self._service.open_box(match.names[0])
        with self._service.held(box.id):
            if match.name == "upload":
                await send_response(send, await store_upload(request, sandbox, receive))
            elif match.name == "download":
                await send_file(request, sandbox, send, FileLook.of_query(request.query))
            else:
                found = await answer_search(match.name, scope, sandbox, receive)
                await send_response(send, found)

    async def _execute(
        self, match: Match, request: HostRequest, receive: Receive, send: Send
    ) -> None:
        fields = request.json()
        box, sandbox = await self._service.open_box(match.names[0])
        if match.name == "execute":
            await BlockingEndpoint(self._service, receive, send).serve(fields, box, sandbox)
            return
        stream = StreamEndpoint(self._service, receive, send)
        if match.name == "start_stream":
            await stream.start(fields, box, sandbox)
        else:
            await stream.resume(fields, box)

    async def _send_linked(self, token: str, request: HostRequest, send: Send) -> None:
        if request.method not in ("GET", "HEAD"):
            raise HostError(405, "MethodNotAllowed", "a download link can only be read")
        grant = self._service.host.check_download(token, now=anyio.current_time())
        box, sandbox = await self._service.open_box(grant.box_id)
        with self._service.held(box.id):
            await send_file(request, sandbox, send, FileLook.of_grant(grant))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope, "GET")
        await receive()  # websocket.connect
        try:
            if (service := _service_in(request)) is not None:
                await self._proxy.websocket(*service, request, receive, send)
                return
            match = self._service.host.route(request)
            if match.name not in _SOCKETS:
                raise HostError(404, "NotFound", f"there is no WebSocket at {request.path}")
            box, sandbox = await self._service.open_box(match.names[0], socket=True)
        except HostError as error:
            await refuse_websocket(send, error)
            return
        await send({"type": "websocket.accept"})
        await _SOCKETS[match.name](self._service, receive, send).serve(box, sandbox)


def _service_in(request: HostRequest) -> tuple[str, str] | None:
    """The service a request is for: its label, and the path there."""
    if (by_name := _BY_NAME.fullmatch(request.headers.get("host", ""))) is not None:
        return by_name[1], request.path
    if (by_path := _BY_PATH.fullmatch(request.path)) is not None:
        return by_path[1], by_path[2] or "/"
    return None
