"""A handle on a command whose output goes into pipes: the driver of a process's streams.

Whoever waits, for bytes of either stream or for the end, drives for all, as with every handle.
When a pipe is full nobody reads on: see `machines.output_pipes` for the rule.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.machines.base import earliest
from sandbox_proto.machines.exec_output import Output, OutputCollector
from sandbox_proto.machines.exec_session import ExecSession
from sandbox_proto.machines.output_pipes import OutputPipes, return_code
from sandbox_proto.wire.command_models import OutputChunk

from .command import AsyncCommandHandle
from .command_output import OutputOptions
from .network import Event

if TYPE_CHECKING:
    from .client import AsyncSandboxClient

_NOT_ITERABLE = OutputOptions(iterable=False)


class ProcessHandle(AsyncCommandHandle):
    """See the module's text.

    :ivar pipes: where the output goes.
    """

    def __init__(
        self,
        session: ExecSession,
        client: AsyncSandboxClient,
        reconnect: Callable[[AsyncCommandHandle], Awaitable[AsyncCommandHandle]],
        pipes: OutputPipes,
    ) -> None:
        super().__init__(session, client, reconnect, _NOT_ITERABLE)
        self.pipes = pipes
        self._collected = _IntoPipes(pipes)
        self._killed = False

    # --- what is known ----------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    @property
    def failure(self) -> SandboxClientError | None:
        """How the command, or our hold of it, failed, if it has."""
        return self._error

    @property
    def returncode(self) -> int | None:
        """How the command ended, as `subprocess` spells it; None: that is not known (yet)."""
        if self._result is None:
            return None
        return return_code(self._result.exit_code, killed=self._killed)

    @property
    def input_arrived(self) -> bool:
        """Whether the server is known to have all input that was sent."""
        return self._session.input_arrived

    # --- influence --------------------------------------------------------------------

    def ask_kill(self) -> None:
        """Kill the command. Whoever waits for its end sees to it."""
        if self._over:
            return
        with self._mutex:
            self._killed = True
            self.pipes.lift_bound()
            self._session.kill(now=self._now())
            self._nudge()

    async def kill(self) -> None:
        self.ask_kill()
        await super().kill()

    def take(self, stream: str, most: int) -> bytes:
        """At most so many bytes of a stream; none if there are none. The command goes on."""
        with self._mutex:
            was_full = self.pipes.full
            data = self.pipes.take(stream, most)
            if was_full:
                self._tell_others()
        return data

    def drop(self, stream: str) -> None:
        """Nobody reads a stream any more. The command goes on."""
        with self._mutex:
            self.pipes.drop(stream)
            self._tell_others()

    # --- driving ----------------------------------------------------------------------

    async def drive_until(self, done: Callable[[], bool]) -> None:
        """Wait, and drive meanwhile, until something is so. It must hold when all is over."""
        await self._drive_until(done)

    async def let_others_run(self) -> None:
        """A moment for other tasks."""
        await self._let_others_run()

    async def _step(self, until: float | None) -> None:
        if await self._take_events():
            return
        if self.pipes.full:
            await self._hold_back(until)
        else:
            await super()._step(until)

    async def _follow(self, changed: Event, until: float | None) -> None:
        if self.pipes.full:
            await changed.wait(until)  # who leads looks after the time
        else:
            await super()._follow(changed, until)

    async def _hold_back(self, until: float | None) -> None:
        """Read nothing before there is room; but not for longer than the command may run."""
        overdue = self._session.overdue_at
        if overdue is not None and self._now() >= overdue:
            self.pipes.lift_bound()
        else:
            await self._next_change().wait(earliest(until, overdue))
        self._session.resume(now=self._now())  # the silence was ours


class _IntoPipes(OutputCollector):
    """Keeps nothing itself: the pipes have it."""

    def __init__(self, pipes: OutputPipes) -> None:
        super().__init__(limit=0)
        self._pipes = pipes

    def add(self, event: Output) -> None:
        self._pipes.put(event)

    def add_run(self, chunks: list[OutputChunk]) -> None:
        """Add many chunks at once."""
        for chunk in chunks:
            self._pipes.put(chunk)
