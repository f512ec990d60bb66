"""The I/O seam: what the drivers need of a network, and anyio's answer to it.

`Network` is small on purpose. anyio implements it here, the in-memory network of
`sandbox_proto.testing` implements it without sockets, and a stranger can implement
it in one file. A stream moves bytes only in calls that do not wait, and waits only
in calls that move none: so a cancelled caller never tears a frame or loses a byte.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import anyio

from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.connect import ProxyConnect
from sandbox_proto.plans.route import Route
from sandbox_proto.wire.urls import Origin

if TYPE_CHECKING:
    import ssl

READ_BYTES = 256 * 1024


class ByteStream(Protocol):
    """One connection. All failures are `OSError`; the end of the stream is empty bytes."""

    def try_send(self, data: Buffer) -> int:
        """Take as many bytes as possible without waiting; 0 when none can be taken now."""

    @property
    def unflushed(self) -> bool:
        """Whether bytes that were taken are still to be handed on by `wait_sendable`."""

    async def wait_sendable(self) -> None:
        """Wait until `try_send` may take bytes again, handing on what is unflushed."""

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        """The bytes that are there now: empty at the end of the stream, None if there are none."""

    def try_receive_into(self, buffer: memoryview) -> int | None:
        """Like `try_receive`, into the caller's buffer; the number of bytes written."""

    async def wait_receivable(self) -> None:
        """Wait until `try_receive` may give something."""

    async def send_eof(self) -> None:
        """Shut the sending side down, where the transport can; else do nothing."""

    def close(self) -> None:
        """Close at once. Whoever waits on the stream gets an OSError."""


class ConnectFailed(Exception):
    """No connection could be made; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Network(Protocol):
    """Where connections, time and chance come from."""

    def now(self) -> float:
        """The loop's monotonic clock, in seconds."""

    async def sleep_until(self, when: float) -> None:
        """Sleep until `now() >= when`."""

    def entropy(self, count: int) -> bytes:
        """`count` unpredictable bytes."""

    def wall_clock(self) -> float:
        """Seconds since the epoch; only for ids that carry a date."""

    async def connect(self, route: Route) -> ByteStream:
        """Open a connection, through TLS and proxy as the route and its origin demand.

        :raises ConnectFailed: it could not be opened.
        """


class AnyioNetwork:
    """Real sockets on whichever loop runs.

    :param verify: True: the system's trust store (and ``SSL_CERT_FILE``, ``SSL_CERT_DIR``);
        False: no verification; or a context of the caller's own, which proxies get too.
    """

    def __init__(self, *, verify: bool | ssl.SSLContext = True) -> None:
        self._verify = verify
        self._ssl_context: ssl.SSLContext | None = None

    def now(self) -> float:
        return anyio.current_time()

    async def sleep_until(self, when: float) -> None:
        await anyio.sleep_until(when)

    def entropy(self, count: int) -> bytes:
        return os.urandom(count)

    def wall_clock(self) -> float:
        import time

        return time.time()

    async def connect(self, route: Route) -> ByteStream:
        from .sockets import connect_tcp

        target = route.origin if route.proxy is None else route.proxy.origin
        stream: ByteStream
        try:
            stream = await connect_tcp(target.host, target.port)
        except OSError as error:
            fault = Fault(FaultKind.UNREACHABLE, f"cannot connect to {target}: {_why(error)}")
            raise ConnectFailed(fault) from None
        try:
            if route.proxy is not None:
                if target.secure:
                    stream = await self._secured(stream, target)
                await _ask_proxy(stream, route)
            if route.origin.secure:
                stream = await self._secured(stream, route.origin)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _secured(self, stream: ByteStream, origin: Origin) -> ByteStream:
        # Loading TLS and the trust store takes tens of milliseconds: once, and only for https.
        from .tls import CertificateRefused, TlsStream, context_for

        if self._ssl_context is None:
            self._ssl_context = context_for(self._verify)
        try:
            return await TlsStream.wrap(stream, self._ssl_context, origin.host)
        except CertificateRefused as error:
            message = f"the certificate of {origin} is not trusted: {error.verify_message}"
            raise ConnectFailed(Fault(FaultKind.TLS, message)) from None
        except OSError as error:
            message = f"the TLS handshake with {origin} failed: {_why(error)}"
            raise ConnectFailed(Fault(FaultKind.UNREACHABLE, message)) from None


async def _ask_proxy(stream: ByteStream, route: Route) -> None:
    machine = ProxyConnect(route)
    try:
        for chunk in machine.data_to_send():
            await send_all(stream, chunk)  # type: ignore[arg-type]  # a CONNECT never half-closes
        while not machine.finished:
            if data := await receive_some(stream):
                machine.receive_data(data)
            else:
                machine.receive_eof()
    except OSError as error:
        message = f"the proxy {route.proxy and route.proxy.origin} failed: {_why(error)}"
        raise ConnectFailed(Fault(FaultKind.UNREACHABLE, message)) from None
    if machine.fault is not None:
        raise ConnectFailed(machine.fault)


async def send_all(stream: ByteStream, data: Buffer) -> None:
    """Send everything. When cancelled, a part may have been sent."""
    view = memoryview(data)
    while view:
        view = view[stream.try_send(view) :]
        if view or stream.unflushed:
            await stream.wait_sendable()


async def receive_some(stream: ByteStream, max_bytes: int = READ_BYTES) -> bytes:
    """Wait for bytes; empty at the end of the stream."""
    while (data := stream.try_receive(max_bytes)) is None:
        await stream.wait_receivable()
    return data


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
