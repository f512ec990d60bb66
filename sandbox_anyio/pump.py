"""Driving one machine on one stream: the only code that moves bytes.

The pump has no tasks of its own. Whoever waits for something drives: `step` does one
round of I/O (send what is due, read what comes, or let time pass) and returns. So a
connection needs no nursery, nothing runs that nobody waits for, and a consumer that
does not ask stops the reading, which is all the backpressure there is to it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.base import SEND_EOF, Machine

from .network import ByteStream, Network

EventT = TypeVar("EventT")

# A peer that always has bytes ready must still let other tasks run.
_EAGER_READS = 16


class Pump(Generic[EventT]):
    """One machine, one stream, one driver at a time; `send_now` may be called by anybody."""

    def __init__(self, machine: Machine[EventT], stream: ByteStream, network: Network) -> None:
        self.machine = machine
        self.stream = stream
        self._network = network
        self._pending: deque[memoryview | None] = deque()  # None is the end of sending
        self._can_send = True
        self._eager_reads = 0
        self._waiting: anyio.CancelScope | None = None

    async def next_event(self) -> EventT | None:
        """Drive until the machine has an event; None when the connection is finished."""
        while (event := self.machine.next_event()) is None:
            if self.machine.finished:
                return None
            await self.step()
        return event

    async def step(self) -> None:
        """One round of I/O."""
        if self.send_now():
            await self._read()
        else:
            await self._until_sendable()

    def send_now(self) -> bool:
        """Hand the stream what it takes without waiting. Returns whether all is on its way.

        A step that is waiting meanwhile is made to look at its deadline again.
        """
        for chunk in self.machine.data_to_send():
            self._pending.append(None if chunk is SEND_EOF else memoryview(chunk))
        if self._waiting is not None:
            self._waiting.deadline = self._deadline()
        if not self._can_send:
            self._pending.clear()
        try:
            while self._pending and (view := self._pending[0]) is not None:
                if view:
                    sent = self.stream.try_send(view)
                    if not sent:
                        return False
                    self.machine.data_sent(sent, now=self._network.now())
                    self._pending[0] = view[sent:]
                else:
                    self._pending.popleft()
        except OSError:
            # The peer may have answered before it stopped listening: go on reading, to learn it.
            self._can_send = False
            self._pending.clear()
            return True
        return not self._pending and not self.stream.unflushed

    async def _until_sendable(self) -> None:
        """The stream takes no more: wait for room, and meanwhile for what the peer has to say."""
        async with anyio.create_task_group() as either:

            async def read() -> None:
                await self._read()
                either.cancel_scope.cancel()

            if self.machine.wants_read:
                either.start_soon(read)
            try:
                while not self.send_now():
                    if self._pending and self._pending[0] is None:
                        await self.stream.send_eof()
                        self._pending.popleft()
                    else:
                        await self.stream.wait_sendable()
            except OSError:
                self._can_send = False
            either.cancel_scope.cancel()

    async def _read(self) -> None:
        """Wait for bytes until the machine's deadline, and feed it the outcome."""
        machine = self.machine
        if machine.wants_read and self._read_now():
            await self._let_others_run()
            return
        with anyio.CancelScope(deadline=self._deadline()) as scope:
            self._waiting = scope
            try:
                if machine.wants_read:
                    await self.stream.wait_receivable()
                else:
                    await anyio.sleep_forever()
            except OSError as error:
                self._lost(error)
            finally:
                self._waiting = None
        if machine.wants_read and not machine.finished:
            # Also after a timeout: what has arrived meanwhile counts.
            self._read_now()
        machine.handle_timeout(now=self._network.now())

    def _read_now(self) -> bool:
        """Feed the machine what is there. Returns whether anything was."""
        machine, now = self.machine, self._network.now()
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

    async def _let_others_run(self) -> None:
        self._eager_reads += 1
        if self._eager_reads >= _EAGER_READS:
            self._eager_reads = 0
            await anyio.lowlevel.checkpoint()

    def _deadline(self) -> float:
        deadline = self.machine.next_deadline()
        return math.inf if deadline is None else deadline

    def _lost(self, error: OSError) -> None:
        message = f"the connection was lost: {error.strerror or error}"
        fault = Fault(FaultKind.DISCONNECTED, message)
        self.machine.connection_lost(fault, now=self._network.now())

    def close(self) -> None:
        """Give the last words a chance to leave, without waiting, and close."""
        self.send_now()
        self.stream.close()
