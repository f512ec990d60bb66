"""The zygote as the host holds it, and what it is asked to have done.

An errand is one task in one process, forked for it by the zygote. It ends with the block
it was begun in: well, or by SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio

from . import diagnosis, messages
from .base import RuntimeUnavailableError

_START_SECONDS: Final = 30
_END_SECONDS: Final = 10


class Errand:
    """A task that is being done elsewhere. Obtained from `Zygote.errand`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._process: int | None = None

    async def answer(self) -> dict[str, Any]:
        """The next thing that the process says.

        :raises OSError: it has ended without a word.
        """
        while (message := await self._receive()) is None:
            pass
        return message

    def tell(self, body: Mapping[str, Any]) -> None:
        """Say something to the process, which waits for it."""
        with contextlib.suppress(OSError):  # its end is told by `answer`
            messages.send(self._socket, body)

    async def _receive(self) -> dict[str, Any] | None:
        await anyio.wait_readable(self._socket)
        try:
            message = messages.receive(self._socket)
        except BlockingIOError:
            return None
        except messages.ProtocolError as error:
            raise OSError(f"a process of this host's sent nonsense: {error}") from error
        if message is None:
            raise OSError("the process that did it was ended")
        if self._process is None and "process" in message.body:
            self._process = messages.process_handle(message)
            return None
        message.close()
        return message.body

    async def end(self) -> None:
        """Kill the process if it is still there, and wait until it is not."""
        try:
            with anyio.move_on_after(_END_SECONDS), contextlib.suppress(OSError):
                while self._process is None and await self._receive() is None:
                    pass
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)
                with anyio.move_on_after(_END_SECONDS):
                    await anyio.wait_readable(self._process)
        finally:
            if self._process is not None:
                os.close(self._process)


class Zygote:
    """The process that sandboxes are forked from, as its parent holds it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._sending = anyio.Lock()
        self._ending = anyio.Lock()

    @classmethod
    async def start(cls, configuration: messages.Body) -> Zygote:
        """Start the zygote and wait until it can fork sandboxes.

        :raises RuntimeUnavailableError: it could not be started.
        """
        ours, theirs = messages.socket_pair()
        ours.setblocking(False)
        try:
            process = _start_interpreter(theirs)
        except OSError as error:
            ours.close()
            raise RuntimeUnavailableError(f"cannot start {sys.executable!r}: {error}") from error
        finally:
            theirs.close()
        zygote = cls(process, ours)
        try:
            with anyio.fail_after(_START_SECONDS):
                with contextlib.suppress(BrokenPipeError):  # its end is told below
                    messages.send(ours, configuration)
                await anyio.wait_readable(ours)
            answer = messages.receive(ours)
            if answer is None:
                raise diagnosis.explain(f"the zygote ended at once: {zygote._last_words()}")
            if "ready" not in answer.body:
                raise diagnosis.explain(str(answer.body.get("error")))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await zygote.aclose()
            raise
        return zygote

    async def send(
        self, body: messages.Body, reply: socket.socket, descriptors: Sequence[int] = ()
    ) -> None:
        """Send a request, which is answered on `reply`'s other end.

        :raises RuntimeUnavailableError: there is no zygote any more.
        """
        async with self._sending:
            while True:
                try:
                    messages.send(self._control, body, [reply.fileno(), *descriptors])
                except BlockingIOError:
                    await anyio.wait_writable(self._control)
                except OSError as error:
                    raise RuntimeUnavailableError(
                        "the process that builds sandboxes has ended: restart the host"
                    ) from error
                else:
                    return

    @contextlib.asynccontextmanager
    async def errand(
        self, body: messages.Body, descriptors: Sequence[int] = ()
    ) -> AsyncIterator[Errand]:
        """Have something done in a process of its own, which does not outlive the block.

        :raises RuntimeUnavailableError: there is no zygote any more.
        """
        ours, theirs = messages.socket_pair()
        ours.setblocking(False)
        with ours:
            with theirs:
                await self.send(body, theirs, descriptors)
            errand = Errand(ours)
            try:
                yield errand
            finally:
                with anyio.CancelScope(shield=True):  # bounded by `end` itself
                    await errand.end()

    async def aclose(self) -> None:
        """End the process and reap it."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        # Whoever waits to send is woken by that, and must have left before the descriptor's
        # number is free for something else.
        async with self._sending:
            self._control.close()
        async with self._ending:
            if self._process.returncode is None:
                await self._reap()

    async def _reap(self) -> None:
        handle = os.pidfd_open(self._process.pid)
        try:
            with anyio.move_on_after(_END_SECONDS) as patience:
                await anyio.wait_readable(handle)
            if patience.cancelled_caught:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                await anyio.wait_readable(handle)
        finally:
            os.close(handle)
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _last_words(self) -> str:
        if self._process.stderr is None:
            return ""
        os.set_blocking(self._process.stderr.fileno(), False)
        words = self._process.stderr.read(4096) or b""
        return words.decode(errors="replace").strip().rpartition("\n")[2]


def _start_interpreter(control: socket.socket) -> subprocess.Popen[bytes]:
    bootstrap = Path(__file__).with_name("bootstrap.py")
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", "-B", "-X", "utf8"),
            *(str(bootstrap), str(control.fileno())),
        ],
        env=_interpreter_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


def _interpreter_environment() -> dict[str, str]:
    """Nothing, but for an interpreter that is not found without its library's path."""
    path = os.environ.get("LD_LIBRARY_PATH")
    if path and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return {"LD_LIBRARY_PATH": path}
    return {}
