"""Doing again what a trace tells, with a fresh core, and comparing all that comes of it.

    trace = Trace.parse(open("session.jsonl"))
    report = verify(trace)
    if report.difference is not None:
        print(report.difference)

Each actor is made anew and told what it was told, in the order of the file; at each step what
it says is compared with what it said. The first difference ends it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

import attrs

from ..errors import SandboxClientError
from ..flows.effects import Flow, Perform, WaitUntil
from .frames import SentBytes
from .lines import NETWORK, THE_CONFIG, Line, Trace, TraceError
from .recorder import ABRIDGED, NOT_RECORDED, abridged
from .values import core_function, core_object, decode, encode_or_name, spelt, unspelt

Beside = Callable[[str], bytes]
"""Gives the content that was kept beside a trace, by its SHA-256 in hexadecimal."""


@attrs.frozen
class Difference:
    """Where a new run and the recorded one part ways.

    :ivar line: the line's number in the file.
    :ivar actor: whose line it is.
    :ivar step: what the actor was told.
    :ivar expected: what the trace says came of it.
    :ivar got: what came of it now.
    """

    line: int
    actor: str
    step: str
    expected: str
    got: str

    def __str__(self) -> str:
        where = f"line {self.line}: {self.actor}, {self.step}"
        return f"{where}\n  recorded: {self.expected}\n  now:      {self.got}"


@attrs.define
class Report:
    """What `verify` found.

    :ivar steps: how many steps were the same.
    :ivar actors: how many actors there were.
    :ivar left_out: actors which no trace can hold, with the reason.
    :ivar difference: the first difference, if there is one.
    """

    steps: int = 0
    actors: int = 0
    left_out: dict[str, str] = attrs.field(factory=dict)
    difference: Difference | None = None


def verify(trace: Trace, beside: Beside | None = None) -> Report:
    """Do again what a trace tells, until the first difference.

    :param beside: where the content is that was kept beside the file.
    :raises TraceError: the trace is malformed, or content of it is missing.
    """
    report = Report()
    for step in reexecute(trace, beside):
        if step.left_out is not None:
            report.left_out[step.line.actor] = step.left_out
            continue
        report.actors += step.line.call == "new"
        report.difference = step.difference
        if report.difference is not None:
            break
        report.steps += 1
    return report


@attrs.define
class Step:
    """One line, done again.

    :ivar given: the arguments.
    :ivar came: what came of it now, encoded, whole: pairs of what and value.
    :ivar difference: how that differs from what was recorded.
    :ivar left_out: why the actor was not run again.
    """

    line: Line
    given: dict[str, Any] = attrs.field(factory=dict)
    came: list[tuple[str, Any]] = attrs.field(factory=list)
    difference: Difference | None = None
    left_out: str | None = None


def reexecute(trace: Trace, beside: Beside | None = None) -> Iterator[Step]:
    """Do again what a trace tells, line by line; goes on after a difference if asked to.

    :raises TraceError: the trace is malformed, or content of it is missing.
    """
    loader = _Loader(trace.header.get("config"), beside)
    actors: dict[str, _Actor] = {}
    left_out: dict[str, str] = {}
    for line in trace.lines:
        if line.actor == NETWORK:
            continue
        if line.call is not None and (more := _unasked(actors.get(line.actor))) is not None:
            yield more
        if line.call == "new":
            reason = line.given.get(NOT_RECORDED)
            if reason is not None:
                left_out[line.actor] = str(reason)
            else:
                actors[line.actor] = _actor_of(line, loader)
        if line.actor in left_out:
            yield Step(line, left_out=left_out[line.actor])
            continue
        if line.actor not in actors:
            raise TraceError(f"line {line.number}: {line.actor} was not made before")
        yield _do_again(actors[line.actor], line, loader)
    for actor in actors.values():
        if (more := _unasked(actor)) is not None:
            yield more


def _unasked(actor: _Actor | None) -> Step | None:
    """What came of an actor's last line and is not in the trace."""
    if actor is None or actor.last is None or (came := actor.unasked()) is None:
        return None
    line, (what, got) = actor.last, came
    shown = _shown(what, spelt(abridged(got)))
    return Step(
        line, {}, [came], Difference(line.number, line.actor, _named(line), "nothing more", shown)
    )


