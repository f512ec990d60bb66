"""A sandbox host with scripted commands and no processes: the pure host, and nothing else.

It speaks the real protocol in bytes: what `ModelConnection` is fed and gives is what would
travel over a socket. Decisions are those of `sandbox_proto.host`; only the runtime is a
script.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from ..host.app import Host
from ..host.commands import Command, CommandState, CommandTable
from ..host.effects import (
    AwaitChange,
    BuildSandbox,
    Capture,
    Demolish,
    Discard,
    DropLayers,
    FetchedImage,
    FetchImage,
    Flatten,
    Halt,
    HostDone,
    HostEffect,
    HostFlow,
    Launch,
    Save,
)
from ..host.exec_stream import ExecStream
from ..host.messages import HostError
from ..host.state import HostSettings
from ..machines.base import earliest
from ..wire.urls import Origin
from .model_connection import ModelConnection

T = TypeVar("T")

KILLED = 137
HOME = "/home/user"


@attrs.frozen(kw_only=True)
class ScriptedCommand:
    """What a command does on a model host.

    :ivar duration: seconds from its start to its exit.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    duration: float = 0.0


_UNKNOWN = ScriptedCommand(stderr="command not scripted\n", exit_code=127)


@attrs.frozen
class _Waiting:
    """A flow that waits for a record to change."""

    key: str
    deadline: float
    go_on: Callable[[HostDone], None]


