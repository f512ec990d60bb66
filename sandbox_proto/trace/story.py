"""A trace told to people: what happened, when, and whose doing it was.

    story = tell(Trace.parse(open("session.jsonl")))
    for event in story.events:
        print(event.at, event.actor, event.summary)

Nothing is executed for it, so a trace of another version of the core can be told, too, and one
that was edited: whatever is not understood is told as a plain call.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from .lines import NETWORK, Trace
from .reexecution import Beside
from .story_actors import FlowTeller, HttpTeller, NetworkTeller, Teller, sum_up
from .story_channels import CommandTeller, TunnelTeller, WebSocketTeller
from .story_events import Book, Lane, Level, Mood, Story, StoryEvent
from .story_words import duration, excerpt, printable, size

_TELLERS: dict[str, type[Teller]] = {
    "flow": FlowTeller,
    "http": HttpTeller,
    "command": CommandTeller,
    "tunnel": TunnelTeller,
    "websocket": WebSocketTeller,
}


def tell(trace: Trace, beside: Beside | None = None) -> Story:
    """The story of a trace.

    :param beside: where the content is that was kept beside the file; without it, frames
        cannot be told that came in long pieces.
    """
    book = Book(beside)
    tellers: dict[str, Teller] = {}
    seconds = 0.0
    for line in trace.lines:
        seconds = max(seconds, line.at)
        teller = tellers.get(line.actor)
        if teller is None:
            kind = line.actor.partition("-")[0]
            made = NetworkTeller if line.actor == NETWORK else _TELLERS.get(kind, Teller)
            teller = tellers[line.actor] = made(book, line.actor)
        teller.read(line)
    for teller in tellers.values():
        teller.finish(seconds)
    for request in book.requests:
        sum_up(request.told, request)
    config = trace.header.get("config")
    endpoint = config.get("api_endpoint") if isinstance(config, dict) else None
    events = sorted(book.events, key=lambda event: event.at)
    return Story(printable(str(endpoint or "")), seconds, list(book.lanes.values()), events)


def condensed(events: Iterable[StoryEvent]) -> list[StoryEvent]:
    """Events with output and data that come in one go told once.

    Pieces of the same stream become one, if nothing else was told of the actor in between.
    """
    kept: list[StoryEvent] = []
    last: dict[str, StoryEvent] = {}
    for event in events:
        before = last.get(event.actor)
        if before is not None and event.details.get("piece") and _continues(before, event):
            merged = before.details
            merged["bytes"] += event.details["bytes"]
            merged["pieces"] = merged.get("pieces", 1) + 1
            merged["text"] = (merged["text"] + event.details["text"])[:_KEPT]
            before.until = event.at
            before.lines += event.lines
            before.summary = _told_together(before)
            continue
        event = attrs.evolve(event, details={**event.details}, lines=[*event.lines])
        last[event.actor] = event
        kept.append(event)
    return kept


_KEPT = 200


def headline(story: Story) -> str:
    """The whole story in one sentence."""
    operations = retries = reconnects = failures = 0
    for event in story.events:
        operations += event.kind == "operation"
        retries += event.kind == "wait" and event.mood is Mood.ODD
        reconnects += event.kind == "reconnect"
        failures += event.kind in ("trouble", "connect") and event.mood is Mood.BAD
    counts = (
        (operations, "operation", "operations"),
        (retries, "retry", "retries"),
        (reconnects, "reconnect", "reconnects"),
        (failures, "failure", "failures"),
    )
    said = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    return f"{story.endpoint}, {duration(story.seconds)}: {', '.join(said) or 'nothing'}"


def _continues(before: StoryEvent, event: StoryEvent) -> bool:
    return before.details.get("piece") == event.details["piece"] and before.lane == event.lane


def _told_together(event: StoryEvent) -> str:
    found = event.details
    count = f"{size(found['bytes'])} in {found['pieces']} pieces"
    return f"{found['piece']} {count}: {excerpt(found['text'])}"


__all__ = ["Lane", "Level", "Mood", "Story", "StoryEvent", "condensed", "headline", "tell"]
