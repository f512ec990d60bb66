"""The story that every driver here plays: create, stream, tunnel, delete.

It is made of conversations and knows no loop. A driver offers it two things (`Driver`);
the plot is a generator that starts conversations and is sent what happens in them.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs

from sandbox_proto.config import ClientConfig
from sandbox_proto.embedding import (
    Carrier,
    Conversation,
    FlowContext,
    FlowFailed,
    FlowReturned,
    FlowSession,
)
from sandbox_proto.flows import commands, creation, sandboxes
from sandbox_proto.flows.effects import Flow
from sandbox_proto.machines.exec_events import CommandExited, CommandStarted, Reattaching
from sandbox_proto.machines.exec_session import ExecSession
from sandbox_proto.machines.tunnel_session import (
    SessionOpened,
    StreamConnected,
    StreamData,
    StreamEnded,
    StreamRoom,
    TunnelLimits,
    TunnelSession,
)
from sandbox_proto.machines.upgrade import KEY_BYTES
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.creation import CreationSpec

T = TypeVar("T")
PORT = 7000
ECHOED_BYTES = 3_000_000
# Says each line back; so each answer is a piece of its own, and comes before the next question.
CONVERSE = "while read line; do echo got $line; done; exit 7"
ECHO = f"""exec python3 -c '
import socket
listener = socket.create_server(("127.0.0.1", {PORT}))
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
'"""


class Driver(Protocol):
    """What the story asks of a driver."""

    def now(self) -> float:
        """The monotonic clock, in seconds."""

    def start(self, conversation: Conversation[Any], tell: Callable[[Any], None]) -> Carrier[Any]:
        """Carry a conversation to its end, from the next moment on, and tell what happens."""


@attrs.define
class Told:
    """What came of it; the same whoever drives."""

    status: str = ""
    chunks: list[str] = attrs.field(factory=list)
    exit_code: int = -1
    echoed: int = 0
    echoed_right: bool = True
    killed_with: int = -1
    deleted: bool = False
    error: str = ""


Plot = Generator[None, tuple[Conversation[Any], Any], T]


class Story:
    """One playing of the story.

    :ivar told: what came of it.
    """

    def __init__(self, driver: Driver, config: ClientConfig) -> None:
        self._driver, self._config = driver, config
        self._random = random.Random()
        self._heard: deque[tuple[Conversation[Any], Any]] = deque()
        self._carriers: dict[Conversation[Any], Carrier[Any]] = {}
        self._plot = self._play()
        self._playing = False
        self.told = Told()

    def begin(self) -> None:
        """Start the first conversation; what follows, follows from what happens."""
        self._playing = True
        next(self._plot)
        self._go_on()

    def _hear(self, conversation: Conversation[Any], event: Any) -> None:
        self._heard.append((conversation, event))
        if not self._playing:  # else the plot itself is giving a command just now
            self._playing = True
            self._go_on()

    def _go_on(self) -> None:
        try:
            while self._heard:
                self._plot.send(self._heard.popleft())
        except StopIteration:
            pass
        finally:
            self._playing = False

    # --- the plot ---------------------------------------------------------------------

    def _play(self) -> Plot[None]:
        made = creation.Creation(self._context(), CreationSpec(), timeout=60, wait_for_ready=True)
        try:
            record = yield from self._result(made.run())
            self.told.status = record.status
            base = record.dataplane_url
            if self._config.api_endpoint.startswith("https:"):
                # A TLS terminator in front of the host: the host does not know of it.
                base = base.replace("http:", "https:")
            yield from self._stream(base)
            yield from self._tunnel(base)
            yield from self._result(sandboxes.delete_sandbox(self._context(), record.name))
            self.told.deleted = True
        except Exception as error:
            self.told.error = f"{type(error).__name__}: {error}"
            for carrier in self._carriers.values():
                carrier.abandon()

    def _stream(self, base: str) -> Plot[None]:
        session = self._command(base, CONVERSE, close_input=False)
        lines = deque(["one\n", "two\n", "three\n"])
        while True:
            match (yield from self._next(session)):
                case CommandStarted() | OutputChunk() as event:
                    if isinstance(event, OutputChunk):
                        self.told.chunks.append(event.data)
                    if lines:
                        session.send_input(lines.popleft(), now=self._driver.now())
                    else:
                        session.close_input(now=self._driver.now())
                case CommandExited(code):
                    self.told.exit_code = code
                    return
                case Reattaching():
                    pass
                case other:
                    raise AssertionError(other)
            self._carriers[session].drain()

    def _tunnel(self, base: str) -> Plot[None]:
        server = self._command(base, ECHO, timeout=0)
        while not isinstance((yield from self._next(server)), OutputChunk):
            pass
        yield from self._echo(base)
        server.kill(now=self._driver.now())
        self._carriers[server].drain()
        while not isinstance(event := (yield from self._next(server)), CommandExited):
            pass
        self.told.killed_with = event.exit_code

    def _echo(self, base: str) -> Plot[None]:
        session = self._start(
            TunnelSession(
                base,
                self._config.request_headers(),
                TunnelLimits(),
                nonce=os.urandom(KEY_BYTES),
                now=self._driver.now(),
            )
        )
        sent = memoryview(os.urandom(ECHOED_BYTES))
        left, due = sent, sent
        while True:
            now = self._driver.now()
            match (yield from self._next(session)):
                case SessionOpened():
                    session.open(PORT, now=now)
                case StreamConnected(stream) | StreamRoom(stream):
                    left = left[session.send(stream, left, now=now) :]
                    if not left:
                        session.send_eof(stream, now=now)
                case StreamData(stream, data):
                    self.told.echoed_right &= data == due[: len(data)]
                    self.told.echoed += len(data)
                    due = due[len(data) :]
                    session.consumed(stream, len(data), now=now)
                case StreamEnded(stream):
                    session.close_stream(stream, now=now)
                    session.close(now=now)
                    self._carriers[session].drain()
                    return
                case other:
                    raise AssertionError(other)
            self._carriers[session].drain()

    # --- its means --------------------------------------------------------------------

    def _context(self) -> FlowContext:
        return FlowContext(
            config=self._config, random=self._random, entropy=os.urandom, now=self._driver.now()
        )

    def _start(self, conversation: T) -> T:
        tell = partial(self._hear, conversation)
        self._carriers[conversation] = self._driver.start(conversation, tell)
        return conversation

    def _command(self, base: str, line: str, **more: Any) -> ExecSession:
        spec = commands.CommandSpec(command=line, **more)
        return self._start(commands.start_command(self._context(), base, spec, unix_seconds=0))

    def _next(self, conversation: Conversation[Any]) -> Plot[Any]:
        """The next thing that happens in one conversation; the others' is passed over."""
        while True:
            source, event = yield
            if source is conversation:
                return event

    def _result(self, flow: Flow[T]) -> Plot[T]:
        session = self._start(FlowSession(flow, now=self._driver.now()))
        match (yield from self._next(session)):
            case FlowReturned(value):
                return value
            case FlowFailed(error):
                raise error
