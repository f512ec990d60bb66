"""Telling what flows and HTTP connections did; see `story`."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs
import h11

from .lines import Line
from .reexecution import Beside
from .story_events import Book, Level, Mood, OpenRequest, StoryEvent
from .story_words import content, duration, excerpt, measure, raw_bytes, size, target_of

_FAILED = 400
_TROUBLED = 500
_TOO_MANY = 429
_FOR_EVER = 1e9  # seconds
# Flows whose names do not say what they do.
_NAMES = {"Creation.run": "create sandbox", "Creation.undo": "delete what was half created"}
# Arguments of flows that say what it is about.
_TELLING = ("name", "path", "pattern", "port", "tag")


def kind_of(data: Any) -> str:
    """The class of an encoded object, without its module."""
    return str(data.get("type", "")).rpartition(".")[2] if isinstance(data, dict) else ""


def message_of(error: Any) -> str:
    """What an encoded error or fault says."""
    if not isinstance(error, dict):
        return ""
    return excerpt(str(error.get("message", "")) or kind_of(error), 200)


def seconds_of(value: Any) -> float:
    """A time or duration, as far as it is one."""
    return float(value) if isinstance(value, float | int) and 0 <= value < _FOR_EVER else 0.0


def dig(data: Any, *path: str) -> Any:
    """A value inside of encoded objects; None where there is none."""
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data


class Teller:
    """Tells of one actor; as it stands, of one that is not understood.

    :param book: where it is told.
    """

    def __init__(self, book: Book, actor: str) -> None:
        self.book, self.actor = book, actor
        self.kind = actor.partition("-")[0]
        book.lane(actor, self.kind, actor)

    def read(self, line: Line) -> None:
        """The actor's next line."""
        self.told(line)
        for item in line.then:
            for what, value in item.items():
                self.came(line, what, value)

    def finish(self, at: float) -> None:
        """The recording ends."""

    def told(self, line: Line) -> None:
        """What the line says of the actor."""
        if line.made is not None:
            self.book.add(line, "call", f"made: {line.made}", level=Level.ALL, **line.given)
        elif line.call is not None:
            self.book.add(line, "call", line.call.replace("_", " "), level=Level.ALL)

    def came(self, line: Line, what: str, value: Any) -> None:
        """What came of it."""
        match what, value:
            case "deadline", float() | int():
                left = duration(max(0.0, value - line.at))
                self.book.add(line, "deadline", f"wants to be woken in {left}", level=Level.ALL)
            case "deadline", _:
                self.book.add(line, "deadline", "has no deadline any more", level=Level.ALL)
            case "event", None:
                pass
            case "raised", _:
                text = f"raised {kind_of(value)}: {message_of(value)}"
                self.book.add(line, "trouble", text, mood=Mood.BAD)
            case _:
                self.book.add(line, "call", f"{what}: {kind_of(value)}", level=Level.ALL)


class NetworkTeller(Teller):
    """Tells of attempts to connect."""

    def told(self, line: Line) -> None:
        took = seconds_of(line.given.get("took"))
        began = line.at - took
        origin = str(line.given.get("origin"))
        fault = next((item["fault"] for item in line.then if "fault" in item), None)
        if fault is None:
            text = f"connects to {origin} ({duration(took)})"
            event = self.book.add(line, "connect", text, until=line.at, origin=origin)
        else:
            text = f"cannot connect to {origin}: {message_of(fault)} ({duration(took)})"
            event = self.book.add(
                line, "connect", text, until=line.at, mood=Mood.BAD, origin=origin, fault=fault
            )
        event.at = began

    def came(self, line: Line, what: str, value: Any) -> None:
        """It is told already."""


