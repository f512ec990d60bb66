"""A tunnel's two ends in memory: the client's session, and a server's WebSocket by hand."""

from __future__ import annotations

import attrs

from sandbox_proto.host.tunnel import Dial, HostTunnel
from sandbox_proto.machines.tunnel_session import (
    SessionEnded,
    TunnelEvent,
    TunnelLimits,
    TunnelSession,
)
from sandbox_proto.machines.upgrade import accept_token
from sandbox_proto.machines.websocket import Closed, Failed, Message, WebSocket, WebSocketLimits
from sandbox_proto.machines.yamux_events import StreamData, StreamEnded, StreamReset, YamuxLimits

from ._yamux import KIB, WINDOW_BYTES

BASE = "https://host.test/box"
QUIET_YAMUX = YamuxLimits(
    ping_interval=None, peer_streams=0, first_window=WINDOW_BYTES, max_window=WINDOW_BYTES
)
QUIET_TUNNEL = TunnelLimits(yamux=QUIET_YAMUX)
QUIET_HOST = attrs.evolve(QUIET_YAMUX, peer_streams=4)
_NO_LIMITS = WebSocketLimits(ping_interval=None, max_message_bytes=64 * KIB)


class Client:
    """A `TunnelSession` driven by hand, and the WebSocket of whoever it speaks to.

    :ivar events: what happened so far.
    :ivar server: the other end's WebSocket, once it is open.
    """

    def __init__(self, limits: TunnelLimits = QUIET_TUNNEL, *, base: str = BASE) -> None:
        self.now = 0.0
        self.session = TunnelSession(base, {"x-api-key": "key"}, limits, nonce=bytes(16), now=0.0)
        self.session.connected(now=0.0)
        self.events: list[TunnelEvent] = []
        self.server: WebSocket | None = None
        self.request = self.flush()

    def answer(self, head: str) -> list[TunnelEvent]:
        """The server answers the upgrade."""
        return self.feed(head.replace("\n", "\r\n").encode())

    def upgrade(self) -> None:
        """The server agrees."""
        import base64

        token = accept_token(base64.b64encode(bytes(16))).decode()
        self.answer(
            "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n"
            f"Sec-WebSocket-Accept: {token}\n\n"
        )
        self.server = WebSocket("server", _NO_LIMITS, now=0.0)

    def feed(self, data: bytes) -> list[TunnelEvent]:
        """Bytes of the transport. Returns what happened."""
        before = len(self.events)
        self.session.receive_data(data, now=self.now)
        self.take()
        return self.events[before:]

    def hear(self, *messages: bytes) -> list[TunnelEvent]:
        """Messages of the server. Returns what happened."""
        assert self.server is not None
        for message in messages:
            self.server.send_bytes(message, now=self.now)
        output = b"".join(bytes(piece) for piece in self.server.data_to_send())  # type: ignore[arg-type]
        return self.feed(output) if output else []

    def at(self, now: float) -> list[TunnelEvent]:
        """Let time pass until then."""
        before = len(self.events)
        self.now = now
        self.session.handle_timeout(now=now)
        self.take()
        return self.events[before:]

    def take(self) -> None:
        while (event := self.session.next_event()) is not None:
            self.events.append(event)

    def flush(self) -> bytes:
        """What the transport is given, all of which it takes."""
        output = b""
        while pieces := self.session.data_to_send():
            whole = b"".join(bytes(piece) for piece in pieces)  # type: ignore[arg-type]
            self.session.data_sent(len(whole), now=self.now)
            output += whole
        return output

    def said(self) -> list[bytes]:
        """The messages that the client has for the server."""
        assert self.server is not None
        if output := self.flush():
            self.server.receive_data(output, now=self.now)
        messages = []
        while (event := self.server.next_event()) is not None:
            if isinstance(event, Message):
                assert isinstance(event.data, bytes)
                messages.append(event.data)
            else:
                self.closed = event
        return messages

    closed: Closed | Failed | object = None

    @property
    def end(self) -> SessionEnded:
        ends = [event for event in self.events if isinstance(event, SessionEnded)]
        assert len(ends) == 1, "a session ends once"
        assert self.events[-1] is ends[0], "nothing follows the end"
        return ends[0]


class Host:
    """A `HostTunnel` driven by hand.

    :ivar dials: stream -> port that was asked for.
    :ivar inbox: stream -> what came for its port.
    :ivar ended: streams whose client sends nothing more.
    :ivar reset: streams that were reset.
    """

    def __init__(self, limits: YamuxLimits = QUIET_HOST, **more: object) -> None:
        self.now = 0.0
        self.tunnel = HostTunnel(now=0.0, limits=limits, **more)  # type: ignore[arg-type]
        self.dials: dict[int, int] = {}
        self.inbox: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()

    def hear(self, *messages: bytes | str) -> None:
        for message in messages:
            self.tunnel.receive(message, now=self.now)
        self.take()

    def take(self) -> None:
        while (event := self.tunnel.next_event()) is not None:
            match event:
                case Dial(stream, port):
                    self.dials[stream] = port
                case StreamData(stream, data):
                    self.inbox.setdefault(stream, bytearray()).extend(data)
                    self.tunnel.consumed(stream, len(data), now=self.now)
                case StreamEnded(stream):
                    self.ended.add(stream)
                case StreamReset(stream):
                    self.reset.add(stream)

    def said(self) -> list[bytes]:
        messages = []
        while (message := self.tunnel.next_message()) is not None:
            messages.append(message)
        return messages

    def at(self, now: float) -> None:
        self.now = now
        self.tunnel.handle_timeout(now=now)
        self.take()


def settle(client: Client, host: Host) -> None:
    """Carry messages until neither side has any."""
    while True:
        there, back = client.said(), host.said()
        if not there and not back:
            return
        host.hear(*there)
        client.hear(*back)