def _do_again(actor: _Actor, line: Line, loader: _Loader) -> Step:
    step = Step(line)
    actor.last = line
    if line.call == "new":
        actor.begin()
    elif line.call is not None:
        step.given = loader.load(line)
        actor.tell(line, step.given)
    for number, item in enumerate(line.then):
        ((what, recorded),) = item.items()
        got = actor.ask(what)
        step.came.append((what, got))
        if what == "event":
            loader.learn(got)
        shown = spelt(abridged(got))
        if shown != recorded and step.difference is None:
            step.difference = _difference(line, number, what, recorded, shown, actor.trouble)
    return step


def _difference(
    line: Line, number: int, what: str, recorded: Any, got: Any, trouble: BaseException | None
) -> Difference:
    step = _named(line) if number == 0 else f"{_named(line)}, outcome {number + 1}"
    if trouble is not None and what != "raised":
        now = f"{type(trouble).__name__}: {trouble}"
        return Difference(line.number, line.actor, step, _shown(what, recorded), now)
    return Difference(line.number, line.actor, step, *_parting(what, recorded, got))


def _parting(what: str, recorded: Any, got: Any) -> tuple[str, str]:
    """Both sides, shortened to the place where they part."""
    left, right = _shown(what, recorded), _shown(what, got)
    if max(len(left), len(right)) <= 400:
        return left, right
    same = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    start = max(0, same - 80)
    mark = "... " if start else ""
    return mark + left[start : same + 200], mark + right[start : same + 200]


def _shown(what: str, value: Any) -> str:
    return f"{what} {json.dumps(value, ensure_ascii=False)}"


def _named(line: Line) -> str:
    return f"{line.call or 'later'}" if line.made is None else f"new {line.made}"


class _Loader:
    """Makes arguments of what is written."""

    def __init__(self, config: Any, beside: Beside | None) -> None:
        self._config, self._beside = config, beside
        self._bodies: dict[str, bytes] = {}

    def learn(self, event: Any) -> None:
        """Bytes that came out of a machine may go into a flow, where only their digest stands."""
        match event:
            case bytes() if len(event) > ABRIDGED:
                self._bodies[hashlib.sha256(event).hexdigest()] = event
            case dict():
                for item in event.values():
                    self.learn(item)

    def load(self, line: Line) -> dict[str, Any]:
        """A line's arguments."""
        try:
            return {name: decode(unspelt(self._whole(item))) for name, item in line.given.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"line {line.number}: {error}") from error

    def _whole(self, data: Any) -> Any:
        match data:
            case {"beside": str(digest)}:
                return {"text": ""} if self._beside is None else self._read(digest)
            case {"head": str(), "sha256": str(digest), **rest}:
                if digest not in self._bodies:
                    what = f"the {rest.get('length')} bytes that begin with {data['head']!r:.40}"
                    raise ValueError(f"{what} did not come out of any machine")
                return self._bodies[digest]
            case {"type": "the config"} if data == THE_CONFIG:
                return self._config
            case dict():
                return {key: self._whole(item) for key, item in data.items()}
            case list():
                return [self._whole(item) for item in data]
            case _:
                return data

    def _read(self, digest: str) -> bytes:
        assert self._beside is not None
        content = self._beside(digest)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"what is kept beside the trace as {digest} was changed")
        return content


