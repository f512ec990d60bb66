"""Taking secrets out of what is recorded, before it is written anywhere.

A secret is known by what it is (the API key, the values of certain headers, the user's own
patterns) or by where it stands (``"token": "..."``, ``Authorization: ...``,
``?X-Amz-Signature=...``). Each of its bytes becomes an asterisk, so that lengths stay true.
What was once recognised is taken out wherever it comes again. Bytes of a stream are looked at
together with what went before and what follows, because a secret may lie across two chunks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

MASK = b"*"

# Header fields whose values are secrets.
SECRET_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-langsmith-sandbox-service-token",
        "x-service-key",
    }
)
# Names, or parts of names, of fields in JSON and of parameters in URLs whose values are secrets.
_WORDS = ("token", "password", "passwd", "secret", "api_key", "apikey", "credential", "signature")
_SECRET_WORDS = "|".join(_WORDS)

_FIELD = rf'"[\w-]*(?:{_SECRET_WORDS})"\s*:\s*"((?:[^"\\]|\\.){{4,}})"'
_OPAQUE = r'"type"\s*:\s*"opaque"\s*,\s*"value"\s*:\s*"((?:[^"\\]|\\.)+)"'
_OPAQUE_AFTER = r'"value"\s*:\s*"((?:[^"\\]|\\.)+)"\s*,\s*"type"\s*:\s*"opaque"'
_PARAMETER = rf"[?&;][\w-]*(?:{_SECRET_WORDS}|sig)[\w-]*=([^&\s\"'\\#;<>]{{4,}})"
_JWT = r"(eyJ[\w-]{4,}\.[\w-]{4,}\.[\w-]{4,})"
_USERINFO = r"://[^/\s:@\"]+:([^/\s@\"]+)@"

# What is shorter is taken out where it stands, but not everywhere: it may be an ordinary word.
_UNMISTAKABLE = 8
# How far around a piece of a stream one looks, in bytes.
_CONTEXT = 4096


@attrs.frozen
class _Pattern:
    """Where secrets stand.

    :ivar needles: one of these is in every match, in small letters: finding none of them is
        ten times quicker than finding no match. Empty: nothing is known of its matches.
    """

    regex: re.Pattern[bytes]
    needles: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, pattern: str, *needles: str) -> _Pattern:
        """A pattern that does not care for case."""
        encoded = tuple(needle.encode() for needle in needles)
        return cls(re.compile(pattern.encode(), re.IGNORECASE), encoded)

    def may_match(self, hay: _Hay) -> bool:
        """Whether it is worth looking."""
        return not self.needles or any(map(hay.holds, self.needles))


class _Hay:
    """Text in small letters, which remembers what was looked for in it."""

    def __init__(self, raw: bytes) -> None:
        self._small = raw.lower()
        self._found: dict[bytes, bool] = {}

    def holds(self, needle: bytes) -> bool:
        """Whether this is in it."""
        found = self._found.get(needle)
        if found is None:
            found = self._found[needle] = needle in self._small
        return found


@attrs.define(eq=False)
class Piece:
    """Bytes or text in an encoded value that are part of a longer stream."""

    stream: tuple[str, ...]
    data: bytes | str
    taken_out: bool = False

    @property
    def raw(self) -> bytes:
        """The bytes, text as UTF-8."""
        return self.data.encode() if isinstance(self.data, str) else self.data


class Redactor:
    """Learns secrets from all that is recorded, and takes them out.

    :param secrets: what is secret from the start.
    :param headers: further names of headers whose values are secrets.
    :param patterns: the user's own regular expressions; the first group, or else the whole
        match, is secret.
    :raises ValueError: a pattern is no regular expression.
    """

    def __init__(
        self,
        *,
        secrets: Iterable[str] = (),
        headers: Iterable[str] = (),
        patterns: Iterable[str] = (),
    ) -> None:
        self._names = SECRET_HEADERS | {name.lower() for name in headers}
        names = "|".join(map(re.escape, sorted(self._names)))
        header = rf"(?:^|\n)(?:{names})[ \t]*:[ \t]*([^\r\n]+)"
        own = [_checked(pattern) for pattern in patterns]
        self._patterns = [
            _Pattern.of(header, *sorted(self._names)),
            _Pattern.of(_FIELD, *_WORDS),
            _Pattern.of(_OPAQUE, "opaque"),
            _Pattern.of(_OPAQUE_AFTER, "opaque"),
            _Pattern.of(_PARAMETER, *_WORDS, "sig"),
            _Pattern.of(_JWT, "eyj"),
            _Pattern.of(_USERINFO, "://"),
            *(_Pattern(re.compile(pattern.encode())) for pattern in own),
        ]
        self._secrets: set[bytes] = set()
        self._known: re.Pattern[bytes] | None = None
        self._before: dict[tuple[str, ...], bytes] = {}
        self._waiting: dict[tuple[str, ...], deque[Piece]] = {}
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: str | bytes) -> None:
        """Take this out wherever it stands, from what is not written yet."""
        raw = secret.encode() if isinstance(secret, str) else secret
        found = {raw, *raw.split(b" ")[-1:]} if b" " in raw else {raw}
        for one in found:
            if len(one) >= 4 and one.strip(MASK) and one not in self._secrets:
                self._secrets.add(one)
                self._known = None

    # --- what comes in ----------------------------------------------------------------

    def look_at(self, data: Any, *, secret: bool = False) -> None:
        """Learn from an encoded value that is going to be written.

        :param secret: it stands where secrets stand.
        """
        match data:
            case str() | bytes():
                raw = data.encode() if isinstance(data, str) else data
                if secret and len(raw) >= _UNMISTAKABLE:
                    self.learn(raw)
                self._learn_from(raw)
            case Piece():
                waiting = self._waiting.setdefault(data.stream, deque())
                before = b"".join(piece.raw for piece in list(waiting)[-8:])
                waiting.append(data)
                tail = self._before.get(data.stream, b"") + before
                self._learn_from(tail[-_CONTEXT:] + data.raw)
            case [str(name), str(value)] if name.lower() in self._names:
                self.look_at(value, secret=True)
            case list():
                for item in data:
                    self.look_at(item)
            case Mapping():
                for name, item in data.items():
                    self.look_at(item, secret=self._is_secret_name(name))

    def _is_secret_name(self, name: str) -> bool:
        return name.lower() in self._names or _NAME.search(name) is not None

    def _learn_from(self, raw: bytes) -> None:
        hay = _Hay(raw)
        for pattern in self._patterns:
            if not pattern.may_match(hay):
                continue
            for match in pattern.regex.finditer(raw):
                start, end = match.span(1 if pattern.regex.groups else 0)
                if end - start >= _UNMISTAKABLE:
                    self.learn(raw[start:end])

    # --- what goes out ----------------------------------------------------------------

    def ready(self, data: Any) -> bool:
        """Whether enough is known of what follows the pieces in an encoded value."""
        match data:
            case Piece():
                following = list(self._waiting[data.stream])
                return data.taken_out or len(following) > 1
            case list():
                return all(map(self.ready, data))
            case Mapping():
                return all(map(self.ready, data.values()))
            case _:
                return True

    def redact(self, data: Any, *, secret: bool = False) -> Any:
        """An encoded value without its secrets. Values are to come in the order of `look_at`."""
        match data:
            case str():
                return "*" * len(data.encode()) if secret else self._clean(data.encode()).decode()
            case bytes():
                return self._clean(data)
            case Piece():
                return self._piece(data)
            case [str(name), str(value)] if name.lower() in self._names:
                return [name, self.redact(value, secret=True)]
            case list():
                return [self.redact(item) for item in data]
            case Mapping():
                return {
                    name: self.redact(item, secret=self._is_secret_name(name))
                    for name, item in data.items()
                }
            case _:
                return data

    def _piece(self, piece: Piece) -> bytes | str:
        waiting = self._waiting[piece.stream]
        waiting.popleft()
        raw = piece.raw
        before = self._before.get(piece.stream, b"")
        after = b""
        for following in waiting:
            after += following.raw[:_CONTEXT]
            if len(after) >= _CONTEXT:
                break
        self._before[piece.stream] = (before + raw)[-_CONTEXT:]
        clean = self._clean(before + raw + after)[len(before) : len(before) + len(raw)]
        return clean.decode(errors="replace") if isinstance(piece.data, str) else clean

    def _clean(self, raw: bytes) -> bytes:
        hay = _Hay(raw)
        for pattern in self._patterns:
            if pattern.may_match(hay):
                raw = pattern.regex.sub(_masked_match, raw)
        if self._known is None and self._secrets:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._known = re.compile(b"|".join(map(re.escape, longest_first)))
        if self._known is not None:
            raw = self._known.sub(_masked_match, raw)
        return raw


_NAME = re.compile(rf"(?:^|[\w-])(?:{_SECRET_WORDS})$", re.IGNORECASE)


def _masked_match(match: re.Match[bytes]) -> bytes:
    whole, first = match.span(), match.span(1) if match.re.groups else match.span()
    if first == (-1, -1):
        first = whole
    text = match.string
    return text[whole[0] : first[0]] + MASK * (first[1] - first[0]) + text[first[1] : whole[1]]


def _checked(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"redact: {pattern!r} is no regular expression: {error}") from None
    return pattern
