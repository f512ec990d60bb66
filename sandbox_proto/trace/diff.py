"""What two recordings do differently.

    for change in compare(tell(before), tell(after)):
        print(change)

Recordings of the same program are never the same text: time, chance and the size of reads are
in them. Compared is what was done (requests, commands, connections through tunnels, messages)
and what came of it. Not compared are times, the names and ids that either side invents, dates,
ports of this machine, what is masked, where one chunk ends and the next begins, which connection
carried a request, how often was polled, and the order of what different tasks did.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from .story_channels import CLOSED
from .story_events import Mood, Story, StoryEvent
from .story_words import printable

_SHOWN = 300
_BEFORE = 60

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ISO_DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_HTTP_DATE = r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
_UNIX_TIME = r"\b1[6-9]\d{8}(?:\.\d+)?\b"
_NEUTRAL = re.compile(
    rf"(?P<id>{_UUID}|(?<![0-9a-f])[0-9a-f]{{32}}(?![0-9a-f]))"
    rf"|(?P<name>\bsandbox-[0-9a-f]{{12}}\b)"
    rf"|(?P<date>{_ISO_DATE}|{_HTTP_DATE}|{_UNIX_TIME})"
    rf"|(?P<port>(?<=//127\.0\.0\.1:)\d+|(?<=//localhost:)\d+|(?<=\.localhost:)\d+)"
    rf"|(?P<masked>\*{{4,}})"
)
# Headers of a request that change its answer.
_HEADERS = ("range", "if-range", "if-none-match")
# Events that are told again by others, or depend on time and chance alone.
_IGNORED = frozenset(
    {"connect", "attach", "exchange", "frame", "bytes", "deadline", "call", "lost", "event"}
)
_PIECES = ("stdout", "stderr", "stdin", "->", "<-")


@attrs.frozen
class Change:
    """One difference.

    :ivar where: the operation that it is in.
    :ivar before: what the first recording has there; None: nothing.
    :ivar after: what the second one has there; None: nothing.
    :ivar line_before: the line of the first file, if there is one.
    :ivar line_after: the line of the second file.
    """

    where: str
    before: str | None
    after: str | None
    line_before: int | None
    line_after: int | None

    def __str__(self) -> str:
        return "\n".join([self.where, *(f"  {line}" for line in self.lines())])

    def lines(self) -> list[str]:
        """What is different, as lines that begin with ``-`` or ``+``."""
        sides = (("-", self.before), ("+", self.after))
        return [
            f"{sign} {part}"
            for sign, text in sides
            if text is not None
            for part in text.split("\n")
        ]


@attrs.frozen
class _Item:
    """Something that an operation did, neutrally put."""

    text: str
    line: int = attrs.field(eq=False)


@attrs.define
class _Deed:
    """One operation, neutrally put."""

    title: str
    line: int
    items: list[_Item] = attrs.field(factory=list)

    @property
    def key(self) -> tuple[str, ...]:
        return (self.title, *(item.text for item in self.items))

    @property
    def text(self) -> str:
        return "\n".join(_shortened(item.text) for item in self.items)


def compare(before: Story, after: Story) -> list[Change]:
    """The differences, in the order of the recordings; empty if they do the same."""
    left, right = _deeds(before), _deeds(after)
    pairs, only_left, only_right = _paired(left, right)
    found: list[tuple[float, Change]] = []
    for one, other in pairs:
        found += [(one.line, change) for change in _in_deed(one, other)]
    scale = max((deed.line for deed in left), default=1) / max(
        (deed.line for deed in right), default=1
    )
    for deed in only_left:
        where = f"only in the first: {deed.title}"
        found.append((deed.line, Change(where, deed.text or None, None, deed.line, None)))
    for deed in only_right:
        where = f"only in the second: {deed.title}"
        change = Change(where, None, deed.text or None, None, deed.line)
        found.append((deed.line * scale, change))
    return [change for _, change in sorted(found, key=lambda pair: pair[0])]


# --- which is which -------------------------------------------------------------------


def _paired(
    left: list[_Deed], right: list[_Deed]
) -> tuple[list[tuple[_Deed, _Deed]], list[_Deed], list[_Deed]]:
    """Deeds that belong together but differ, and those that only one side has."""
    left, right = _without_equals(left, right)
    pairs: list[tuple[_Deed, _Deed]] = []
    by_title: defaultdict[str, deque[_Deed]] = defaultdict(deque)
    for deed in right:
        by_title[deed.title].append(deed)
    only_left = []
    for deed in left:
        candidates = by_title[deed.title]
        if candidates:
            pairs.append((deed, candidates.popleft()))
        else:
            only_left.append(deed)
    matched = {id(other) for _, other in pairs}
    return pairs, only_left, [deed for deed in right if id(deed) not in matched]


def _without_equals(left: list[_Deed], right: list[_Deed]) -> tuple[list[_Deed], list[_Deed]]:
    waiting: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for deed in right:
        waiting[deed.key] += 1
    common: defaultdict[tuple[str, ...], int] = defaultdict(int)
    rest_left = []
    for deed in left:
        if common[deed.key] < waiting[deed.key]:
            common[deed.key] += 1
        else:
            rest_left.append(deed)
    rest_right = []
    for deed in right:
        if common[deed.key]:
            common[deed.key] -= 1
        else:
            rest_right.append(deed)
    return rest_left, rest_right


def _in_deed(one: _Deed, other: _Deed) -> Iterator[Change]:
    left, right = [item.text for item in one.items], [item.text for item in other.items]
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        for step in range(max(i_end - i, j_end - j)):
            before = one.items[i + step] if i + step < i_end else None
            after = other.items[j + step] if j + step < j_end else None
            yield _change(one, other, before, after)


def _change(one: _Deed, other: _Deed, before: _Item | None, after: _Item | None) -> Change:
    texts = parting("" if before is None else before.text, "" if after is None else after.text)
    return Change(
        one.title,
        None if before is None else texts[0],
        None if after is None else texts[1],
        one.line if before is None else before.line,
        other.line if after is None else after.line,
    )


def parting(left: str, right: str) -> tuple[str, str]:
    """Two texts, shortened to the place where they part if they are long."""
    if max(len(left), len(right)) <= _SHOWN:
        return left, right
    same = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    start = max(0, same - _BEFORE)
    mark = "... " if start else ""
    return mark + _shortened(left[start:]), mark + _shortened(right[start:])


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


# --- neutrally put --------------------------------------------------------------------


def _deeds(story: Story) -> list[_Deed]:
    neutral = _Neutral(story.endpoint)
    deeds: dict[str, _Deed] = {}
    left: set[str] = set()
    pieces: defaultdict[str, dict[str, list[StoryEvent]]] = defaultdict(dict)
    for event in story.events:
        if event.kind == "operation":
            deeds[event.lane] = _Deed(neutral(_title(event)), event.lines[0])
        deed = deeds.get(event.lane)
        if deed is None or event.kind in _IGNORED or event.lane in left:
            continue
        if event.kind == "stream" and event.summary == CLOSED:
            left.add(event.lane)  # what is still said there is heard by chance
        if (piece := event.details.get("piece")) in _PIECES:
            pieces[event.lane].setdefault(piece, []).append(event)
            continue
        deed.items += (_Item(neutral(text), event.lines[0]) for text in _items(event))
    for lane, streams in pieces.items():
        for piece in sorted(streams):
            events = streams[piece]
            text = "".join(event.details["text"] for event in events)
            deeds[lane].items.append(_Item(neutral(f"{piece} {text}"), events[0].lines[0]))
    for deed in deeds.values():
        deed.items = list(_without_repetition(deed.items))
    return list(deeds.values())


def _title(event: StoryEvent) -> str:
    """The operation's, without numbers that only say how manieth it is."""
    if "port" in event.details:
        return f"stream to port {event.details['port']}"
    return str(event.details.get("title", event.summary))


