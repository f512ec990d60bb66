"""One yamux stream, as its session sees it."""

from __future__ import annotations

from collections import deque

from .base import Buffer
from .yamux_frames import DATA, FIN, INITIAL_WINDOW, MAX_PAYLOAD, WINDOW_UPDATE, encode
from .yamux_windows import ReceiveWindow


class Stream:
    """What is known of a stream that is not over in both directions.

    :ivar window: what the peer may send.
    :ivar send_window: what we may send, in bytes.
    :ivar outgoing_bytes: what the application gave and is not in a frame yet.
    :ivar credit: what the peer is to be granted with the next frame.
    :ivar acknowledged: the peer has accepted the stream, or has opened it.
    :ivar end_wanted: the application sends nothing more.
    :ivar end_sent: the peer will know, too.
    :ivar end_received: the peer sends nothing more.
    :ivar abandoned: the application reads nothing more.
    :ivar scheduled: it stands in the queue of those that have something to send.
    """

    def __init__(self, id: int, window: ReceiveWindow, *, acknowledged: bool) -> None:
        self.id, self.window, self.acknowledged = id, window, acknowledged
        self.send_window = INITIAL_WINDOW
        self.outgoing_bytes = 0
        self._outgoing: deque[memoryview] = deque()
        self.credit = 0
        self.end_wanted = self.end_sent = self.end_received = False
        self.abandoned = self.scheduled = False

    def enqueue(self, data: Buffer) -> None:
        """Take data of the application. What may still change is copied."""
        view = memoryview(data)
        if view:
            self._outgoing.append(view if type(view.obj) is bytes else memoryview(bytes(view)))
            self.outgoing_bytes += len(view)

    @property
    def can_send(self) -> bool:
        """Whether it has something to send, and may."""
        if self.outgoing_bytes:
            return self.send_window > 0
        return self.end_wanted and not self.end_sent

    @property
    def over(self) -> bool:
        """Both directions have ended."""
        return self.end_sent and self.end_received

    def next_frame(self) -> bytes:
        """The next frame of data, or the end; only when `can_send`."""
        if not self.outgoing_bytes:
            self.end_sent = True
            return encode(WINDOW_UPDATE, FIN, self.id, 0)
        size = min(self.outgoing_bytes, self.send_window, MAX_PAYLOAD)
        self.send_window -= size
        self.outgoing_bytes -= size
        pieces: list[bytes | memoryview] = [encode(DATA, 0, self.id, size)]
        while size:
            first = self._outgoing[0]
            pieces.append(first[:size])
            if len(first) > size:
                self._outgoing[0] = first[size:]
            else:
                self._outgoing.popleft()
            size -= min(len(first), size)
        return b"".join(pieces)
