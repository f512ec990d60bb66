"""What is kept of a command's output, and what is found in it (machines.exec_output)."""

from __future__ import annotations

import pytest

from sandbox_proto.machines.exec_events import OutputLost
from sandbox_proto.machines.exec_output import (
    OutputCollector,
    OutputWatch,
    RawLedger,
    split_chunk,
)
from sandbox_proto.wire.command_models import MissingOutput, OutputChunk
from sandbox_proto.wire.sse import RawOutput

TEXT = "".join(f"{number}\u20ac" for number in range(200))
RAW = TEXT.encode()


def pieces(size: int, *, raw: bool) -> list[OutputChunk]:
    """TEXT in chunks of so many characters."""
    chunks, offset = [], 0
    for start in range(0, len(TEXT), size):
        text = TEXT[start : start + size]
        data = text.encode()
        chunks.append(OutputChunk("stdout", text, offset, raw=data if raw else None))
        offset += len(data)
    return chunks


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
@pytest.mark.parametrize("limit", [0, 1, 2, 5, 64, 333, len(RAW) - 1, len(RAW), len(RAW) + 9])
def test_head_and_tail_are_kept_and_the_rest_is_told(limit, size, raw):
    collector = OutputCollector(limit, keep_bytes=raw)
    for chunk in pieces(size, raw=raw):
        collector.add(chunk)
    result = collector.result(0)
    kept = result.stdout.encode()
    assert len(kept) <= limit
    if limit >= len(RAW):
        assert (kept, result.omitted) == (RAW, ())
        return
    [omitted] = result.omitted
    assert omitted.stream == "stdout"
    assert kept == RAW[: omitted.start] + RAW[omitted.end :]
    # A character that does not fit in whole is left out, at either border.
    assert len(kept) >= limit - 2 * 2
    assert result.stdout_bytes == (kept if raw else None)
    assert result.complete, "left out is not lost"


def test_without_a_limit_all_is_kept():
    collector = OutputCollector()
    for chunk in pieces(7, raw=False):
        collector.add(chunk)
    collector.add(OutputLost(MissingOutput("stderr", 0, 5)))
    collector.add(OutputChunk("stderr", "e", 5))
    result = collector.result(2)
    assert (result.stdout, result.stderr, result.exit_code) == (TEXT, "e", 2)
    assert (result.missing, result.omitted) == ((MissingOutput("stderr", 0, 5),), ())
    assert not result.complete
    outcome = collector.outcome("id", True)
    assert (outcome.stdout, outcome.stderr, outcome.may_be_running) == (TEXT, "e", True)


@pytest.mark.parametrize("up", [True, False])
def test_a_chunk_is_never_cut_inside_a_character(up):
    chunk = OutputChunk("stdout", TEXT, 100)
    for size in range(len(RAW) + 2):
        first, rest = split_chunk(chunk, size, up=up)
        assert first.data + rest.data == TEXT
        length = len(first.data.encode())
        assert rest.offset == 100 + length
        assert (
            (size <= length <= size + 2) if up and size <= len(RAW) else size - 2 <= length <= size
        )


# --- looking for something ------------------------------------------------------------


def test_a_pattern_is_found_across_pieces_but_not_across_streams():
    watch = OutputWatch("listening on (\\d+)\n")
    for text in ("x\nlis", "tening", " on 80"):
        watch.add("stdout", text)
        watch.add("stderr", "9\n")
        assert watch.found is None
    watch.add("stdout", "80\n")
    assert watch.found is not None
    assert watch.found[1] == "8080"


def test_one_stream_may_be_enough():
    watch = OutputWatch("ready", "stderr")
    watch.add("stdout", "ready")
    assert watch.found is None
    watch.add("stderr", "ready")
    assert watch.found is not None
    with pytest.raises(ValueError, match="stream must be"):
        OutputWatch("x", "stdin")


def test_the_first_match_stays():
    watch = OutputWatch("[0-9]")
    watch.add("stdout", "1")
    watch.add("stdout", "2")
    assert watch.found is not None
    assert watch.found[0] == "1"


def test_a_gap_counts_when_bytes_are_accounted_for_as_text():
    """A command that moves from an event stream to a WebSocket goes on behind what was lost."""
    raw = RawLedger()
    raw.take(RawOutput("stdout", b"abc", 0))
    lost, chunk = raw.take(RawOutput("stdout", "d\u20ac".encode(), 1000))
    assert lost == OutputLost(MissingOutput("stdout", 3, 1000))
    text = raw.as_text()
    assert text.offsets["stdout"] == 1004
    assert text.take(OutputChunk("stdout", "abcd\u20acnew", 997)) == [
        OutputChunk("stdout", "new", 1004)
    ]
    assert chunk == OutputChunk("stdout", "d\u20ac", 1000, raw="d\u20ac".encode())
