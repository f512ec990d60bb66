"""A command's output as pipes of bytes: what is kept, what holds back, what is no byte any more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.config import ClientConfig
from sandbox_proto.flows.commands import choose_transports
from sandbox_proto.machines.exec_events import OutputLost
from sandbox_proto.machines.exec_output import STREAMS
from sandbox_proto.machines.exec_transports import Transport
from sandbox_proto.machines.output_pipes import PIPE_BYTES, InputText, OutputPipes, return_code
from sandbox_proto.wire.command_models import MissingOutput, OutputChunk


def text(data: str, stream: str = "stdout") -> OutputChunk:
    """As a transport of text has it."""
    return OutputChunk(stream, data, 0)


def raw(data: bytes, stream: str = "stdout") -> OutputChunk:
    """As a transport of bytes has it."""
    return OutputChunk(stream, data.decode(errors="replace"), 0, raw=data)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(STREAMS), st.binary(max_size=50)),
            st.tuples(st.sampled_from(STREAMS), st.integers(1, 60)),
        )
    )
)
def test_each_stream_has_its_bytes_in_order(steps: list[tuple[str, bytes | int]]) -> None:
    pipes = OutputPipes(piped=STREAMS)
    put, taken = dict.fromkeys(STREAMS, b""), dict.fromkeys(STREAMS, b"")
    for stream, what in steps:
        if isinstance(what, bytes):
            pipes.put(raw(what, stream))
            put[stream] += what
        else:
            piece = pipes.take(stream, what)
            assert len(piece) <= what
            assert bool(piece) == (put[stream] != taken[stream])
            taken[stream] += piece
        for name in STREAMS:
            assert pipes.has(name) == (put[name] != taken[name])
    assert {name: taken[name] + pipes.take_all(name) for name in STREAMS} == put


def test_a_full_pipe_holds_back_until_it_is_read_or_dropped() -> None:
    pipes = OutputPipes(piped=STREAMS)
    pipes.put(raw(bytes(PIPE_BYTES - 1), "stderr"))
    assert not pipes.full
    pipes.put(raw(b"x", "stderr"))
    assert pipes.full
    assert pipes.take("stderr", 1) and not pipes.full
    pipes.put(raw(bytes(PIPE_BYTES), "stdout"))
    assert pipes.full
    pipes.drop("stdout")
    assert not pipes.full and not pipes.has("stdout")
    pipes.put(raw(bytes(7), "stdout"))
    assert (pipes.dropped, pipes.take("stdout", 10)) == (7, b"")


def test_what_is_captured_never_holds_back_and_what_nobody_wants_is_not_kept() -> None:
    pipes = OutputPipes(captured=["stdout"])
    for stream in STREAMS:
        pipes.put(raw(bytes(2 * PIPE_BYTES), stream))
    assert not pipes.full
    assert len(pipes.take_all("stdout")) == pipes.dropped == 2 * PIPE_BYTES


def test_a_gap_ends_a_stream_and_is_told() -> None:
    pipes = OutputPipes(piped=STREAMS)
    pipes.put(raw(b"before"))
    pipes.put(OutputLost(MissingOutput("stdout", 6, 9)))
    pipes.put(raw(b"after"))
    pipes.put(raw(b"other", "stderr"))
    assert pipes.take("stdout", 100) == b"before"
    assert pipes.trouble("stdout") == "the bytes from 6 to 9 of stdout are gone"
    assert (pipes.trouble("stderr"), pipes.take("stderr", 9)) == (None, b"other")


def test_after_a_kill_a_gap_is_an_end_like_another() -> None:
    pipes = OutputPipes(piped=["stdout"])
    pipes.put(raw(bytes(PIPE_BYTES)))
    pipes.lift_bound()
    assert not pipes.full
    pipes.put(text("h\ufffdh"))
    pipes.put(OutputLost(MissingOutput("stdout", 6, 9)))
    pipes.put(raw(b"after"))
    assert pipes.take_all("stdout") == bytes(PIPE_BYTES) + "h\ufffdh".encode()
    assert pipes.trouble("stdout") is None


def test_bytes_that_were_replaced_end_a_stream_unless_they_will_do() -> None:
    pipes = OutputPipes(captured=STREAMS)
    pipes.put(text("good\ufffdbad"))
    pipes.put(text("more"))
    pipes.put(raw("its own \ufffd".encode(), "stderr"))
    assert pipes.take_all("stdout") == b"good"
    assert "no UTF-8" in str(pipes.trouble("stdout"))
    assert (pipes.take_all("stderr"), pipes.trouble("stderr")) == ("its own \ufffd".encode(), None)

    lenient = OutputPipes(captured=STREAMS, errors="replace")
    lenient.put(text("good\ufffdbad"))
    assert lenient.take_all("stdout") == "good\ufffdbad".encode()
    with pytest.raises(ValueError, match="errors must be"):
        OutputPipes(errors="ignore")  # type: ignore[arg-type]


@given(st.text(), st.data())
def test_input_is_the_same_text_however_it_is_split(whole: str, data: st.DataObject) -> None:
    sent = whole.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)))))
    decoder, travelled = InputText(), ""
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        travelled += decoder.feed(sent[start:stop])
    assert travelled + decoder.feed(b"", final=True) == whole


def test_input_that_is_no_text_changes_nothing() -> None:
    decoder = InputText()
    assert decoder.feed(b"a\xc3") == "a"
    with pytest.raises(ValueError, match="UTF-8 only"):
        decoder.feed(b"\xff")
    assert decoder.feed(b"\xa9") == "\u00e9"
    decoder.feed(b"\xe2")
    with pytest.raises(ValueError, match="UTF-8 only"):
        decoder.feed(b"", final=True)


@pytest.mark.parametrize(
    ("exit_code", "killed", "expected"),
    [(0, False, 0), (137, False, 137), (137, True, -9), (-9, True, -9), (3, True, 3), (0, True, 0)],
)
def test_return_codes(exit_code: int, killed: bool, expected: int) -> None:
    assert return_code(exit_code, killed=killed) == expected


SSE, WEBSOCKET, HTTP = Transport.SSE, Transport.WEBSOCKET, Transport.HTTP


@pytest.mark.parametrize(
    ("choice", "needs", "expected"),
    [
        ("auto", None, (SSE, WEBSOCKET)),
        ("auto", "input", (WEBSOCKET,)),
        ("websocket", None, (WEBSOCKET,)),
        ("websocket", "input", (WEBSOCKET,)),
        ("sse", None, (SSE,)),
        ("http", None, (HTTP,)),
        ("sse", "input", "cannot do input"),
        ("http", "input", "cannot do input"),
    ],
)
def test_bytes_where_there_are_any(choice: str, needs: str | None, expected: object) -> None:
    config = ClientConfig(
        api_endpoint="http://h",
        api_key="k",
        exec_transport=choice,  # type: ignore[arg-type]
    )
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            choose_transports(config, needs, text=False, text_will_do=True)
    else:
        assert choose_transports(config, needs, text=False, text_will_do=True) == expected
