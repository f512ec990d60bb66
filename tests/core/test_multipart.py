"""The one form that an upload sends (protocol/05 section 1)."""

from __future__ import annotations

import email
import email.policy
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.wire.multipart import file_form, file_form_frame


def _entropy(count: int) -> bytes:
    return bytes(range(count))


@given(st.binary(max_size=200))
def test_the_form_holds_exactly_one_file_part_with_the_raw_bytes(content):
    content_type, pieces = file_form(content, _entropy)
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    whole = head + b"".join(bytes(piece) for piece in pieces)
    form = email.message_from_bytes(whole, policy=email.policy.HTTP)
    [part] = form.iter_parts()
    assert form.get_content_type() == "multipart/form-data"
    assert part.get_content_type() == "application/octet-stream"
    assert part.get_param("name", header="content-disposition") == "file"
    assert part.get_filename() == "file"
    # The e-mail parser normalises line ends, so the raw bytes are compared by themselves.
    assert bytes(pieces[1]) == content


def test_the_boundary_is_32_hex_digits_of_entropy():
    content_type, _, _ = file_form_frame(_entropy)
    assert content_type == "multipart/form-data; boundary=000102030405060708090a0b0c0d0e0f"


def test_frame_and_form_agree():
    content_type, head, tail = file_form_frame(_entropy)
    assert file_form(b"x", _entropy) == (content_type, (head, memoryview(b"x"), tail))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_passed_through_without_a_copy(kind):
    content = kind(bytes(8 * 1024 * 1024))
    tracemalloc.start()
    try:
        _, pieces = file_form(content, _entropy)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pieces[1]) == len(content)
    assert peak < 64 * 1024


def test_a_buffer_of_larger_items_is_counted_in_bytes():
    content = memoryview(bytearray(16)).cast("I")
    _, pieces = file_form(content, _entropy)
    assert len(pieces[1]) == 16
