"""What is in ``sandbox_anyio/command.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...command import AsyncCommandHandle
from ..base import Blocking

if TYPE_CHECKING:
    import re
    from typing import Literal

    from sandbox_proto.wire.command_models import ExecutionResult

    from ..command import CommandHandle


class HandleMethods(Blocking[AsyncCommandHandle]):
    """See `CommandHandle`."""

    @property
    def command_id(self) -> str:
        """The id by which any client can reattach to this command."""
        return self._async.command_id

    @property
    def pid(self) -> int | None:
        """The process id inside the sandbox; None if unknown."""
        return self._async.pid

    @property
    def last_stdout_offset(self) -> int:
        """How many bytes of standard output have been received."""
        return self._async.last_stdout_offset

    @property
    def last_stderr_offset(self) -> int:
        """How many bytes of standard error have been received."""
        return self._async.last_stderr_offset

    @property
    def stdin_closed(self) -> bool:
        """Whether the command's standard input is known to be closed."""
        return self._async.stdin_closed

    @property
    def input_in_doubt(self) -> bool:
        """Whether the connection was lost while input was on its way, at least once."""
        return self._async.input_in_doubt

    @property
    def result(self) -> ExecutionResult:
        """Waits for the command's end; includes the output that was iterated over before.

        Of output that was iterated over 1 MiB of each stream is kept: the head and the tail;
        ``result.omitted`` says what is not there. `max_output` in `run` asks for more or less.

        :raises CommandTimeoutError: the command ran longer than its limit.
        :raises SandboxOperationError: the server reported another failure of the command.
        :raises SandboxConnectionError: the connection was lost and could not be had again.

        What these errors know of the command stands in their ``command``.
        """
        return self._call(lambda it: it.result)

    def wait_started(self) -> None:
        """Wait until the command runs.

        :raises SandboxClientError: it could not be started.
        """
        self._call(lambda it: it.wait_started())

    def wait_for_output(
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
        return self._call(lambda it: it.wait_for_output(pattern, timeout, stream=stream))

    def send_input(self, data: str | bytes) -> None:
        """Write text to the command's standard input or terminal.

        Returns before the command has read it. Input that was on its way when the connection
        was lost is not sent again, because it may be there: then `input_in_doubt` is set.

        :param data: text, or its UTF-8.
        :raises SandboxOperationError: standard input is closed.
        :raises ValueError: it is not text.
        """
        self._call(lambda it: it.send_input(data))

    def close_input(self) -> None:
        """Close the command's standard input. Harmless when closed; nothing on a terminal."""
        self._call(lambda it: it.close_input())

    def kill(self) -> None:
        """Kill the command's whole process group (SIGKILL) and wait, at most 5 s, for its end.

        The end is then to be had from `result`, as a rule with exit code 137. Where an event
        stream is in use, a WebSocket is opened for it.

        :raises SandboxTimeoutError: the server did not confirm it in time.
        """
        self._call(lambda it: it.kill())

    def reconnect(self) -> CommandHandle:
        """A new handle on the same command, from the present offsets on, without callbacks."""
        made = self._call(lambda it: it.reconnect())
        return self._handle(made)

    def detach(self) -> None:
        """Let the command go on when the block of this handle, or the call of `run`, ends."""
        self._do(lambda it: it.detach())

    def close(self) -> None:
        """Leave the command to itself and drop the connection. Waits for nothing."""
        self._do(lambda it: it.close())
