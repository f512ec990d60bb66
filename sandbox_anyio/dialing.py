"""From a bare connection to the one a route asks for: proxy, then TLS, on any network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.connect import ProxyConnect
from sandbox_proto.plans.route import Route
from sandbox_proto.wire.urls import Origin

from .network import ByteStream, ConnectFailed

if TYPE_CHECKING:
    import ssl

# Opens a plain connection to host and port, or raises OSError.
Dial = Callable[[str, int, float | None], Awaitable[ByteStream]]


class Dialer:
    """Follows routes.

    :param dial: opens plain connections.
    :param now: the clock that deadlines are on.
    :param verify: True: the system's trust store (and ``SSL_CERT_FILE``, ``SSL_CERT_DIR``);
        False: no verification; or a context of the caller's own, which proxies get too.
    """

    def __init__(self, dial: Dial, now: Callable[[], float], verify: bool | ssl.SSLContext) -> None:
        self._dial, self._now, self._verify = dial, now, verify
        self._ssl_context: ssl.SSLContext | None = None

    async def connect(self, route: Route, until: float | None) -> ByteStream:
        """See `Network.connect`."""
        target = route.origin if route.proxy is None else route.proxy.origin
        try:
            stream = await self._dial(target.host, target.port, until)
        except OSError as error:
            fault = Fault(FaultKind.UNREACHABLE, f"cannot connect to {target}: {why(error)}")
            raise ConnectFailed(fault) from None
        try:
            if route.proxy is not None:
                if target.secure:
                    stream = await self._secured(stream, target, until)
                await self._ask_proxy(stream, route, until)
            if route.origin.secure:
                stream = await self._secured(stream, route.origin, until)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _secured(self, stream: ByteStream, origin: Origin, until: float | None) -> ByteStream:
        # Loading TLS and the trust store takes tens of milliseconds: once, and only for https.
        from .tls import CertificateRefused, TlsStream, context_for

        if self._ssl_context is None:
            self._ssl_context = context_for(self._verify)
        secured = TlsStream(stream, self._ssl_context, origin.host)
        try:
            while not secured.try_handshake():
                await self._wait(secured, origin, until)
            while not secured.try_flush():
                await self._wait(secured, origin, until)
        except CertificateRefused as error:
            message = f"the certificate of {origin} is not trusted: {error.verify_message}"
            raise ConnectFailed(Fault(FaultKind.TLS, message)) from None
        except OSError as error:
            message = f"the TLS handshake with {origin} failed: {why(error)}"
            raise ConnectFailed(Fault(FaultKind.UNREACHABLE, message)) from None
        return secured

    async def _ask_proxy(self, stream: ByteStream, route: Route, until: float | None) -> None:
        machine = ProxyConnect(route)
        assert route.proxy is not None
        proxy = route.proxy.origin
        try:
            for chunk in machine.data_to_send():
                await self._send(stream, chunk, proxy, until)  # type: ignore[arg-type]  # no end
            while not machine.finished:
                data = stream.try_receive()
                if data:
                    machine.receive_data(data)
                elif data is not None:
                    machine.receive_eof()
                else:
                    await self._wait(stream, proxy, until)
        except OSError as error:
            message = f"the proxy {proxy} failed: {why(error)}"
            raise ConnectFailed(Fault(FaultKind.UNREACHABLE, message)) from None
        if machine.fault is not None:
            raise ConnectFailed(machine.fault)

    async def _send(
        self, stream: ByteStream, data: Buffer, target: Origin, until: float | None
    ) -> None:
        view = memoryview(data)
        while view or not stream.try_flush():
            view = view[stream.try_send(view) :] if view else view
            if view:
                await self._wait(stream, target, until)

    async def _wait(self, stream: ByteStream, target: Origin, until: float | None) -> None:
        held = not stream.try_flush()
        await stream.wait(readable=True, writable=held, until=until)
        if until is not None and self._now() >= until:
            raise ConnectFailed(too_late(target))


def too_late(target: Origin) -> Fault:
    """The fault of a connection that did not open in time."""
    return Fault(FaultKind.CONNECT_TIMEOUT, f"cannot connect to {target}: no answer in time")


def why(error: OSError) -> str:
    """The reason of an operating system error, in its own words."""
    return error.strerror or str(error) or type(error).__name__
