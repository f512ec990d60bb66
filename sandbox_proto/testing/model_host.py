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
import re
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, cast

import attrs

from ..host.app import Host
from ..host.commands import Command, CommandTable
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
from ..host.environment import run_settings
from ..host.exec_stream import ExecStream
from ..host.messages import HostError
from ..host.state import HostSettings
from ..machines.base import earliest
from ..wire.tunnel import check_port
from ..wire.urls import Origin
from .model_commands import (
    Behaviour,
    CommandRun,
    ModelProcess,
    ScriptedCommand,
    command_not_found,
)
from .model_connection import ModelConnection
from .model_files import Layer, ModelFiles
from .model_tunnel import ModelTunnel, Service

T = TypeVar("T")

HOME = "/home/user"
_BASE_ENVIRONMENT = {"HOME": HOME, "PATH": "/usr/local/bin:/usr/bin:/bin", "USER": "user"}


class Draining(Protocol):
    """Something attached that can be told of the host's end."""

    def drain(self) -> None:
        """The host is about to end."""


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
    :ivar mistakes: what functions raised that act out commands.
    :ivar holds_back: whether a command waits while nobody takes its output, as a full pipe would
        have it; else the oldest is lost, and clients are told so.
    :ivar draining: whether it is about to end; see `drain`.
    :ivar boot_seconds: how long it takes to build a sandbox.
    :ivar ports: what listens; see `on_port`.
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
        self.tunnels: dict[ModelTunnel, None] = {}
        self.attached: dict[Draining, None] = {}
        self.runs: list[str] = []
        self.mistakes: list[Exception] = []
        self.holds_back = True
        self.draining = False
        self.boot_seconds = 0.0
        self.images: dict[str, Mapping[str, bytes | None]] = {}
        self.ports: dict[int, Callable[[], Service]] = {}
        self._written: dict[str, Layer] = {}
        self._layers: dict[str, Mapping[str, bytes | None]] = {}
        self._texts: dict[str, Behaviour] = {}
        self._patterns: list[tuple[re.Pattern[str], Behaviour]] = []
        self._processes: dict[Command, ModelProcess] = {}
        self._stirred = False
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._waiting: list[_Waiting] = []
        self._pids = itertools.count(100)

    def entropy(self, count: int) -> bytes:
        """Bytes from the seed."""
        return self._random.randbytes(count)

    def on_command(
        self,
        command: str | re.Pattern[str],
        behaviour: Behaviour | None = None,
        *,
        stdout: str = "",
        stderr: str = "",
        exit_code: int = 0,
        duration: float = 0.0,
    ) -> None:
        """Say what a command does. Those of which nothing is said exit with 127, as in a shell.

            host.on_command("pytest -q", stdout="1 failed", exit_code=1, duration=42)
            host.on_command(re.compile("echo (.*)"), lambda run: run.match[1])

        :param command: its whole text, or a pattern that all of it matches. Texts go before
            patterns, earlier patterns before later ones.
        :param behaviour: a function that acts it out; see `sandbox_proto.testing.model_commands`.
        :param stdout: what it writes when it starts.
        :param stderr: what it writes to standard error.
        :param exit_code: its exit code.
        :param duration: virtual seconds from its start to its exit.
        :raises ValueError: both a function and a fixed answer are given.
        """
        fixed = ScriptedCommand(
            stdout=stdout, stderr=stderr, exit_code=exit_code, duration=duration
        )
        if behaviour is not None and fixed != ScriptedCommand():
            raise ValueError("a command has a function or a fixed answer (stdout=, ...), not both")
        if isinstance(command, str):
            self._texts[command] = behaviour or fixed
        else:
            self._patterns.append((command, behaviour or fixed))

    def on_port(
        self, port: int, service: Service | Callable[[], Service], *, per_connection: bool = False
    ) -> None:
        """Have something listen on a port, in every sandbox; tunnels lead to it.

            host.on_port(7, echo)
            host.on_port(8000, lambda data: b"HTTP/1.0 204 No Content\\r\\n\\r\\n" if data else b"")

        :param service: a function that is given what the client says, piece by piece (b"" at its
            end), and returns what to answer.
        :param per_connection: `service` makes one for every connection, for services with a memory.
        """
        make = service if per_connection else lambda: service
        self.ports[check_port(port, "port")] = cast("Callable[[], Service]", make)

    def connect(self, origin: Origin | None = None, *, now: float = 0.0) -> ModelConnection:
        """A client connects; whatever it calls this host, it is this one."""
        return ModelConnection(self)

    # --- files ------------------------------------------------------------------------

    def read(self, box_id: str, path: str) -> bytes | None:
        """A file of a sandbox, as written in it or as its layers have it."""
        return self.files(box_id).get(path)

    def files(self, box_id: str) -> dict[str, bytes]:
        """All files of a sandbox, by their absolute paths: a copy."""
        return dict(self.filesystem(box_id))

    def filesystem(self, box_id: str, cwd: str = HOME) -> ModelFiles:
        """The files of a sandbox, to be read and changed; commands and the file API share them.

        :param cwd: where relative paths begin.
        """
        box = self.host.boxes[box_id]
        written = self._written.setdefault(box_id, {})
        return ModelFiles(written, [self._layers[layer] for layer in box.layers], cwd)

    def write(self, box_id: str, path: str, content: bytes) -> None:
        """Write a file in a sandbox."""
        self._written.setdefault(box_id, {})[path] = content

    # --- its end ----------------------------------------------------------------------

    def drain(self, *, now: float) -> None:
        """Be about to end, as hosts are that are replaced.

        What is new on the data plane gets 503; everybody attached to a command or a tunnel is
        told in the words of their transport, and comes back if they can. Commands go on: the
        next host has them. `accept` ends it.
        """
        self.draining = True
        for attached in list(self.attached):
            attached.drain()
        for tunnel in self.tunnels:
            tunnel.session.leave(now=now)

    def accept(self) -> None:
        """Be there again."""
        self.draining = False

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout` if nothing else happens first."""
        agenda = self._agenda[0][0] if self._agenda else None
        waiting = earliest(*(waiting.deadline for waiting in self._waiting))
        heartbeats = [stream.next_deadline() for stream in self.streams]
        heartbeats += [tunnel.session.next_deadline() for tunnel in self.tunnels]
        tables = self.commands.next_deadline(), self.host.next_deadline()
        return earliest(agenda, waiting, *tables, *heartbeats)

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        self._now = max(self._now, now)
        while self._agenda and self._agenda[0][0] <= now:
            heapq.heappop(self._agenda)[2](now)
        self._wake(lambda waiting: waiting.deadline <= now, now)
        for stream in self.streams:
            stream.handle_timeout(now=now)
        for tunnel in self.tunnels:
            tunnel.handle_timeout(now=now)
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
                self._end_commands(box_id, now)
            case Discard(box_id):
                self._written.pop(box_id, None)
            case Demolish(box_id):
                self._end_commands(box_id, now)
                self._written.pop(box_id, None)
            case Capture(box_id, layer, moved):
                written = self._written.get(box_id, {})
                self._layers[layer] = dict(written)
                if moved:
                    self._written.pop(box_id, None)
                result = sum(len(content or b"") for content in written.values())
            case Flatten(layers, target):
                merged: Layer = {}
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
        size = sum(len(content or b"") for content in files.values())
        return HostDone(now, result=FetchedImage("sha256:model", (layer,), {}, size))

    def _wake(self, due: Callable[[_Waiting], bool], now: float) -> None:
        ready = [waiting for waiting in self._waiting if due(waiting)]
        self._waiting = [waiting for waiting in self._waiting if waiting not in ready]
        for waiting in ready:
            waiting.go_on(HostDone(now))

    # --- commands ---------------------------------------------------------------------

    def start(self, command: Command, *, now: float) -> None:
        """A command is new in the table."""
        self._now = max(self._now, now)
        text = command.message.command
        self.runs.append(text)
        behaviour, match = self._behaviour(text)
        box = self.host.boxes[command.box_id]
        settings = run_settings(box, command.message, _BASE_ENVIRONMENT)
        cwd = settings.work_dir or HOME
        begin = functools.partial(
            CommandRun,
            command,
            match=match,
            env=settings.env,
            cwd=cwd,
            files=self.filesystem(box.id, cwd),
            clock=lambda: self._now,
        )
        process = ModelProcess(
            command, behaviour, begin, self.later, self._exited, holds_back=self.holds_back
        )
        self._processes[command] = process
        self.host.hold(box.id, now=now)
        command.on_change = self._stir
        command.spawned(next(self._pids), now=now)
        process.start(now=now)
        if process.over:
            self.handle_timeout(now=now)

    def _behaviour(self, text: str) -> tuple[Behaviour, re.Match[str] | None]:
        if (known := self._texts.get(text)) is not None:
            return known, None
        for pattern, behaviour in self._patterns:
            if (match := pattern.fullmatch(text)) is not None:
                return behaviour, match
        return command_not_found, None

    def _stir(self) -> None:
        self._stirred = True

    def _exited(self, process: ModelProcess, now: float) -> None:
        self._processes.pop(process.command, None)
        if process.error is not None:
            self.mistakes.append(process.error)
        self.host.release(process.command.box_id, now=now)

    def _end_commands(self, box_id: str, now: float) -> None:
        """The processes of a sandbox die with it."""
        for command in self.commands.of_box(box_id):
            command.kill()
        self.act_on_commands(now=now)
        self.commands.forget_box(box_id, now=now)

    def act_on_commands(self, *, now: float) -> None:
        """Carry out what clients asked of commands: kill, input, room for output."""
        for process in list(self._processes.values()):
            process.proceed(now=now)
        self._stirred = False

    def settle(self, *, now: float) -> None:
        """Do what is due this very moment."""
        while (due := self.next_deadline()) is not None and due <= now:
            self.handle_timeout(now=now)
        if self._stirred:
            self.act_on_commands(now=now)