class FlowTeller(Teller):
    """Tells of a flow: its requests, and why it waits between them."""

    def __init__(self, book: Book, actor: str) -> None:
        super().__init__(book, actor)
        self._whole: StoryEvent | None = None
        self._request: OpenRequest | None = None
        self._wait: StoryEvent | None = None
        self._why = ""  # what went wrong last and was not made good
        self._last = 0.0

    def told(self, line: Line) -> None:
        self._last = line.at
        if line.made is not None:
            title = _title_of(line)
            sent = line.given.get("content")
            amount = "" if sent is None else f" ({size(measure(sent))})"
            self.book.lane(self.actor, "flow", title)
            self._whole = self.book.add(
                line, "operation", title + amount, made=line.made, title=title
            )
        elif line.call == "send":
            self._outcome(line, line.given.get("outcome"))
        elif line.call == "close":
            self._end(line, Mood.ODD, "was given up")
            self.book.add(line, "trouble", "was given up by the program", mood=Mood.ODD)

    def _outcome(self, line: Line, outcome: Any) -> None:
        if self._whole is not None:
            self._whole.lines.append(line.number)
        match kind_of(outcome):
            case "Answered" | "Broke" if self._request is not None:
                self._answer(line, self._request, outcome)
                self._request = None
            case "Woke" if self._wait is not None:
                self._wait.until = line.at
                self._wait.lines.append(line.number)
                self._wait = None

    def _answer(self, line: Line, request: OpenRequest, outcome: Any) -> None:
        if request in self.book.asked:  # no connection could be had
            self.book.asked.remove(request)
        event = request.told
        event.until = line.at
        event.lines.append(line.number)
        fault = dig(outcome, "fault")
        if fault is not None:
            request.outcome = self._why = message_of(fault)
            event.mood = Mood.BAD
            event.details["fault"] = fault
            return
        status = dig(outcome, "response", "status")
        reason = str(dig(outcome, "response", "reason") or "")
        request.outcome = f"{status} {reason}".strip()
        event.details["status"] = status
        body = dig(outcome, "response", "body")
        if request.size is None and body is not None:
            request.size = measure(body)
        if isinstance(status, int) and status >= _FAILED:
            event.mood = Mood.BAD if status >= _TROUBLED else Mood.ODD
            if status >= _TROUBLED or status == _TOO_MANY:
                self._why = f"{request.outcome} to {request.method} {_short(request.target)}"
        elif request.method != "GET":
            self._why = ""

    def came(self, line: Line, what: str, value: Any) -> None:
        match what, kind_of(value):
            case "effect", "Perform":
                self._perform(line, value)
            case "effect", "WaitUntil":
                self._waits(line, value)
            case "returned", _:
                self._end(line, Mood.GOOD, "")
                if self._whole is not None:
                    self._whole.details["returned"] = value
            case "raised", name:
                self._end(line, Mood.BAD, name)
                text = f"fails with {name}: {message_of(value)}"
                self.book.add(line, "trouble", text, mood=Mood.BAD, raised=value)

    def _perform(self, line: Line, effect: Any) -> None:
        asked = dig(effect, "request")
        method, target = str(dig(asked, "method")), str(dig(asked, "url", "target"))
        event = self.book.add(line, "request", "", method=method, target=target)
        body = dig(asked, "body")
        if body:
            event.details["request body"] = _content(body, self.book.beside)
        self._request = OpenRequest(method, target, event)
        self.book.asked.append(self._request)
        self.book.requests.append(self._request)

    def _waits(self, line: Line, effect: Any) -> None:
        seconds = max(0.0, seconds_of(effect.get("when")) - line.at)
        if self._why:
            again = f"tries again in {duration(seconds)}" if seconds else "tries again at once"
            summary, mood = f"{again}: {self._why}", Mood.ODD
        else:
            summary, mood = f"looks again in {duration(seconds)}", Mood.PLAIN
        self._wait = self.book.add(
            line,
            "wait",
            summary,
            mood=mood,
            until=line.at + seconds,
            seconds=round(seconds, 6),
            reason=self._why,
        )

    def _end(self, line: Line, mood: Mood, how: str) -> None:
        if self._whole is None:
            return
        self._whole.until, self._whole.mood = line.at, mood
        if self._whole.lines[-1] != line.number:
            self._whole.lines.append(line.number)
        if how:
            self._whole.details["end"] = how

    def finish(self, at: float) -> None:
        if self._request is not None:
            self._request.outcome = "no answer in this recording"
            self._request.told.until = self._last if self._ended else at
            self._request.told.mood = Mood.ODD
        if self._whole is not None and self._whole.until is None:
            self._whole.until = at

    @property
    def _ended(self) -> bool:
        return self._whole is not None and self._whole.until is not None


