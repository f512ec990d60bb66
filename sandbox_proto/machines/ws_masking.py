"""Making large frames faster than wsproto does, above all masking them (RFC 6455 section 5.3).

A client's payload is combined with a key of four bytes, which takes longer than all else that
happens to an upload. wsproto makes the frame and its key as always, but an empty one; the
payload is put into it here. `tests/core/test_ws_masking.py` proves both ways equal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

LARGE = 4096
"""Smaller messages gain nothing."""

_MASKED = 0x80
_KEY_BYTES = 4
_XOR = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))

Mask = Callable[[bytearray, int, bytes], None]
"""Masks what stands in a buffer from a place on, by a key of four bytes."""


def fill(empty: bytes, payload: bytes) -> bytearray:
    """A whole data frame, of either role.

    :param empty: the same with an empty payload: two bytes, and a key if it is masked.
    :param payload: at least `LARGE` bytes.
    """
    size = len(payload)
    first, masked, key = empty[0], empty[1] & _MASKED, empty[2:]
    if size < 0x10000:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    frame = bytearray().join((head, key, payload))
    if key:
        _mask(frame, len(frame) - size, key)
    return frame


def mask_by_tables(frame: bytearray, start: int, key: bytes) -> None:
    """The fastest `Mask` of the standard library: every fourth byte by one table."""
    for offset in range(_KEY_BYTES):
        every_fourth = slice(start + offset, None, _KEY_BYTES)
        frame[every_fourth] = frame[every_fourth].translate(_XOR[key[offset]])


_mask: Mask = mask_by_tables


def use_mask(mask: Mask) -> None:
    """Have large frames masked by something faster with equal results, which a driver knows."""
    global _mask
    _mask = mask
