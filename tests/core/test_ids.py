"""Identifiers are made from what is passed in, and look as the API wants them."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.wire.ids import sandbox_name, uuid4_text, uuid7_hex

ONES = b"\xff"


@given(st.binary(min_size=10, max_size=10), st.floats(0, 200_000_000_000))
def test_uuid7_has_time_version_and_variant_where_rfc_9562_puts_them(noise, seconds):
    text = uuid7_hex(unix_seconds=seconds, entropy=lambda count: noise[:count])
    value = uuid.UUID(text)
    assert re.fullmatch(r"[0-9a-f]{32}", text)
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert int(text[:12], 16) == int(seconds * 1000)


def test_uuid7_is_the_same_for_the_same_time_and_entropy():
    text = uuid7_hex(unix_seconds=1_700_000_000.123, entropy=lambda count: bytes(range(count)))
    assert text == "018bcfe5687b" + "7000" + "8203040506070809"


def test_uuid7_uses_every_random_bit():
    low = uuid7_hex(unix_seconds=0, entropy=bytes)
    high = uuid7_hex(unix_seconds=0, entropy=lambda count: ONES * count)
    assert low == "000000000000" + "7000" + "8000000000000000"
    assert high == "000000000000" + "7fff" + "bfffffffffffffff"


def test_uuid7_grows_with_time():
    ids = [uuid7_hex(unix_seconds=ms / 1000, entropy=bytes) for ms in range(1, 5000, 7)]
    assert ids == sorted(set(ids))


@given(st.binary(min_size=16, max_size=16))
def test_uuid4_is_a_version_4_uuid_in_the_dashed_spelling(noise):
    text = uuid4_text(lambda count: noise[:count])
    value = uuid.UUID(text)
    assert str(value) == text
    assert (value.version, value.variant) == (4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [(uuid4_text, 16), (sandbox_name, 6), (lambda e: uuid7_hex(unix_seconds=1, entropy=e), 10)],
    ids=["uuid4", "name", "uuid7"],
)
def test_each_id_asks_once_for_just_the_entropy_it_needs(make, wanted):
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    make(entropy)
    assert asked == [wanted]


def test_generated_sandbox_names_are_names_the_api_takes():
    assert sandbox_name(lambda count: bytes(range(count))) == "sandbox-000102030405"
