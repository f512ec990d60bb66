"""The host's end of the conversation with one supervisor.

What arrives here is not trusted: a message that no honest supervisor sends ends the
sandbox. One task reads; anybody may ask.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import attrs

from . import messages
from .base import SandboxDiedError

_REPLY_SECONDS: Final = 30
_TEARDOWN_SECONDS: Final = 10
_KILLED: Final = 128 + signal.SIGKILL
_MESSAGES_PER_TURN: Final = 16


class Refused(Exception):
    """The supervisor answered that it cannot do what was asked."""

    def __init__(self, kind: str, message: str, code: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.code = code


@attrs.define(eq=False)
class _Question:
    """A request that waits for its answer."""

    answered: anyio.Event = attrs.field(factory=anyio.Event)
    answer: messages.Message | None = None
    abandoned: bool = False


@attrs.define(eq=False)
class CommandEnd:
    """How a command ends, once it has."""

    event: anyio.Event = attrs.field(factory=anyio.Event)
    code: int = _KILLED


class SupervisorLink:
    """Requests, answers and notices over one socket.

    :ivar ready: set when the sandbox is built, or when it never will be.
    :ivar failure: why it was not built.
    :ivar home: where commands start and relative paths begin, once it is ready.
    :ivar died: set when the last process of the sandbox is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.ready = anyio.Event()
        self.died = anyio.Event()
        self.failure: str | None = None
        self.home = "/"
        self._socket = sock
        self._keeper: int | None = None
        self._closing = False
        self._sending = anyio.Lock()
        self._number = 0
        self._questions: dict[int, _Question] = {}
        self._commands: dict[int, CommandEnd] = {}

    # --- Asking --------------------------------------------------------------------

    async def ask(
        self,
        body: Mapping[str, Any],
        descriptors: Sequence[int] = (),
        *,
        undo: str | None = None,
        command: CommandEnd | None = None,
    ) -> tuple[int, messages.Message]:
        """Send a request and wait for its answer. Returns its number and the answer.

        :param undo: the request that takes it back, sent when the caller is cancelled.
        :param command: to be told when the command that this starts ends.
        :raises Refused: it could not be done.
        :raises SandboxDiedError: there is nobody to answer.
        """
        if self._closing:
            raise SandboxDiedError("the sandbox is gone")
        self._number += 1
        number = self._number
        question = self._questions[number] = _Question()
        if command is not None:
            self._commands[number] = command
        sent = False
        try:
            with anyio.fail_after(_REPLY_SECONDS):
                await self._send({**body, "id": number}, descriptors)
                sent = True
                await question.answered.wait()
        except BaseException as error:
            question.abandoned = True
            if sent and question.answer is not None:
                question.answer.close()
            if not sent:
                self._questions.pop(number, None)
                self._commands.pop(number, None)
            elif isinstance(error, TimeoutError):
                self.shut_down()
            elif undo is not None:
                await self._take_back(undo, number)
            if isinstance(error, TimeoutError):
                raise SandboxDiedError("the sandbox's supervisor does not answer") from None
            raise
        return number, self._judge(number, question.answer)

    def _judge(self, number: int, answer: messages.Message | None) -> messages.Message:
        if answer is None:
            raise SandboxDiedError("the sandbox is gone")
        kind = answer.body.get("refused")
        if kind is None:
            return answer
        answer.close()
        self._commands.pop(number, None)
        code = answer.body.get("errno")
        raise Refused(
            str(kind)[:100],
            str(answer.body.get("message"))[:1000],
            code if isinstance(code, int) else 0,
        )

    async def _take_back(self, undo: str, number: int) -> None:
        # In order behind the request, so that it finds what the request made.
        with anyio.move_on_after(1, shield=True), contextlib.suppress(SandboxDiedError):
            await self._send({"do": undo, "command": number, "upload": number}, ())

    async def _send(self, body: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        async with self._sending:
            while True:
                if self._closing:
                    raise SandboxDiedError("the sandbox is gone")
                try:
                    messages.send(self._socket, body, descriptors)
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
                except OSError as error:
                    raise SandboxDiedError("the sandbox is gone") from error
                else:
                    return

    # --- Listening -----------------------------------------------------------------

    async def listen(self) -> None:
        """Read until the sandbox is gone. Cancelling this ends the sandbox first."""
        try:
            while True:
                await anyio.wait_readable(self._socket)
                for _ in range(_MESSAGES_PER_TURN):
                    try:
                        message = messages.receive(self._socket)
                    except BlockingIOError:
                        break
                    if message is None:
                        return
                    self._dispatch(message)
        except messages.ProtocolError:
            pass  # it no longer speaks for the sandbox: the end is the only safe answer
        finally:
            await self._finish()

    def _dispatch(self, message: messages.Message) -> None:
        body = message.body
        number = body.get("id")
        if isinstance(number, int) and number in self._questions:
            question = self._questions.pop(number)
            if question.abandoned:
                message.close()
            else:
                question.answer = message
                question.answered.set()
            return
        if not self.ready.is_set() and "process" in body and self._keeper is None:
            self._keeper = messages.process_handle(message)
            return
        message.close()
        if "exit" in body:
            self._note_exit(body["exit"], body.get("code"))
        elif not self.ready.is_set() and "ready" in body:
            self._note_ready(body.get("home"))
        elif "error" in body:
            self.failure = self.failure or str(body["error"])[:4096]
        else:
            raise messages.ProtocolError("an unexpected message")

    def _note_ready(self, home: object) -> None:
        if not isinstance(home, str) or not home.startswith("/") or "\0" in home:
            raise messages.ProtocolError("an impossible home")
        self.home = home
        self.ready.set()

    def _note_exit(self, number: object, code: object) -> None:
        if not isinstance(number, int) or not isinstance(code, int) or not 0 <= code <= 255:
            raise messages.ProtocolError("an impossible exit")
        command = self._commands.pop(number, None)
        if command is not None:
            command.code = code
            command.event.set()

    # --- Ending --------------------------------------------------------------------

    def shut_down(self) -> None:
        """Begin the end: the keeper sees it and clears the sandbox away."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def wait_until_gone(self) -> None:
        """End the sandbox and wait, also when cancelled, until its last process is gone."""
        self.shut_down()
        with anyio.CancelScope(shield=True):  # bounded by `_wait_for_keeper`
            await self.died.wait()

    async def _finish(self) -> None:
        self.shut_down()
        with anyio.CancelScope(shield=True):
            await self._wait_for_keeper()
            # Whoever waits to send has been woken by the shutdown, and must have left
            # before the descriptor's number is free for something else.
            async with self._sending:
                self._socket.close()
        for question in self._questions.values():
            question.answered.set()
        for command in self._commands.values():
            command.event.set()
        self._questions.clear()
        self._commands.clear()
        self.failure = self.failure or "the sandbox ended while it was built"
        self.ready.set()
        self.died.set()

    async def _wait_for_keeper(self) -> None:
        if self._keeper is None:
            # The zygote may not have come to it yet. The socket's end tells as well.
            with anyio.move_on_after(_TEARDOWN_SECONDS):
                await self._drain()
        if self._keeper is None:
            return
        try:
            with anyio.move_on_after(_TEARDOWN_SECONDS) as patience:
                await anyio.wait_readable(self._keeper)
            if patience.cancelled_caught:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(self._keeper, signal.SIGKILL)
                with anyio.move_on_after(_TEARDOWN_SECONDS):
                    await anyio.wait_readable(self._keeper)
        finally:
            os.close(self._keeper)
            self._keeper = None

    async def _drain(self) -> None:
        while True:
            await anyio.wait_readable(self._socket)
            try:
                message = messages.receive(self._socket)
            except messages.ProtocolError:
                return
            if message is None:
                return
            if "process" in message.body:
                self._keeper = messages.process_handle(message)
                return
            message.close()
