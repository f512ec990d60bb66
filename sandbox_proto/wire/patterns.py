"""Patterns for paths, as ``/glob`` and ``/grep`` have them (protocol/05 sections 5 and 6).

A pattern applies to a path relative to some directory, with ``/`` between its segments:
``**`` is any number of segments (also none), and within one segment ``*`` is anything, ``?``
one character and ``[...]`` one character of a set. Names that begin with a dot are names like
any other.

A pattern becomes two regular expressions: one for the paths that match, and one for the
directories below which something may match. Both take time in proportion to the path, not
more, however they are written: what stands between two stars is looked for once, at its
first place (which is as good as any other), by an atomic group.
"""

from __future__ import annotations

import re

import attrs

MAX_LENGTH = 4096
MAX_SEGMENTS = 128

_ANY_DEPTH = "**"
_NOTHING = "(?!)"
_SEGMENT_ENDS = "(?![^/])"


@attrs.frozen
class PathPattern:
    """A pattern, ready for use.

    :ivar match: a regular expression for the whole of a relative path that matches.
    :ivar descend: one for the whole of a directory's path that may hold matches, at any depth.
    :ivar directories_only: the pattern ended with a slash.
    """

    match: str
    descend: str
    directories_only: bool = False

    def matches(self, path: str, *, is_dir: bool) -> bool:
        """Whether a relative path matches."""
        return (is_dir or not self.directories_only) and bool(re.fullmatch(self.match, path))


def path_pattern(text: str) -> PathPattern:
    """A pattern for paths relative to the directory that is searched.

    :raises ValueError: it can never match, or a ``[`` in it is never closed.
    """
    if not text or "\0" in text or len(text) > MAX_LENGTH:
        raise ValueError(f"a pattern has 1 to {MAX_LENGTH} characters, none of them NUL")
    if text.startswith("/"):
        raise ValueError(
            f"the pattern {text!r:.100} begins with a slash, but applies to relative paths"
        )
    segments = [segment for segment in text.split("/") if segment not in ("", ".")]
    if ".." in segments or not segments or len(segments) > MAX_SEGMENTS:
        raise ValueError(
            f"the pattern {text!r:.100} has no segments, more than {MAX_SEGMENTS}, or '..'"
        )
    blocks: list[list[str]] = [[]]
    for segment in segments:
        if segment == _ANY_DEPTH:
            blocks.append([])
        else:
            blocks[-1].append(_segment(segment))
    # `a/**/**/b` is `a/**/b`.
    inner = [block for block in blocks[1:-1] if block]
    blocks = [blocks[0], *inner, blocks[-1]] if len(blocks) > 1 else blocks
    return PathPattern(_whole(blocks), _above(blocks), text.endswith("/"))


def name_pattern(text: str) -> PathPattern:
    """A pattern as a filter has it: without ``/`` and ``**`` it is for the last segment alone.

    :raises ValueError: as `path_pattern`.
    """
    # The slash at the end says what kind of thing is meant, not where it is.
    if "/" in text.rstrip("/") or _ANY_DEPTH in text:
        return path_pattern(text)
    path_pattern(text)  # it has to be one by itself
    return path_pattern(f"{_ANY_DEPTH}/{text}")


def _whole(blocks: list[list[str]]) -> str:
    """The expression for whole paths; between two blocks stands ``**``."""
    first, *others = blocks
    if not others:
        return "/".join(first)
    *inner, last = others
    parts = ["/".join(first)] if first else []
    parts += [f"(?>(?:[^/]+/)*?{'/'.join(block)}{_SEGMENT_ENDS})" for block in inner]
    if last:
        parts.append(f"(?:[^/]+/)*{'/'.join(last)}")
        return "/".join(parts)
    return "/".join(parts) + "(?s:/.*)?" if parts else "(?s:.+)"


def _above(blocks: list[list[str]]) -> str:
    """The expression for directories."""
    segments = blocks[0]
    if len(blocks) > 1:
        expression = "(?s:/.*)?"
    elif len(segments) > 1:
        segments = segments[:-1]
        expression = ""
    else:
        return _NOTHING
    if not segments:
        return "(?s:.*)"
    for segment in reversed(segments[1:]):
        expression = f"(?:/{segment}{expression})?"
    return segments[0] + expression


def _segment(text: str) -> str:
    """The expression for one segment."""
    pieces = [""]
    place = 0
    while place < len(text):
        character = text[place]
        place += 1
        if character == "*":
            pieces.append("")
        elif character == "?":
            pieces[-1] += "[^/]"
        elif character == "[":
            end = _end_of_set(text, place)
            pieces[-1] += _set(text[place:end])
            place = end + 1
        else:
            pieces[-1] += re.escape(character)
    first, *others = pieces
    if not others:
        return first
    *inner, last = others
    found = "".join(f"(?>[^/]*?{piece})" for piece in inner if piece)
    return f"{first}{found}[^/]*{last}"


def _end_of_set(text: str, begin: int) -> int:
    """Where the bracket is that closes a set. One that stands first is a member."""
    first = begin + 1 if text[begin : begin + 1] in ("!", "^") else begin
    end = text.find("]", first + 1)
    if end < 0:
        raise ValueError(f"the pattern has a '[' that is never closed: {text!r:.100}")
    return end


def _set(members: str) -> str:
    negated = members[0] in ("!", "^")
    members = members[1:] if negated else members
    parts = []
    place = 0
    while place < len(members):
        low = high = members[place]
        if members[place + 1 : place + 2] == "-" and place + 2 < len(members):
            high = members[place + 2]
            place += 2
        if high < low:
            raise ValueError(f"the pattern has a range that is empty: {low}-{high}")
        parts.append(f"{re.escape(low)}-{re.escape(high)}")
        place += 1
    inside = "".join(parts)
    return f"[^/{inside}]" if negated else f"[{inside}]"
