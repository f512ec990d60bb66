"""A driver on Twisted's reactor."""
# ruff: noqa: N802 (the names are Twisted's)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from sandbox_proto.embedding import SEND_EOF, Carrier, Conversation, Origin, Output


@implementer(IHalfCloseableProtocol, IPushProducer)
class Wire(Protocol):
    """One connection: reports to its carrier for as long as it is the present one."""

    def __init__(self, carrier: ReactorCarrier) -> None:
        self._carrier = carrier
        self._full, self._unsent, self.reading = False, 0, True

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)  # to be told when the transport is full
        self._carrier.wire = self
        self._carrier.connected()

    def dataReceived(self, data: bytes) -> None:
        if self._carrier.wire is self:
            self._carrier.received(data)

    def readConnectionLost(self) -> None:
        self.dataReceived(b"")

    def writeConnectionLost(self) -> None:
        pass  # we said so ourselves

    def connectionLost(self, reason: Failure) -> None:
        if self._carrier.wire is self:
            self._carrier.lost(reason.getErrorMessage())

    def write(self, data: bytes) -> None:
        self.transport.write(bytes(data))
        if self._full:
            self._unsent += len(data)
        else:
            self._carrier.sent(len(data))

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        count, self._unsent = self._unsent, 0
        if self._carrier.wire is self:
            self._carrier.sent(count)

    def stopProducing(self) -> None:
        pass  # `connectionLost` says it

    def close(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def watch(self, reads: bool) -> None:
        if reads != self.reading:
            self.reading = reads
            self.transport.resumeProducing() if reads else self.transport.pauseProducing()


class ReactorCarrier(Carrier[Any]):
    """One conversation, its present connection and its timer."""

    def __init__(self, driver: Driver, *parts: Any) -> None:
        super().__init__(*parts)
        self._driver = driver
        self.wire: Wire | None = None
        self._timer: Any = None

    def now(self) -> float:
        return reactor.seconds()

    def dial(self, origin: Origin) -> None:
        endpoint = HostnameEndpoint(reactor, origin.host, origin.port)
        if origin.secure:
            endpoint = wrapClientTLS(optionsForClientTLS(origin.host), endpoint)
        self._dialling = endpoint.connect(Factory.forProtocol(lambda: Wire(self)))
        self._dialling.addErrback(lambda why: self.unreachable(origin, why.getErrorMessage()))

    def send(self, data: Output) -> None:
        if data is SEND_EOF:
            self.wire.transport.loseWriteConnection()
        else:
            self.wire.write(data)

    def hang_up(self) -> None:
        if self.wire is not None:
            self.wire.close()
            self.wire = None
        else:
            self._dialling.cancel()

    def attend(self, *, reads: bool, until: float | None) -> None:
        self._stop_timer()
        if until is not None:
            self._timer = reactor.callLater(max(until - self.now(), 0), self.time_passed)
        if self.wire is not None:
            self.wire.watch(reads)

    def ended(self) -> None:
        self._stop_timer()
        self._driver.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class Driver:
    """Carries any number of conversations; `run` returns when all are over."""

    def __init__(self) -> None:
        self._open = 0

    def now(self) -> float:
        return reactor.seconds()

    def start(self, conversation: Conversation[Any], tell: Callable[[Any], None]) -> ReactorCarrier:
        carrier = ReactorCarrier(self, conversation, tell)
        self._open += 1
        reactor.callLater(0, carrier.drain)
        return carrier

    def leave(self) -> None:
        self._open -= 1
        if not self._open:
            reactor.stop()

    def run(self, begin: Callable[[], None]) -> None:
        reactor.callWhenRunning(begin)
        reactor.run()
