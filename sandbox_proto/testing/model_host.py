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
from collections.abc import Callable
from typing import TypeVar

import attrs

from ..host.app import AwaitChange, Boot, Demolish, Host, HostDone, HostFlow, HostSettings, Save
from ..host.commands import Command, CommandState, CommandTable
from ..host.exec_socket import ExecSocket
from ..host.files import file_error, requested_path
from ..host.messages import HostError, HostRequest, HostResponse
from ..host.routing import DATA_PLANE
from ..machines.base import SEND_EOF, Buffer, Output, earliest
from ..machines.http1_server import Http1Server, RequestReceived
from ..machines.websocket import Closed, Failed, Message, WebSocket, WebSocketLimits
from ..wire.exec_messages import encode

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


class ModelHost:
    """See the module's text.

    :ivar host: the records.
    :ivar commands: the command table.
    :ivar runs: the text of every command that was started, in order.
    """

    def __init__(self, *, seed: int = 0, api_key: str = "model-key", origin: str = "http://model"):
        self._random = random.Random(seed)
        self.api_key = api_key
        self.origin = origin
        settings = HostSettings(api_keys=(api_key,), wall_offset=1_700_000_000.0)
        self.host = Host(settings, entropy=self.entropy)
        self.commands = CommandTable()
        self.runs: list[str] = []
        self.files: dict[tuple[str, str], bytes] = {}
        self.boot_seconds = 0.0
        self._scripts: dict[str, ScriptedCommand] = {}
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._parked: list[tuple[AwaitChange, Callable[[float], None]]] = []
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

    def connect(self) -> ModelConnection:
        """A client connects."""
        return ModelConnection(self)

    # --- time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout` if nothing else happens first."""
        agenda = self._agenda[0][0] if self._agenda else None
        parked = earliest(*(effect.deadline for effect, _ in self._parked))
        return earliest(agenda, parked, self.commands.next_deadline())

    def handle_timeout(self, *, now: float) -> None:
        """Time passed."""
        while self._agenda and self._agenda[0][0] <= now:
            heapq.heappop(self._agenda)[2](now)
        self._resume_parked(lambda effect: effect.deadline <= now, now)
        self.commands.handle_timeout(now=now)
        self._act_on_commands(now)

    def later(self, when: float, act: Callable[[float], None]) -> None:
        """Put something on the agenda; `act` is told the time."""
        heapq.heappush(self._agenda, (when, next(self._order), act))

    # --- flows of the pure host -------------------------------------------------------

    def carry_out(
        self,
        flow: HostFlow[T],
        done: Callable[[T, float], None],
        refused: Callable[[HostError], None] | None = None,
        *,
        now: float,
    ) -> None:
        """Run a flow of the host; `done` gets its result and the time, now or later.

        :param refused: gets the error, if the flow raises one.
        """
        self._advance(flow, None, done, refused, now)

    def _advance(
        self,
        flow: HostFlow[T],
        outcome: HostDone | None,
        done: Callable[[T, float], None],
        refused: Callable[[HostError], None] | None,
        now: float,
    ) -> None:
        try:
            while True:
                effect = next(flow) if outcome is None else flow.send(outcome)
                match effect:
                    case Boot(box_id):
                        self.later(now + self.boot_seconds, lambda at: self._booted(box_id, at))
                        if not self.boot_seconds:
                            self.handle_timeout(now=now)
                    case Demolish(box_id):
                        self.commands.forget_box(box_id, now=now)
                    case AwaitChange():
                        go_on = functools.partial(self._advance_at, flow, done, refused)
                        self._parked.append((effect, go_on))
                        return
                    case Save():
                        pass
                outcome = HostDone(now)
        except StopIteration as stop:
            done(stop.value, now)
        except HostError as error:
            if refused is None:
                raise
            refused(error)

    def _advance_at(
        self,
        flow: HostFlow[T],
        done: Callable[[T, float], None],
        refused: Callable[[HostError], None] | None,
        now: float,
    ) -> None:
        self._advance(flow, HostDone(now), done, refused, now)

    def _booted(self, box_id: str, now: float) -> None:
        for _ in self.host.booted(box_id, now=now):
            pass
        self._resume_parked(lambda effect: effect.box_id == box_id, now)

    def _resume_parked(self, due: Callable[[AwaitChange], bool], now: float) -> None:
        ready = [entry for entry in self._parked if due(entry[0])]
        self._parked = [entry for entry in self._parked if entry not in ready]
        for _, resume in ready:
            resume(now)

    # --- commands ---------------------------------------------------------------------

    def start(self, command: Command, *, now: float) -> None:
        """A command is new in the table."""
        text = command.message.command
        self.runs.append(text)
        script = self._scripts.get(text, _UNKNOWN)
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

    def _act_on_commands(self, now: float) -> None:
        for box_id in list(self.host.boxes):
            for command in self.commands.of_box(box_id):
                if command.wants_kill:
                    self._exit(command, KILLED, now)

    def act(self, *, now: float) -> None:
        """Carry out what clients asked of commands (kill)."""
        self._act_on_commands(now)


