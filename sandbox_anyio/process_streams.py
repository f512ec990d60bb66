"""The standard streams of a process in a sandbox, as byte streams of anyio's."""

from __future__ import annotations

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from sandbox_proto.machines.output_pipes import InputText

from .process_handle import ProcessHandle

RECEIVE_BYTES = 64 * 1024
# So much may be on its way to a command, in bytes, before the server has to say that it has it.
_INPUT_WINDOW = 256 * 1024
_PIECE = 64 * 1024


class ProcessInput(ByteSendStream):
    """Standard input. UTF-8 only: the protocol has no other.

    `send` waits while the command does not read and 256 KiB are on their way. When the
    connection is lost while input is, nobody knows what of it arrived: the stream is broken
    then. That the command closed its input is not told.
    """

    def __init__(self, handle: ProcessHandle) -> None:
        self._handle = handle
        self._text = InputText()
        self._on_its_way = 0
        self._sending = self._closed = False

    async def send(self, item: bytes) -> None:
        """Send bytes. They may be split anywhere, also within a character.

        :raises ValueError: they are no UTF-8; nothing is sent then.
        :raises BrokenResourceError: the command ended, or input was lost.
        :raises ClosedResourceError: this stream was closed.
        :raises BusyResourceError: another task is sending.
        """
        self._check_open()
        if self._sending:
            raise anyio.BusyResourceError("sending to")
        self._sending = True
        try:
            text = self._text.feed(bytes(item))
            for start in range(0, len(text), _PIECE):
                await self._wait_for_room()
                piece = text[start : start + _PIECE]
                self._on_its_way += len(piece.encode())
                await self._handle.send_input(piece)
            if not text:  # then nothing was waited for
                await self._wait_for_room()
        finally:
            self._sending = False

    async def wait_sendable(self) -> None:
        """Wait until `send` would not have to wait, as far as one can know."""
        self._check_open()
        await self._wait_for_room()

    async def aclose(self) -> None:
        """The command reads to the end of what was sent.

        :raises ValueError: what was sent ended within a character, which is lost.
        """
        if not self._closed:
            self._closed = True
            await self._handle.close_input()
            self._text.feed(b"", final=True)

    def _has_room(self) -> bool:
        if self._handle.input_arrived:
            self._on_its_way = 0
        return self._on_its_way < _INPUT_WINDOW

    def _is_broken(self) -> bool:
        return self._handle.over or self._handle.input_in_doubt

    async def _wait_for_room(self) -> None:
        await self._handle.let_others_run()
        await self._handle.drive_until(
            lambda: self._closed or self._is_broken() or self._has_room()
        )
        self._check_open()
        if self._handle.over:
            raise _broken("the command has ended", self._handle)
        if self._handle.input_in_doubt:
            raise _broken("the connection was lost with input on its way", self._handle)

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError


class ProcessOutput(ByteReceiveStream):
    """Standard output or standard error. See `machines.output_pipes` for what holds back whom."""

    def __init__(self, handle: ProcessHandle, name: str) -> None:
        self._handle, self._name = handle, name
        self._receiving = self._closed = False

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """The next bytes, at least one.

        :param max_bytes: no more than this.
        :raises EndOfStream: the command ended.
        :raises BrokenResourceError: what follows cannot be had: its text or its cause says why.
        :raises ClosedResourceError: this stream was closed.
        :raises BusyResourceError: another task is receiving.
        """
        self._check_open()
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        self._receiving = True
        try:
            if self._has_news():
                await self._handle.let_others_run()
            else:
                await self._handle.drive_until(self._has_news)
        finally:
            self._receiving = False
        self._check_open()
        if data := self._handle.take(self._name, max_bytes):
            return data
        if (trouble := self._handle.pipes.trouble(self._name)) is not None:
            raise _broken(trouble, self._handle)
        if self._handle.failure is not None:
            raise _broken(str(self._handle.failure), self._handle)
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        """Read no more: what else comes is dropped. The command is not told."""
        if not self._closed:
            self._closed = True
            self._handle.drop(self._name)
            await self._handle.let_others_run()

    def _has_news(self) -> bool:
        pipes = self._handle.pipes
        known = pipes.has(self._name) or pipes.trouble(self._name) is not None
        return known or self._closed or self._handle.over

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError


def _broken(text: str, handle: ProcessHandle) -> anyio.BrokenResourceError:
    error = anyio.BrokenResourceError(text)
    error.__cause__ = handle.failure
    return error
