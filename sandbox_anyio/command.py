"""Handles on running commands: the driver of an `ExecSession`."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Self
from weakref import WeakSet

from sandbox_proto.errors import (
    SandboxClientError,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxTimeoutError,
)
from sandbox_proto.flows.commands import input_text
from sandbox_proto.machines.base import earliest
from sandbox_proto.machines.exec_events import (
    CommandExited,
    CommandFailed,
    CommandStarted,
    InputInDoubt,
    OutputLost,
    Reattaching,
    SessionEvent,
)
from sandbox_proto.machines.exec_output import STREAMS, OutputCollector, OutputWatch
from sandbox_proto.machines.exec_session import ExecSession
from sandbox_proto.wire.command_models import ExecutionResult, OutputChunk
from sandbox_proto.wire.urls import Origin

from .command_output import OutputFiles, OutputOptions
from .log import exec_log
from .network import ConnectFailed, Event, Interruptible
from .pump import Pump

if TYPE_CHECKING:
    from .client import AsyncSandboxClient

# What is kept of each stream once somebody iterates over the output, in bytes.
ITERATED_KEEP = 1024 * 1024

# How long the end of a command whose caller is gone may take, in seconds. The session gives up
# on its own before; this is for a network that hangs.
KILL_PATIENCE = 10.0


class AsyncCommandHandle:
    """A running command: its output as it comes, its result, its input, its end.

    Iterate over it for output, or await `result`. Nothing is read while nobody waits: then
    the command is held back by its full pipe, as with a local process. Several tasks may
    use one handle; whoever waits first drives the connection for all.

    As a context manager it kills the command at the end of the block, unless it has ended or
    `detach` was called. The only signal there is is SIGKILL: the protocol knows no other.

    Obtained from `AsyncSandbox.run(..., wait=False)` and `AsyncSandbox.reconnect`.
    """

    MAX_AUTO_RECONNECTS = 5

    def __init__(
        self,
        session: ExecSession,
        client: AsyncSandboxClient,
        reconnect: Callable[[AsyncCommandHandle], Awaitable[AsyncCommandHandle]],
        options: OutputOptions | None = None,
        *,
        detached: bool = False,
    ) -> None:
        self._session = session
        self._client = client
        self._reconnect = reconnect
        self._options = options = options or OutputOptions()
        self._callbacks = {"stdout": options.on_stdout, "stderr": options.on_stderr}
        self._has_callbacks = any(self._callbacks.values())
        self._detached = detached
        self._pump: Pump[SessionEvent] | None = None
        self._origin: Origin | None = None  # where it leads to
        self._driving = False
        self._changed: Event | None = None  # made by the first who waits for it
        self._mutex = client.network.mutex()
        self._chunks: deque[OutputChunk] = deque()
        # Who will still read chunks: loops that live, and those who ask for them one by one.
        self._iterators: WeakSet[_Iterator] = WeakSet()
        self._read_by_hand = False
        self._dialing: Interruptible | None = None
        self._collected = OutputCollector(options.kept, keep_bytes=not options.text)
        self._watches: list[OutputWatch] = []
        self._files = None if options.spill_to is None else OutputFiles(options.spill_to)
        self._pid: int | None = None
        self._started = False
        self._input_in_doubt = False
        self._result: ExecutionResult | None = None
        self._error: SandboxClientError | None = None
        client.track(self)

    # --- what is known ----------------------------------------------------------------

    @property
    def command_id(self) -> str:
        """The id by which any client can reattach to this command."""
        return self._session.command_id

    @property
    def pid(self) -> int | None:
        """The process id inside the sandbox; None if unknown."""
        return self._pid

    @property
    def last_stdout_offset(self) -> int:
        """How many bytes of standard output have been received."""
        return self._session.last_stdout_offset

    @property
    def last_stderr_offset(self) -> int:
        """How many bytes of standard error have been received."""
        return self._session.last_stderr_offset

    @property
    def stdin_closed(self) -> bool:
        """Whether the command's standard input is known to be closed."""
        return self._session.stdin_closed

    @property
    def input_in_doubt(self) -> bool:
        """Whether the connection was lost while input was on its way, at least once."""
        return self._input_in_doubt

    @property
    def result(self) -> Awaitable[ExecutionResult]:
        """Await it for the command's end; includes the output that was iterated over before.

        Of output that was iterated over 1 MiB of each stream is kept: the head and the tail;
        ``result.omitted`` says what is not there. `max_output` in `run` asks for more or less.

        :raises CommandTimeoutError: the command ran longer than its limit.
        :raises SandboxOperationError: the server reported another failure of the command.
        :raises SandboxConnectionError: the connection was lost and could not be had again.

        What these errors know of the command stands in their ``command``.
        """
        return self._wait_result()

    async def _wait_result(self) -> ExecutionResult:
        await self._drive_until(self._is_over_unread)
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _is_over_unread(self) -> bool:
        if not self._read_by_hand and not self._iterators:
            self._chunks.clear()  # nobody will read what the result has too
        return self._over

    # --- output -----------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[OutputChunk]:
        self._is_iterated()
        iterator = _Iterator(self, self._chunks)
        self._iterators.add(iterator)  # for as long as the loop lives
        return iterator

    async def __anext__(self) -> OutputChunk:
        self._read_by_hand = True
        self._is_iterated()
        return await self.next_chunk()

    def _is_iterated(self) -> None:
        """Who takes the output piece by piece need not have all of it a second time."""
        if self._options.kept is None:
            self._collected.limit(ITERATED_KEEP)

    async def next_chunk(self) -> OutputChunk:
        """The next piece of output.

        :raises StopAsyncIteration: there is none.
        """
        if not self._chunks:
            await self._drive_until(lambda: bool(self._chunks) or self._over)
        if self._chunks:
            return self._chunks.popleft()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def take_chunks(self) -> list[OutputChunk]:
        """The output that is there without waiting; it is then gone from the iteration."""
        taken = list(self._chunks)
        self._chunks.clear()
        return taken

    async def wait_started(self) -> None:
        """Wait until the command runs.

        :raises SandboxClientError: it could not be started.
        """
        await self._drive_until(lambda: self._started or self._over)
        if self._error is not None and not self._started:
            raise self._error

    async def wait_for_output(
        self,
        pattern: str | re.Pattern[str],
        timeout: float | None = None,
        *,
        stream: Literal["stdout", "stderr"] | None = None,
    ) -> re.Match[str]:
        """Wait until the output matches a pattern; takes nothing away from the iteration.

        What came before counts, as far as it is kept.

        :param pattern: a regular expression.
        :param timeout: patience in seconds; None is without limit.
        :param stream: the stream to look in; None is both, each by itself.
        :returns: the first match.
        :raises SandboxTimeoutError: no match came in time (``limit`` is ``output``).
        :raises SandboxOperationError: the command ended without one.
        :raises SandboxConnectionError: the connection was lost and could not be had again.
        """
        watch = OutputWatch(pattern, stream)
        for name in STREAMS:
            watch.add(name, self._collected.text(name))
        until = None if timeout is None else self._now() + timeout
        self._watches.append(watch)
        try:
            await self._drive_until(lambda: watch.found is not None or self._over, until=until)
        finally:
            self._watches.remove(watch)
        if watch.found is not None:
            return watch.found
        if self._error is not None:
            raise self._error
        if self._result is not None:
            text = f"the command ended with exit code {self._result.exit_code}"
            raise SandboxOperationError(f"{text} and no output matched {pattern!r}", "command")
        text = f"no output matched {pattern!r} within {timeout:g} s"
        raise SandboxTimeoutError(text, limit="output", seconds=timeout)

    # --- influence --------------------------------------------------------------------

    async def send_input(self, data: str | bytes) -> None:
        """Write text to the command's standard input or terminal.

        Returns before the command has read it. Input that was on its way when the connection
        was lost is not sent again, because it may be there: then `input_in_doubt` is set.

        :param data: text, or its UTF-8.
        :raises SandboxOperationError: standard input is closed.
        :raises ValueError: it is not text.
        """
        text = input_text(data)
        with self._mutex:
            self._session.send_input(text, now=self._now())
            self._nudge()
        await self._let_others_run()

    async def close_input(self) -> None:
        """Close the command's standard input. Harmless when closed; nothing on a terminal."""
        with self._mutex:
            self._session.close_input(now=self._now())
            self._nudge()
        await self._let_others_run()

    async def kill(self) -> None:
        """Kill the command's whole process group (SIGKILL) and wait, at most 5 s, for its end.

        The end is then to be had from `result`, as a rule with exit code 137. Where an event
        stream is in use, a WebSocket is opened for it.

        :raises SandboxTimeoutError: the server did not confirm it in time.
        """
        with self._mutex:
            self._session.kill(now=self._now())
            self._nudge()
        await self._drive_until(lambda: self._over)
        if isinstance(self._error, SandboxTimeoutError):
            raise self._error

    async def reconnect(self) -> AsyncCommandHandle:
        """A new handle on the same command, from the present offsets on, without callbacks."""
        return await self._reconnect(self)

    async def end_shielded(self) -> None:
        """Kill the command although this task is being cancelled; takes a bounded time."""
        with self._client.network.shielded(KILL_PATIENCE):
            try:
                await self.kill()
            except SandboxClientError as error:
                exec_log.warning("command %s may still be running: %s", self.command_id, error)

    def detach(self) -> None:
        """Let the command go on when the block of this handle, or the task in `run`, ends."""
        self._detached = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Kill the command, unless it is over or was detached; then only let go of it."""
        if not self._over and not self._detached:
            await self.end_shielded()
        self.close()

    def close(self) -> None:
        """Leave the command to itself and drop the connection. Waits for nothing."""
        with self._mutex:
            self._session.detach(now=self._now())
            if not self._over:
                message = "the handle was closed before the command's end"
                self._error = SandboxConnectionError(message)
                self._error.command = self._collected.outcome(self.command_id, True)
            self._drop_connection()
            self._settle()
            self._tell_others()

    # --- driving ----------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._result is not None or self._error is not None

    async def _drive_until(self, done: Callable[[], bool], *, until: float | None = None) -> None:
        """Drive the session until `done`, or wait while another task drives it.

        :param until: when to give up.
        """
        attended = False
        while not done() and not (until is not None and self._now() >= until):
            with self._mutex:
                change = self._next_change() if self._driving else None
                self._driving = True
            if change is not None:
                attended = False
                await self._follow(change, until)
                continue
            try:
                if not attended:
                    self._session.resume(now=self._now())
                    attended = True
                await self._step(until)
            finally:
                with self._mutex:
                    self._driving = False
                    self._tell_others()

    async def _follow(self, change: Event, until: float | None) -> None:
        """Wait for the leader; time passes for the followers even where he is stuck (dialling)."""
        await change.wait(earliest(until, self._session.next_deadline()))
        with self._mutex:
            self._session.handle_timeout(now=self._now())
            self._note_ending()

    async def _step(self, until: float | None) -> None:
        """One round: take what happened, else connect, move bytes or let time pass."""
        if await self._take_events():
            return
        session, pump = self._session, self._pump
        if session.connection_wanted is not None:
            await self._connect()
        elif pump is not None:
            await pump.step(until)
        else:
            with self._mutex:
                change = self._next_change()
            await change.wait(earliest(until, session.next_deadline()))
            with self._mutex:
                session.handle_timeout(now=self._now())
        await self._take_events()

    async def _connect(self) -> None:
        session, network = self._session, self._client.network
        with self._mutex:
            self._drop_connection()
            origin, until = session.connection_wanted, session.next_deadline()
        if origin is None:
            return
        stream, fault = None, None
        opened = self._client.take_opened(session.takes_opened)
        if opened is not None:
            stream = opened.stream
        elif session.takes_kept:
            stream = self._client.take_kept(origin)
        kept = stream is not None and opened is None
        if stream is None:
            with network.interruptible() as self._dialing:
                try:
                    stream = await self._client.connect(origin, until=until)
                except ConnectFailed as failure:
                    fault = failure.fault
            self._dialing = None
        with self._mutex:
            now = self._now()
            if session.connection_wanted is None:  # killed or closed meanwhile
                if stream is not None:
                    stream.close()
            elif stream is None:
                assert fault is not None  # only the end of the session interrupts
                session.connect_failed(fault, now=now)
                session.handle_timeout(now=now)
            else:
                if opened is not None:
                    session.connected(now=now, opened=opened.wire)
                elif kept:
                    session.connected(now=now, kept=True)
                else:
                    session.connected(now=now)
                self._origin = origin
                self._pump = Pump(session, stream, network, self._mutex)

    async def _take_events(self) -> bool:
        """Hand out what happened. Returns whether anything had."""
        any_event = False
        while True:
            if chunks := self._take_output():
                any_event = True
                if self._has_callbacks:
                    for chunk in chunks:
                        await self._call_back(chunk)
            event = self._next_event()
            if event is None:
                return any_event
            any_event = True
            if isinstance(event, OutputChunk):
                await self._call_back(event)

    async def _call_back(self, chunk: OutputChunk) -> None:
        if callback := self._callbacks[chunk.stream]:
            outcome = callback(chunk.data if self._options.text else chunk.raw)
            if inspect.isawaitable(outcome):
                await outcome

    def _take_output(self) -> list[OutputChunk]:
        """Move all output that comes next to where its waiters look."""
        with self._mutex:
            chunks = self._session.take_output()
            if chunks:
                self._collected.add_run(chunks)
                self._show(chunks)
            return chunks

    def _next_event(self) -> SessionEvent | None:
        """Move one event from the session to where its waiters look."""
        with self._mutex:
            event = self._session.next_event()
            match event:
                case OutputChunk():
                    self._collected.add(event)
                    self._show([event])
                case OutputLost():
                    self._collected.add(event)
                    exec_log.warning("command %s: output lost: %s", self.command_id, event.missing)
                case CommandStarted(_, pid):
                    self._started = True
                    self._pid = pid
                    self._client.refused_transports |= self._session.refused
                case InputInDoubt():
                    self._input_in_doubt = True
                    exec_log.warning("command %s: input may be lost", self.command_id)
                case Reattaching(reason, delay):
                    exec_log.info("command %s: %s; again in %g s", self.command_id, reason, delay)
                case CommandExited(exit_code):
                    self._result = self._collected.result(exit_code)
                case CommandFailed(error, may_be_running):
                    error.command = self._collected.outcome(self.command_id, may_be_running)
                    self._error = error
            if self._pump is not None and self._session.finished:
                self._drop_connection()
            if self._over:
                self._settle()
            return event

    def _show(self, chunks: list[OutputChunk]) -> None:
        """Give output to all but its keeper."""
        if self._options.iterable:
            self._chunks.extend(chunks)
        if self._files is not None:
            for chunk in chunks:
                self._files.write(chunk)
        for watch in self._watches:
            for chunk in chunks:
                watch.add(chunk.stream, chunk.data)

    def _settle(self) -> None:
        """Nothing follows."""
        self._client.untrack(self)
        if self._dialing is not None:
            self._dialing.interrupt()
        if self._files is not None:
            self._files.close()
            self._files = None

    def _note_ending(self) -> None:
        """A follower let time pass: if that ended the session, everybody is to know."""
        while self._session.over and not self._over and self._next_event() is not None:
            pass

    def _drop_connection(self) -> None:
        if self._pump is None:
            return
        pump, self._pump = self._pump, None
        unfinished = self._session.unfinished
        if unfinished is not None and self._origin is not None:
            self._client.keep(self._origin, pump.stream, unfinished)
        else:
            pump.close()

    def _nudge(self) -> None:
        """The session was given a command: send it, and let whoever drives look again."""
        if self._pump is not None:
            self._pump.send_now()
            self._pump.stream.interrupt()
        self._tell_others()

    def _next_change(self) -> Event:
        if self._changed is None:
            self._changed = self._client.network.event()
        return self._changed

    def _tell_others(self) -> None:
        change, self._changed = self._changed, None
        if change is not None:
            change.set()

    async def _let_others_run(self) -> None:
        await self._client.network.sleep_until(self._now())

    def _now(self) -> float:
        return self._client.network.now()


class _Iterator:
    """One loop over the output of a handle. While it lives, its output is kept for it."""

    def __init__(self, handle: AsyncCommandHandle, chunks: deque[OutputChunk]) -> None:
        self._handle, self._chunks = handle, chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OutputChunk:
        # What is there already is given without asking the handle.
        return self._chunks.popleft() if self._chunks else await self._handle.next_chunk()
