"""Chunked bodies past h11 are what they are through it, for every split."""

from __future__ import annotations

import random

import h11
import pytest

from sandbox_proto.machines.chunked import MAX_LINE_BYTES, BadChunk, ChunkReader

from ._helpers import bytewise, cut

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
GOOD = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
    b"00A\r\n0123456789\r\n000\r\n\r\n",
    b"a\r\n01234\r\n789\r\n0\r\n\r\n",
    b"3;name=value\r\nabc\r\n0;last\r\n\r\n",
    b"3 \r\nabc\r\n0\t\r\n\r\n",
    b"3\r\nabc\r\n0\r\nTrailer: x\r\nOther:y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nTrailer: x\n\n",
    b"3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"400\r\n" + bytes(1024) + b"\r\n0\r\n\r\n",
]
BAD = [
    b"x\r\n",
    b"\r\n",
    b"-1\r\n",
    b"0x1\r\na\r\n",
    b"1_0\r\n",
    b" 1\r\na\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"123456789012345678901\r\n",
    b"3\r\nabc\r\n0\r\nno trailer\r\n\r\n",
    b"3\r\nabc\r\n0\r\nbad name: x\r\n\r\n",
]


def _ours(pieces):
    reader, content = ChunkReader(), b""
    try:
        for number, piece in enumerate(pieces):
            content += reader.feed(piece)
            if reader.finished:
                return content, "finished", reader.rest + b"".join(pieces[number + 1 :])
    except BadChunk:
        return "bad"
    return content, "unfinished", b""


def _h11s(pieces):
    connection, content = h11.Connection(h11.CLIENT), b""
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD)
    assert isinstance(connection.next_event(), h11.Response)
    try:
        for number, piece in enumerate(pieces):
            connection.receive_data(piece)
            while not isinstance(event := connection.next_event(), type(h11.NEED_DATA)):
                if isinstance(event, h11.EndOfMessage):
                    rest = connection.trailing_data[0] + b"".join(pieces[number + 1 :])
                    return content, "finished", rest
                content += event.data
    except h11.RemoteProtocolError:
        return "bad"
    return content, "unfinished", b""


@pytest.mark.parametrize("body", GOOD + BAD)
def test_ours_is_h11s(body):
    expected = _h11s([body])
    assert _ours([body]) == expected
    assert (expected == "bad") == (body in BAD)
    assert _ours(bytewise(body)) == expected


def test_it_is_for_every_split(sweep):
    chance = random.Random(1)
    for _ in range(400 * sweep):
        body = bytearray(chance.choice(GOOD + BAD))
        if chance.random() < 0.5:
            body[chance.randrange(len(body))] = chance.choice(b"\r\n0;a\x00 :f")
        places = sorted(chance.randint(1, len(body)) for _ in range(chance.randint(0, 6)))
        pieces = [piece for piece in cut(bytes(body), places) if piece]
        ours, h11s = _ours(pieces), _h11s(pieces)
        # A chunk that is too long is noticed when its end is looked at: h11 does so with the
        # next bytes it is asked for, which may be some that never come.
        assert ours == h11s or ("bad" in (ours, h11s) and ours == _h11s([*pieces, b"\x01\x01"])), (
            body
        )


@pytest.mark.parametrize("beginning", [b"", b"0\r\n"])
def test_a_line_without_an_end_is_not_gathered_for_ever(beginning):
    reader = ChunkReader()
    reader.feed(beginning + b"a")
    with pytest.raises(BadChunk, match="exceeds"):
        for _ in range(3):
            reader.feed(b"a" * (MAX_LINE_BYTES // 2))
