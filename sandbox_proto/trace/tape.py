"""A trace as what a server needs to play its part in it: who said what, and what was answered."""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import SandboxClientError
from ..faults import Fault
from ..host.tunnel import GOING_AWAY
from ..machines.http1_server import Http1Server, RequestReceived
from ..wire.tunnel import TunnelStatus
from ..wire.urls import Origin
from .lines import NETWORK, Line, Trace
from .reexecution import Beside, Step, reexecute
from .values import decode, unspelt


class PlaybackError(SandboxClientError):
    """A program does something else than it did when the trace was recorded."""


@attrs.frozen
class Hear:
    """What the client hears.

    :ivar after: how much the client had said on this connection: frames, or bytes in a stream
        of a tunnel.
    :ivar delay: how long after what came before it, in seconds.
    :ivar data: None is the end of the connection or stream.
    """

    after: int
    delay: float
    data: bytes | None


@attrs.define
class Exchange:
    """One request and its answer; after an upgrade, all that was said on the WebSocket.

    :ivar line: where in the file it begins.
    :ivar says: the frames that the client sent, as `SentBytes` gives them.
    :ivar streams: for a tunnel that was used, what was in it; then `hears` is its end, if any.
    :ivar close_code: what a tunnel's WebSocket was closed with by the server, if it was.
    :ivar used: whether it was played already.
    """

    line: int
    request: RequestReceived
    hears: list[Hear] = attrs.field(factory=list)
    says: list[dict[str, Any]] = attrs.field(factory=list)
    streams: list[TunnelledStream] | None = None
    close_code: int | None = None
    used: bool = False

    def __str__(self) -> str:
        what = "WebSocket" if self.request.upgrade_key else self.request.method
        return f"line {self.line}: {what} {self.request.target}"


@attrs.define
class TunnelledStream:
    """One stream of a tunnel.

    :ivar port: in the sandbox.
    :ivar answered: whether the server ever said how it went; where it was refused, `refusal`.
    :ivar says: all that the client sent.
    """

    line: int
    port: int
    answered: bool = False
    refusal: TunnelStatus | None = None
    says: bytearray = attrs.field(factory=bytearray)
    hears: list[Hear] = attrs.field(factory=list)
    used: bool = False
    _last: float = 0.0

    def heard(self, data: bytes | None, now: float) -> None:
        """The client heard this."""
        self.hears.append(Hear(len(self.says), max(0.0, now - self._last), data))
        self._last = now

    def said(self, data: bytes, now: float) -> None:
        """The client said this."""
        self.says += data
        self._last = now

    def __str__(self) -> str:
        return f"line {self.line}: a tunnelled connection to port {self.port}"


@attrs.define
class Tape:
    """All of a trace.

    :ivar api_endpoint: the control plane that was spoken to.
    :ivar connects: for each origin, how attempts to connect went, in order.
    """

    api_endpoint: str
    exchanges: list[Exchange] = attrs.field(factory=list)
    connects: dict[str, list[Fault | None]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, trace: Trace, beside: Beside | None = None) -> Tape:
        """What a trace holds.

        :raises TraceError: it is malformed, or this version of the core cannot follow it.
        """
        config = trace.header.get("config") or {}
        tape = cls(str(config.get("api_endpoint", "")))
        for line in trace.lines:
            if line.actor == NETWORK:
                tape._note_connect(line)
        readers: dict[str, _Reader] = {}
        for step in reexecute(trace, beside):
            actor = step.line.actor
            if step.line.call == "new" and step.line.made in _TUNNELS:
                readers[actor] = _TunnelReader(tape)
            readers.setdefault(actor, _Reader(tape)).read(step)
        tape.exchanges.sort(key=lambda exchange: exchange.line)
        return tape

    def _note_connect(self, line: Line) -> None:
        match line.then:
            case [{"fault": fault}]:
                outcome = decode(unspelt(fault))
            case _:
                outcome = None
        self.connects.setdefault(str(line.given.get("origin")), []).append(outcome)

    def connect(self, origin: Origin) -> Fault | None:
        """How the next attempt to connect goes; beyond what was recorded, well."""
        outcomes = self.connects.get(str(origin))
        return outcomes.pop(0) if outcomes else None

    def unused(self) -> list[Exchange | TunnelledStream]:
        """What was recorded and not played."""
        everything: list[Exchange | TunnelledStream] = [*self.exchanges, *self.streams()]
        return [one for one in everything if not one.used]

    def streams(self) -> list[TunnelledStream]:
        """The streams of all tunnels."""
        return [stream for exchange in self.exchanges for stream in exchange.streams or ()]