class HttpTeller(Teller):
    """Tells of one HTTP connection: the exchanges on it."""

    def __init__(self, book: Book, actor: str) -> None:
        super().__init__(book, actor)
        book.lane(actor, "http", f"HTTP connection {actor.rpartition('-')[2]}")
        self._exchange: _Exchange | None = None

    def told(self, line: Line) -> None:
        match line.call:
            case "send_request":
                self._begin(line)
            case "receive_data":
                self._note(line)
                count = measure(line.given.get("data"))
                if self._exchange is not None:
                    self._exchange.heard(raw_bytes(line.given.get("data"), self.book.beside))
                text = f"receives {size(count)}"
                self.book.add(line, "bytes", text, level=Level.FRAMES, direction="in", bytes=count)
            case "receive_eof":
                self._note(line)
                text = "the host ends the connection"
                self.book.add(line, "lost", text, level=Level.FRAMES)
            case "connection_lost":
                self._note(line)
                text = message_of(line.given.get("fault"))
                self.book.add(line, "lost", text, level=Level.FRAMES, mood=Mood.BAD)
            case "new":
                pass
            case _:
                super().told(line)

    def _note(self, line: Line) -> None:
        if self._exchange is not None:
            self._exchange.request.told.lines.append(line.number)

    def _begin(self, line: Line) -> None:
        asked = line.given.get("request")
        method, target = str(dig(asked, "method")), str(dig(asked, "url", "target"))
        mine = [one for one in self.book.asked if (one.method, one.target) == (method, target)]
        event = self.book.add(
            line, "exchange", "", level=Level.FRAMES, method=method, target=target
        )
        if mine:
            request = mine[0]
            self.book.asked.remove(request)
            request.told.details["connection"] = self.actor
            request.told.lines.append(line.number)
        else:
            request = OpenRequest(method, target, event)
        request.carried = event
        request.size = 0
        headers = dig(asked, "headers")
        if headers:
            request.told.details["request headers"] = headers
        self._exchange = _Exchange(request, event)

    def came(self, line: Line, what: str, value: Any) -> None:
        match what, kind_of(value):
            case "send", _:
                for item in value if isinstance(value, list) else ():
                    count = measure(item)
                    text = f"sends {size(count)}"
                    self.book.add(
                        line, "bytes", text, level=Level.FRAMES, direction="out", bytes=count
                    )
            case "event", "ResponseHead" if self._exchange is not None:
                self._exchange.head(value)
            case "event", "BodyData" if self._exchange is not None:
                self._exchange.body(value.get("data"))
            case "event", "ExchangeDone" if self._exchange is not None:
                self._exchange.body(value.get("body"))
                self._exchange.done(line)
                self._exchange = None
            case "event", "ExchangeFailed" if self._exchange is not None:
                self._exchange.failed(line, value.get("fault"))
                self._exchange = None
            case _:
                super().came(line, what, value)

    def finish(self, at: float) -> None:
        if self._exchange is not None:
            self._exchange.event.until = at
            self._exchange.event.mood = Mood.ODD
            self._exchange.request.outcome = "no answer in this recording"
            sum_up(self._exchange.event, self._exchange.request)


