"""The commands of one host, as a pure table (protocol/06 section 6, 13 section 4).

A command is got or created by its id, so that a repeated `execute` never spawns twice.
The driver moves bytes and starts processes; here is decided what starts, what is kept,
who may lag behind and when something must die:

    state       on                             then
    ---------   ----------------------------   -------------------------------------------
    STARTING    spawned                        RUNNING (the clocks start)
                spawn failed                   OVER: error CommandError
    RUNNING     time limit                     killed: DRAINING, at last error CommandTimeout
                nobody attached for too long   killed: DRAINING, at last exit 137
                kill asked                     killed: DRAINING, at last exit 137
                process ended                  DRAINING
    DRAINING    both streams ended, or 1 s     OVER: exit
    OVER        its time to live               forgotten; a tombstone stays for an hour
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

import attrs

from ..machines.base import earliest
from ..wire.command_models import OutputChunk
from ..wire.exec_messages import ExecError, Execute, Exit, Started
from .output import CHUNK_BYTES, OutputRing, Utf8Sanitizer

DRAIN_GRACE = 1.0
LAG_PATIENCE = 30.0
TOMBSTONE_SECONDS = 3600.0
# What one read of a driver can become: 64 KiB of bytes that are no text, three bytes each.
READ_ROOM = 3 * 64 * 1024


class CommandState(enum.Enum):
    """See the module's text."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    OVER = "over"


@attrs.define(eq=False)
class Attachment:
    """One client's view of a command: how far it has read.

    :ivar acknowledged: up to where a client that says so has received the output; what comes
        after is kept for it. None: what it was told has arrived.
    :ivar parked_until: the client was asked to come back, and counts as attached until then.
    """

    command: Command
    offsets: dict[str, int]
    last_drained: float
    acknowledged: dict[str, int] | None = None
    parked_until: float | None = None
    announced: bool = False
    finished: bool = False
    told_last: str = ""
    """The stream that had its turn: the other one is next, so that neither starves."""

    def next_message(
        self, *, now: float, limit: int = CHUNK_BYTES
    ) -> Started | OutputChunk | Exit | ExecError | None:
        """What this client is to be told next, or None until something changes.

        :param limit: how many bytes of output at most; at least the four of a character.
        """
        command = self.command
        if self.finished:
            return None
        if not self.announced:
            if command.state is CommandState.STARTING:
                return None
            if command.pid is not None:
                self.announced = True
                return Started(command.id, command.pid)
        for name in sorted(command.streams, key=lambda name: name == self.told_last):
            stream = command.streams[name]
            if stream.ring.end > self.offsets[name]:
                offset, text = stream.ring.read(self.offsets[name], limit)
                self.offsets[name] = offset + len(text.encode())
                self.last_drained = now
                command.note_drained()
                if text:
                    self.told_last = name
                    return OutputChunk(name, text, offset)
        if command.state is CommandState.OVER:
            self.finished = True
            return command.ending
        return None

    def at_end(self, name: str) -> bool:
        """Whether it was told all of a stream to which nothing can be added any more."""
        stream = self.command.streams[name]
        over = stream.ended or self.command.state is CommandState.OVER
        return over and self.offsets[name] >= stream.ring.end

    def kept_from(self, name: str) -> int:
        """The offset of the oldest byte it may still need."""
        return (self.offsets if self.acknowledged is None else self.acknowledged)[name]


@attrs.define(eq=False)
class _Stream:
    ring: OutputRing = attrs.field(factory=OutputRing)
    sanitizer: Utf8Sanitizer = attrs.field(factory=Utf8Sanitizer)
    ended: bool = False


