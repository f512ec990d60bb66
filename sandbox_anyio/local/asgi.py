"""The host's ASGI application: HTTP and WebSocket in, the service's answers out."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from sandbox_proto.host.exec_socket import ExecSocket
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse
from sandbox_proto.host.routing import DATA_PLANE, Match
from sandbox_proto.wire.exec_messages import encode

from ..log import local_log
from .files import send_file, store_upload
from .service import HostService
from .wakeup import Signal

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MAX_BODY_BYTES = 8 * 1024 * 1024
# A process that does not read its input holds back its client beyond this.
_INPUT_BACKLOG_BYTES = 1024 * 1024


class HostApp:
    """The application for an ASGI server."""

    def __init__(self, service: HostService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    # --- HTTP -------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request_of(scope, scope["method"])
        try:
            match = self._service.host.route(request)
            if match.name in DATA_PLANE:
                await self._data_plane(match, request, receive, send)
                return
            request = _request_of(scope, scope["method"], await _read_body(receive))
            response = await self._service.respond(request)
        except HostError as error:
            response = error.response()
        except Exception:
            local_log.exception("request %s %s failed", request.method, request.path)
            response = HostError(500, "InternalError", "the host failed; see its log").response()
        await _send_response(send, response)

    async def _data_plane(
        self, match: Match, request: HostRequest, receive: Receive, send: Send
    ) -> None:
        if match.name == "exec_socket":
            raise HostError(426, "UpgradeRequired", "this is a WebSocket endpoint")
        _, sandbox = await self._service.open_box(match.names[0])
        if match.name == "upload":
            await _send_response(send, await store_upload(request, sandbox, receive))
        else:
            await send_file(request, sandbox, send)

    # --- WebSocket --------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request_of(scope, "GET")
        await receive()  # websocket.connect
        try:
            match = self._service.host.route(request)
            if match.name != "exec_socket":
                raise HostError(404, "NotFound", f"there is no WebSocket at {request.path}")
            box, sandbox = await self._service.open_box(match.names[0], socket=True)
        except HostError as error:
            await _refuse_websocket(send, error)
            return
        await send({"type": "websocket.accept"})
        attachment = _Attachment(self._service, receive, send)
        await attachment.serve(box, sandbox)


class _Attachment:
    """One exec WebSocket, served from both ends at once."""

    def __init__(self, service: HostService, receive: Receive, send: Send) -> None:
        self._service, self._receive, self._send = service, receive, send
        self._opened = Signal()

    async def serve(self, box: Any, sandbox: Any) -> None:
        socket = ExecSocket(self._service.commands, box.id, self._service.entropy)
        try:
            async with anyio.create_task_group() as ends:
                ends.start_soon(self._listen, socket, box, sandbox, ends.cancel_scope)
                await self._speak(socket)
                ends.cancel_scope.cancel()
        finally:
            socket.disconnected(now=anyio.current_time())

    async def _listen(
        self, socket: ExecSocket, box: Any, sandbox: Any, scope: anyio.CancelScope
    ) -> None:
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                scope.cancel()
                return
            text = event.get("text")
            if text is None:
                text = event.get("bytes") or b""
            socket.receive(text, now=anyio.current_time(), wall=self._service.wall())
            if (command := socket.to_spawn) is not None:
                socket.to_spawn = None
                self._service.start(command, box, sandbox)
            self._opened.set()
            await self._hold_back(socket)

    async def _hold_back(self, socket: ExecSocket) -> None:
        while (command := socket.command) is not None:
            event = self._service.signal_of(command).event
            if command.input_backlog < _INPUT_BACKLOG_BYTES:
                return
            await event.wait()

    async def _speak(self, socket: ExecSocket) -> None:
        while not socket.finished:
            command = socket.command
            signal = self._opened if command is None else self._service.signal_of(command)
            event = signal.event
            message = socket.next_message(now=anyio.current_time())
            if message is None:
                await event.wait()
            else:
                await self._send({"type": "websocket.send", "text": encode(message)})
        await self._send({"type": "websocket.close", "code": 1000})


# --- ASGI's forms ---------------------------------------------------------------------


def _request_of(scope: Scope, method: str, body: bytes = b"") -> HostRequest:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    host = headers.get("host") or "{}:{}".format(*scope["server"])
    return HostRequest(
        method,
        scope["raw_path"].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        headers,
        body,
        f"{scheme}://{host}",
    )


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise HostError(400, "InvalidRequest", "the body was cut short")
        body += event.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise HostError(413, "InvalidRequest", f"the body exceeds {MAX_BODY_BYTES} bytes")
        if not event.get("more_body"):
            return bytes(body)


async def _send_response(send: Send, response: HostResponse) -> None:
    body = response.body
    headers = {"content-length": str(len(body)), **response.headers}
    if body:
        headers["content-type"] = "application/json"
    if response.status == 204:
        del headers["content-length"]
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [
                (name.encode(), value.encode("latin-1")) for name, value in headers.items()
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _refuse_websocket(send: Send, error: HostError) -> None:
    headers = [(b"content-type", b"application/json")]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    # No length: chunked, because one client shows the reason only then (protocol/06 section 9).
    await send(
        {"type": "websocket.http.response.start", "status": error.status, "headers": headers}
    )
    body = json.dumps(error.response().payload).encode()
    await send({"type": "websocket.http.response.body", "body": body})