_TUNNELS = frozenset({"machines.tunnel_session.TunnelSession"})
_REFUSALS = {
    "TunnelPortNotAllowedError": TunnelStatus.PORT_NOT_ALLOWED,
    "TunnelUnsupportedVersionError": TunnelStatus.UNSUPPORTED_VERSION,
}


class _Reader:
    """Reads the lines of one actor that speaks on connections, one after the other."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._server = Http1Server()
        self._exchange: Exchange | None = None
        self._last = 0.0

    def read(self, step: Step) -> None:
        """One line, done again."""
        line = step.line
        match line.call:
            case "connected":
                self._server, self._exchange = Http1Server(), None
            case "receive_data":
                self._heard(step.given["data"], line.at)
            case "receive_eof" | "connection_lost":
                self._heard(None, line.at)
        for what, value in step.came:
            if what == "send":
                for item in value:
                    self._said(item, line)

    def _heard(self, data: bytes | None, now: float) -> None:
        if self._exchange is not None:
            delay = max(0.0, now - self._last)
            self._exchange.hears.append(Hear(len(self._exchange.says), delay, data))
        self._last = now

    def _said(self, item: Any, line: Line) -> None:
        self._last = line.at
        if isinstance(item, dict):
            if self._exchange is not None:
                self._exchange.says.append(item)
        elif isinstance(item, bytes) and item:
            self._server.receive_data(item)
            if (request := self._server.next_event()) is not None:
                self._exchange = Exchange(line.number, request)
                self._tape.exchanges.append(self._exchange)
                self._server = Http1Server()


class _TunnelReader(_Reader):
    """Reads a tunnel's session: its handshake, and the streams in it."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape)
        self._streams: dict[int, TunnelledStream] = {}

    @property
    def _open(self) -> bool:
        return self._exchange is not None and self._exchange.streams is not None

    def read(self, step: Step) -> None:
        line, given = step.line, step.given
        if not self._open:
            super().read(step)
        gave = dict(step.came).get("gave")
        match line.call:
            case "open" if isinstance(gave, int) and self._exchange is not None:
                stream = TunnelledStream(line.number, given["port"], last=line.at)
                self._streams[gave] = stream
                if self._exchange.streams is None:
                    self._exchange.streams = []  # from here on they tell everything
                    self._exchange.hears.clear()
                    self._exchange.says.clear()
                self._exchange.streams.append(stream)
            case "send" if given["stream"] in self._streams and isinstance(gave, int):
                self._streams[given["stream"]].said(bytes(given["data"])[:gave], line.at)
        for what, event in step.came:
            if what == "event" and isinstance(event, dict):
                self._happened(event, line)
        if line.call == "receive_data":
            self._last = line.at

    def _happened(self, event: dict[str, Any], line: Line) -> None:
        kind = str(event["type"]).rpartition(".")[2]
        if kind == "SessionEnded" and line.call != "close" and self._open:
            assert self._exchange is not None
            self._exchange.hears[:] = [Hear(0, max(0.0, line.at - self._last), None)]
            if "Reload" in event["error"]["type"]:
                self._exchange.close_code = GOING_AWAY
        stream = self._streams.get(event.get("stream", -1))
        if stream is None:
            return
        match kind:
            case "StreamConnected":
                stream.answered = True
            case "StreamRefused":
                stream.answered = True
                refusal = str(event["error"]["type"]).rpartition(".")[2]
                stream.refusal = _REFUSALS.get(refusal, TunnelStatus.REFUSED)
            case "StreamData":
                stream.heard(event["data"], line.at)
            case "StreamEnded" | "StreamReset":
                stream.heard(None, line.at)
