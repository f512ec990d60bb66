"""The transport's side of a conversation that outlives its connections.

Whatever link there is at the moment gets what the driver feeds and gives what is to be sent.
"""

from __future__ import annotations

from ..errors import LocalProtocolError
from ..faults import Fault
from .base import Buffer, Output
from .exec_link import Link


class LinkHolder:
    """See the module's text, and `machines.base` for how to drive it."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._link: Link | None = None
        self._last_words: list[Output] = []

    def receive_data(self, data: Buffer, *, now: float) -> None:
        self._now = now
        if self._link is not None:
            self._link.receive_data(data, now=now)

    def receive_eof(self, *, now: float) -> None:
        self._now = now
        if self._link is not None:
            self._link.receive_eof(now=now)

    def connection_lost(self, fault: Fault, *, now: float) -> None:
        self._now = now
        if self._link is not None:
            self._link.connection_lost(fault, now=now)

    def data_to_send(self) -> list[Output]:
        output, self._last_words = self._last_words, []
        return output if self._link is None else output + self._link.data_to_send()

    def data_sent(self, count: int, *, now: float) -> None:
        self._now = now
        if self._link is not None:
            self._link.data_sent(count, now=now)

    def resume(self, *, now: float) -> None:
        """The driver was away and reads again: the silence was not the server's."""
        if self._link is not None:
            self._link.resume(now=now)

    def receive_buffer(self) -> memoryview | None:
        return None

    def buffer_filled(self, count: int, *, now: float) -> None:
        raise LocalProtocolError("this machine gave no buffer")

    @property
    def wants_read(self) -> bool:
        return self._link is not None and not self._link.finished

    @property
    def finished(self) -> bool:
        """The present connection is of no further use (another one may be wanted)."""
        return self._link is None or self._link.finished

    def _drop_link(self, code: int | None, now: float) -> None:
        """Leave the present connection, with a close frame if there is cause for one."""
        if self._link is not None:
            if code is not None:
                self._link.close(code, now=now)
            self._last_words = self._link.data_to_send()
            self._link = None
