"""A recorded tunnel plays the server.

How bytes were cut into frames depends on time and windows, so a tunnel is not played frame by
frame: a real end of the protocol runs here, and each stream gets the bytes that its like got.
"""

from __future__ import annotations

from collections import deque

import attrs

from ..host.tunnel import Dial, HostTunnel
from ..machines.base import Buffer, Output, earliest
from ..machines.upgrade import accept_token
from ..machines.websocket import Closed, Failed, Message, WebSocket, WebSocketLimits
from ..machines.yamux_events import StreamData, StreamEnded, StreamReset
from ..wire.tunnel import MAX_MESSAGE_BYTES, TunnelStatus
from .tape import Exchange, Hear, PlaybackError, Tape, TunnelledStream


@attrs.define
class _Stream:
    tape: TunnelledStream
    hears: deque[Hear]
    last: float
    said: int = 0
    half: memoryview | None = None  # what the window had no room for

    def due(self) -> float | None:
        """When the next words are due; now, where some are begun."""
        if self.half is not None:
            return None  # it waits for room, not for time
        if self.hears and self.hears[0].after <= self.said:
            return self.last + self.hears[0].delay
        return None


class PlaybackTunnel:
    """The server's end of one session.

    :ivar finished: the connection is over.
    """

    def __init__(self, tape: Tape, exchange: Exchange, key: str, *, now: float) -> None:
        """
        :param exchange: the session as it was recorded.
        :param key: the client's, of the upgrade.
        """
        self._tape, self._exchange = tape, exchange
        self._last = now
        self._lost = False
        limits = WebSocketLimits(ping_interval=None, max_message_bytes=MAX_MESSAGE_BYTES)
        self._websocket = WebSocket("server", limits, now=now)
        self._tunnel = HostTunnel(now=now)
        self._streams: dict[int, _Stream] = {}
        self._head: list[Output] = [_HEAD + accept_token(key.encode()) + b"\r\n\r\n"]

    @property
    def finished(self) -> bool:
        """The connection is over."""
        return self._lost or self._websocket.finished

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """Bytes of the client.

        :raises PlaybackError: this is not what was recorded.
        """
        self._last = now
        self._websocket.receive_data(data, now=now)
        while (event := self._websocket.next_event()) is not None:
            match event:
                case Message(message):
                    self._tunnel.receive(message, now=now)
                case Closed() | Failed():
                    return
        self._take_events(now)
        self._play(now)

    def _take_events(self, now: float) -> None:
        while (event := self._tunnel.next_event()) is not None:
            match event:
                case Dial(stream, port):
                    self._dial(stream, port, now)
                case StreamData(stream, data):
                    self._tunnel.consumed(stream, len(data), now=now)
                    if stream in self._streams:
                        self._said(self._streams[stream], bytes(data), now)
                case StreamReset(stream):
                    self._streams.pop(stream, None)
                case StreamEnded():
                    pass  # the other direction goes on

    def _dial(self, id: int, port: int, now: float) -> None:
        # Of this session first; tasks that run in another order may open it in another one.
        candidates = [*(self._exchange.streams or ()), *self._tape.streams()]
        tape = next((tape for tape in candidates if tape.port == port and not tape.used), None)
        if tape is None:
            raise PlaybackError(
                f"the program connects to port {port} in the sandbox, "
                "which the trace does not hold (any more)"
            )
        tape.used = True
        if not tape.answered:
            return
        if tape.refusal is not None:
            self._tunnel.refused(id, now=now, status=TunnelStatus(tape.refusal))
            return
        self._tunnel.connected(id, now=now)
        self._streams[id] = _Stream(tape, deque(tape.hears), now)

    def _said(self, stream: _Stream, data: bytes, now: float) -> None:
        expected = bytes(stream.tape.says[stream.said : stream.said + len(data)])
        if data != expected:
            raise PlaybackError(
                f"the program says {data!r:.200} on a connection to port {stream.tape.port}, "
                f"where it said {expected!r:.200} when the trace was recorded"
            )
        stream.said += len(data)
        stream.last = now

    def next_deadline(self) -> float | None:
        """When something is due."""
        if self.finished:
            return None
        streams = [stream.due() for stream in self._streams.values()]
        return earliest(
            self._end(), self._tunnel.next_deadline(), self._websocket.next_deadline(), *streams
        )

    def _end(self) -> float | None:
        """When the connection is lost: after all that was recorded in it, if it was."""
        if not self._exchange.hears or any(stream.hears for stream in self._streams.values()):
            return None
        all_used = all(stream.used for stream in self._exchange.streams or ())
        return self._last + self._exchange.hears[0].delay if all_used else None

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        self._tunnel.handle_timeout(now=now)
        self._websocket.handle_timeout(now=now)
        self._play(now)

    def _play(self, now: float) -> None:
        for id, stream in list(self._streams.items()):
            while self._play_next(id, stream, now):
                self._last = now
        end = self._end()
        if end is None or end > now:
            return
        if self._exchange.close_code is not None and self._websocket.open:
            self._websocket.close(self._exchange.close_code, now=now)
        else:
            self._lost = True

    def _play_next(self, id: int, stream: _Stream, now: float) -> bool:
        if stream.half is None:
            due = stream.due()
            if due is None or due > now:
                return False
            heard = stream.hears.popleft()
            stream.last = due
            if heard.data is None:
                self._tunnel.send_eof(id, now=now)
                return True
            stream.half = memoryview(heard.data)
        taken = self._tunnel.send(id, stream.half, now=now)
        stream.half = stream.half[taken:] or None
        return stream.half is None

    def data_to_send(self, *, now: float) -> list[Output]:
        """Bytes for the client."""
        self._play(now)
        while self._websocket.open and (message := self._tunnel.next_message()) is not None:
            self._websocket.send_bytes(message, now=now)
        if self._tunnel.finished and self._websocket.open:
            self._websocket.close(self._tunnel.close_code, now=now)
        output, self._head = self._head + self._websocket.data_to_send(), []
        return output


_HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-accept: "
)