def _items(event: StoryEvent) -> Iterator[str]:
    details = event.details
    match event.kind:
        case "operation":
            if (spec := details.get("spec")) is not None:
                yield f"asked: {_json(_options(spec))}"
        case "request":
            found = details.get("request headers")
            headers = found if isinstance(found, dict) else {}
            special = "".join(f" {name}: {headers[name]}" for name in _HEADERS if name in headers)
            target = f"{details.get('method')} {details.get('target')}{special}"
            outcome = details.get("status") or _json(details.get("fault"))
            yield f"{target} -> {outcome}"
            for what in ("request body", "response body"):
                if what in details:
                    yield f"{target} {what}: {_json(details[what])}"
        case "wait":
            if event.mood is Mood.ODD:
                yield f"tries again: {details.get('reason')}"
        case "reconnect":
            yield f"reconnects: {details.get('reason')}"
        case "started":
            pass
        case _:
            yield event.summary


def _options(spec: Any) -> Any:
    """What was asked for; what was not is written by some versions, and not known to others."""
    if not isinstance(spec, dict):
        return spec
    return {key: value for key, value in spec.items() if value not in (None, False)}


def _json(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _without_repetition(items: list[_Item]) -> Iterable[_Item]:
    """Items without polling: a run of equal groups of up to three counts once."""
    kept: list[_Item] = []
    for item in items:
        kept.append(item)
        for size in (1, 2, 3):
            if len(kept) >= 2 * size and kept[-size:] == kept[-2 * size : -size]:
                del kept[-size:]
                break
    return kept


class _Neutral:
    """Puts a text so that recordings of the same program have the same."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")

    def __call__(self, text: str) -> str:
        if self._endpoint:
            text = text.replace(self._endpoint, "<endpoint>")
        text = _NEUTRAL.sub(lambda match: f"<{match.lastgroup}>", text)
        return printable(text, lines=False)


__all__ = ["Change", "compare", "parting"]
