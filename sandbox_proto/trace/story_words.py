"""How a trace's data is put into words: sizes, durations, and texts that anybody may have written.

A trace is somebody's data, so nothing of it reaches a terminal or a page as it is: what cannot
be printed (escape sequences, marks that turn the direction of writing) is spelt out.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from .reexecution import Beside
from .values import unspelt

_KIB = 1024
# What is longer is told by its size and digest.
_WHOLE = 64 * _KIB
_LONG_ID = re.compile(r"(?<=/)([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def printable(text: str, *, lines: bool = False) -> str:
    """A text without anything that does something else than be read.

    :param lines: leave the ends of lines and tabs as they are.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text
    )


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text on one line."""
    shown = printable(text[: length + 1])
    return shown if len(text) <= length else shown[:length] + "..."


def duration(seconds: float) -> str:
    """A duration for people: ``0.3 ms``, ``1.20 s``, ``10 min 3 s``."""
    if not 0 <= seconds < 1e12:
        return "for ever"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < _KIB:
        return f"{count} byte{'' if count == 1 else 's'}"
    value = float(count)
    for unit in ("KiB", "MiB"):
        value /= _KIB
        if value < _KIB:
            return f"{value:.1f} {unit}"
    return f"{value / _KIB:.1f} GiB"


def target_of(target: str) -> str:
    """A request's target for people: without escapes, its long ids by their beginning."""
    return excerpt(_LONG_ID.sub(r"\1..", unquote(target)), 160)


def measure(data: Any) -> int:
    """How many bytes there are behind a written value, or its length if it is text."""
    match data:
        case {"length": int(length)}:
            return length
        case list():
            return sum(map(measure, data))
        case str():
            return len(data.encode(errors="replace"))
        case _:
            return len(raw_bytes(data) or b"")


def raw_bytes(data: Any, beside: Beside | None = None) -> bytes | None:
    """The bytes behind a written value; None: they are not here, or it is none of bytes."""
    match data:
        case {"beside": str(digest)}:
            try:
                return None if beside is None else beside(digest)
            except (OSError, ValueError):
                return None
        case {"head": str()}:
            return None
        case list():
            parts = [raw_bytes(item, beside) for item in data]
            return None if None in parts else b"".join(part for part in parts if part is not None)
        case dict():
            try:
                value = unspelt(data)
            except (ValueError, UnicodeError):
                return None
            return value if isinstance(value, bytes) else None
        case str():
            return data.encode(errors="replace")
        case bytes():
            return data
    return None


def text_of(data: Any) -> str:
    """What a written value of text or bytes says, as far as it is here."""
    match data:
        case {"head": str(head)}:
            return head
        case _:
            return (raw_bytes(data) or b"").decode(errors="replace")


def content(data: bytes | None, count: int, digest: str = "") -> Any:
    """A body for people: JSON as an object, text as text, all else by its size.

    :param data: None: it is not here.
    :param digest: what to call it by if it is long.
    """
    if data is not None and len(data) <= _WHOLE:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return {"bytes": len(data), "hex": data[:256].hex(" ")}
        if text[:1] in ("{", "["):
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                pass
        return text
    return {"bytes": count, **({"sha256": digest} if digest else {})}
