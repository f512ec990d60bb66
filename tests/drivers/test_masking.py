"""numpy masks what the standard library masks, and is loaded only where that pays."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_anyio import masking
from sandbox_anyio.masking import consider_numpy, numpy_mask
from sandbox_proto.machines.ws_masking import Mask, fill, mask_by_tables, use_mask

EMPTY = bytes([0x82, 0x80]) + b"key!"


@pytest.fixture(autouse=True)
def usual_mask() -> Iterator[None]:
    yield
    use_mask(mask_by_tables)


@given(
    payload=st.binary(max_size=300),
    head=st.binary(max_size=20),
    key=st.binary(min_size=4, max_size=4),
)
def test_both_give_the_same(payload: bytes, head: bytes, key: bytes) -> None:
    mask = numpy_mask()
    assert mask is not None, "the tests' environment has numpy"
    frames = [bytearray(head + payload) for _ in range(2)]
    mask(frames[0], len(head), key)
    mask_by_tables(frames[1], len(head), key)
    assert frames[0] == frames[1]


def test_it_is_loaded_for_much_and_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def mask(frame: bytearray, start: int, key: bytes) -> None:
        used.append(len(frame))

    def load() -> Mask | None:
        return mask

    monkeypatch.setattr(masking, "numpy_mask", load)
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    consider_numpy(16 * 1024 * 1024 - 1)
    fill(EMPTY, bytes(5000))
    assert used == []
    consider_numpy(16 * 1024 * 1024)
    fill(EMPTY, bytes(5000))
    assert used == [5008]
    use_mask(mask_by_tables)
    monkeypatch.setitem(sys.modules, "numpy", masking)
    consider_numpy(1)
    fill(EMPTY, bytes(6000))
    assert used == [5008, 6008]


def test_without_it_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)  # as if it were not installed
    numpy_mask.cache_clear()
    try:
        consider_numpy(1 << 30)
        frame = fill(EMPTY, bytes(4096))
    finally:
        numpy_mask.cache_clear()
    assert frame[8:12] == b"key!"
