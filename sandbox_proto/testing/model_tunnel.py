"""The model host's end of a tunnel: ports that functions answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from ..host.tunnel import Dial, HostTunnel
from ..machines.byte_queue import ByteQueue
from ..machines.yamux_events import StreamData, StreamEnded, StreamReset

# Bytes of the client's in, bytes for the client out; b"" comes in when the client says no more.
Service = Callable[[bytes], bytes]

_MOST_REPLIES = 256 * 1024


def echo(data: bytes) -> bytes:
    """A service that says everything again."""
    return data


@attrs.define
class _Line:
    """A connection to a port."""

    service: Service
    replies: ByteQueue = attrs.field(factory=ByteQueue)
    taken: int = 0
    ended: bool = False

    def hear(self, data: bytes) -> None:
        """The client says something."""
        self.taken += len(data)
        self.ended = not data
        if reply := self.service(data):
            self.replies.put(reply)


class ModelTunnel:
    """One session. See `HostTunnel`.

    :param ports: what answers on which port: makes a service for every connection.
    """

    def __init__(self, ports: Mapping[int, Callable[[], Service]], *, now: float) -> None:
        self.session = HostTunnel(now=now)
        self._ports = ports
        self._lines: dict[int, _Line] = {}

    def receive(self, message: str | bytes, *, now: float) -> None:
        """A message of the client."""
        self.session.receive(message, now=now)
        self._serve(now)

    def next_message(self, *, now: float) -> bytes | None:
        """The next message for the client, or None."""
        while (message := self.session.next_message()) is None and self._reply(now):
            pass
        return message

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        self.session.handle_timeout(now=now)
        self._serve(now)

    def _serve(self, now: float) -> None:
        while (event := self.session.next_event()) is not None:
            match event:
                case Dial(stream, port):
                    self._dial(stream, port, now)
                case StreamData(stream, data) if stream in self._lines:
                    self._lines[stream].hear(bytes(data))
                case StreamEnded(stream) if stream in self._lines:
                    self._lines[stream].hear(b"")
                case StreamReset(stream):
                    self._lines.pop(stream, None)

    def _dial(self, stream: int, port: int, now: float) -> None:
        if (make := self._ports.get(port)) is None:
            self.session.refused(stream, now=now)
            return
        self._lines[stream] = _Line(make())
        self.session.connected(stream, now=now)

    def _reply(self, now: float) -> bool:
        """Hand the session what it has room for. Returns whether that was anything."""
        moved = False
        for stream, line in list(self._lines.items()):
            while line.replies and (room := self.session.room(stream)):
                self.session.send(stream, line.replies.take(room), now=now)
                moved = True
            if line.taken and len(line.replies) < _MOST_REPLIES:
                # A client that does not listen may not go on talking either.
                self.session.consumed(stream, line.taken, now=now)
                line.taken = 0
                moved = True
            if line.ended and not line.replies:
                self.session.send_eof(stream, now=now)
                del self._lines[stream]
                moved = True
        return moved