class _Exchange:
    """A request on a connection, and what is heard of its response."""

    def __init__(self, request: OpenRequest, event: StoryEvent) -> None:
        self.request, self.event = request, event
        self._status = ""
        self._heard: list[bytes] | None = []

    def heard(self, data: bytes | None) -> None:
        """Bytes came; None: they are not here."""
        if data is None:
            self._heard = None
        elif self._heard is not None:
            self._heard.append(data)

    def head(self, value: Any) -> None:
        self._status = f"{value.get('status')} {value.get('reason') or ''}".strip()
        headers = value.get("headers")
        self.request.told.details["response headers"] = {
            str(item[0]): item[1]
            for item in (headers if isinstance(headers, list) else [])
            if isinstance(item, list) and len(item) == 2
        }
        status = value.get("status")
        self.event.details["status"] = status
        if isinstance(status, int) and status >= _FAILED:
            self.event.mood = Mood.BAD if status >= _TROUBLED else Mood.ODD

    def body(self, data: Any) -> None:
        self.request.size = (self.request.size or 0) + measure(data)

    def done(self, line: Line) -> None:
        self.event.until = line.at
        self.event.lines.append(line.number)
        if self.request.size:
            data = _body_of(self.request.method, self._heard)
            whole = data is not None and len(data) == self.request.size
            found = data if whole else None
            digest = "" if found is None else hashlib.sha256(found).hexdigest()
            self.request.told.details["response body"] = content(found, self.request.size, digest)
        self._sum_up(self._status)

    def failed(self, line: Line, fault: Any) -> None:
        self.event.until, self.event.mood = line.at, Mood.BAD
        self.event.lines.append(line.number)
        self._sum_up(message_of(fault))

    def _sum_up(self, outcome: str) -> None:
        sum_up(self.event, attrs.evolve(self.request, outcome=outcome))


def sum_up(event: StoryEvent, request: OpenRequest) -> None:
    """Say how a request went."""
    took = duration(event.until - event.at) if event.until is not None else ""
    amount = size(request.size) if request.size else ""
    more = ", ".join(filter(None, (amount, took)))
    target = target_of(request.target)
    event.summary = f"{excerpt(request.method, 10)} {target} -> {request.outcome} ({more})"


def _body_of(method: str, heard: list[bytes] | None) -> bytes | None:
    """The response's body out of what came on the connection."""
    if heard is None:
        return None
    reader = h11.Connection(h11.CLIENT)
    try:
        reader.send(h11.Request(method=method, target="/", headers=[("host", "host")]))
        reader.send(h11.EndOfMessage())
        body = bytearray()
        for data in heard:
            if data:
                reader.receive_data(data)
            while isinstance(event := reader.next_event(), h11.Event):
                if isinstance(event, h11.Data):
                    body += event.data
                if isinstance(event, h11.EndOfMessage):
                    return bytes(body)
    except h11.ProtocolError:
        return None
    return bytes(body)


def _content(body: Any, beside: Beside | None) -> Any:
    if kind_of(body) == "StreamedBody":
        return {"streamed": True, "bytes": body.get("length")}
    data = raw_bytes(body, beside)
    digest = "" if data is None else hashlib.sha256(data).hexdigest()
    return content(data, measure(body), digest or str(dig(body, "sha256") or ""))


def _short(target: str) -> str:
    """The path alone: what a reason needs."""
    return target_of(target.partition("?")[0])


def _title_of(line: Line) -> str:
    """What a flow is for, as far as its name and arguments say it."""
    made = line.made or ""
    parts = made.split(".")
    name = _NAMES.get(".".join(parts[-2:])) or parts[-1].replace("_", " ")
    arguments = {**_plain(line.given.get("self")), **_plain(line.given)}
    about = [excerpt(str(arguments[key]), 80) for key in _TELLING if arguments.get(key)]
    return " ".join([name, *about])


def _plain(data: Any) -> dict[str, Any]:
    """Those of an object's values that a person reads as they are."""
    if not isinstance(data, dict):
        return {}
    return {key: value for key, value in data.items() if isinstance(value, str | int)}
