"""What a command wrote, kept for whoever attaches (protocol/06 sections 5 and 6)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.host.output import CHUNK_BYTES, OutputRing, Utf8Sanitizer

from ._helpers import cut, cut_points

# --- the sanitiser --------------------------------------------------------------------

NOISE = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.lists(
        st.sampled_from(
            [b"a", b"\xff", b"\xe2\x82\xac", b"\xe2\x82", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0"]
        )
    ).map(b"".join),
)


@settings(max_examples=200)
@given(NOISE, st.data())
def test_the_sanitised_text_is_the_same_for_every_split(data, draw):
    sanitizer = Utf8Sanitizer()
    pieces = cut(data, draw.draw(cut_points(len(data)))) if data else []
    whole = b"".join(
        [*(sanitizer.feed(piece) for piece in pieces), sanitizer.feed(b"", final=True)]
    )
    assert whole == data.decode(errors="replace").encode()


@pytest.mark.parametrize("text", ["\u00e9", "\u20ac", "\U0001f600"])
def test_a_character_is_held_back_until_it_is_whole(text):
    sanitizer = Utf8Sanitizer()
    *first, last = (bytes([byte]) for byte in text.encode())
    assert [sanitizer.feed(byte) for byte in first] == [b""] * len(first)
    assert sanitizer.feed(last) == text.encode()


@given(NOISE, st.data())
def test_every_piece_is_valid_by_itself(data, draw):
    sanitizer = Utf8Sanitizer()
    for piece in cut(data, draw.draw(cut_points(len(data)))) if data else []:
        sanitizer.feed(piece).decode()


# --- the ring -------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from("ab\u00e9\u20ac\U0001f600"), max_size=12)


@settings(max_examples=200)
@given(st.integers(4, 20), st.lists(TEXTS, max_size=12), st.integers(0, 200), st.integers(4, 20))
def test_a_ring_is_the_end_of_the_text_with_true_offsets(capacity, texts, start, limit):
    ring = OutputRing(capacity)
    whole = b""
    for text in texts:
        ring.append(text.encode())
        whole += text.encode()
        assert ring.end == len(whole)
        assert ring.end - ring.start <= capacity
        assert ring.end - ring.start > capacity - 4 or ring.start == 0, (
            "it drops no more than it must"
        )
    read, position = "", start
    while True:
        offset, text = ring.read(position, limit)
        assert offset + len(text.encode()) <= ring.end
        if not text:
            break
        assert offset >= position
        assert read == "" or offset == position, "reading on leaves no gap"
        assert whole[offset : offset + len(text.encode())] == text.encode()
        read, position = read + text, offset + len(text.encode())
    assert offset == ring.end, "all is read in the end"


@given(st.integers(4, 20), st.lists(TEXTS, max_size=12), st.integers(-5, 200))
def test_reading_from_anywhere_begins_at_the_next_character_that_is_kept(capacity, texts, start):
    ring = OutputRing(capacity)
    for text in texts:
        ring.append(text.encode())
    offset, text = ring.read(start, 1000)
    assert ring.start <= offset <= ring.end
    assert offset + len(text.encode()) == ring.end, "a large read takes all"
    if start <= ring.start:
        assert offset == ring.start
    else:
        assert offset - min(start, ring.end) <= 3


@pytest.mark.parametrize(
    ("appended", "start", "kept"),
    [
        (["abcd"], 0, "abcd"),
        (["abcd", "e"], 1, "bcde"),
        (["abcdefgh"], 4, "efgh"),
        (["a\u20ac", "b"], 1, "\u20acb"),  # 5 bytes: one to drop
        (["\u20aca", "b"], 3, "ab"),  # dropping one byte drops the character
        (["\u20ac\u20ac"], 3, "\u20ac"),
        (["\U0001f600", "x"], 4, "x"),
    ],
)
def test_where_a_ring_of_four_bytes_wraps(appended, start, kept):
    ring = OutputRing(4)
    for text in appended:
        ring.append(text.encode())
    assert (ring.start, ring.read(0)) == (start, (start, kept))


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (-7, (0, "a\u20acb")),
        (0, (0, "a\u20acb")),
        (1, (1, "\u20acb")),
        (2, (4, "b")),
        (3, (4, "b")),
        (4, (4, "b")),
        (5, (5, "")),
        (99, (5, "")),
    ],
)
def test_offsets_before_inside_and_beyond(offset, expected):
    ring = OutputRing()
    ring.append("a\u20acb".encode())
    assert ring.read(offset) == expected


@pytest.mark.parametrize(
    ("limit", "text"), [(1, "a"), (2, "a"), (3, "a"), (4, "a\u20ac"), (5, "a\u20acb")]
)
def test_a_chunk_ends_between_characters(limit, text):
    ring = OutputRing()
    ring.append("a\u20acb".encode())
    assert ring.read(0, limit) == (0, text)


def test_a_chunk_is_well_below_what_clients_take():
    ring = OutputRing()
    ring.append(bytes(200_000))
    _, text = ring.read(0)
    assert len(text) == CHUNK_BYTES
    assert 6 * CHUNK_BYTES < 1024 * 1024, "a control character takes six bytes in JSON"


@pytest.mark.parametrize(
    ("appended", "offset", "room"),
    [
        (0, 0, 10),
        (4, 0, 6),
        (4, 4, 10),
        (10, 0, 0),
        (10, 3, 3),
        (14, 0, 0),
        (14, 4, 0),
        (14, 14, 10),
    ],
)
def test_the_room_before_a_reader_loses_something(appended, offset, room):
    ring = OutputRing(10)
    ring.append(bytes(appended))
    assert ring.room_before(offset) == room
