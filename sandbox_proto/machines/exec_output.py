"""The accounts of a command's output: what came, what came twice, what is missing, what is kept.

A ledger counts the bytes of both streams, so that each is delivered once or told missing. What
an offset counts depends on the transport: over the WebSocket the UTF-8 encoding of the text that
was received (protocol/06 section 5), over event streams the bytes the process wrote (protocol/07
section 4).
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from typing import Protocol, cast

import attrs

from ..wire.command_models import CommandOutcome, ExecutionResult, MissingOutput, OutputChunk
from ..wire.exec_messages import NO_OFFSET
from ..wire.sse import RawOutput, StreamEnd
from .exec_events import OutputLost

Output = OutputLost | OutputChunk
STREAMS = ("stdout", "stderr")
WATCHED = 64 * 1024
_SMALL = 4096  # characters; pieces up to this are joined where they are kept


class Ledger(Protocol):
    """See the module's text.

    :ivar offsets: stream -> where it is to go on.
    """

    offsets: dict[str, int]

    def take(self, piece: OutputChunk | RawOutput | StreamEnd) -> list[Output]:
        """Enter what came. Returns the gap before it, if any, and what of it is new."""

    def finish(self) -> list[Output]:
        """Nothing follows. Returns what was held back till now."""

    def take_run(
        self, pieces: list[OutputChunk] | list[RawOutput]
    ) -> tuple[list[OutputChunk], int]:
        """Enter pieces for as long as each begins where the one before ended.

        Returns what they are as text, and how many there were. The others are for `take`.
        """


class TextLedger:
    """A ledger of text.

    :param stdout: offset of the first byte of standard output wanted.
    :param stderr: offset of the first byte of standard error wanted.
    """

    def __init__(self, stdout: int = 0, stderr: int = 0) -> None:
        self.offsets = {"stdout": stdout, "stderr": stderr}

    def take(self, piece: OutputChunk | RawOutput | StreamEnd) -> list[Output]:
        assert isinstance(piece, OutputChunk)
        data, expected = piece.data, self.offsets[piece.stream]
        size = len(data) if data.isascii() else len(data.encode())
        if piece.offset in (expected, NO_OFFSET):  # nearly always
            self.offsets[piece.stream] = expected + size
            if piece.offset == NO_OFFSET:
                piece = OutputChunk(piece.stream, data, expected)
            return [piece]
        if piece.offset > expected:
            self.offsets[piece.stream] = piece.offset + size
            return [OutputLost(MissingOutput(piece.stream, expected, piece.offset)), piece]
        return self._new_part(piece, expected)

    def _new_part(self, piece: OutputChunk, expected: int) -> list[Output]:
        """What of a replayed piece was not delivered before."""
        fresh = piece.data.encode()[expected - piece.offset :]
        if not fresh:
            return []
        self.offsets[piece.stream] = expected + len(fresh)
        # The cut can fall into a character only if the server miscounts; lose no more than that.
        return [OutputChunk(piece.stream, fresh.decode(errors="ignore"), expected)]

    def take_run(
        self, pieces: list[OutputChunk] | list[RawOutput]
    ) -> tuple[list[OutputChunk], int]:
        number, offsets = 0, self.offsets
        chunks = cast("list[OutputChunk]", pieces)  # this ledger's transport has no others
        for piece in chunks:
            stream, data = piece.stream, piece.data
            if piece.offset != offsets[stream]:
                break
            offsets[stream] += len(data) if data.isascii() else len(data.encode())
            number += 1
        return chunks if number == len(chunks) else chunks[:number], number

    def finish(self) -> list[Output]:
        return []


@attrs.define
class _RawStream:
    """One stream's bytes on their way to text.

    :ivar pending: the beginning of a character whose rest has not come yet.
    :ivar text_bytes: how many bytes the text has that was delivered, in UTF-8.
    """

    decoder: codecs.IncrementalDecoder
    pending: bytes = b""
    text_bytes: int = 0


class RawLedger:
    """A ledger of bytes, which it decodes whatever the splits.

    :param stdout: offset of the first byte of standard output wanted.
    :param stderr: offset of the first byte of standard error wanted.
    """

    def __init__(self, stdout: int = 0, stderr: int = 0) -> None:
        self.offsets = {"stdout": stdout, "stderr": stderr}
        make = codecs.getincrementaldecoder("utf-8")
        self._streams = {
            "stdout": _RawStream(make("replace"), text_bytes=stdout),
            "stderr": _RawStream(make("replace"), text_bytes=stderr),
        }

    def take(self, piece: OutputChunk | RawOutput | StreamEnd) -> list[Output]:
        assert not isinstance(piece, OutputChunk)
        name, expected = piece.stream, self.offsets[piece.stream]
        output: list[Output] = []
        if piece.offset > expected:
            # Before the gap nothing can complete a character any more.
            output += self._decode(name, b"", final=True)
            output.append(OutputLost(MissingOutput(name, expected, piece.offset)))
            # As text it had as many bytes, if it was text; nobody can know better.
            self._streams[name].text_bytes += piece.offset - expected
            self.offsets[name] = expected = piece.offset
        if isinstance(piece, StreamEnd):
            return output + self._decode(name, b"", final=True)
        return output + self._decode(name, piece.data[expected - piece.offset :])

    def finish(self) -> list[Output]:
        return [chunk for name in STREAMS for chunk in self._decode(name, b"", final=True)]

    def take_run(
        self, pieces: list[OutputChunk] | list[RawOutput]
    ) -> tuple[list[OutputChunk], int]:
        chunks: list[OutputChunk] = []
        number = 0
        for piece in cast("list[RawOutput]", pieces):
            name, data = piece.stream, piece.data
            stream = self._streams[name]
            if stream.pending or piece.offset != self.offsets[name]:
                break
            try:
                text = data.decode()
            except UnicodeDecodeError:
                break  # half a character, or none at all
            if text:
                chunks.append(OutputChunk(name, text, piece.offset, raw=data))
                self.offsets[name] += len(data)
                stream.text_bytes += len(data)
            number += 1
        return chunks, number

    def as_text(self) -> TextLedger:
        """The same accounts, as a transport of text counts."""
        return TextLedger(**{name: stream.text_bytes for name, stream in self._streams.items()})

    def _decode(self, name: str, data: bytes, *, final: bool = False) -> list[Output]:
        stream = self._streams[name]
        start = self.offsets[name] - len(stream.pending)
        self.offsets[name] += len(data)
        text = stream.decoder.decode(data, final)
        raw = stream.pending + data
        stream.pending = stream.decoder.getstate()[0]
        if final:
            stream.decoder.reset()
        if not text:
            return []
        stream.text_bytes += len(text.encode())
        raw = raw[: len(raw) - len(stream.pending)]
        return [OutputChunk(name, text, start, raw=raw)]


class OutputCollector:
    """Keeps a command's output for its result: all of it, or the head and the tail.

    :param limit: how many bytes to keep of each stream; None is all.
    :param keep_bytes: keep the bytes beside the text.
    """

    def __init__(self, limit: int | None = None, *, keep_bytes: bool = False) -> None:
        self.missing: list[MissingOutput] = []
        self._keep_bytes = keep_bytes
        self._kept = {name: _Kept(name, limit) for name in STREAMS}

    def add(self, event: Output) -> None:
        """Keep a chunk, or remember a gap."""
        if isinstance(event, OutputLost):
            self.missing.append(event.missing)
            return
        if event.raw is not None and not self._keep_bytes:
            event = OutputChunk(event.stream, event.data, event.offset)
        self._kept[event.stream].add(event)

    def add_run(self, chunks: list[OutputChunk]) -> None:
        """Keep many chunks, as `Ledger.take_run` let them pass: without gaps."""
        for name, kept in self._kept.items():
            own = [chunk for chunk in chunks if chunk.stream == name]
            if own and len(own[0].data) < _SMALL:
                text, raw = "".join([chunk.data for chunk in own]), None
                if self._keep_bytes and own[0].raw is not None:
                    raw = b"".join([chunk.as_bytes() for chunk in own])
                kept.add(OutputChunk(name, text, own[0].offset, raw=raw))
            else:
                for chunk in own:
                    self.add(chunk)

    def limit(self, limit: int) -> None:
        """From now on keep so much of each stream at most, if there was no limit."""
        for kept in self._kept.values():
            kept.limit(limit)

    def text(self, stream: str) -> str:
        """What is kept of one stream."""
        return self._kept[stream].text()

    def outcome(self, command_id: str, may_be_running: bool) -> CommandOutcome:
        """What is known of a command that failed."""
        stdout, stderr = self.text("stdout"), self.text("stderr")
        return CommandOutcome(command_id, stdout, stderr, tuple(self.missing), may_be_running)

    def result(self, exit_code: int) -> ExecutionResult:
        """The result of the finished command."""
        stdout, stderr = self._kept["stdout"], self._kept["stderr"]
        return ExecutionResult(
            stdout.text(),
            stderr.text(),
            exit_code,
            tuple(self.missing),
            omitted=(*stdout.omitted(), *stderr.omitted()),
            stdout_bytes=stdout.raw() if self._keep_bytes else None,
            stderr_bytes=stderr.raw() if self._keep_bytes else None,
        )


class OutputWatch:
    """Looks for a pattern in output as it comes.

    :param pattern: a regular expression, searched for in each stream by itself; it may match
        text that came in pieces, if they are not further apart than `WATCHED` characters.
    :param stream: ``stdout`` or ``stderr``; None is both.
    :ivar found: the first match.
    """

    def __init__(self, pattern: str | re.Pattern[str], stream: str | None = None) -> None:
        self._pattern = re.compile(pattern)
        self._texts = {name: "" for name in STREAMS if stream in (None, name)}
        self.found: re.Match[str] | None = None
        if not self._texts:
            raise ValueError(f"stream must be stdout, stderr or None, not {stream!r}")

    def add(self, stream: str, text: str) -> None:
        """More of a stream."""
        if self.found is None and stream in self._texts:
            searched = self._texts[stream] + text
            self.found = self._pattern.search(searched)
            self._texts[stream] = searched[-WATCHED:]


class _Kept:
    """What is kept of one stream: its head, and its tail as far as it may come to be needed.

    The tail is cut to size when it is asked for; until then whole pieces of it go, which is
    cheaper. Small pieces are joined: an object for each would take more room than its text.
    """

    def __init__(self, name: str, limit: int | None) -> None:
        self._name = name
        self._head: list[OutputChunk] = []
        self._tail: deque[OutputChunk] = deque()
        self._room: int | None = None  # of the head
        self._tail_limit = self._tail_bytes = 0
        self._end_of_head = self._start_of_tail = 0
        if limit is not None:
            self.limit(limit)

    def limit(self, limit: int) -> None:
        if self._room is None:
            self._room, self._tail_limit = limit - limit // 2, limit // 2
            chunks, self._head = self._head, []
            for chunk in chunks:
                self.add(chunk)

    def add(self, chunk: OutputChunk) -> None:
        if self._room is None:
            _append(self._head, chunk)
            return
        if self._room:
            head, chunk = split_chunk(chunk, self._room)
            _append(self._head, head)
            self._room = max(self._room - size_of(head), 0) if chunk.data == "" else 0
            self._end_of_head = self._start_of_tail = head.offset + size_of(head)
        if not chunk.data:
            return
        _append(self._tail, chunk)
        self._tail_bytes += size_of(chunk)
        while self._tail_bytes - (size := size_of(self._tail[0])) >= self._tail_limit:
            self._start_of_tail = self._tail.popleft().offset + size
            self._tail_bytes -= size
            if not self._tail:
                return

    def _cut_tail(self) -> None:
        while self._tail_bytes > self._tail_limit:
            oldest = self._tail.popleft()
            excess = self._tail_bytes - self._tail_limit
            self._tail_bytes -= size_of(oldest)
            dropped, rest = split_chunk(oldest, excess, up=True)
            self._start_of_tail = dropped.offset + size_of(dropped)
            if rest.data:
                self._tail.appendleft(rest)
                self._tail_bytes += size_of(rest)

    def text(self) -> str:
        self._cut_tail()
        return "".join([chunk.data for chunk in (*self._head, *self._tail)])

    def raw(self) -> bytes | None:
        self._cut_tail()
        pieces = [chunk.raw for chunk in (*self._head, *self._tail)]
        known = [piece for piece in pieces if piece is not None]
        return b"".join(known) if len(known) == len(pieces) else None

    def omitted(self) -> tuple[MissingOutput, ...]:
        self._cut_tail()
        if self._start_of_tail <= self._end_of_head:
            return ()
        return (MissingOutput(self._name, self._end_of_head, self._start_of_tail),)


def _append(pieces: list[OutputChunk] | deque[OutputChunk], chunk: OutputChunk) -> None:
    """Put a piece behind others, into the last if both are small and have no gap between."""
    last = pieces[-1] if pieces else None
    if (
        last is not None
        and len(last.data) + len(chunk.data) <= _SMALL
        and chunk.offset == last.offset + size_of(last)
        and (chunk.raw is None) == (last.raw is None)
    ):
        raw = None if last.raw is None or chunk.raw is None else last.raw + chunk.raw
        pieces[-1] = OutputChunk(last.stream, last.data + chunk.data, last.offset, raw=raw)
    else:
        pieces.append(chunk)


def size_of(chunk: OutputChunk) -> int:
    """How many bytes of its stream a chunk stands for."""
    if chunk.raw is not None:
        return len(chunk.raw)
    return len(chunk.data) if chunk.data.isascii() else len(chunk.data.encode())


def split_chunk(
    chunk: OutputChunk, size: int, *, up: bool = False
) -> tuple[OutputChunk, OutputChunk]:
    """A chunk cut in two, the first of at most (or `up`: at least) so many bytes.

    Never inside a character.
    """
    data = chunk.as_bytes()
    size = min(size, len(data))
    step = 1 if up else -1
    while 0 < size < len(data) and data[size] & 0xC0 == 0x80:
        size += step
    parts = []
    for part, offset in ((data[:size], chunk.offset), (data[size:], chunk.offset + size)):
        raw = None if chunk.raw is None else part
        parts.append(OutputChunk(chunk.stream, part.decode(errors="replace"), offset, raw=raw))
    return parts[0], parts[1]
