"""A command's standard streams as pipes of bytes: how much is kept, and when to hold back.

Both outputs come over one wire, and each is read by itself, or by nobody. So it is as with a
local process and its two pipes: when the reader of one lets it fill up, the command is held
back, and the other falls silent too, until somebody takes from the full one or drops it.

    stream     what comes is                             and fills up
    ------     ---------------------------------------   -----------------------
    piped      kept until it is taken                    at `PIPE_BYTES`
    captured   kept until the end                        never: that was asked for
    dropped    counted                                   never

A pipe has bytes, all of them, in order. Where that cannot be had it ends, with a reason: after
a gap, and where a transport of text replaced bytes that were none (unless that will do).
"""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import Literal

from .byte_queue import ByteQueue
from .exec_events import OutputLost
from .exec_output import STREAMS, Output

PIPE_BYTES = 256 * 1024
Errors = Literal["strict", "replace"]

_REPLACED = (
    "the command wrote bytes that are no UTF-8, and the transport in use has only text: a command "
    "without input has an event stream, which carries bytes; or let errors='replace' do"
)
# How servers spell the exit of a killed command (protocol/06 section 4), and Python does.
_KILLED, SIGKILL = (137, -9), 9


class OutputPipes:
    """See the module's text.

    :param piped: the streams that are read while the command runs.
    :param captured: the streams that are wanted in the end.
    :param errors: ``strict``: a stream ends before bytes that the transport replaced;
        ``replace``: U+FFFD will do.
    :ivar dropped: how many bytes came that nobody wanted.
    """

    def __init__(
        self,
        *,
        piped: Collection[str] = (),
        captured: Collection[str] = (),
        errors: Errors = "strict",
    ) -> None:
        if errors not in ("strict", "replace"):
            raise ValueError(f"errors must be 'strict' or 'replace', not {errors!r}")
        self._queues = {name: ByteQueue() for name in STREAMS if name in {*piped, *captured}}
        self._piped = set(piped)
        self._strict = errors == "strict"
        self._cut: set[str] = set()  # what follows there is of no use
        self._troubles: dict[str, str] = {}
        self._ending = False
        self.dropped = 0

    @property
    def full(self) -> bool:
        """Whether the command is to be held back: nothing more should be read from it."""
        return any(len(self._queues[name]) >= PIPE_BYTES for name in self._piped)

    def put(self, event: Output) -> None:
        """Output came, or a gap in it. Nothing is refused: who feeds looks at `full` before."""
        if isinstance(event, OutputLost):
            lost = event.missing
            self._cut.add(lost.stream)
            if not self._ending:
                text = f"the bytes from {lost.start} to {lost.end} of {lost.stream} are gone"
                self._troubles.setdefault(lost.stream, text)
            return
        queue = self._queues.get(event.stream)
        if queue is None or event.stream in self._cut:
            self.dropped += len(event.as_bytes())
            return
        data = event.as_bytes()
        if self._strict and event.raw is None and "\ufffd" in event.data:
            self._cut.add(event.stream)
            self._troubles[event.stream] = _REPLACED
            data = event.data.partition("\ufffd")[0].encode()
        if data:
            queue.put(data)

    def has(self, stream: str) -> bool:
        """Whether there are bytes to take."""
        return bool(self._queues.get(stream))

    def take(self, stream: str, most: int) -> bytes:
        """At most so many bytes of a stream; none if there are none."""
        queue = self._queues.get(stream)
        return b"" if queue is None else queue.take(most)

    def take_all(self, stream: str) -> bytes:
        """All that is there of a stream."""
        queue = self._queues[stream]
        pieces = []
        while queue:
            pieces.append(queue.take(len(queue)))
        return b"".join(pieces)

    def trouble(self, stream: str) -> str | None:
        """Why nothing follows what is there, if the stream is spoiled."""
        return self._troubles.get(stream)

    def drop(self, stream: str) -> None:
        """Nobody wants this stream any more: it fills up no more, and what is there goes."""
        self._queues.pop(stream, None)
        self._piped.discard(stream)

    def lift_bound(self) -> None:
        """The command is being killed: what is on its way comes in, which is bounded by itself.

        Where its output ends is chance now. So a gap is an end like another, and it is no trouble
        that a kill goes over to a transport of text.
        """
        self._piped.clear()
        self._ending, self._strict = True, False


class InputText:
    """Standard input in bytes, however split, as the text that travels."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """More of it. An incomplete character waits for its rest.

        :param final: nothing follows.
        :raises ValueError: it is not UTF-8, the only input there is; nothing of it counts.
        """
        before = self._decoder.getstate()
        try:
            return self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            self._decoder.setstate(before)
            raise ValueError(f"standard input carries UTF-8 only: {error}") from None


def return_code(exit_code: int, *, killed: bool) -> int:
    """An exit code as `subprocess` spells it.

    :param killed: we asked for the kill; else the server's number stands, for a command may
        end with 137 on its own account.
    """
    return -SIGKILL if killed and exit_code in _KILLED else exit_code
