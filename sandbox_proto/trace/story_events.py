"""What a story is made of; see `story`."""

from __future__ import annotations

import enum
from typing import Any

import attrs

from .lines import Line
from .reexecution import Beside
from .story_words import printable


class Level(enum.IntEnum):
    """Who wants to know."""

    MAIN = 0
    """Everybody: what was done, and what went wrong."""
    FRAMES = 1
    """Whoever looks at the wire: frames and bytes in both directions, exchanges."""
    ALL = 2
    """Whoever looks at the core: deadlines, and what else it was told."""


class Mood(enum.Enum):
    """How something went."""

    PLAIN = ""
    GOOD = "good"
    ODD = "odd"
    """Trouble that was overcome, or may have been meant: a retry, a reconnect, a kill."""
    BAD = "bad"


@attrs.define(eq=False)
class StoryEvent:
    """Something that happened.

    :ivar at: when it began, in seconds since the recording did.
    :ivar actor: whose it is.
    :ivar lane: where it is drawn: an actor, or a part of one.
    :ivar kind: one word: operation, request, wait, exchange, connect, attach, started, output,
        input, exit, reconnect, stream, data, message, frame, bytes, trouble, deadline, call.
    :ivar summary: a sentence for people, on one line, safe to print.
    :ivar until: when it ended; None: it is a moment.
    :ivar details: more, as data for JSON. It may be long, and is as it was recorded: not to
        be printed as it stands.
    :ivar lines: the lines of the file that it was told by.
    """

    at: float
    actor: str
    lane: str
    kind: str
    summary: str
    level: Level = Level.MAIN
    mood: Mood = Mood.PLAIN
    until: float | None = None
    details: dict[str, Any] = attrs.field(factory=dict)
    lines: list[int] = attrs.field(factory=list)

    def to_data(self) -> dict[str, Any]:
        """As an object for JSON."""
        data = attrs.asdict(self)
        return {**data, "level": self.level.name.lower(), "mood": self.mood.value}


@attrs.define(eq=False)
class Lane:
    """Where events are drawn that belong together.

    :ivar name: what events call it by.
    :ivar kind: network, flow, http, command, tunnel, stream, websocket, or what else acted.
    :ivar title: for people, safe to print.
    """

    name: str
    kind: str
    title: str


@attrs.frozen
class Story:
    """A trace, told.

    :ivar endpoint: the control plane that was spoken to.
    :ivar seconds: how long the recording is.
    :ivar events: in the order in which they began.
    """

    endpoint: str
    seconds: float
    lanes: list[Lane]
    events: list[StoryEvent]


@attrs.define(eq=False)
class OpenRequest:
    """A request that a flow asks for, and the connection that carries it.

    :ivar told: what the flow tells of it.
    :ivar carried: what its connection tells of it.
    :ivar outcome: how it went, for people.
    :ivar size: bytes of the response's body so far.
    """

    method: str
    target: str
    told: StoryEvent
    carried: StoryEvent | None = None
    outcome: str = ""
    size: int | None = None


class Book:
    """The story while it is written.

    :param beside: where the content is that was kept beside the file.
    """

    def __init__(self, beside: Beside | None) -> None:
        self.beside = beside
        self.events: list[StoryEvent] = []
        self.lanes: dict[str, Lane] = {}
        self.requests: list[OpenRequest] = []
        self.asked: list[OpenRequest] = []  # those that no connection carries yet

    def lane(self, name: str, kind: str, title: str) -> None:
        """Have a lane, or give it its title."""
        self.lanes[name] = Lane(printable(name), kind, printable(title))

    def add(
        self,
        line: Line,
        kind: str,
        summary: str,
        *,
        lane: str = "",
        level: Level = Level.MAIN,
        mood: Mood = Mood.PLAIN,
        until: float | None = None,
        **details: Any,
    ) -> StoryEvent:
        """Something happened at this line."""
        event = StoryEvent(
            line.at,
            printable(line.actor),
            printable(lane or line.actor),
            kind,
            printable(summary),
            level,
            mood,
            until,
            details,
            [line.number],
        )
        self.events.append(event)
        return event
