"""One page of HTML for a trace, which needs nothing but itself.

A trace may come from anybody, so the page treats it as data: it stands in a block that no
browser executes, its script gives it to nothing that reads HTML, and a policy allows the one
style and the one script that are in the page, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from importlib.resources import files
from string import Template
from typing import Any

from sandbox_proto.trace.lines import Trace
from sandbox_proto.trace.story import Level, Story, StoryEvent, headline
from sandbox_proto.trace.story_words import printable

_SCRIPTS = ("events.js", "clock.js", "timeline.js", "list.js", "page.js")
# Longer texts are shown by their beginning: the file has them.
_SHOWN = 1500
_MANY = 40
_DEEP = 12


def page_of(trace: Trace, story: Story, name: str) -> str:
    """The page.

    :param name: what to call the trace, for people.
    """
    places = files(__package__) / "trace_page"
    style = (places / "page.css").read_text("utf-8")
    script = "\n".join((places / part).read_text("utf-8") for part in _SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template((places / "page.html").read_text("utf-8")).substitute(
        policy=policy,
        title=html.escape(printable(name)),
        style=style,
        script=script,
        data=_as_data(_content(trace, story, name)),
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _as_data(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content(trace: Trace, story: Story, name: str) -> dict[str, Any]:
    lanes = {lane.name: index for index, lane in enumerate(story.lanes)}
    told = {number for event in story.events for number in event.lines}
    return {
        "name": printable(name),
        "headline": headline(story),
        "seconds": story.seconds,
        "lanes": [
            {"name": lane.name, "kind": lane.kind, "title": lane.title} for lane in story.lanes
        ],
        "events": [_row(event, lanes) for event in story.events],
        "lines": {
            line.number: json.dumps(_shortened(line.to_data()), ensure_ascii=False)
            for line in trace.lines
            if line.number in told
        },
    }


def _row(event: StoryEvent, lanes: dict[str, int]) -> list[Any]:
    # The lines say the same, and are shown with it, except for what was put together of several.
    details = _shortened(event.details) if event.level is not Level.ALL else {}
    return [
        event.at,
        event.until,
        lanes.get(event.lane, 0),
        event.kind,
        int(event.level),
        event.mood.value,
        event.summary,
        details,
        event.lines,
    ]


def _shortened(value: Any, depth: int = 0) -> Any:
    """Data with its long texts and lists cut."""
    match value:
        case str() if len(value) > _SHOWN:
            return f"{value[:_SHOWN]} ... ({len(value) - _SHOWN} characters more)"
        case dict() if depth < _DEEP:
            return {key: _shortened(item, depth + 1) for key, item in value.items()}
        case list() if depth < _DEEP:
            kept = [_shortened(item, depth + 1) for item in value[:_MANY]]
            more = len(value) - _MANY
            return [*kept, f"... ({more} more)"] if more > 0 else kept
        case dict() | list():
            return "..."
        case float() if not math.isfinite(value):  # which JSON does not know
            return repr(value)
        case _:
            return value
