"""ASGI's forms, and answers in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from sandbox_proto.host.messages import HostError, HostRequest, HostResponse

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MAX_BODY_BYTES = 8 * 1024 * 1024


def request_of(scope: Scope, method: str, body: bytes = b"") -> HostRequest:
    """A request as the pure host sees it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if scope.get("subprotocols"):  # which some servers take out of the headers
        headers["sec-websocket-protocol"] = ", ".join(scope["subprotocols"])
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


async def read_body(receive: Receive) -> bytes:
    """The whole body of a control-plane request.

    :raises HostError: it is too large, or was cut short.
    """
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


async def send_head(send: Send, status: int, headers: Iterable[tuple[str, str]]) -> None:
    """The beginning of an answer."""
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def send_response(send: Send, response: HostResponse) -> None:
    """A whole answer of the pure host."""
    body = response.body
    headers = {"content-length": str(len(body)), **response.headers}
    if body:
        headers.setdefault("content-type", "application/json")
    if response.status == 204:
        del headers["content-length"]
    await send_head(send, response.status, headers.items())
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(send: Send, error: HostError) -> None:
    """A refused upgrade, with its reason."""
    headers = [(b"content-type", b"application/json")]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    # No length: chunked, because one client shows the reason only then (protocol/06 section 9).
    start = {"type": "websocket.http.response.start", "status": error.status, "headers": headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": error.response().body})
