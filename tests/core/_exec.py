"""An `ExecSession` and the server it talks to, message by message, on a virtual clock."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.errors import SandboxClientError
from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.base import SEND_EOF
from sandbox_proto.machines.exec_events import (
    CommandExited,
    CommandFailed,
    Reattaching,
    SessionEvent,
)
from sandbox_proto.machines.exec_link import exec_socket
from sandbox_proto.machines.exec_session import ExecSession
from sandbox_proto.machines.http1_server import Http1Server, RequestReceived
from sandbox_proto.machines.websocket import Closed, Failed, Message, WebSocket
from sandbox_proto.machines.ws_client import Opened
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import Execute, Reconnect, ServerMessage, encode
from sandbox_proto.wire.exec_messages import Exit as Exit
from sandbox_proto.wire.exec_messages import Started as Started
from sandbox_proto.wire.urls import Url

from ._helpers import FixedRandom
from ._ws import QUIET, close_frame

BASE = "http://d.test/sb"
URL = Url.parse(BASE)
HEADERS = {"x-api-key": "k", "x-call": "kept"}
ID = "a" * 32
START = 1000.0
STARTED = Started(ID, 7)


def execute(**more: Any) -> Execute:
    return Execute(**{"command": "work", "command_id": ID, "timeout_seconds": 60, **more})


def stdout(data: str, offset: int) -> OutputChunk:
    return OutputChunk("stdout", data, offset)


def stderr(data: str, offset: int) -> OutputChunk:
    return OutputChunk("stderr", data, offset)


class Line:
    """See the module's text. `say` and `hear` are the server's; it begins unconnected."""

    def __init__(
        self,
        opening: Execute | Reconnect | None = None,
        timeouts: ExecTimeouts | None = None,
        *,
        chance: float = 0.5,
        **more: Any,
    ) -> None:
        self.now = START
        self.session = ExecSession(
            BASE,
            HEADERS,
            opening or execute(),
            timeouts=timeouts or ExecTimeouts(),
            random=FixedRandom(chance),
            entropy=random.Random(3).randbytes,
            now=START,
            **more,
        )
        self.upgrades: list[RequestReceived] = []
        self.events: list[SessionEvent] = []
        self._http: Http1Server | None = None
        self._socket: WebSocket | None = None
        self.heard: list[dict[str, Any]] = []
        self.closed_with: int | None = None

    # --- the connection ---------------------------------------------------------------

    def connect(self) -> RequestReceived:
        """A connection is made; returns the upgrade request that comes on it."""
        assert self.session.connection_wanted == URL.origin
        self.session.connected(now=self.now)
        self._http, self._socket = Http1Server(), None
        self._http.receive_data(self._flush())
        request = self._http.next_event()
        assert request is not None
        self.upgrades.append(request)
        return request

    def connect_opened(self) -> list[dict[str, Any]]:
        """A WebSocket that stood open is used; returns the messages that come at once."""
        wire = exec_socket(
            BASE, HEADERS, nonce=bytes(16), timeouts=ExecTimeouts(), open_deadline=None
        )
        http = Http1Server()
        http.receive_data(_join(wire.data_to_send()))
        request = http.next_event()
        assert request is not None and request.upgrade_key is not None
        http.accept_upgrade(request.upgrade_key)
        wire.receive_data(_join(http.data_to_send()), now=self.now)
        assert isinstance(wire.next_event(), Opened)
        self._socket = WebSocket("server", QUIET, now=self.now)
        self.session.connected(now=self.now, opened=wire)
        self.take()
        return self.hear()

    def accept(self) -> None:
        """The server agrees to the upgrade that was asked for."""
        assert self._http is not None and self.upgrades[-1].upgrade_key is not None
        self._http.accept_upgrade(self.upgrades[-1].upgrade_key)
        self._socket = WebSocket("server", QUIET, now=self.now)
        self.feed(_join(self._http.data_to_send()))

    def open(self) -> list[dict[str, Any]]:
        """Connect and agree; returns the messages that come at once."""
        self.connect()
        self.accept()
        return self.hear()

    def start(self) -> Line:
        """Open, and say that the command runs."""
        self.open()
        self.say(STARTED)
        return self

    def reject(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Connect, and have the upgrade refused."""
        self.connect()
        assert self._http is not None
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self._http.respond(status, fields, body)
        self.feed(_join(self._http.data_to_send()))

    def refuse(self, kind: FaultKind = FaultKind.UNREACHABLE) -> None:
        """No connection can be made."""
        assert self.session.connection_wanted is not None
        self.session.connect_failed(Fault(kind, f"no connection: {kind.value}"), now=self.now)
        self.take()

    def cut(self) -> None:
        """The connection is lost."""
        fault = Fault(FaultKind.DISCONNECTED, "reset by peer")
        self.session.connection_lost(fault, now=self.now)
        self.take()

    def eof(self) -> None:
        self.session.receive_eof(now=self.now)
        self.take()

    def close(self, code: int | None) -> None:
        """The server closes the WebSocket in order."""
        self.feed(close_frame(code))

    # --- messages ---------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the server, as they are."""
        if data:
            self.session.receive_data(data, now=self.now)
        self.take()

    def say(self, *messages: ServerMessage | dict[str, Any] | str) -> None:
        """Messages from the server: as they should be, as JSON, or as raw text."""
        assert self._socket is not None
        for message in messages:
            if isinstance(message, dict):
                text = json.dumps(message)
            else:
                text = message if isinstance(message, str) else encode(message)
            self._socket.send_text(text, now=self.now)
        self.feed(_join(self._socket.data_to_send()))

    def hear(self) -> list[dict[str, Any]]:
        """What the client has said on this connection since it was asked last."""
        output = self._flush()
        if self._socket is None or not output:
            return []
        self._socket.receive_data(output, now=self.now)
        new = []
        while (event := self._socket.next_event()) is not None:
            match event:
                case Message(data):
                    new.append(json.loads(data))
                case Closed(code):
                    self.closed_with = code
                case Failed(fault):
                    raise AssertionError(fault)
        self.heard += new
        return new

    def _flush(self) -> bytes:
        output = _join(self.session.data_to_send())
        if output:
            self.session.data_sent(len(output), now=self.now)
        return output

    # --- events and time --------------------------------------------------------------

    def take(self) -> list[SessionEvent]:
        """The events since the last call that asked (all of them stand in `events`)."""
        new = []
        while (event := self.session.next_event()) is not None:
            new.append(event)
        self.events += new
        return new

    def of(self, kind: type) -> list[Any]:
        self.take()
        return [event for event in self.events if isinstance(event, kind)]

    def at(self, now: float) -> None:
        """It is this late now."""
        assert now >= self.now
        self.now = now
        self.session.handle_timeout(now=now)
        self.take()

    def wait(self) -> float:
        """Let the time pass that the session wants to wait; returns how much it was."""
        deadline = self.session.next_deadline()
        assert deadline is not None, "it would wait for ever"
        waited = deadline - self.now
        self.at(deadline - 0.0005 if waited > 0.001 else self.now)
        self.at(max(deadline, self.now))
        return waited

    @property
    def delays(self) -> list[float]:
        """The backoffs so far, to the microsecond."""
        return [round(event.delay, 6) for event in self.of(Reattaching)]

    @property
    def error(self) -> SandboxClientError:
        [failed] = self.of(CommandFailed)
        assert self.events[-1] is failed and self.session.over
        return failed.error

    @property
    def may_be_running(self) -> bool:
        [failed] = self.of(CommandFailed)
        return bool(failed.may_be_running)

    @property
    def exit_code(self) -> int:
        [exited] = self.of(CommandExited)
        assert self.events[-1] is exited and self.session.over
        return int(exited.exit_code)

    @property
    def output(self) -> tuple[str, str]:
        chunks = self.of(OutputChunk)
        return (
            "".join(chunk.data for chunk in chunks if chunk.stream == "stdout"),
            "".join(chunk.data for chunk in chunks if chunk.stream == "stderr"),
        )


Trouble = Callable[[Line], None]


def repeat(line: Line, trouble: Trouble, *, most: int = 20) -> int:
    """Meet the same trouble until the session gives up; returns how many times."""
    for count in range(1, most + 1):
        trouble(line)
        if line.session.over:
            return count
        while line.session.connection_wanted is None and not line.session.over:
            line.wait()
        if line.session.over:
            return count
    raise AssertionError("it never gives up")


def _join(output: list[Any]) -> bytes:
    return b"".join(bytes(piece) for piece in output if piece is not SEND_EOF)


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]
