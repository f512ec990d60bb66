"""Asking an HTTP proxy for a tunnel to the origin (CONNECT, RFC 9110 section 9.3.6)."""

from __future__ import annotations

import h11

from ..errors import LocalProtocolError
from ..faults import Fault, FaultKind
from ..plans.route import Route
from .base import Buffer, Output, require_data
from .http1 import MAX_HEAD_BYTES


class ProxyConnect:
    """One CONNECT exchange on a fresh connection to the proxy.

    It has no events: when `finished`, `fault` is None if the tunnel stands.
    """

    def __init__(self, route: Route) -> None:
        proxy = route.proxy
        if proxy is None:
            raise LocalProtocolError("this route has no proxy")
        self._proxy = proxy
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        authority = route.origin.authority
        headers = [("host", authority)]
        if proxy.authorization is not None:
            headers.append(("proxy-authorization", proxy.authorization))
        request = h11.Request(method="CONNECT", target=authority, headers=headers)
        self._output: list[Output] = [self._h11.send(request) + self._h11.send(h11.EndOfMessage())]
        self._finished = False
        self.fault: Fault | None = None

    def data_to_send(self) -> list[Output]:
        """See `machines.base`."""
        output, self._output = self._output, []
        return output

    def receive_data(self, data: Buffer) -> None:
        """See `machines.base`."""
        require_data(data)
        self._h11.receive_data(bytes(data))
        self._parse()

    def receive_eof(self) -> None:
        """See `machines.base`."""
        if not self._finished:
            self._fail("it closed the connection")

    @property
    def finished(self) -> bool:
        """Whether the tunnel stands, or failed."""
        return self._finished

    def _parse(self) -> None:
        try:
            while not self._finished:
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.Response):
                    self._judge(event)
                elif isinstance(event, h11.ConnectionClosed):
                    self._fail("it closed the connection")
        except h11.RemoteProtocolError as error:
            self._fail(f"its answer is not valid HTTP: {error}")

    def _judge(self, response: h11.Response) -> None:
        if not 200 <= response.status_code < 300:
            reason = response.reason.decode("latin-1")
            self._fail(f"it answered {response.status_code} {reason}".rstrip())
        elif self._h11.trailing_data[0]:
            self._fail("it sent data of its own into the tunnel")
        else:
            self._finished = True

    def _fail(self, why: str) -> None:
        self._finished = True
        message = f"the proxy {self._proxy.origin} refused the tunnel: {why}"
        self.fault = Fault(FaultKind.UNREACHABLE, message)