class ModelConnection:
    """The host's end of one connection: bytes in, bytes out."""

    def __init__(self, model: ModelHost) -> None:
        self._model = model
        self._http = Http1Server()
        self._websocket: WebSocket | None = None
        self._exec: ExecSocket | None = None
        self._broken = False

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """Bytes arrived from the client."""
        if self._websocket is not None:
            self._websocket.receive_data(data, now=now)
            self._serve_messages(now)
            return
        self._http.receive_data(data)
        while (request := self._http.next_event()) is not None:
            self._serve(request, now)

    def receive_eof(self, *, now: float) -> None:
        """The client closed."""
        if self._websocket is None:
            self._http.receive_eof()
        self.abandon(now=now)

    def abandon(self, *, now: float) -> None:
        """The connection is gone."""
        self._broken = True
        if self._exec is not None:
            self._exec.disconnected(now=now)
            self._exec = None
            self._model.act(now=now)

    def data_to_send(self, *, now: float) -> list[Output]:
        """Bytes for the client."""
        if self._websocket is None:
            return self._http.data_to_send()
        self._speak(now)
        output = self._websocket.data_to_send()
        sent = sum(len(chunk) for chunk in output if chunk is not SEND_EOF)
        self._websocket.data_sent(sent, now=now)
        return self._http.data_to_send() + output

    @property
    def finished(self) -> bool:
        """Whether the host closes the connection once its output is sent."""
        return (
            self._broken
            or self._http.finished
            or (self._websocket is not None and self._websocket.finished)
        )

    # --- HTTP -------------------------------------------------------------------------

    def _serve(self, received: RequestReceived, now: float) -> None:
        path, _, query = received.target.partition("?")
        request = HostRequest(
            received.method, path, query, received.headers, received.body, self._model.origin
        )
        model = self._model
        try:
            match = model.host.route(request)
        except HostError as error:
            self._refuse(error)
            return
        if match.name not in DATA_PLANE:
            respond = model.host.respond(request, now=now)
            model.carry_out(respond, lambda response, at: self._answer(response), now=now)
            return
        opening = model.host.open_box
        if match.name == "exec_socket":
            opening = model.host.open_box_for_socket
        model.carry_out(
            opening(match.names[0], now=now),
            lambda box, at: self._serve_box(match.name, received, request, box.id, at),
            self._refuse,
            now=now,
        )

    def _serve_box(
        self, route: str, received: RequestReceived, request: HostRequest, box_id: str, now: float
    ) -> None:
        try:
            if route == "exec_socket" and received.upgrade_key is not None:
                self._upgrade(received.upgrade_key, box_id, now)
            elif route == "upload":
                self._answer(self._upload(request, box_id))
            elif route == "download":
                self._download(request, box_id)
            else:
                raise HostError(426, "UpgradeRequired", "this is a WebSocket endpoint")
        except HostError as error:
            self._refuse(error)

    def _refuse(self, error: HostError) -> None:
        self._answer(error.response())

    def _answer(self, response: HostResponse) -> None:
        headers = {"content-type": "application/json", **response.headers}
        self._http.respond(response.status, headers, response.body)

    def _upload(self, request: HostRequest, box_id: str) -> HostResponse:
        path = requested_path(request.query, HOME, "write")
        boundary = request.headers.get("content-type", "").partition("boundary=")[2].encode()
        _, _, part = request.body.partition(b"\r\n\r\n")
        content = part.rpartition(b"\r\n--" + boundary + b"--")[0]
        self._model.files[box_id, path] = content
        return HostResponse(200, {"path": path, "written": len(content)})

    def _download(self, request: HostRequest, box_id: str) -> None:
        path = requested_path(request.query, HOME, "read")
        content = self._model.files.get((box_id, path))
        if content is None:
            raise file_error(2, path, "read")
        self._http.respond(200, {"content-type": "application/octet-stream"}, content)

    # --- exec -------------------------------------------------------------------------

    def _upgrade(self, key: str, box_id: str, now: float) -> None:
        trailing = self._http.accept_upgrade(key)
        self._websocket = WebSocket(
            "server", WebSocketLimits(ping_interval=None), now=now, trailing_data=trailing
        )
        self._exec = ExecSocket(self._model.commands, box_id, self._model.entropy)
        self._serve_messages(now)

    def _serve_messages(self, now: float) -> None:
        assert self._websocket is not None
        while (event := self._websocket.next_event()) is not None:
            match event:
                case Message(data) if self._exec is not None:
                    self._exec.receive(data, now=now, wall=now)
                    if (command := self._exec.to_spawn) is not None:
                        self._exec.to_spawn = None
                        self._model.start(command, now=now)
                    self._model.act(now=now)
                case Closed() | Failed():
                    self.abandon(now=now)

    def _speak(self, now: float) -> None:
        assert self._websocket is not None
        while self._exec is not None and self._websocket.open:
            message = self._exec.next_message(now=now)
            if message is None:
                return
            self._websocket.send_text(encode(message), now=now)
            if self._exec.finished:
                self._exec.disconnected(now=now)
                self._exec = None
                self._websocket.close(1000, now=now)