@attrs.define(eq=False)
class Command:
    """One command. Its driver is told of every change by `on_change`, of deadlines by `on_timer`.

    :ivar argv: what to start, if not a shell with the text of the message.
    :ivar wants_kill: the driver is to kill its process group (once).
    :ivar ending: the last message, once the state is OVER.
    """

    id: str
    box_id: str
    message: Execute
    argv: tuple[str, ...] | None = None
    on_change: Callable[[], None] = lambda: None
    on_timer: Callable[[], None] = lambda: None
    state: CommandState = CommandState.STARTING
    pid: int | None = None
    streams: dict[str, _Stream] = attrs.field(
        factory=lambda: {"stdout": _Stream(), "stderr": _Stream()}
    )
    attachments: list[Attachment] = attrs.field(factory=list)
    ending: Exit | ExecError | None = None
    wants_kill: bool = False
    timed_out: bool = False
    stdin_closed: bool = False
    pending_input: list[bytes] = attrs.field(factory=list)
    exit_code: int | None = None
    _limit_at: float | None = None
    _idle_until: float | None = None
    _drain_until: float | None = None
    _holds_back: bool = False
    forget_at: float | None = None

    # --- what the driver reports ------------------------------------------------------

    def spawned(self, pid: int, *, now: float) -> None:
        """The process runs."""
        self.pid = pid
        self.state = CommandState.RUNNING
        if self.message.timeout_seconds > 0:
            self._limit_at = now + self.message.timeout_seconds
        self._note_idle(now)
        self.on_timer()
        self.on_change()

    def spawn_failed(self, reason: str, *, now: float) -> None:
        """The process could not be started."""
        self._finish(ExecError(reason, "CommandError"), now)

    def output(self, name: str, data: bytes, *, now: float) -> None:
        """The process wrote something."""
        stream = self.streams[name]
        stream.ring.append(stream.sanitizer.feed(data))
        self.on_change()

    def output_ended(self, name: str, *, now: float) -> None:
        """Nothing more can come on this stream."""
        stream = self.streams[name]
        stream.ring.append(stream.sanitizer.feed(b"", final=True))
        stream.ended = True
        self._finish_if_drained(now)

    def exited(self, exit_code: int, *, now: float) -> None:
        """The process ended; what it wrote may still be on its way."""
        self.exit_code = exit_code
        self.state = CommandState.DRAINING
        self._limit_at = None  # it ended in time, however long its output takes
        # A background process may hold the streams open for ever.
        self._drain_until = now + DRAIN_GRACE
        self.on_timer()
        self._finish_if_drained(now)

    def wants_output(self, name: str, *, now: float) -> bool:
        """Whether the driver should read on, or hold the process back by its full pipe.

        It is held back for as long as an attached client lags behind but keeps draining; for
        absent and dead ones the oldest output is dropped instead.
        """
        ring = self.streams[name].ring
        room = min(READ_ROOM, ring.capacity)
        wanted = all(
            ring.room_before(attachment.kept_from(name)) >= room
            or now - attachment.last_drained >= LAG_PATIENCE
            for attachment in self.attachments
        )
        self._holds_back = self._holds_back or not wanted
        return wanted

    def note_drained(self) -> None:
        """A client read on, so a process that was held back may go on."""
        if self._holds_back:
            self._holds_back = False
            self.on_change()

    # --- what clients ask -------------------------------------------------------------

    def attach(
        self, offsets: Mapping[str, int], *, now: float, acknowledging: bool = False
    ) -> Attachment:
        """A client begins to read from these offsets (negative: 0; beyond the end: the end).

        :param acknowledging: output is kept for it until it attaches again, further on.
        """
        known = {
            name: min(max(offsets.get(name, 0), 0), stream.ring.end)
            for name, stream in self.streams.items()
        }
        attachment = Attachment(self, known, now)
        if acknowledging:
            attachment.acknowledged = dict(known)
        self._unpark(known)
        self.attachments.append(attachment)
        self._idle_until = None
        self.note_drained()
        return attachment

    def park(self, attachment: Attachment, *, now: float) -> None:
        """A client was asked to attach again: until it does, it is waited for like a lagging one.

        So nothing is lost in between, and no clock of absence starts.
        """
        if attachment in self.attachments:
            attachment.last_drained = now
            attachment.parked_until = now + LAG_PATIENCE
            self.on_timer()

    def detach(self, attachment: Attachment, *, now: float) -> None:
        """A client left."""
        if attachment in self.attachments:
            self.attachments.remove(attachment)
            self._note_idle(now)
            self.on_timer()
            self.on_change()  # a reader that lagged may have held the process back

    def kill(self) -> None:
        """A client wants it dead."""
        if self.state in (CommandState.STARTING, CommandState.RUNNING):
            self.wants_kill = True
            self.on_change()

    def write_input(self, data: str) -> None:
        """A client writes to standard input; ignored once that is closed."""
        if not self.stdin_closed and self.state is not CommandState.OVER:
            self.pending_input.append(data.encode())
            self.on_change()

    @property
    def input_backlog(self) -> int:
        """Bytes of input the process has not taken yet."""
        return sum(map(len, self.pending_input))

    def close_stdin(self) -> None:
        """A client closes standard input; does nothing on a terminal."""
        if not self.message.pty and not self.stdin_closed:
            self.stdin_closed = True
            self.on_change()

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout`."""
        forget_at = None if self.attachments else self.forget_at  # the last to leave is waited for
        parked = [attachment.parked_until for attachment in self.attachments]
        return earliest(self._limit_at, self._idle_until, self._drain_until, forget_at, *parked)

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        for attachment in list(self.attachments):
            if attachment.parked_until is not None and now >= attachment.parked_until:
                self.detach(attachment, now=now)
        if self._limit_at is not None and now >= self._limit_at:
            self._limit_at = None
            self.timed_out = True
            self.kill()
        if self._idle_until is not None and now >= self._idle_until:
            self._idle_until = None
            self.kill()
        if self._drain_until is not None and now >= self._drain_until:
            if self._is_held_back(now):
                self._drain_until = now + DRAIN_GRACE  # the rest is still in its pipe
            else:
                self._finish_drained(now)

    # --- inside -----------------------------------------------------------------------

    def _unpark(self, known: Mapping[str, int]) -> None:
        """Let go of the parked attachments that one with these offsets may continue.

        One client can have left several behind, if its connections were cut. Should one of them
        be somebody else's, who comes back after the ring has wrapped, they are told what is gone.
        """
        may_be = [
            attachment
            for attachment in self.attachments
            if attachment.parked_until is not None
            and all(
                attachment.kept_from(name) <= offset <= attachment.offsets[name]
                for name, offset in known.items()
            )
        ]
        exactly = [attachment for attachment in may_be if attachment.offsets == known]
        for attachment in exactly or may_be:
            self.attachments.remove(attachment)

    def _note_idle(self, now: float) -> None:
        if self.attachments or self.state is not CommandState.RUNNING:
            return
        if self.message.kill_on_disconnect:
            self.kill()
        else:
            limit = self.message.idle_timeout_seconds
            self._idle_until = now + limit if limit >= 0 else None

    def _is_held_back(self, now: float) -> bool:
        return any(
            not stream.ended and not self.wants_output(name, now=now)
            for name, stream in self.streams.items()
        )

    def _finish_if_drained(self, now: float) -> None:
        if self.exit_code is not None and all(stream.ended for stream in self.streams.values()):
            self._finish_drained(now)
        else:
            self.on_change()

    def _finish_drained(self, now: float) -> None:
        assert self.exit_code is not None
        for stream in self.streams.values():
            stream.ring.append(stream.sanitizer.feed(b"", final=True))
        if self.timed_out:
            limit = self.message.timeout_seconds
            self._finish(ExecError(f"command timed out after {limit} s", "CommandTimeout"), now)
        else:
            self._finish(Exit(self.exit_code), now)

    def _finish(self, ending: Exit | ExecError, now: float) -> None:
        self.state = CommandState.OVER
        self.ending = ending
        self._limit_at = self._idle_until = self._drain_until = None
        if self.message.ttl_seconds >= 0:
            self.forget_at = now + self.message.ttl_seconds
        self.on_timer()
        self.on_change()


class CommandTable:
    """All commands of a host, by sandbox and id."""

    def __init__(self) -> None:
        self._commands: dict[tuple[str, str], Command] = {}
        self._tombstones: dict[tuple[str, str], float] = {}

    def get_or_create(
        self, box_id: str, message: Execute, argv: tuple[str, ...] | None = None
    ) -> tuple[Command, bool]:
        """The command of this id, and whether it is new and must be spawned.

        :param argv: what to start, if not a shell with the text of the message.
        """
        key = box_id, message.command_id
        if (command := self._commands.get(key)) is not None:
            return command, False
        command = self._commands[key] = Command(message.command_id, box_id, message, argv)
        command.stdin_closed = message.close_stdin and not message.pty
        self._tombstones.pop(key, None)
        return command, True

    def find(self, box_id: str, command_id: str) -> Command | ExecError:
        """A known command, or why there is none."""
        key = box_id, command_id
        if (command := self._commands.get(key)) is not None:
            return command
        if key in self._tombstones:
            return ExecError(
                "the command ended and its output is not kept any more", "SessionExpired"
            )
        return ExecError("there is no such command", "CommandNotFound")

    def of_box(self, box_id: str) -> list[Command]:
        """The commands of one sandbox."""
        return [command for command in self._commands.values() if command.box_id == box_id]

    def forget_box(self, box_id: str, *, now: float) -> None:
        """The sandbox is gone, and its commands with it."""
        for command in self.of_box(box_id):
            self._bury(command, now)

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout`."""
        return earliest(*(command.next_deadline() for command in self._commands.values()))

    def handle_timeout(self, *, now: float) -> None:
        """Time passed: kill what is too old, forget what is over."""
        for command in list(self._commands.values()):
            command.handle_timeout(now=now)
            is_due = command.forget_at is not None and now >= command.forget_at
            if is_due and not command.attachments:  # who is attached still gets the end
                self._bury(command, now)
        for key, until in list(self._tombstones.items()):
            if now >= until:
                del self._tombstones[key]

    def _bury(self, command: Command, now: float) -> None:
        key = command.box_id, command.id
        self._commands.pop(key, None)
        self._tombstones[key] = now + TOMBSTONE_SECONDS
