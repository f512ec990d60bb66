"""One command from start to exit, over as many attachments as it takes.

The session is a machine like any other (`machines.base`), except that its transport
may be lost and replaced: whenever `connection_wanted` says so, the driver connects
and answers `connected` or `connect_failed`.

    state       on                        then
    ---------   -----------------------   ------------------------------------------------
    CONNECTING  connected                 OPENING (the upgrade goes out)
                connect_failed            WAITING (backoff), or failed when budgets are used up
    OPENING     link opened               ATTACHING (`execute` or `reconnect` goes out)
                link ended                WAITING, or failed
    ATTACHING   started                   RUNNING
                error                     failed
                anything else             failed, if the command was never seen running
                link ended                WAITING, or failed
    RUNNING     stdout, stderr            RUNNING; offsets move, the retry budget is refilled
                exit                      finished
                error                     failed
                link ended                WAITING, or failed
    WAITING     its time has come         CONNECTING
    any         kill() not confirmed      failed
    any         the client's deadline     failed, after an attempt to kill

`execute` is repeated only with the same command id, which the server treats as
"attach, if it exists", so a command starts at most once. Budgets, backoffs and what
refills them are those of protocol/06 sections 8 and 10. Mended, against the vendor's
client: per-call headers are kept on reattachment, a kill reads on until the exit, a
reload (1001) reattaches at once, replayed bytes are dropped by offset, and a gap is
told.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping

from ..config import ExecTimeouts
from ..errors import (
    CommandTimeoutError,
    LocalProtocolError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxConnectTimeoutError,
    SandboxOperationError,
    SandboxProtocolError,
    SandboxRetryableConnectionError,
    SandboxServerReloadError,
    SandboxTimeoutError,
)
from ..faults import Fault
from ..plans.retry import Random
from ..wire.exec_messages import (
    ClientMessage,
    CloseStdin,
    ExecError,
    Execute,
    Exit,
    Input,
    Kill,
    Reconnect,
    Started,
)
from ..wire.ids import Entropy
from ..wire.models import OutputChunk
from ..wire.urls import Origin, Url
from .base import Buffer, Output, earliest
from .exec_events import (
    CommandExited,
    CommandFailed,
    CommandStarted,
    OutputLedger,
    Reattaching,
    SessionEvent,
)
from .exec_link import LinkEnded, LinkEnding, LinkEvent, LinkOpened, WebSocketLink
from .upgrade import KEY_BYTES

MAX_ATTEMPTS = 5
_FIRST_BACKOFF = 0.5
_MAX_BACKOFF = 8.0
_FINISHED, _FAILED = 1000, 1011
# How servers spell the exit of a killed command (protocol/06 section 4).
_KILLED = (137, -9)


class _State(enum.Enum):
    CONNECTING = "connecting"
    OPENING = "opening"
    ATTACHING = "attaching"
    RUNNING = "running"
    WAITING = "waiting"
    OVER = "over"


class ExecSession:
    """See the module's text."""

    def __init__(
        self,
        url: Url,
        headers: Mapping[str, str],
        opening: Execute | Reconnect,
        *,
        timeouts: ExecTimeouts,
        random: Random,
        entropy: Entropy,
        now: float,
        stdin_closed: bool = False,
        pty: bool = False,
    ) -> None:
        """
        :param url: the exec endpoint.
        :param headers: sent with every upgrade, the first and all later ones.
        :param opening: `Execute` starts a command, `Reconnect` attaches to one.
        :param stdin_closed: the command's input is closed from the start.
        :param pty: the command has a terminal.
        """
        self._url, self._headers, self._opening = url, headers, opening
        self._timeouts, self._random, self._entropy = timeouts, random, entropy
        self._now = now
        self._state = _State.CONNECTING
        self._link: WebSocketLink | None = None
        self._events: deque[SessionEvent] = deque()
        self.command_id = opening.command_id
        self.stdin_closed = stdin_closed or (isinstance(opening, Execute) and opening.close_stdin)
        self.pty = pty or (isinstance(opening, Execute) and opening.pty)
        self._ledger = OutputLedger()
        if isinstance(opening, Reconnect):
            self._ledger = OutputLedger(opening.stdout_offset, opening.stderr_offset)
        self._unsent: list[ClientMessage] = []
        self._last_words: list[Output] = []
        self._attempts = 0
        self._retry_at = now
        self._open_deadline: float | None = None
        # Attaching to an existing command has no start phase, hence no connect budget.
        budget = timeouts.connect_budget if isinstance(opening, Execute) else None
        self._budget_end = None if budget is None else now + budget
        self._asked = isinstance(opening, Reconnect)  # whether a command may exist
        self._started = isinstance(opening, Reconnect)
        self._command_deadline: float | None = None
        self._close_asked = False
        self._kill_asked = False
        self._kill_deadline: float | None = None
        self._timed_out = False
        self._last_trouble = ""
        self._begin_connecting(now)

    # --- the application's commands ---------------------------------------------------

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

    def send_input(self, data: str, *, now: float) -> None:
        """Write to standard input; kept until attached; dropped when the command is over.

        :raises SandboxOperationError: standard input is closed.
        """
        if self.stdin_closed:
            raise SandboxOperationError("the command's standard input is closed", "send_input")
        self._send_or_keep(Input(data), now)

    def close_input(self, *, now: float) -> None:
        """Close standard input. Harmless when closed; does nothing on a terminal."""
        if not self.stdin_closed and not self.pty:
            self.stdin_closed = self._close_asked = True
            self._send_or_keep(CloseStdin(), now)

    def kill(self, *, now: float) -> None:
        """Kill the command's process group and read on until its exit.

        If no exit comes in time the session fails. A command that was never asked for is
        simply not started.
        """
        if self.over or self._kill_asked:
            return
        self._kill_asked = True
        if not self._asked:
            self._fail(SandboxOperationError("killed before it was started", "command"), now)
            return
        self._kill_deadline = now + self._timeouts.kill
        if self._state is _State.WAITING:
            self._begin_connecting(now)  # a kill does not sit out a backoff
        self._send_or_keep(Kill(), now)

    def detach(self, *, now: float) -> None:
        """Leave the command to itself and end the session without a further event."""
        if not self.over:
            self._end(now, _FINISHED)

    def _send_or_keep(self, message: ClientMessage, now: float) -> None:
        if self.over:
            return
        if self._link is not None and self._state in (_State.ATTACHING, _State.RUNNING):
            self._link.send(message, now=now)
        else:
            self._unsent.append(message)

    # --- the transport ----------------------------------------------------------------

    @property
    def connection_wanted(self) -> Origin | None:
        """Where to connect to, when a connection is needed now."""
        return self._url.origin if self._state is _State.CONNECTING else None

    def connected(self, *, now: float) -> None:
        """The driver has a fresh connection to `connection_wanted`."""
        self._now = now
        if self._state is not _State.CONNECTING:
            raise LocalProtocolError(f"no connection is wanted in state {self._state.value}")
        self._state = _State.OPENING
        self._last_words.clear()
        self._link = WebSocketLink(
            self._url,
            self._headers,
            nonce=self._entropy(KEY_BYTES),
            timeouts=self._timeouts,
            open_deadline=self._open_deadline,
        )

    def connect_failed(self, fault: Fault, *, now: float) -> None:
        """No connection could be made."""
        if self._state is _State.CONNECTING:
            self._link_ended(LinkEnded.unreachable(fault), now)

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
        return self._link is not None and not self.over

    @property
    def finished(self) -> bool:
        """The present connection is of no further use (another one may be wanted)."""
        return self._link is None or self._link.finished

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        if self.over:
            return None
        connecting = self._open_deadline if self._state is _State.CONNECTING else None
        waiting = self._retry_at if self._state is _State.WAITING else None
        link = None if self._link is None else self._link.next_deadline()
        budget = None if self._started else self._budget_end
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
        elif not self._started and _due(self._budget_end, now):
            limit = self._timeouts.connect_budget
            message = f"the command was not started within {limit:g} s"
            if self._last_trouble:
                message += f"; last trouble: {self._last_trouble}"
            self._fail(SandboxTimeoutError(message, limit="connect", seconds=limit), now)
        elif self._state is _State.WAITING and now >= self._retry_at:
            self._begin_connecting(now)
        elif self._link is not None:
            self._link.handle_timeout(now=now)

    def _command_too_long(self, now: float) -> None:
        """The server should have ended the command long ago, and said so.

        Most likely the connection is dead and the end was told into the void. A fresh one
        replays it; if there is none, the kill that follows makes one.
        """
        self._command_deadline = None
        if self._kill_asked:
            return  # a kill of the application's own has its own end
        self._timed_out = True
        self._kill_asked = True
        self._kill_deadline = now + self._timeouts.kill
        self._unsent = [Kill()]
        self._drop_link(_FINISHED, now)
        if self._state is not _State.CONNECTING:
            self._begin_connecting(now)

    def _kill_unconfirmed(self, now: float) -> None:
        limit = self._timeouts.kill
        if self._timed_out:
            self._fail(self._timeout_error("and did not confirm that it was killed"), now)
        else:
            message = f"the server did not confirm the kill within {limit:g} s"
            self._fail(SandboxTimeoutError(message, limit="kill", seconds=limit), now)

    def _timeout_error(self, also: str) -> CommandTimeoutError:
        assert isinstance(self._opening, Execute)
        limit = self._opening.timeout_seconds
        return CommandTimeoutError(
            f"the command has a limit of {limit} s; {self._timeouts.grace:g} s later the server "
            f"had not reported its end {also}",
            limit,
        )

    # --- attachments ------------------------------------------------------------------

    def _begin_connecting(self, now: float) -> None:
        self._state = _State.CONNECTING
        limit = self._timeouts.open
        self._open_deadline = earliest(
            None if limit is None else now + limit,
            None if self._started else self._budget_end,
            self._kill_deadline,
        )

    def _attach(self, now: float) -> None:
        """The link is open: say what we came for, then what was kept meanwhile."""
        assert self._link is not None
        self._state = _State.ATTACHING
        opening: Execute | Reconnect = self._opening
        if self._started or (self._kill_asked and self._asked):
            # Never `execute` again for a command that ran, nor for one that shall not run.
            opening = Reconnect(self.command_id, **self._reconnect_offsets())
        self._asked = True
        self._link.send(opening, now=now)
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            self._link.send(message, now=now)

    def _reconnect_offsets(self) -> dict[str, int]:
        return {f"{stream}_offset": offset for stream, offset in self._ledger.offsets.items()}

    def _link_ended(self, ended: LinkEnded, now: float) -> None:
        self._drop_link(_FAILED if ended.ending is LinkEnding.VIOLATION else None, now)
        if self._kill_asked:
            # Killed and cut off: the kill may not have arrived, so it is said again.
            self._unsent = [Kill()]
        elif self._close_asked and CloseStdin() not in self._unsent:
            self._unsent.append(CloseStdin())  # likewise: else the command reads for ever
        if ended.ending is LinkEnding.VIOLATION:
            self._fail(SandboxProtocolError(f"the server broke the protocol: {ended.message}"), now)
            return
        delay = self._delay_after_start(ended) if self._started else self._delay_before(ended, now)
        if delay is None:
            self._fail(self._final_error(ended), now)
            return
        self._last_trouble = ended.message
        self._events.append(Reattaching(ended.message, delay))
        self._state = _State.WAITING
        self._retry_at = now + delay

    def _drop_link(self, code: int | None, now: float) -> None:
        """Leave the present connection, with a close frame if there is cause for one."""
        if self._link is not None:
            if code is not None:
                self._link.close(code, now=now)
            self._last_words = self._link.data_to_send()
            self._link = None

    def _delay_before(self, ended: LinkEnded, now: float) -> float | None:
        """Protocol/06 section 8: the command has not been seen running yet."""
        self._attempts += 1
        if ended.ending is LinkEnding.REFUSED or self._attempts > MAX_ATTEMPTS:
            return None
        backoff = _backoff(self._attempts)
        if ended.ending in (LinkEnding.CLEAN, LinkEnding.GOING_AWAY):
            delay = backoff
        elif ended.retry_after is not None:
            delay = ended.retry_after
        else:
            delay = backoff * (0.8 + 0.2 * self._random.random())
        if self._budget_end is None:
            return delay
        left = self._budget_end - now
        return min(delay, left) if left > 0 else None

    def _delay_after_start(self, ended: LinkEnded) -> float | None:
        """Protocol/06 section 10: the command runs, and only our hold of it was lost."""
        self._attempts += 1
        if self._attempts > MAX_ATTEMPTS:
            return None
        return 0.0 if ended.ending is LinkEnding.GOING_AWAY else _backoff(self._attempts)

    def _final_error(self, ended: LinkEnded) -> SandboxClientError:
        tried = f" ({self._attempts} attempts)" if self._attempts > 1 else ""
        what = "lost the command's output" if self._started else "could not start the command"
        message = f"{what}: {ended.message}{tried}"
        if self._started or ended.ending is LinkEnding.REFUSED:
            return SandboxConnectionError(message)
        match ended.ending:
            case LinkEnding.UNREACHABLE:
                return SandboxConnectTimeoutError(message)
            case LinkEnding.GOING_AWAY:
                return SandboxServerReloadError(message)
            case LinkEnding.CLEAN:
                return SandboxOperationError(message, "command")
            case _:
                return SandboxRetryableConnectionError(message, retry_after=ended.retry_after)

    # --- events -----------------------------------------------------------------------

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
            case Started():
                self._take_started(event, now)
            case ExecError():
                # The server's last word on a command; all other trouble leaves its fate open.
                self._fail(self._exec_error(event), now, may_run=False)
            case _ if not self._started:
                kind = type(event).__name__
                error = SandboxOperationError(f"{kind} came before the command's start", "command")
                self._fail(error, now)
            case Exit():
                self._take_exit(event, now)
            case OutputChunk():
                self._state = _State.RUNNING
                self._attempts = 0
                lost, fresh = self._ledger.take(event)
                self._events.extend(item for item in (lost, fresh) if item is not None)

    def _take_started(self, event: Started, now: float) -> None:
        if event.command_id not in ("", self.command_id):
            return  # about another command; it proves nothing about ours
        self._state = _State.RUNNING
        self._attempts = 0
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
            self._fail(self._timeout_error("and it had to be killed"), now, may_run=False)
            return
        self._end(now, _FINISHED)
        self._events.append(CommandExited(event.exit_code))

    def _exec_error(self, event: ExecError) -> SandboxClientError:
        """Protocol/03 section 3.7."""
        if event.error_type == "CommandTimeout":
            limit = self._opening.timeout_seconds if isinstance(self._opening, Execute) else None
            return CommandTimeoutError(event.error, limit)
        attaching = isinstance(self._opening, Reconnect)
        message = event.error
        if attaching and event.error_type in ("CommandNotFound", "SessionExpired"):
            message = f"command {self.command_id}: {event.error}"
        operation = "reconnect" if attaching else "command"
        return SandboxOperationError(message, operation, event.error_type)

    # --- endings ----------------------------------------------------------------------

    def _fail(self, error: SandboxClientError, now: float, *, may_run: bool | None = None) -> None:
        if may_run is None:
            may_run = self._asked
        self._end(now, _FAILED)
        self._events.append(CommandFailed(error, may_run))

    def _end(self, now: float, code: int) -> None:
        self._state = _State.OVER
        self._unsent.clear()
        if self._link is not None:
            self._link.close(code, now=now)


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline


def _backoff(attempt: int) -> float:
    return float(min(_FIRST_BACKOFF * 2 ** (attempt - 1), _MAX_BACKOFF))
