"""Driving one machine on one stream: the only code that moves bytes.

The pump has no tasks of its own. Whoever waits for something drives: `step` does one
round of I/O (send what is due, read what comes, or let time pass) and returns. So a
connection needs no nursery, nothing runs that nobody waits for, and a consumer that
does not ask stops the reading, which is all the backpressure there is to it.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.base import SEND_EOF, Machine, earliest

from .network import ByteStream, Network

EventT = TypeVar("EventT")

# A peer that always has bytes ready must still let other tasks run.
_EAGER_READS = 16


class Pump(Generic[EventT]):
    """One machine, one stream, one driver at a time; `send_now` may be called by anybody.

    :param mutex: held whenever the machine or the stream is touched.
    """

    def __init__(
        self,
        machine: Machine[EventT],
        stream: ByteStream,
        network: Network,
        mutex: AbstractContextManager[object] | None = None,
    ) -> None:
        self.machine = machine
        self.stream = stream
        self._network = network
        self._mutex = nullcontext() if mutex is None else mutex
        self._pending: deque[memoryview | None] = deque()  # None is the end of sending
        self._can_send = True
        self._eager_reads = 0
        self._just_sent = False

    async def next_event(self) -> EventT | None:
        """Drive until the machine has an event; None when the connection is finished."""
        while (event := self.machine.next_event()) is None:
            if self.machine.finished:
                return None
            await self.step()
        return event

    async def step(self, until: float | None = None, *, sending: bool = False) -> None:
        """One round of I/O.

        :param until: when to be back at the latest; None: when the machine's time has come.
        :param sending: the caller waits for room only: be back as soon as all is sent.
        """
        machine = self.machine
        with self._mutex:
            all_sent = self.send_now()
            if sending and all_sent:
                return  # room came between the caller's look and ours: nothing would wake us
            readable, until = machine.wants_read, earliest(until, machine.next_deadline())
            # What has just been sent is not answered yet.
            just_sent, self._just_sent = self._just_sent, False
            if readable and not just_sent and self._read_now(self._network.now()):
                self._eager_reads += 1
                if self._eager_reads < _EAGER_READS:
                    return
                until = self._network.now()  # only to let others run
            self._eager_reads = 0
        try:
            await self.stream.wait(readable=readable, writable=not all_sent, until=until)
        except OSError as error:
            self._lost(error)
        with self._mutex:
            self.send_now()
            now = self._network.now()
            if machine.wants_read and not machine.finished:
                # Also after a timeout: what has arrived meanwhile counts.
                self._read_now(now)
            machine.handle_timeout(now=now)

    def send_now(self) -> bool:
        """Hand the stream what it takes without waiting. Returns whether all is on its way."""
        for chunk in self.machine.data_to_send():
            self._pending.append(None if chunk is SEND_EOF else memoryview(chunk))
        if not self._can_send:
            self._pending.clear()
        try:
            while self._pending:
                view = self._pending[0]
                if view is None:
                    if not self.stream.try_flush():
                        return False
                    self.stream.send_eof()
                elif view:
                    sent = self.stream.try_send(view)
                    if not sent:
                        return False
                    self._just_sent = True
                    self.machine.data_sent(sent, now=self._network.now())
                    self._pending[0] = view[sent:]
                    continue
                self._pending.popleft()
            return self.stream.try_flush()
        except OSError:
            # The peer may have answered before it stopped listening: go on reading, to learn it.
            self._can_send = False
            self._pending.clear()
            return True

    def _read_now(self, now: float) -> bool:
        """Feed the machine what is there. Returns whether anything was."""
        machine = self.machine
        try:
            buffer = machine.receive_buffer()
            if buffer is not None:
                with buffer:
                    count = self.stream.try_receive_into(buffer)
                if count:
                    machine.buffer_filled(count, now=now)
                elif count is not None:
                    machine.receive_eof(now=now)
                return count is not None
            data = self.stream.try_receive()
            if data:
                machine.receive_data(data, now=now)
            elif data is not None:
                machine.receive_eof(now=now)
            return data is not None
        except OSError as error:
            self._lost(error)
            return True

    def _lost(self, error: OSError) -> None:
        message = f"the connection was lost: {error.strerror or error}"
        fault = Fault(FaultKind.DISCONNECTED, message)
        self.machine.connection_lost(fault, now=self._network.now())

    def close(self) -> None:
        """Give the last words a chance to leave, without waiting, and close."""
        self.send_now()
        self.stream.close()
