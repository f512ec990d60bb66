"""One command from start to exit, over as many attachments and any transport it takes.

The session is a machine like any other (`machines.base`), except that its transport
may be lost and replaced: whenever `connection_wanted` says so, the driver connects
and answers `connected` or `connect_failed`.

    state       on                        then
    ---------   -----------------------   ------------------------------------------------
    CONNECTING  connected                 OPENING (a WebSocket's upgrade goes out)
                connect_failed            WAITING (backoff), or failed when budgets are used up
    OPENING     link opened               ATTACHING (the command or a reconnect is asked for)
                not known there           CONNECTING by the next transport, or failed
                link ended                WAITING, or failed
    ATTACHING   started                   RUNNING
                error                     failed
                anything else             RUNNING; failed, if it was never seen running
                not known there           CONNECTING by the next transport, or failed
                kill()                    CONNECTING, where a fresh WebSocket is needed for it
                link ended                WAITING, or failed; CONNECTING if it was a kept one
    RUNNING     stdout, stderr            RUNNING; offsets move, the retry budget is refilled
                ack_required              ATTACHING (resumed from the offsets), or CONNECTING
                kill(), input, overdue    CONNECTING, where a fresh WebSocket is needed for it
                exit                      finished
                error                     failed
                link ended                WAITING, or failed
    WAITING     its time has come, kill() CONNECTING
    any         kill() not confirmed      failed
    any         the client's deadline     failed, after an attempt to kill
    any         detach()                  finished, without a word

A command is asked for again only with the same command id, which the server treats as
"attach, if it exists", so it starts at most once; a blocking request, which has no id, is
never repeated once it went out. Budgets and backoffs are in `machines.exec_retries`.
Mended, against the vendor's client: per-call headers are kept on reattachment, a kill
reads on until the exit, a reload (1001) reattaches at once, replayed bytes are dropped by
offset, and a gap is told.

A kill does not queue up behind input that may be stuck: it takes a fresh connection then.
Kills and input need a WebSocket. Where another transport is in use, the session goes over
to one for them; a blocking request is hung up on, which is all that can be done there.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping, Sequence

from ..config import ExecTimeouts
from ..errors import (
    CommandTimeoutError,
    LocalProtocolError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxProtocolError,
    SandboxTimeoutError,
)
from ..faults import Fault, FaultKind
from ..plans.prewarm import Destination
from ..plans.retry import Random
from ..wire.command_models import OutputChunk
from ..wire.exec_messages import (
    ClientMessage,
    CloseStdin,
    ExecError,
    Execute,
    Exit,
    Kill,
    Reconnect,
    Started,
)
from ..wire.ids import Entropy
from ..wire.sse import AckRequired, RawOutput, StreamEnd
from ..wire.urls import Origin, Url
from .base import earliest
from .exec_events import (
    CommandExited,
    CommandFailed,
    CommandStarted,
    InputInDoubt,
    Reattaching,
    SessionEvent,
)
from .exec_http_links import StreamLink
from .exec_link import InputArrived, LinkEnded, LinkEnding, LinkEvent, LinkOpened
from .exec_outbox import Outbox, input_messages
from .exec_output import Ledger, RawLedger
from .exec_retries import AttachRetries, exec_error, final_error, overdue_error
from .exec_transports import Transport, new_ledger, new_link
from .http1 import Http1Client
from .link_holder import LinkHolder
from .ws_client import WebSocketClient

# How long after a kill a command that was asked for may still come into being, and how often
# that is looked at, in seconds.
_LATE_START = 1.0
_LOOK_AGAIN = 0.1
_FINISHED, _FAILED = 1000, 1011
# After so many acknowledgements an event stream gives way to a WebSocket, which needs none.
_MUCH = 2
# How servers spell the exit of a killed command (protocol/06 section 4).
_KILLED = (137, -9)


class _State(enum.Enum):
    CONNECTING = "connecting"
    OPENING = "opening"
    ATTACHING = "attaching"
    RUNNING = "running"
    WAITING = "waiting"
    OVER = "over"


class ExecSession(LinkHolder):
    """See the module's text."""

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str],
        opening: Execute | Reconnect,
        *,
        transports: Sequence[Transport] = (Transport.WEBSOCKET,),
        timeouts: ExecTimeouts,
        random: Random,
        entropy: Entropy,
        now: float,
        stdin_closed: bool = False,
        pty: bool = False,
        input_is_whole: bool = False,
    ) -> None:
        """
        :param base: the data plane's base URL.
        :param headers: sent with every request, the first and all later ones.
        :param opening: `Execute` starts a command, `Reconnect` attaches to one.
        :param transports: the next is tried where the server does not know the one before; and
            an event stream gives way to a WebSocket, if that is among them, for much output.
        :param stdin_closed: the command's input is closed from the start.
        :param pty: the command has a terminal.
        :param input_is_whole: a command of which only a part of the input arrived has failed.
        """
        self._base, self._headers, self._opening = base, headers, opening
        self._origin = Url.parse(base).origin
        self._transports = deque(transports)
        self._timeouts, self._entropy = timeouts, entropy
        super().__init__(now)
        self._state = _State.CONNECTING
        self._events: deque[SessionEvent] = deque()
        self.command_id = opening.command_id
        self.stdin_closed = stdin_closed or (isinstance(opening, Execute) and opening.close_stdin)
        self.pty = pty or (isinstance(opening, Execute) and opening.pty)
        self._offsets = {"stdout": 0, "stderr": 0}
        if isinstance(opening, Reconnect):
            self._offsets = {"stdout": opening.stdout_offset, "stderr": opening.stderr_offset}
        self._ledger = new_ledger(self.transport, self._offsets)
        self._outbox = Outbox()
        self._retry_at = now
        self._open_deadline: float | None = None
        # Attaching to an existing command has no start phase, hence no connect budget.
        budget = timeouts.connect_budget if isinstance(opening, Execute) else None
        self._retries = AttachRetries(random, None if budget is None else now + budget)
        self._first_refusal: LinkEnded | None = None
        self._asked = isinstance(opening, Reconnect)  # whether a command may exist
        self._started = isinstance(opening, Reconnect)
        self._command_deadline: float | None = None
        self._input_is_whole = input_is_whole
        self._kill_deadline: float | None = None
        self._may_come_until = float("-inf")
        self._timed_out = False
        self._last_trouble = ""
        self._was_stale = False
        self.refused: set[Transport] = set()
        self._acknowledged = 0
        self._way_back: tuple[deque[Transport], Ledger] | None = None
        self._begin_connecting(now)

    # --- the application's commands ---------------------------------------------------

    @property
    def transport(self) -> Transport:
        """How the command is spoken to at present."""
        return self._transports[0]

    @property
    def over(self) -> bool:
        """No more events will come, except those not yet taken."""
        return self._state is _State.OVER

    @property
    def last_stdout_offset(self) -> int:
        """How many bytes of standard output have been accounted for."""
        return self._ledger.offsets["stdout"]

    @property
    def last_stderr_offset(self) -> int:
        """How many bytes of standard error have been accounted for."""
        return self._ledger.offsets["stderr"]

    @property
    def input_arrived(self) -> bool:
        """Whether the server is known to have all input that was sent."""
        return self._outbox.settled

    @property
    def overdue_at(self) -> float | None:
        """When the command's limit and the grace after it are over, if it has a limit."""
        return self._command_deadline

    def send_input(self, data: str, *, now: float) -> None:
        """Write to standard input; kept until attached; dropped when the command is over.

        :raises SandboxOperationError: standard input is closed.
        """
        if self.stdin_closed:
            raise SandboxOperationError("the command's standard input is closed", "send_input")
        for message in input_messages(data):
            self._send_or_keep(message, now)

    def close_input(self, *, now: float) -> None:
        """Close standard input. Harmless when closed; does nothing on a terminal."""
        if not self.stdin_closed and not self.pty:
            self.stdin_closed = True
            self._outbox.note_close()
            self._send_or_keep(CloseStdin(), now)

    def kill(self, *, now: float) -> None:
        """Kill the command's process group and read on until its exit.

        If no exit comes in time the session fails. A command that was never asked for is
        simply not started.
        """
        if self.over or self._outbox.kill_asked:
            return
        self._outbox.kill_asked = True
        if not self._asked:
            self._fail(SandboxOperationError("killed before it was started", "command"), now)
            return
        if self.transport is Transport.HTTP:
            text = "killed by hanging up: a blocking request tells no more about its command"
            self._fail(SandboxOperationError(text, "kill"), now)
            return
        self._kill_deadline = now + self._timeouts.kill
        if not self._started:
            self._may_come_until = now + _LATE_START
        if self._state is _State.WAITING:
            self._begin_connecting(now)  # a kill does not sit out a backoff
        if self._state is _State.RUNNING and self._outbox.input_on_its_way:
            # A server reads no more from a client whose command does not read its input: behind
            # that input a kill would not be heard.
            self._drop_link(None, now)
            self._begin_connecting(now)
        self._send_or_keep(Kill(), now)

    def _go_over_to_websocket(self, now: float) -> None:
        self._drop_link(_FINISHED, now)
        if isinstance(self._ledger, RawLedger):
            self._ledger = self._ledger.as_text()
        self._transports = deque([Transport.WEBSOCKET])
        self._begin_connecting(now)

    def detach(self, *, now: float) -> None:
        """Leave the command to itself and end the session without a further event."""
        if not self.over:
            self._end(now, _FINISHED)

    def _send_or_keep(self, message: ClientMessage, now: float) -> None:
        if self.over:
            return
        if self.transport is not Transport.WEBSOCKET:
            if self._state is _State.ATTACHING and not self._started:
                # The request is on its way: a WebSocket might be heard before it, and in vain.
                self._outbox.keep(message)
                return
            self._go_over_to_websocket(now)
        now_is_time = self._state is _State.RUNNING or (
            self._state is _State.ATTACHING and self._outbox.kill_asked
        )
        if self._link is not None and now_is_time:
            self._outbox.send(self._link, message, now)
        else:
            self._outbox.keep(message)

    def _attached(self, now: float) -> None:
        """The server has us: say what was kept."""
        self._state = _State.RUNNING
        if self.transport is not Transport.WEBSOCKET:
            if self._outbox.kill_asked:
                self._go_over_to_websocket(now)
        elif self._link is not None:
            self._outbox.send_kept(self._link, now)

    # --- the transport ----------------------------------------------------------------

    @property
    def connection_wanted(self) -> Origin | None:
        """Where to connect to, when a connection is needed now."""
        return self._origin if self._state is _State.CONNECTING else None

    @property
    def takes_kept(self) -> bool:
        """Whether the connection that is wanted may be one that served before."""
        return self.transport is Transport.SSE and not self._was_stale

    @property
    def takes_opened(self) -> Destination | None:
        """Where a WebSocket that stands open may lead that is wanted for this; None: none is."""
        if self._was_stale or Transport.WEBSOCKET not in self._transports:
            return None
        if self.transport is not Transport.WEBSOCKET and self._asked:
            return None  # it has begun otherwise
        return Destination(self._base, tuple(self._headers.items()))

    @property
    def unfinished(self) -> Http1Client | None:
        """Of a session that is over: what sees the end of its last answer, should it still come.

        None: its connection is of no further use.
        """
        return self._link.unfinished if self.over and isinstance(self._link, StreamLink) else None

    def connected(
        self, *, now: float, kept: bool = False, opened: WebSocketClient | None = None
    ) -> None:
        """The driver has a connection to `connection_wanted`.

        :param kept: it is not fresh; only if the session `takes_kept`.
        :param opened: it is a WebSocket, and this is its machine; only as `takes_opened` says.
        """
        self._now = now
        if self._state is not _State.CONNECTING:
            raise LocalProtocolError(f"no connection is wanted in state {self._state.value}")
        self._state = _State.OPENING
        self._last_words.clear()
        if opened is not None and self.transport is not Transport.WEBSOCKET:
            self._transports.remove(Transport.WEBSOCKET)
            self._transports.appendleft(Transport.WEBSOCKET)
            self._ledger = new_ledger(self.transport, self._offsets)
        self._link = new_link(
            self.transport,
            self._base,
            self._headers,
            entropy=self._entropy,
            timeouts=self._timeouts,
            open_deadline=self._open_deadline,
            kept=kept,
            opened=opened,
        )

    def connect_failed(self, fault: Fault, *, now: float) -> None:
        """No connection could be made."""
        if self._state is _State.CONNECTING:
            self._link_ended(LinkEnded.unreachable(fault), now)

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        if self.over:
            return None
        connecting = self._open_deadline if self._state is _State.CONNECTING else None
        waiting = self._retry_at if self._state is _State.WAITING else None
        link = None if self._link is None else self._link.next_deadline()
        budget = None if self._started else self._retries.budget_end
        return earliest(
            connecting, waiting, link, budget, self._command_deadline, self._kill_deadline
        )

    def handle_timeout(self, *, now: float) -> None:
        self._now = now
        if self.over:
            return
        if _due(self._kill_deadline, now):
            self._kill_unconfirmed(now)
        elif _due(self._command_deadline, now):
            self._command_too_long(now)
        elif not self._started and _due(self._retries.budget_end, now):
            limit = self._timeouts.connect_budget
            message = f"the command was not started within {limit:g} s"
            if self._last_trouble:
                message += f"; last trouble: {self._last_trouble}"
            self._fail(SandboxTimeoutError(message, limit="connect", seconds=limit), now)
        elif self._state is _State.WAITING and now >= self._retry_at:
            self._begin_connecting(now)
        elif self._state is _State.CONNECTING and _due(self._open_deadline, now):
            text = f"cannot connect to {self._origin}: no answer in time"
            self.connect_failed(Fault(FaultKind.CONNECT_TIMEOUT, text), now=now)
        elif self._link is not None:
            self._link.handle_timeout(now=now)

    def _command_too_long(self, now: float) -> None:
        """The server should have ended the command long ago, and said so.

        Most likely the connection is dead and the end was told into the void. A fresh one
        replays it; if there is none, the kill that follows makes one.
        """
        self._command_deadline = None
        if self._outbox.kill_asked:
            return  # a kill of the application's own has its own end
        self._timed_out = self._outbox.kill_asked = True
        self._kill_deadline = now + self._timeouts.kill
        if self.transport is not Transport.WEBSOCKET:
            self._go_over_to_websocket(now)
            return
        self._drop_link(_FINISHED, now)
        if self._state is not _State.CONNECTING:
            self._begin_connecting(now)

    def _kill_unconfirmed(self, now: float) -> None:
        limit = self._timeouts.kill
        if self._timed_out:
            self._fail(self._overdue("and did not confirm that it was killed"), now)
        else:
            message = f"the server did not confirm the kill within {limit:g} s"
            self._fail(SandboxTimeoutError(message, limit="kill", seconds=limit), now)

    def _overdue(self, also: str) -> CommandTimeoutError:
        assert isinstance(self._opening, Execute)
        return overdue_error(self._opening, self._timeouts.grace, also)

    # --- attachments ------------------------------------------------------------------

    def _begin_connecting(self, now: float) -> None:
        self._state = _State.CONNECTING
        limit = self._timeouts.open
        self._open_deadline = earliest(
            None if limit is None else now + limit,
            None if self._started else self._retries.budget_end,
            self._kill_deadline,
        )

    def _attach(self, now: float) -> None:
        """The link is open: say what we came for, then what was kept meanwhile."""
        assert self._link is not None
        self._state = _State.ATTACHING
        opening: Execute | Reconnect = self._opening
        if self._started or (self._outbox.kill_asked and self._asked):
            # Never `execute` again for a command that ran, nor for one that shall not run.
            opening = self._reconnect()
        self._asked = True
        if self.transport is Transport.HTTP:
            self._retries.budget_end = None  # its answer comes with the command's end
        self._link.send(opening, now=now)
        self._outbox.send_kill(self._link, now)

    def _reconnect(self) -> Reconnect:
        offsets = self._ledger.offsets
        return Reconnect(self.command_id, offsets["stdout"], offsets["stderr"])

    def _acknowledge(self, now: float) -> None:
        """The server waits for us to say what we have; what it sent since is not lost with it."""
        assert self._link is not None
        self._acknowledged += 1
        if (
            self._acknowledged >= _MUCH
            and Transport.WEBSOCKET in self._transports
            and isinstance(self._ledger, RawLedger)
        ):
            # So much comes that round trips for acknowledgements cost more than an upgrade.
            self._way_back = (self._transports, self._ledger)
            self._go_over_to_websocket(now)
        elif self._link.reusable:
            self._state = _State.ATTACHING
            self._link.send(self._reconnect(), now=now)
        else:
            self._drop_link(None, now)
            self._begin_connecting(now)

    def _link_ended(self, ended: LinkEnded, now: float) -> None:
        self._drop_link(_FAILED if ended.ending is LinkEnding.VIOLATION else None, now)
        self._was_stale = ended.ending is LinkEnding.STALE
        if self._outbox.kill_asked and self.transport is not Transport.WEBSOCKET:
            self._go_over_to_websocket(now)
            return
        if self._was_stale:
            self._begin_connecting(now)  # with a fresh one, at once
            return
        if self._way_back is not None and ended.ending is LinkEnding.REFUSED:
            (self._transports, self._ledger), self._way_back = self._way_back, None
            self._transports.remove(Transport.WEBSOCKET)
            self._begin_connecting(now)
            return
        if self._outbox.link_lost():
            if self._input_is_whole:
                message = f"{ended.message}; whether the command got all of its input is unknown"
                self._fail(SandboxConnectionError(message), now)
                return
            self._events.append(InputInDoubt())
        if ended.ending is LinkEnding.VIOLATION:
            self._fail(SandboxProtocolError(f"the server broke the protocol: {ended.message}"), now)
            return
        if ended.unsupported and not self._retries.attempts and not self._started:
            if self._first_refusal is None or self.transport is Transport.WEBSOCKET:
                self._first_refusal = ended  # what a WebSocket's says is what people know
            if len(self._transports) > 1:
                self.refused.add(self._transports.popleft())
                self._ledger = new_ledger(self.transport, self._offsets)
                self._events.append(Reattaching(ended.message, 0.0))
                self._begin_connecting(now)
                return
            ended = self._first_refusal
        delay = self._retries.next_delay(ended, self.transport, self._started, now)
        if delay is None:
            first = self._retries.attempts == 1 and ended.ending is LinkEnding.REFUSED
            error = final_error(ended, self._retries.attempts, self._started)
            # A first and definite refusal is no command; all else leaves its fate open.
            self._fail(error, now, may_run=self._asked and (self._started or not first))
            return
        self._last_trouble = ended.message
        self._events.append(Reattaching(ended.message, delay))
        self._state = _State.WAITING
        self._retry_at = now + delay

    # --- events -----------------------------------------------------------------------

    def take_output(self) -> list[OutputChunk]:
        """The output that comes next, as much as there is: `next_event` for many at once.

        Empty if something else comes next, or nothing: `next_event` says what.
        """
        if self._events or self._link is None or self._state is not _State.RUNNING:
            return []
        pieces = self._link.take_output()
        if not pieces:
            return []
        self._retries.refill()
        chunks, count = self._ledger.take_run(pieces)
        for piece in pieces[count:]:
            self._events.extend(self._ledger.take(piece))
        return chunks

    def next_event(self) -> SessionEvent | None:
        """The next thing that happened, or None."""
        while not self._events and self._link is not None:
            event = self._link.next_event()
            if event is None:
                return None
            self._take(event)
        return self._events.popleft() if self._events else None

    def _take(self, event: LinkEvent) -> None:
        now = self._now
        match event:
            case LinkOpened():
                self._attach(now)
            case LinkEnded():
                self._link_ended(event, now)
            case InputArrived():
                self._outbox.arrived()
            case Started():
                self._take_started(event, now)
            case ExecError(_, "CommandNotFound") if now < self._may_come_until:
                # Killed before it was seen: what asked for it may still be on its way.
                self._drop_link(_FINISHED, now)
                self._state = _State.WAITING
                self._retry_at = now + _LOOK_AGAIN
            case ExecError():
                # The server's last word on a command; all other trouble leaves its fate open.
                self._fail(exec_error(event, self._opening), now, may_run=False)
            case _ if not self._started:
                kind = type(event).__name__
                error = SandboxOperationError(f"{kind} came before the command's start", "command")
                self._fail(error, now)
            case Exit():
                self._events.extend(self._ledger.finish())
                self._take_exit(event, now)
            case AckRequired():
                self._acknowledge(now)
            case OutputChunk() | RawOutput() | StreamEnd():
                if self._state is not _State.RUNNING:
                    self._attached(now)
                self._retries.refill()
                self._events.extend(self._ledger.take(event))

    def _take_started(self, event: Started, now: float) -> None:
        if event.command_id not in ("", self.command_id):
            return  # about another command; it proves nothing about ours
        self._attached(now)
        self._way_back = None
        if self.transport is Transport.WEBSOCKET:
            self._retries.refill()  # an event stream is worth something when output comes
        if not self._started:
            self._started = True
            self._set_command_deadline(now)
        self._events.append(CommandStarted(self.command_id, event.pid))

    def _set_command_deadline(self, now: float) -> None:
        opening, grace = self._opening, self._timeouts.grace
        if isinstance(opening, Execute) and opening.timeout_seconds > 0 and grace is not None:
            self._command_deadline = now + opening.timeout_seconds + grace

    def _take_exit(self, event: Exit, now: float) -> None:
        if self._timed_out and event.exit_code in _KILLED:
            self._fail(self._overdue("and it had to be killed"), now, may_run=False)
            return
        self._end(now, _FINISHED)
        self._events.append(CommandExited(event.exit_code))

    # --- endings ----------------------------------------------------------------------

    def _fail(self, error: SandboxClientError, now: float, *, may_run: bool | None = None) -> None:
        if may_run is None:
            may_run = self._asked
        self._end(now, _FAILED)
        self._events.append(CommandFailed(error, may_run))

    def _end(self, now: float, code: int) -> None:
        self._state = _State.OVER
        self._outbox.clear()
        if self._link is not None:
            self._link.close(code, now=now)


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline
