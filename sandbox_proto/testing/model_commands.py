"""What commands do on a model host: fixed answers, or functions that act one out.

A function is called with a `CommandRun` when the command starts. It may write output, files and
input's echo at once and return; or it may be a generator, and then time passes where it yields::

    def build(run):
        run.write("compiling\\n")
        yield run.sleep(30)                         # virtual seconds
        run.files["/home/user/a.out"] = b"binary"
        return 0

    def greet(run):
        name = yield run.read_line()                # "" at the end of input
        run.write(f"hello {name}")

    host.on_command(re.compile(r"make( -j\\d+)?"), build)
    host.on_command("./greet", greet)

What it returns is the exit code (None: 0), or a text: standard output, with 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, MutableMapping
from typing import Any

import attrs

from ..host.commands import READ_ROOM, Command, CommandState
from ..machines.byte_queue import ByteQueue

KILLED = 137
NOT_FOUND = 127

# A process whose output nobody takes is looked at again after so many seconds.
_HELD_BACK_SECONDS = 5.0
_READ_BYTES = 65536


@attrs.frozen(kw_only=True)
class ScriptedCommand:
    """A fixed answer.

    :ivar duration: seconds from its start, when it writes its output, to its exit.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    duration: float = 0.0

    def __call__(self, run: CommandRun) -> Generator[Step, str, int]:
        run.write(self.stdout)
        run.write_error(self.stderr)
        if self.duration:
            yield run.sleep(self.duration)
        return self.exit_code


@attrs.frozen
class Sleep:
    """Seconds that pass."""

    seconds: float


@attrs.frozen
class Read:
    """Input that is waited for: a line, or whatever there is."""

    line: bool


Step = Sleep | Read
Behaviour = Callable[["CommandRun"], "Generator[Step, str, int | str | None] | int | str | None"]


def command_not_found(run: CommandRun) -> int:
    """What a shell says of a command that it does not know."""
    name = run.shell.rpartition("/")[2]
    word = (run.command.split() or [""])[0]
    run.write_error(f"{name}: line 1: {word}: command not found\n")
    return NOT_FOUND


class CommandRun:
    """A command that runs, as the function sees it which acts it out.

    :ivar command: its text.
    :ivar match: what matched the pattern it was found by; None if it was found by its text.
    :ivar env: its environment: the sandbox's variables and its own.
    :ivar cwd: where it runs.
    :ivar pty: whether it has a terminal: then its input is echoed and there is no second stream.
    :ivar files: the files of the sandbox, by absolute path (or one below `cwd`).
    """

    def __init__(
        self,
        command: Command,
        *,
        match: re.Match[str] | None,
        env: Mapping[str, str],
        cwd: str,
        files: MutableMapping[str, bytes],
        clock: Callable[[], float],
        wrote: Callable[[str, bytes], None],
    ) -> None:
        self.command = command.message.command
        self.shell = command.message.shell
        self.match, self.env, self.cwd, self.files = match, env, cwd, files
        self.pty = command.message.pty
        self._clock, self._wrote = clock, wrote

    @property
    def now(self) -> float:
        """The virtual time, in seconds."""
        return self._clock()

    def write(self, data: str | bytes) -> None:
        """Write to standard output, or the terminal."""
        self._write("stdout", data)

    def write_error(self, data: str | bytes) -> None:
        """Write to standard error, or the terminal."""
        self._write("stdout" if self.pty else "stderr", data)

    def _write(self, stream: str, data: str | bytes) -> None:
        raw = data.encode() if isinstance(data, str) else data
        if self.pty:
            raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if raw:
            self._wrote(stream, raw)

    def sleep(self, seconds: float) -> Sleep:
        """To be yielded: let so many seconds pass. What was written leaves before."""
        return Sleep(seconds)

    def read_line(self) -> Read:
        """To be yielded: wait for a line of input; "" at its end."""
        return Read(line=True)

    def read(self) -> Read:
        """To be yielded: wait for any input; "" at its end."""
        return Read(line=False)


class ModelProcess:
    """One command while it runs: its function, its pipes, its end.

    :ivar over: it has exited.
    :ivar error: what its function raised, which is an error of the test's author.
    """

    def __init__(
        self,
        command: Command,
        behaviour: Behaviour,
        run: Callable[..., CommandRun],
        later: Callable[[float, Callable[[float], None]], None],
        exited: Callable[[ModelProcess, float], None],
        *,
        holds_back: bool,
    ) -> None:
        self.command = command
        self.over = False
        self._holds_back = holds_back
        self.error: Exception | None = None
        self._behaviour, self._later, self._exited = behaviour, later, exited
        self._run = run(wrote=self._write)
        self._pipes = {"stdout": ByteQueue(), "stderr": ByteQueue()}
        self._script: Generator[Step, str, int | str | None] | None = None
        self._step: Step | None = None
        self._ready_at = 0.0
        self._input = ""
        self._exit_code: int | None = None
        self._looks_again = False

    def start(self, *, now: float) -> None:
        """The process begins."""
        try:
            result: Any = self._behaviour(self._run)
        except Exception as error:
            self._fail(error)
        else:
            if isinstance(result, Generator):
                self._script = result
                self._go_on(None, now)
            else:
                self._end(result)
        self.proceed(now=now)

    def proceed(self, *, now: float) -> None:
        """Go as far as it goes: after time, input, a kill, or room in its pipes."""
        command = self.command
        if self.over:
            return
        if command.state is CommandState.OVER or command.wants_kill:
            self._exit(KILLED, now)
            return
        self._take_input()
        while self._flush(now):
            if self._exit_code is not None:
                self._exit(self._exit_code, now)
                return
            if not self._resume(now):
                return
        if not self._looks_again:
            self._looks_again = True
            self._later(now + _HELD_BACK_SECONDS, self._look_again)

    def _look_again(self, now: float) -> None:
        self._looks_again = False
        self.proceed(now=now)

    def _write(self, stream: str, data: bytes) -> None:
        self._pipes[stream].put(data)

    def _take_input(self) -> None:
        pending, self.command.pending_input[:] = list(self.command.pending_input), []
        for data in pending:
            text = data.decode(errors="replace")
            self._input += text
            if self._run.pty:
                self._run.write(text)

    def _flush(self, now: float) -> bool:
        """Hand on what was written; whether all of it is."""
        for name, pipe in self._pipes.items():
            while pipe and (not self._holds_back or self.command.wants_output(name, now=now)):
                self.command.output(name, pipe.take(min(READ_ROOM // 3, _READ_BYTES)), now=now)
        return not any(self._pipes.values())

    def _resume(self, now: float) -> bool:
        """Go on with the function, if what it waits for is there."""
        match self._step:
            case Sleep():
                if now < self._ready_at:
                    return False
                self._go_on("", now)
            case Read(line):
                text = self._take_line() if line else self._take_all()
                if text is None:
                    return False
                self._go_on(text, now)
        return True

    def _take_line(self) -> str | None:
        line, newline, rest = self._input.partition("\n")
        if newline:
            self._input = rest
            return line + newline
        return self._take_all() if self.command.stdin_closed else None

    def _take_all(self) -> str | None:
        if not self._input and not self.command.stdin_closed:
            return None
        text, self._input = self._input, ""
        return text

    def _go_on(self, value: str | None, now: float) -> None:
        assert self._script is not None
        try:
            self._step = next(self._script) if value is None else self._script.send(value)
        except StopIteration as stop:
            self._end(stop.value)
        except Exception as error:
            self._fail(error)
        else:
            if isinstance(self._step, Sleep):
                self._ready_at = now + self._step.seconds
                self._later(self._ready_at, lambda at: self.proceed(now=at))
            elif not isinstance(self._step, Read):
                text = f"a command yields run.sleep(...) or run.read...(), not {self._step!r}"
                self._fail(TypeError(text))

    def _end(self, result: int | str | None) -> None:
        self._step = None
        if isinstance(result, str):
            self._run.write(result)
            result = 0
        self._exit_code = result or 0

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._run.write_error(f"{type(error).__name__}: {error}\n")
        self._end(1)

    def _exit(self, exit_code: int, now: float) -> None:
        self.over = True
        if self._script is not None:
            self._script.close()
        if self.command.state is CommandState.RUNNING:
            for name in self.command.streams:
                self.command.output_ended(name, now=now)
            self.command.exited(exit_code, now=now)
        self._exited(self, now)
