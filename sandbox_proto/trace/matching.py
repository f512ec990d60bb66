"""Whether what a program says is what a trace has, and by which names it calls things now.

A program that runs again says the same but for what was left to chance: the names it invents
for sandboxes, the ids of commands, the boundaries of forms. Where both sides have such a value
in the same place, the one stands for the other from then on, in both directions. What was
masked when the trace was recorded matches anything.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..machines.http1_server import RequestReceived

# What the client invents: names of sandboxes, ids of commands (see `wire.ids`).
_INVENTED = re.compile(r"sandbox-[0-9a-f]{12}|[0-9a-f]{32}")
_MASKED = re.compile(rb"\*{4,}")
_BOUNDARY = re.compile(r"boundary=\"?([^\";]+)")
# Headers that change the answer; all others are not compared.
_COMPARED = ("range", "if-range", "if-none-match")


class Names:
    """Values that chance chose: as recorded, and as they are now."""

    def __init__(self) -> None:
        self._now: dict[bytes, bytes] = {}
        self._recorded: dict[bytes, bytes] = {}

    def stand_for(self, recorded: str, now: str) -> bool:
        """Whether one may stand for the other; if so, it does from now on."""
        left, right = recorded.encode(), now.encode()
        if left == right:
            return True
        if self._now.get(left, right) != right or self._recorded.get(right, left) != left:
            return False
        alike = _INVENTED.fullmatch(recorded) and _INVENTED.fullmatch(now)
        if not alike or len(left) != len(right):
            return False
        self._now[left], self._recorded[right] = right, left
        return True

    def as_recorded(self, data: bytes) -> bytes:
        """What the client says, with the recorded names."""
        return _replaced(data, self._recorded)

    def as_now(self, data: bytes) -> bytes:
        """What was recorded, with the names of now (which are as long)."""
        return _replaced(data, self._now)


def _replaced(data: bytes, names: dict[bytes, bytes]) -> bytes:
    for old, new in names.items():
        if old in data:
            data = data.replace(old, new)
    return data


def same_request(recorded: RequestReceived, got: RequestReceived, names: Names) -> str | None:
    """What is different in two requests of the same method and target; None: nothing."""
    for name in _COMPARED:
        was, is_now = recorded.headers.get(name), got.headers.get(name)
        if was != is_now:
            return f"the header {name} was {was!r}, and is {is_now!r}"
    left, right = _without_boundary(recorded), _without_boundary(got)
    if same_bytes(left, right, names):
        return None
    return f"the body was {_excerpt(left, right)}, and is {_excerpt(right, left)}"


def _without_boundary(request: RequestReceived) -> bytes:
    match = _BOUNDARY.search(request.headers.get("content-type", ""))
    if match is None:
        return request.body
    return request.body.replace(match[1].encode(), b"boundary")


def _excerpt(data: bytes, other: bytes) -> str:
    same = next((i for i, (a, b) in enumerate(zip(data, other, strict=False)) if a != b), 0)
    start = max(0, same - 40)
    return f"{'... ' if start else ''}{data[start : same + 80]!r} ({len(data)} bytes)"


def same_bytes(recorded: bytes, got: bytes, names: Names) -> bool:
    """Whether two bodies or messages say the same."""
    if recorded == got:
        return True
    if recorded[:1] in (b"{", b"[") and got[:1] == recorded[:1]:
        try:
            return _same_json(json.loads(recorded), json.loads(got), names)
        except ValueError:
            pass
    if not _MASKED.search(recorded):
        return False
    pattern = b".+".join(map(re.escape, _MASKED.split(recorded)))
    return re.fullmatch(pattern, got, re.DOTALL) is not None


def _same_json(recorded: Any, got: Any, names: Names) -> bool:
    match recorded, got:
        case dict(), dict():
            return recorded.keys() == got.keys() and all(
                _same_json(value, got[key], names) for key, value in recorded.items()
            )
        case list(), list():
            return len(recorded) == len(got) and all(
                _same_json(left, right, names) for left, right in zip(recorded, got, strict=True)
            )
        case str(), str():
            if names.stand_for(recorded, got):
                return True
            return b"*" in recorded.encode() and same_masked(recorded, got)
        case _:
            return bool(recorded == got)


def same_masked(recorded: str, got: str) -> bool:
    """Whether a text is what was recorded, as far as that was not masked."""
    raw = recorded.encode()
    pattern = b".+".join(map(re.escape, _MASKED.split(raw)))
    return re.fullmatch(pattern, got.encode(), re.DOTALL) is not None
