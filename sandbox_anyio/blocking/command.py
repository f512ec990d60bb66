"""Handles on running commands, for code that blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

from sandbox_proto.wire.command_models import OutputChunk

from ..command import AsyncCommandHandle
from .generated.command import HandleMethods
from .portal import Portal


class CommandHandle(HandleMethods):
    """A running command: its output as it comes, its result, its input, its end.

    Iterate over it for output, or take its `result`, which waits. Nothing is read while nobody
    waits: then the command is held back by its full pipe, as with a local process. Several
    threads may use one handle: one iterates, another sends input or kills.

    As a context manager it kills the command at the end of the block, unless it has ended or
    `detach` was called. The only signal there is is SIGKILL: the protocol knows no other.

    Obtained from `Sandbox.run(..., wait=False)` and `Sandbox.reconnect`.
    """

    MAX_AUTO_RECONNECTS = AsyncCommandHandle.MAX_AUTO_RECONNECTS

    def __init__(self, handle: AsyncCommandHandle, portal: Portal) -> None:
        super().__init__(handle, portal)
        # What came along with a chunk that was asked for: each way to the loop costs.
        self._at_hand: deque[OutputChunk] = deque()

    def __iter__(self) -> Iterator[OutputChunk]:
        return _Chunks(self, self._do(aiter))

    def __next__(self) -> OutputChunk:
        return self._next_of(self._async)

    def _next_of(self, chunks: AsyncIterator[OutputChunk]) -> OutputChunk:
        while True:
            try:
                return self._at_hand.popleft()
            except IndexError:
                pass
            try:
                self._at_hand.extend(self._call(lambda it: _take(chunks, it)))
            except StopAsyncIteration:
                raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._portal.forked:
            self._call(lambda it: it.leave())


async def _take(
    chunks: AsyncIterator[OutputChunk], handle: AsyncCommandHandle
) -> list[OutputChunk]:
    """The next chunk, and what else is there without waiting."""
    return [await anext(chunks), *handle.take_chunks()]


class _Chunks:
    """One loop over the output of a handle. While it lives, its output is kept for it."""

    def __init__(self, handle: CommandHandle, chunks: AsyncIterator[OutputChunk]) -> None:
        self._handle, self._chunks = handle, chunks

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> OutputChunk:
        return self._handle._next_of(self._chunks)