class _Actor:
    """Something of the core, made anew.

    :ivar trouble: what the last telling raised, and nobody asked for yet.
    :ivar last: the line that was done again last.
    """

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.last: Line | None = None
        self._came: list[tuple[str, Any]] = []

    def begin(self) -> None:
        """It is told nothing yet."""

    def tell(self, line: Line, given: dict[str, Any]) -> None:
        """Do what the line says."""
        raise NotImplementedError

    def ask(self, what: str) -> Any:
        """What came, of this kind; None if nothing of it did."""
        raise NotImplementedError

    def unasked(self) -> tuple[str, Any] | None:
        """What came and is not in the trace."""
        return self._came.pop(0) if self._came else None


def _actor_of(line: Line, loader: _Loader) -> _Actor:
    assert line.made is not None
    given = loader.load(line)
    try:
        made = core_object(line.made)
    except ValueError:
        made = _method_named(line)
    try:
        value = made(**given)
    except SandboxClientError as error:
        raise TraceError(f"line {line.number}: {line.made} cannot be made: {error}") from error
    except TypeError as error:
        raise TraceError(f"line {line.number}: {line.made} does not take this: {error}") from error
    return _FlowActor(value) if isinstance(value, GeneratorType) else _MachineActor(value)


def _method_named(line: Line) -> Any:
    """A flow that is a method."""
    try:
        method = core_function(line.made or "")
    except ValueError as error:
        raise TraceError(f"line {line.number}: {error}") from None
    if not inspect.isgeneratorfunction(method):
        raise TraceError(f"line {line.number}: {line.made} is no flow")
    return method


class _MachineActor(_Actor):
    def __init__(self, machine: Any) -> None:
        super().__init__()
        self._machine = machine
        self._sent = SentBytes()
        self._raised: Exception | None = None
        self._gave: object = None

    def tell(self, line: Line, given: dict[str, Any]) -> None:
        method = getattr(self._machine, line.call or "", None)
        if not inspect.ismethod(method) or (line.call or "_").startswith("_"):
            raise TraceError(f"line {line.number}: {line.actor} cannot {line.call!r}")
        if line.call == "connected":
            self._sent.new_connection()
        self._gave = self._raised = self.trouble = None
        try:
            self._gave = method(**given, now=line.at)
        except Exception as error:
            self._raised = self.trouble = error

    def ask(self, what: str) -> Any:
        match what:
            case "event":
                event = self._machine.next_event()
                return None if event is None else encode_or_name(event)
            case "send":
                return self._sent.take(self._machine.data_to_send())
            case "deadline":
                return self._machine.next_deadline()
            case "gave":
                gave, self._gave = self._gave, None
                return encode_or_name(gave)
            case "raised":
                raised, self._raised, self.trouble = self._raised, None, None
                return None if raised is None else encode_or_name(raised)
        return None

    def unasked(self) -> tuple[str, Any] | None:
        if self._raised is not None:
            return "raised", encode_or_name(self._raised)
        return None


class _FlowActor(_Actor):
    def __init__(self, flow: Flow[Any]) -> None:
        super().__init__()
        self._flow = flow

    def begin(self) -> None:
        self._go_on(None)

    def tell(self, line: Line, given: dict[str, Any]) -> None:
        if line.call == "close":
            self._flow.close()
        elif line.call == "send":
            self._go_on(given.get("outcome"))
        else:
            raise TraceError(f"line {line.number}: a flow cannot {line.call!r}")

    def _go_on(self, outcome: Any) -> None:
        self.trouble = None
        try:
            effect = self._flow.send(outcome)
        except StopIteration as stop:
            self._came.append(("returned", encode_or_name(stop.value)))
        except Exception as error:
            self.trouble = error
            self._came.append(("raised", encode_or_name(error)))
        else:
            assert isinstance(effect, Perform | WaitUntil)
            self._came.append(("effect", encode_or_name(effect)))

    def ask(self, what: str) -> Any:
        if self._came and self._came[0][0] == what:
            self.trouble = None
            return self._came.pop(0)[1]
        return None


__all__ = ["Beside", "Difference", "Report", "Step", "reexecute", "verify"]
