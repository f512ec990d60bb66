"""The host at work: the pure host's decisions carried out on a runtime and a store."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from sandbox_proto.host.app import (
    AwaitChange,
    Boot,
    Demolish,
    Host,
    HostDone,
    HostEffect,
    HostFlow,
    HostSettings,
    Save,
)
from sandbox_proto.host.boxes import Box
from sandbox_proto.host.commands import Command, CommandTable
from sandbox_proto.host.environment import run_settings
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse

from ..log import local_log
from .processes import run_command
from .runtime.base import RunningSandbox, Runtime, RuntimeUnavailableError, SandboxSpec
from .store import Store
from .wakeup import Signal

T = TypeVar("T")


class HostService:
    """Runs the flows of a `Host`, and the processes of its command table.

    :ivar commands: the command table.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        state_dir: Path,
        tasks: TaskGroup,
        *,
        api_keys: tuple[str, ...],
    ) -> None:
        settings = HostSettings(api_keys=api_keys, wall_offset=time.time() - anyio.current_time())
        self.host = Host(settings, entropy=os.urandom, documents=store.boxes())
        self.entropy = os.urandom
        self.commands = CommandTable()
        self._wall_offset = settings.wall_offset
        self._runtime, self._store, self._tasks = runtime, store, tasks
        self._sandboxes_dir = state_dir / "sandboxes"
        self._running: dict[str, RunningSandbox] = {}
        self._box_changed = Signal()
        self._command_signals: dict[Command, Signal] = {}
        self._timers_changed = Signal()

    async def run_timers(self) -> None:
        """Let time pass for the command table; runs until cancelled."""
        while True:
            event = self._timers_changed.event
            deadline = self.commands.next_deadline()
            with anyio.CancelScope(deadline=float("inf") if deadline is None else deadline):
                await event.wait()
            self.commands.handle_timeout(now=anyio.current_time())

    # --- control plane ----------------------------------------------------------------

    async def respond(self, request: HostRequest) -> HostResponse:
        """Answer a control-plane request."""
        return await self.carry_out(self.host.respond(request, now=anyio.current_time()))

    async def open_box(self, reference: str, *, socket: bool = False) -> tuple[Box, RunningSandbox]:
        """The sandbox that a data-plane request is for, running.

        :raises HostError: it cannot be had.
        """
        opening = self.host.open_box_for_socket if socket else self.host.open_box
        box = await self.carry_out(opening(reference, now=anyio.current_time()))
        sandbox = self._running.get(box.id)
        if sandbox is None:
            raise HostError(503, "ServiceUnavailable", f"sandbox {box.name!r} is being started")
        return box, sandbox

    async def carry_out(self, flow: HostFlow[T]) -> T:
        """Do what a flow of the pure host asks, until it returns."""
        try:
            effect = next(flow)
            while True:
                await self._do(effect)
                effect = flow.send(HostDone(anyio.current_time()))
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    async def _do(self, effect: HostEffect) -> None:
        match effect:
            case Save(box_id, document):
                self._store.save_box(box_id, document)
                self._box_changed.set()
            case Boot(box_id):
                self._tasks.start_soon(self._boot, box_id)
            case Demolish(box_id):
                await self._demolish(box_id)
            case AwaitChange(_, deadline):
                event = self._box_changed.event
                with anyio.CancelScope(deadline=deadline):
                    await event.wait()

    # --- sandboxes --------------------------------------------------------------------

    async def _boot(self, box_id: str) -> None:
        directory = self._sandboxes_dir / box_id
        spec = SandboxSpec(box_id, (), directory / "upper", directory / "work")
        try:
            sandbox = await self._runtime.build(spec)
        except RuntimeUnavailableError as error:
            local_log.warning("sandbox %s was not built: %s", box_id, error)
            flow = self.host.boot_failed(box_id, str(error), now=anyio.current_time())
            await self.carry_out(flow)
            return
        self._running[box_id] = sandbox
        if await self.carry_out(self.host.booted(box_id, now=anyio.current_time())):
            self._tasks.start_soon(self._watch, box_id, sandbox)
        else:  # deleted while it was being built
            await self._demolish(box_id)

    async def _watch(self, box_id: str, sandbox: RunningSandbox) -> None:
        await sandbox.died.wait()
        if self._running.get(box_id) is sandbox:
            del self._running[box_id]
            self.commands.forget_box(box_id, now=anyio.current_time())
            reason = "the sandbox's own processes were ended from inside"
            await self.carry_out(self.host.boot_failed(box_id, reason, now=anyio.current_time()))

    async def _demolish(self, box_id: str) -> None:
        # Also when the client that asked for it is gone meanwhile.
        with anyio.CancelScope(shield=True):
            if (sandbox := self._running.pop(box_id, None)) is not None:
                await sandbox.destroy()
            self.commands.forget_box(box_id, now=anyio.current_time())
            if (self._sandboxes_dir / box_id).exists():
                await self._runtime.remove_tree(self._sandboxes_dir / box_id)

    # --- commands ---------------------------------------------------------------------

    def wall(self) -> float:
        """Wall-clock seconds."""
        return anyio.current_time() + self._wall_offset

    def signal_of(self, command: Command) -> Signal:
        """What is set whenever the command changed."""
        return self._command_signals[command]

    def start(self, command: Command, box: Box, sandbox: RunningSandbox) -> None:
        """Start a command that is new in the table; it runs on whoever is attached."""
        signal = self._command_signals[command] = Signal()
        command.on_change = signal.set
        command.on_timer = self._timers_changed.set
        self._tasks.start_soon(self._run_command, command, box, sandbox, signal)

    async def _run_command(
        self, command: Command, box: Box, sandbox: RunningSandbox, signal: Signal
    ) -> None:
        base = {
            "PATH": self._runtime.search_path,
            "HOME": await sandbox.home(),
            "USER": "root",
            "LANG": "C.UTF-8",
        }
        await run_command(command, sandbox, run_settings(box, command.message, base), signal)
