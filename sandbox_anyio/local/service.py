"""The host at work: the pure host's decisions carried out on a runtime and a store."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import anyio
import attrs
from anyio.abc import TaskGroup

from sandbox_proto.host.app import Host
from sandbox_proto.host.boxes import Box
from sandbox_proto.host.commands import Command, CommandTable
from sandbox_proto.host.effects import (
    AwaitChange,
    BuildSandbox,
    Capture,
    Demolish,
    Discard,
    DropLayers,
    FetchImage,
    Flatten,
    Halt,
    HostDone,
    HostEffect,
    HostFlow,
    Launch,
    Save,
)
from sandbox_proto.host.environment import run_settings
from sandbox_proto.host.exec_stream import HEARTBEAT_SECONDS
from sandbox_proto.host.messages import HostError, HostRequest, HostResponse
from sandbox_proto.host.state import HostSettings
from sandbox_proto.machines.base import earliest

from ..log import local_log
from .layer_store import LayerStore
from .places import Places
from .processes import run_command
from .runtime.base import RunningSandbox, Runtime, RuntimeUnavailableError, SandboxSpec
from .store import Store
from .wakeup import Signal

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class ExecPatience:
    """How long clients of commands are waited for, in seconds.

    :ivar heartbeat: after so much silence an event stream gets a sign of life.
    :ivar stuck: a client that takes nothing for so long is given up.
    """

    heartbeat: float = HEARTBEAT_SECONDS
    stuck: float = 80.0


class HostService:
    """Runs the flows of a `Host`, and the processes of its command table.

    :ivar host: the decisions.
    :ivar commands: the command table.
    :ivar draining: set once the host is about to end.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        places: Places,
        tasks: TaskGroup,
        *,
        api_keys: tuple[str, ...],
        patience: ExecPatience | None = None,
    ) -> None:
        self._wall_offset = time.time() - anyio.current_time()
        settings = HostSettings(
            api_keys=api_keys, secret=places.secret(), wall_offset=self._wall_offset
        )
        self.host = Host(settings, entropy=os.urandom, records=store.load())
        self.entropy = os.urandom
        self.commands = CommandTable()
        self.patience = patience or ExecPatience()
        self.draining = anyio.Event()
        self._runtime, self._store, self._places, self._tasks = runtime, store, places, tasks
        self._layers = LayerStore(runtime, places)
        self._running: dict[str, RunningSandbox] = {}
        # What touches one sandbox's files or processes happens one after the other.
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._records_changed = Signal()
        self._timers_changed = Signal()
        # Weakly, because the table alone says how long a command and its output are kept.
        self._command_signals: MutableMapping[Command, Signal] = WeakKeyDictionary()
        self._attached = 0
        self._attached_changed = Signal()

    async def recover(self) -> None:
        """Begin where an earlier host ended, however it did, and clean up behind it."""
        existing = await self._layers.existing()
        await self.carry_out(self.host.recover(existing, now=anyio.current_time()))
        await self._layers.clean(keep=self.host.layers_in_use())
        if self._places.sandboxes.is_dir():
            for directory in list(self._places.sandboxes.iterdir()):
                if directory.name not in self.host.boxes:
                    await self._runtime.remove_tree(directory)

    async def run_timers(self) -> None:
        """Let time pass for sandboxes and commands; runs until cancelled."""
        while True:
            event = self._timers_changed.event
            deadline = earliest(self.host.next_deadline(), self.commands.next_deadline())
            with anyio.CancelScope(deadline=float("inf") if deadline is None else deadline):
                await event.wait()
            now = anyio.current_time()
            self.commands.handle_timeout(now=now)
            for flow in self.host.handle_timeout(now=now):
                self._tasks.start_soon(self.carry_out, flow)

    # --- the control plane ------------------------------------------------------------

    async def respond(self, request: HostRequest) -> HostResponse:
        """Answer a control-plane request."""
        return await self.carry_out(self.host.respond(request, now=anyio.current_time()))

    async def open_box(self, reference: str, *, socket: bool = False) -> tuple[Box, RunningSandbox]:
        """The sandbox that a data-plane request is for, running.

        :raises HostError: it cannot be had.
        """
        if self.draining.is_set():
            text = "the host is shutting down"
            raise HostError(503, "ServiceUnavailable", text, headers={"retry-after": "1"})
        opening = self.host.open_box_for_socket if socket else self.host.open_box
        box = await self.carry_out(opening(reference, now=anyio.current_time()))
        sandbox = self._running.get(box.id)
        if sandbox is None:
            raise HostError(503, "ServiceUnavailable", f"sandbox {box.name!r} is being stopped")
        return box, sandbox

    @contextmanager
    def held(self, box_id: str) -> Iterator[None]:
        """A stretch in which the sandbox is in use: the idle clock stands still."""
        self.host.hold(box_id, now=anyio.current_time())
        try:
            yield
        finally:
            self.host.release(box_id, now=anyio.current_time())
            self._timers_changed.set()

    @contextmanager
    def attached(self, box_id: str) -> Iterator[None]:
        """A stretch in which a client is attached to a command. It is waited for by `drain`."""
        self._attached += 1
        try:
            with self.held(box_id):
                yield
        finally:
            self._attached -= 1
            self._attached_changed.set()

    async def drain(self, patience: float) -> None:
        """Refuse what is new on the data plane, and let those who are attached leave in order.

        :param patience: how many seconds to wait for them.
        """
        self.draining.set()
        with anyio.move_on_after(patience):
            while self._attached:
                event = self._attached_changed.event
                await event.wait()

    async def carry_out(self, flow: HostFlow[T]) -> T:
        """Do what a flow of the pure host asks, until it returns."""
        outcome: HostDone | None = None
        try:
            while True:
                effect = next(flow) if outcome is None else flow.send(outcome)
                outcome = await self._do(effect)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    async def _do(self, effect: HostEffect) -> HostDone:
        result: Any = None
        failure: str | None = None
        match effect:
            case Save(records):
                self._store.save(records)
                self._records_changed.set()
                self._timers_changed.set()
            case Launch(flow):
                self._tasks.start_soon(self.carry_out, flow)
            case AwaitChange(_, deadline):
                event = self._records_changed.event
                with anyio.CancelScope(deadline=deadline):
                    await event.wait()
            case BuildSandbox(box_id):
                failure = await self._build(box_id)
            case Halt(box_id):
                await self._halt(box_id)
            case Discard(box_id):
                await self._discard(box_id)
            case Demolish(box_id):
                await self._demolish(box_id)
            case Capture(box_id, layer, moved):
                result, failure = await self._capture(box_id, layer, moved)
            case Flatten(layers, target):
                failure = await self._layers.flatten(layers, target)
            case FetchImage(reference, credentials):
                result, failure = await self._layers.fetch(reference, credentials)
            case DropLayers(layers):
                await self._layers.drop(layers)
        return HostDone(anyio.current_time(), failure, result)

    # --- sandboxes --------------------------------------------------------------------

    async def _build(self, box_id: str) -> str | None:
        """Build a sandbox. Returns why not, if not."""
        async with self._locks[box_id]:
            box = self.host.boxes.get(box_id)
            if box is None or box_id in self._running:
                return None
            spec = SandboxSpec(
                box_id,
                self._layers.paths(box.layers),
                self._places.upper(box_id),
                self._places.work(box_id),
                "layers" if box.system == "layers" else "host",
            )
            try:
                sandbox = await self._runtime.build(spec)
            except RuntimeUnavailableError as error:
                local_log.warning("sandbox %s was not built: %s", box_id, error)
                return str(error)
            self._running[box_id] = sandbox
            self._tasks.start_soon(self._watch, box_id, sandbox)
            return None

    async def _watch(self, box_id: str, sandbox: RunningSandbox) -> None:
        await sandbox.died.wait()
        if self._running.get(box_id) is sandbox:
            del self._running[box_id]
            self.commands.forget_box(box_id, now=anyio.current_time())
            reason = "the sandbox's own processes were ended from inside"
            await self.carry_out(self.host.died(box_id, reason))

    async def _halt(self, box_id: str) -> None:
        # To the end, also when the client that asked for it is gone meanwhile.
        with anyio.CancelScope(shield=True):
            async with self._locks[box_id]:
                if (sandbox := self._running.pop(box_id, None)) is not None:
                    await sandbox.destroy()
                self.commands.forget_box(box_id, now=anyio.current_time())

    async def _discard(self, box_id: str) -> None:
        with anyio.CancelScope(shield=True):
            async with self._locks[box_id]:
                if self._places.sandbox(box_id).exists():
                    await self._runtime.remove_tree(self._places.sandbox(box_id))

    async def _demolish(self, box_id: str) -> None:
        await self._halt(box_id)
        await self._discard(box_id)
        if box_id not in self.host.boxes and not self._locks[box_id].locked():
            del self._locks[box_id]

    async def _capture(self, box_id: str, layer: str, moved: bool) -> tuple[int | None, str | None]:
        """Make a layer of what was written, if anything was. Returns its size, or why not."""
        async with self._locks[box_id]:
            upper = self._places.upper(box_id)
            running = self._running.get(box_id)
            if moved and running is not None:
                return None, "the sandbox was started meanwhile"
            if not moved and running is None:
                return None, "the sandbox was stopped meanwhile"
            if not upper.exists():
                return None, None
            return await self._layers.capture(upper, layer, running)

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
            "PATH": sandbox.search_path,
            "HOME": await sandbox.home(),
            "USER": "root",
            "LANG": "C.UTF-8",
        }
        awake = self.host.settings.commands_keep_awake
        with self.held(box.id) if awake else nullcontext():
            await run_command(command, sandbox, run_settings(box, command.message, base), signal)
