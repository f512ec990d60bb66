"""Byte streams as trio has them, over those that the sandbox's client gives.

They keep trio's rules: each call is a checkpoint, one task at a time sends and one receives,
and the errors are trio's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import Protocol

import trio
import trio.abc

from sandbox_anyio import AsyncSandbox
from sandbox_anyio.process_streams import ProcessInput, ProcessOutput
from sandbox_anyio.stream_errors import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
)
from sandbox_anyio.tunnel_streams import TunnelStream

_RECEIVE_BYTES = 64 * 1024
Bytes = bytes | bytearray | memoryview


@contextmanager
def trio_errors() -> Iterator[None]:
    """Let the errors of streams be trio's."""
    try:
        yield
    except ClosedResourceError:
        raise trio.ClosedResourceError("this stream was closed") from None
    except BusyResourceError as error:
        raise trio.BusyResourceError(str(error)) from None
    except BrokenResourceError as error:
        raise trio.BrokenResourceError(str(error)) from error.__cause__


class _Receiving(Protocol):
    async def receive(self, max_bytes: int = ...) -> bytes: ...


class _Sending(Protocol):
    async def send(self, item: bytes) -> None: ...

    async def wait_sendable(self) -> None: ...


class _Turn:
    """One task at a time."""

    def __init__(self) -> None:
        self._taken = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self._taken:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._taken = True
        try:
            yield
        finally:
            self._taken = False


async def _receive(stream: _Receiving, max_bytes: int | None) -> bytes:
    most = _RECEIVE_BYTES if max_bytes is None else index(max_bytes)
    if most < 1:
        raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
    # The stream below reads what is there without waiting: no checkpoint, and no cancellation
    # may come between its bytes and our caller.
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio_errors():
        try:
            data = await stream.receive(most)
        except EndOfStream:
            data = b""
    await trio.lowlevel.cancel_shielded_checkpoint()
    return data


async def _send(stream: _Sending, turn: _Turn, data: Bytes) -> None:
    with turn.taken(), trio_errors():
        # A buffer that its owner may change is copied; bytes are not.
        await stream.send(bytes(data))


async def _wait_sendable(stream: _Sending, turn: _Turn) -> None:
    with turn.taken(), trio_errors():
        await stream.wait_sendable()


async def _close(stream: TunnelStream | ProcessInput | ProcessOutput) -> None:
    try:
        await stream.aclose()
    finally:
        # It is closed by now, whatever cancels this.
        await trio.lowlevel.checkpoint()


class SandboxTcpStream(trio.abc.HalfCloseableStream):
    """A connection to a port in a sandbox.

    `send_all` returns when the bytes are on their way. Nothing is received while nobody waits:
    keep a task in `receive_some` if it is to stay alive for minutes without traffic.

    :ivar port: the port inside the sandbox.
    """

    def __init__(self, stream: TunnelStream) -> None:
        self.port = stream.port
        self._stream, self._turn = stream, _Turn()
        self._eof_sent = False

    async def send_all(self, data: Bytes) -> None:
        """Send bytes; see `trio.abc.SendStream.send_all`."""
        await _send(self._stream, self._turn, data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the other end has room, as far as one can know."""
        await _wait_sendable(self._stream, self._turn)

    async def send_eof(self) -> None:
        """Send nothing more. Receiving goes on."""
        with self._turn.taken(), trio_errors():
            if not self._eof_sent:
                await self._stream.send_eof()
                self._eof_sent = True
            await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes; none at the end."""
        return await _receive(self._stream, max_bytes)

    async def aclose(self) -> None:
        """Close. What was sent is still delivered; that may take up to 5 s."""
        await _close(self._stream)


class SendPipe(trio.abc.SendStream):
    """A process's standard input; see `sandbox_anyio.process_streams.ProcessInput`."""

    def __init__(self, stream: ProcessInput) -> None:
        self._stream, self._turn = stream, _Turn()

    async def send_all(self, data: Bytes) -> None:
        """Send bytes of UTF-8, split anywhere.

        :raises ValueError: they are no UTF-8; nothing is sent then.
        """
        await _send(self._stream, self._turn, data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room for more on the way to the command."""
        await _wait_sendable(self._stream, self._turn)

    async def aclose(self) -> None:
        """The command reads to the end of what was sent.

        :raises ValueError: what was sent ended within a character, which is lost.
        """
        await _close(self._stream)


class ReceivePipe(trio.abc.ReceiveStream):
    """A process's output; see `sandbox_anyio.process` for what holds back whom."""

    def __init__(self, stream: ProcessOutput) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes; none at the end."""
        return await _receive(self._stream, max_bytes)

    async def aclose(self) -> None:
        """Read no more: what else comes is dropped. The command is not told."""
        await _close(self._stream)


async def open_tcp_stream(sandbox: AsyncSandbox, port: int) -> SandboxTcpStream:
    """Connect to a port inside a sandbox, without a port of this machine.

    :param port: 1 to 65535; something listens there, on 127.0.0.1 or ::1.
    :raises TunnelConnectionRefusedError: nothing listens there.
    :raises TunnelPortNotAllowedError: the server does not allow it.
    :raises SandboxConnectionError: the server could not be reached, or did not answer.
    :raises ValueError: the port is out of range.
    """
    return SandboxTcpStream(await sandbox.connect(port))
