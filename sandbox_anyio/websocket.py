"""A WebSocket to a service in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sandbox_proto.errors import ErrorContext, LocalProtocolError, SandboxConnectionError
from sandbox_proto.machines.upgrade import KEY_BYTES, UpgradeFailed, UpgradeRejected
from sandbox_proto.machines.websocket import Closed, Failed, Message, WebSocketLimits
from sandbox_proto.machines.ws_client import Opened, WebSocketClient, WebSocketClientEvent
from sandbox_proto.wire.urls import Url

from .network import ConnectFailed
from .pump import Pump

if TYPE_CHECKING:
    from .base import ClientBase

_SUBPROTOCOL = "sec-websocket-protocol"


class AsyncWebSocket:
    """An open WebSocket: one task receives, any task sends. Close it with its block.

    :ivar subprotocol: the one of the offered subprotocols that the peer chose.
    :ivar close_code: the peer's close code, once it has closed.
    """

    def __init__(
        self,
        client: ClientBase,
        machine: WebSocketClient,
        pump: Pump[WebSocketClientEvent],
        subprotocol: str | None,
    ) -> None:
        self._client, self._machine, self._pump = client, machine, pump
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        client.track(self)

    async def send(self, message: str | bytes) -> None:
        """Send a message, as text or bytes.

        :raises SandboxConnectionError: the socket is closed.
        """
        now = self._client.network.now()
        try:
            if isinstance(message, str):
                self._machine.send_text(message, now=now)
            else:
                self._machine.send_bytes(message, now=now)
        except LocalProtocolError:
            raise SandboxConnectionError("the WebSocket is closed") from None
        while not self._pump.send_now():
            await self._pump.stream.wait(readable=False, writable=True, until=None)

    async def receive(self) -> str | bytes | None:
        """The next message; None when the peer has closed in order.

        :raises SandboxConnectionError: the connection failed.
        """
        self._machine.resume(now=self._client.network.now())
        match await self._pump.next_event():
            case Message(data):
                return data
            case Closed(code):
                self.close_code = code
                self.close()
                return None
            case Failed(fault):
                self.close()
                raise fault.to_error()
            case _:
                return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def close(self, code: int = 1000) -> None:
        """Say goodbye, if possible, and drop the connection. Waits for nothing."""
        self._machine.close(code, now=self._client.network.now())
        self._pump.close()
        self._client.untrack(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


async def open_websocket(
    client: ClientBase,
    url: Url,
    headers: Mapping[str, str],
    *,
    subprotocols: tuple[str, ...] = (),
) -> AsyncWebSocket:
    """Connect and upgrade.

    :raises SandboxConnectionError: it could not be opened; the message says why.
    """
    network, timeouts = client.network, client.config.exec_timeouts
    until = None if timeouts.open is None else network.now() + timeouts.open
    try:
        stream = await client.connect(url.origin, until=until)
    except ConnectFailed as failure:
        raise failure.fault.to_error() from None
    offer = {_SUBPROTOCOL: ", ".join(subprotocols)} if subprotocols else {}
    machine = client.make(
        WebSocketClient,
        url,
        {**headers, **offer},
        WebSocketLimits(ping_interval=timeouts.ping_interval, pong_timeout=timeouts.pong),
        nonce=network.entropy(KEY_BYTES),
        open_deadline=until,
        open_timeout=timeouts.open,
    )
    pump: Pump[WebSocketClientEvent] = Pump(machine, stream, network)
    try:
        event = await pump.next_event()
    except BaseException:
        pump.stream.close()
        raise
    match event:
        case Opened(answered):
            return AsyncWebSocket(client, machine, pump, dict(answered).get(_SUBPROTOCOL))
        case UpgradeRejected(response):
            pump.stream.close()
            status = f"{response.status} {response.reason}".rstrip()
            error = SandboxConnectionError(f"the service refused the WebSocket with {status}")
            raise error.in_context(ErrorContext("GET", url.without_query(), response.status))
        case UpgradeFailed(fault):
            pump.stream.close()
            raise fault.to_error()
        case _:
            pump.stream.close()
            raise SandboxConnectionError("the service closed the connection")
