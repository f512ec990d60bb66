"""Identifiers made from injected entropy and time, never from the system's."""

from __future__ import annotations

import re
from collections.abc import Callable

Entropy = Callable[[int], bytes]
"""``entropy(n)`` gives n unpredictable bytes."""


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)


def uuid7_hex(*, unix_seconds: float, entropy: Entropy) -> str:
    """A version 7 UUID as 32 hex digits without dashes: the spelling of command ids.

    :param unix_seconds: wall-clock time; only its milliseconds enter the id.
    """
    milliseconds = int(unix_seconds * 1000) & (1 << 48) - 1
    random = int.from_bytes(entropy(10))
    value = milliseconds << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return f"{value:032x}"


def uuid4_text(entropy: Entropy) -> str:
    """A version 4 UUID in the dashed spelling: the form of sandbox and snapshot ids."""
    value = int.from_bytes(entropy(16))
    value = value & ~(0xF << 76) | 0x4 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def is_uuid(text: str) -> bool:
    """Whether this is a UUID in the dashed spelling."""
    return _UUID.fullmatch(text) is not None


def sandbox_name(entropy: Entropy) -> str:
    """A name for a sandbox whose creator chose none; 48 random bits."""
    return f"sandbox-{entropy(6).hex()}"
