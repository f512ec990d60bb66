"""A recorded trace plays the server.

    host = PlaybackHost(Tape.of(trace))

is a host for a virtual network (`testing.virtual_host`): a client that says what was said when
the trace was recorded hears what was heard, after the same (virtual) time. Anything else is
refused at once, with the difference. Requests are matched by what they ask, not by the
connection they come on, so tasks may run in another order than they did.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..faults import Fault
from ..machines.base import Buffer, Output, earliest
from ..machines.http1_server import Http1Server, RequestReceived
from ..machines.upgrade import accept_token
from ..wire.urls import Origin
from .frames import SentBytes
from .matching import Names, same_bytes, same_request
from .playback_tunnel import PlaybackTunnel
from .tape import Exchange, Hear, PlaybackError, Tape

_SHOWN = 5
_ACCEPT = b"sec-websocket-accept:"


class PlaybackHost:
    """See the module's text.

    :param tape: what was recorded; it is used up.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.names = Names()
        self._peers: list[PlaybackPeer] = []

    @property
    def api_endpoint(self) -> str:
        """The control plane that was spoken to."""
        return self.tape.api_endpoint

    def connect(self, origin: Origin, *, now: float) -> PlaybackPeer | Fault:
        """See `VirtualHost`."""
        fault = self.tape.connect(origin)
        if fault is not None:
            return fault
        self._peers = [peer for peer in self._peers if not peer.gone]
        peer = PlaybackPeer(self)
        self._peers.append(peer)
        return peer

    def next_deadline(self) -> float | None:
        """See `VirtualHost`."""
        return earliest(*(peer.next_deadline() for peer in self._peers))

    def handle_timeout(self, *, now: float) -> None:
        """See `VirtualHost`."""
        for peer in self._peers:
            peer.handle_timeout(now=now)

    def answer_to(self, request: RequestReceived) -> Exchange:
        """The recorded exchange that begins with this request; it is used up.

        :raises PlaybackError: there is none.
        """
        target = self.names.as_recorded(request.target.encode()).decode()
        difference = None
        for exchange in self.tape.exchanges:
            recorded = exchange.request
            if exchange.used or (recorded.method, recorded.target) != (request.method, target):
                continue
            unlike = same_request(recorded, request, self.names)
            if unlike is None:
                exchange.used = True
                return exchange
            difference = difference or f"{exchange}: {unlike}"
        asked = f"{request.method} {request.target}"
        if difference is not None:
            raise PlaybackError(f"the program asks for {asked}, but not as recorded: {difference}")
        raise PlaybackError(
            f"the program asks for {asked}, which the trace does not hold (any more); "
            f"{self._what_is_left()}. Record it anew if the program is right"
        )

    def _what_is_left(self) -> str:
        unused = self.tape.unused()
        if not unused:
            return "all of it has been played"
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        return f"not yet played: {', '.join(map(str, unused[:_SHOWN]))}{more}"

    def check_all_played(self) -> None:
        """Complain about what is left.

        :raises PlaybackError: the program did less than when the trace was recorded.
        """
        if self.tape.unused():
            raise PlaybackError(
                f"the program did less than when the trace was recorded; {self._what_is_left()}"
            )


class PlaybackPeer:
    """The server's end of one connection; see `testing.virtual_host.Peer`.

    :ivar gone: the connection is over.
    """

    def __init__(self, host: PlaybackHost) -> None:
        self._host = host
        self._http = Http1Server()
        self._frames: SentBytes | None = None
        self._says: deque[dict[str, Any]] = deque()
        self._said = 0
        self._hears: deque[Hear] = deque()
        self._output: list[Output] = []
        self._tunnel: PlaybackTunnel | None = None
        self._now = self._last = 0.0
        self._key: str | None = None
        self._closing = False
        self.gone = False

    @property
    def finished(self) -> bool:
        """See `Peer`."""
        return self._closing or (self._tunnel is not None and self._tunnel.finished)

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """See `Peer`.

        :raises PlaybackError: this is not what was recorded.
        """
        self._now = self._last = now
        if self._tunnel is not None:
            self._tunnel.receive_data(data, now=now)
        elif self._frames is not None:
            for frame in self._frames.take([bytes(data)]):
                self._take_frame(frame)
        else:
            self._http.receive_data(data)
            if (request := self._http.next_event()) is not None:
                self._begin(request, now)
        self._play(now)

    def _begin(self, request: RequestReceived, now: float) -> None:
        exchange = self._host.answer_to(request)
        self._http = Http1Server()
        self._hears, self._said = deque(exchange.hears), 0
        self._key = request.upgrade_key
        if self._key is None:
            return
        if exchange.streams is not None:
            self._tunnel = PlaybackTunnel(self._host.tape, exchange, self._key, now=now)
            return
        self._says = deque(exchange.says)
        self._frames = SentBytes(framed=True)

    def _take_frame(self, frame: dict[str, Any]) -> None:
        kind = frame["frame"]
        expected = self._says[0] if self._says else None
        if kind in ("ping", "pong", "close"):
            if expected is not None and expected["frame"] == kind:
                self._says.popleft()
                self._said += 1
            if kind == "close" and not self._hears:
                self._closing = True
            return
        while expected is not None and expected["frame"] in ("ping", "pong"):
            self._says.popleft()  # pings come when there is silence, and that may differ
            self._said += 1
            expected = self._says[0] if self._says else None
        if expected is None or expected["frame"] == "close":
            raise PlaybackError(
                f"the program says {frame['data']!r:.200} on a WebSocket on which nothing more "
                "was said when the trace was recorded"
            )
        if expected["frame"] != kind or not same_bytes(
            expected["data"], self._host.names.as_recorded(frame["data"]), self._host.names
        ):
            raise PlaybackError(
                f"the program says {frame['data']!r:.300} on a WebSocket, where it said "
                f"{expected['data']!r:.300} when the trace was recorded"
            )
        self._says.popleft()
        self._said += 1

    def receive_eof(self, *, now: float) -> None:
        """See `Peer`."""
        self.abandon(now=now)

    def abandon(self, *, now: float) -> None:
        """See `Peer`."""
        self.gone = True
        self._hears.clear()

    def next_deadline(self) -> float | None:
        """When the next words are due."""
        if self.gone:
            return None
        if self._tunnel is not None:
            return self._tunnel.next_deadline()
        if self._hears and self._hears[0].after <= self._said:
            return self._last + self._hears[0].delay
        return None

    def handle_timeout(self, *, now: float) -> None:
        """Say what is due."""
        if self._tunnel is not None:
            self._tunnel.handle_timeout(now=now)
        else:
            self._play(now)

    def _play(self, now: float) -> None:
        while (due := self.next_deadline()) is not None and due <= now and self._hears:
            heard = self._hears.popleft()
            self._last = due
            if heard.data is None:
                self._closing = True
                return
            data = self._host.names.as_now(heard.data)
            if self._key is not None:
                data, self._key = _with_our_accept(data, self._key), None
            self._output.append(data)

    def data_to_send(self, *, now: float) -> list[Output]:
        """See `Peer`."""
        if self._tunnel is not None:
            return self._tunnel.data_to_send(now=now)
        output, self._output = self._output, []
        return output


def _with_our_accept(answer: bytes, key: str) -> bytes:
    """A recorded answer to an upgrade, as it must be for another key."""
    head, end, rest = answer.partition(b"\r\n\r\n")
    lines = [
        _ACCEPT + b" " + accept_token(key.encode()) if line.lower().startswith(_ACCEPT) else line
        for line in head.split(b"\r\n")
    ]
    return b"\r\n".join(lines) + end + rest