class ModelHost:
    """See the module's text.

    :ivar host: the records.
    :ivar commands: the command table.
    :ivar streams: the event streams that are being answered.
    :ivar runs: the text of every command that was started, in order.
    :ivar boot_seconds: how long it takes to build a sandbox.
    :ivar images: reference -> files of the images that can be fetched.
    """

    def __init__(self, *, seed: int = 0, api_key: str = "model-key", origin: str = "http://model"):
        self._random = random.Random(seed)
        self.api_key = api_key
        self.origin = origin
        settings = HostSettings(
            api_keys=(api_key,), secret=self.entropy(32), wall_offset=1_700_000_000.0
        )
        self.host = Host(settings, entropy=self.entropy)
        self.commands = CommandTable()
        self.streams: set[ExecStream] = set()
        self.runs: list[str] = []
        self.boot_seconds = 0.0
        self.images: dict[str, Mapping[str, bytes]] = {}
        self._written: dict[str, dict[str, bytes]] = {}
        self._layers: dict[str, Mapping[str, bytes]] = {}
        self._scripts: dict[str, ScriptedCommand] = {}
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._waiting: list[_Waiting] = []
        self._pids = itertools.count(100)

    def entropy(self, count: int) -> bytes:
        """Bytes from the seed."""
        return self._random.randbytes(count)

    def on_command(
        self,
        command: str,
        *,
        stdout: str = "",
        stderr: str = "",
        exit_code: int = 0,
        duration: float = 0.0,
    ) -> None:
        """Say what a command does; unscripted ones exit with 127."""
        self._scripts[command] = ScriptedCommand(
            stdout=stdout, stderr=stderr, exit_code=exit_code, duration=duration
        )

    def connect(self, origin: Origin | None = None, *, now: float = 0.0) -> ModelConnection:
        """A client connects; whatever it calls this host, it is this one."""
        return ModelConnection(self)

    # --- files ------------------------------------------------------------------------

    def read(self, box_id: str, path: str) -> bytes | None:
        """A file of a sandbox, as written in it or as its layers have it."""
        return self.files(box_id).get(path)

    def files(self, box_id: str) -> dict[str, bytes]:
        """All files of a sandbox, by their absolute paths."""
        box = self.host.boxes[box_id]
        views = [self._written.get(box_id, {}), *(self._layers[layer] for layer in box.layers)]
        return {path: content for view in reversed(views) for path, content in view.items()}

    def write(self, box_id: str, path: str, content: bytes) -> None:
        """Write a file in a sandbox."""
        self._written.setdefault(box_id, {})[path] = content

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout` if nothing else happens first."""
        agenda = self._agenda[0][0] if self._agenda else None
        waiting = earliest(*(waiting.deadline for waiting in self._waiting))
        heartbeats = [stream.next_deadline() for stream in self.streams]
        tables = self.commands.next_deadline(), self.host.next_deadline()
        return earliest(agenda, waiting, *tables, *heartbeats)

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        while self._agenda and self._agenda[0][0] <= now:
            heapq.heappop(self._agenda)[2](now)
        self._wake(lambda waiting: waiting.deadline <= now, now)
        for stream in self.streams:
            stream.handle_timeout(now=now)
        self.commands.handle_timeout(now=now)
        for flow in self.host.handle_timeout(now=now):
            self.carry_out(flow, now=now)
        self.act_on_commands(now=now)

    def later(self, when: float, act: Callable[[float], None]) -> None:
        """Put something on the agenda; `act` is told the time."""
        heapq.heappush(self._agenda, (when, next(self._order), act))

    # --- flows of the pure host -------------------------------------------------------

    def carry_out(
        self,
        flow: HostFlow[T],
        done: Callable[[T, float], None] = lambda result, now: None,
        refused: Callable[[HostError], None] | None = None,
        *,
        now: float,
    ) -> None:
        """Run a flow of the host; `done` gets its result and the time, now or later.

        :param refused: gets the error, if the flow raises one.
        """
        self._go_on(flow, done, refused, None, now)

    def _go_on(
        self,
        flow: HostFlow[T],
        done: Callable[[T, float], None],
        refused: Callable[[HostError], None] | None,
        outcome: HostDone | None,
        now: float,
    ) -> None:
        try:
            while True:
                effect = next(flow) if outcome is None else flow.send(outcome)
                later = functools.partial(self._resume, flow, done, refused)
                outcome = self._do(effect, later, now)
                if outcome is None:
                    return  # `later` is called with the outcome
        except StopIteration as stop:
            done(stop.value, now)
        except HostError as error:
            if refused is None:
                raise
            refused(error)

    def _resume(
        self,
        flow: HostFlow[T],
        done: Callable[[T, float], None],
        refused: Callable[[HostError], None] | None,
        outcome: HostDone,
    ) -> None:
        self._go_on(flow, done, refused, outcome, outcome.now)

    def _do(
        self, effect: HostEffect, later: Callable[[HostDone], None], now: float
    ) -> HostDone | None:
        """Carry out one effect; None if its outcome comes later."""
        result: object = None
        match effect:
            case Save(records):
                keys = {record.key for record in records}
                self.later(now, lambda at: self._wake(lambda one: one.key in keys, at))
            case Launch(flow):
                self.later(now, lambda at: self.carry_out(flow, now=at))
            case BuildSandbox():
                if self.boot_seconds:
                    self.later(now + self.boot_seconds, lambda at: later(HostDone(at)))
                    return None
            case AwaitChange(key, deadline):
                self._waiting.append(_Waiting(key, deadline, later))
                return None
            case Halt(box_id):
                self.commands.forget_box(box_id, now=now)
            case Discard(box_id):
                self._written.pop(box_id, None)
            case Demolish(box_id):
                self.commands.forget_box(box_id, now=now)
                self._written.pop(box_id, None)
            case Capture(box_id, layer, moved):
                written = self._written.get(box_id, {})
                self._layers[layer] = dict(written)
                if moved:
                    self._written.pop(box_id, None)
                result = sum(map(len, written.values()))
            case Flatten(layers, target):
                merged: dict[str, bytes] = {}
                for layer in reversed(layers):
                    merged.update(self._layers[layer])
                self._layers[target] = merged
            case FetchImage(reference):
                return self._fetch(reference, now)
            case DropLayers(layers):
                for layer in layers:
                    self._layers.pop(layer, None)
        return HostDone(now, result=result)

    def _fetch(self, reference: str, now: float) -> HostDone:
        if (files := self.images.get(reference)) is None:
            return HostDone(now, failure=f"there is no image {reference!r}")
        layer = f"image-{reference}"
        self._layers[layer] = files
        size = sum(map(len, files.values()))
        return HostDone(now, result=FetchedImage("sha256:model", (layer,), {}, size))

    def _wake(self, due: Callable[[_Waiting], bool], now: float) -> None:
        ready = [waiting for waiting in self._waiting if due(waiting)]
        self._waiting = [waiting for waiting in self._waiting if waiting not in ready]
        for waiting in ready:
            waiting.go_on(HostDone(now))

    # --- commands ---------------------------------------------------------------------

    def start(self, command: Command, *, now: float) -> None:
        """A command is new in the table."""
        text = command.message.command
        self.runs.append(text)
        script = self._scripts.get(text, _UNKNOWN)
        self.host.hold(command.box_id, now=now)
        command.spawned(next(self._pids), now=now)
        command.output("stdout", script.stdout.encode(), now=now)
        command.output("stderr", script.stderr.encode(), now=now)
        self.later(now + script.duration, lambda at: self._exit(command, script.exit_code, at))
        if not script.duration:
            self.handle_timeout(now=now)

    def _exit(self, command: Command, exit_code: int, now: float) -> None:
        if command.state is not CommandState.RUNNING:
            return
        for name in command.streams:
            command.output_ended(name, now=now)
        command.exited(exit_code, now=now)
        self.host.release(command.box_id, now=now)

    def act_on_commands(self, *, now: float) -> None:
        """Carry out what clients asked of commands (kill)."""
        for box_id in list(self.host.boxes):
            for command in self.commands.of_box(box_id):
                if command.wants_kill:
                    self._exit(command, KILLED, now)

    def settle(self, *, now: float) -> None:
        """Do what is due this very moment."""
        while (due := self.next_deadline()) is not None and due <= now:
            self.handle_timeout(now=now)
