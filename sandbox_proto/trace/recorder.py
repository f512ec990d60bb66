"""Recording what crosses the boundary of the core.

The driver hands its machines and flows to a `Recorder` and uses what it gets back in their
stead; it behaves the same and is written down. A line is written when the actor is told the
next thing, for only then is it known what came of the last; secrets may need a little longer
(see `redaction`), so lines wait in a queue of bounded size.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter, deque
from collections.abc import Callable
from types import GeneratorType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from ..config import ClientConfig
from ..faults import Fault
from ..flows.effects import Effect, Flow, Outcome
from ..wire.urls import Origin
from .frames import SentBytes
from .lines import NETWORK, THE_CONFIG, Line, dump, header_line
from .redaction import Piece, Redactor
from .values import CannotEncodeError, encode, encode_or_name, spelt

T = TypeVar("T")
P = ParamSpec("P")

# How much may wait to be written, in bytes of payload.
QUEUE_BYTES = 256 * 1024
# What is longer than this is shown by its beginning, where it can be told from the rest.
ABRIDGED = 512
# What is longer than this is kept beside the file, if there is a place for it.
_LARGE = 16 * 1024
# Arguments that are the bytes of one long stream.
_STREAMED = {"receive_data", "send_body", "send", "send_bytes", "send_text", "send_input"}


# What stands in the place of arguments that no trace can hold.
NOT_RECORDED = "not recorded"
# What machines are called in a trace.
_KINDS = {
    "Http1Client": "http",
    "ExecSession": "command",
    "TunnelSession": "tunnel",
    "WebSocketClient": "websocket",
}


class Sink(Protocol):
    """Where a trace goes."""

    def write(self, text: str) -> None:
        """Append to the file."""

    def keep(self, name: str, content: bytes) -> bool:
        """Keep content beside the file; False: there is no place for it."""


class Recorder:
    """See the module's text.

    :param sink: where lines go.
    :param redactor: takes secrets out.
    :param config: the client's; it stands in the header, and elsewhere only by name.
    """

    def __init__(self, sink: Sink, redactor: Redactor, config: ClientConfig) -> None:
        self._sink, self._redactor = sink, redactor
        self._config = encode(config)
        self._counts: Counter[str] = Counter()
        self._queue: deque[Line] = deque()
        self._open: dict[str, Line] = {}  # the last line of each actor, which may still grow
        self._queued_bytes = 0
        self._now = 0.0
        self._closed = False
        redactor.look_at(self._config)
        sink.write(header_line(spelt(redactor.redact(self._config))))

    # --- what the driver hands over ---------------------------------------------------

    def make(self, factory: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A machine that is written down.

        :param factory: what makes it: its class, or a function of the core.
        """
        signature = inspect.signature(factory)
        given = dict(signature.bind(*args, **kwargs).arguments)
        encoded = self._encoded(given)  # before the factory draws on chance
        machine = factory(*args, **kwargs)
        name = self._name_of(_KINDS.get(type(machine).__name__, "machine"))
        now = given.get("now", getattr(given.get("context"), "now", self._now))
        self._add(Line(name, now, "new", _place_of(factory), encoded))
        return cast(T, RecordedMachine(machine, name, self))

    def _encoded(self, given: dict[str, object]) -> dict[str, Any]:
        try:
            return {key: self._without_config(encode(value)) for key, value in given.items()}
        except CannotEncodeError as error:
            return {NOT_RECORDED: str(error)}

    def _without_config(self, data: Any) -> Any:
        if data == self._config:
            return THE_CONFIG
        if isinstance(data, dict):
            return {key: self._without_config(value) for key, value in data.items()}
        return data

    def flow(self, flow: Flow[T], now: Callable[[], float]) -> Flow[T]:
        """A flow that is written down. It must not have begun.

        :param now: the driver's clock.
        """
        assert isinstance(flow, GeneratorType)
        frame = flow.gi_frame
        assert (
            frame is not None
        )  # a generator that has not begun knows its arguments, and only those
        module = frame.f_globals["__name__"].partition(".")[2]
        name = self._name_of("flow")
        place = f"{module}.{flow.gi_code.co_qualname}"
        self._add(Line(name, now(), "new", place, self._encoded(dict(frame.f_locals))))
        return self._recorded_flow(name, flow, now)

    def _recorded_flow(self, name: str, flow: Flow[T], now: Callable[[], float]) -> Flow[T]:
        outcome: Outcome | None = None
        try:
            while True:
                try:
                    effect: Effect = flow.send(outcome)
                except StopIteration as stop:
                    self.came(name, "returned", encode_or_name(stop.value))
                    result: T = stop.value
                    return result
                except Exception as error:
                    self.came(name, "raised", encode_or_name(error))
                    raise
                self.came(name, "effect", encode_or_name(effect))
                outcome = yield effect
                assert outcome is not None
                given = {"outcome": encode_or_name(outcome)}
                self._add(Line(name, outcome.now, "send", given=given))
        except GeneratorExit:
            self._add(Line(name, now(), "close"))
            raise
        finally:
            flow.close()

    def connecting(self, origin: Origin, began: float, now: float, fault: Fault | None) -> None:
        """A connection was made, or was not."""
        given = {"origin": str(origin), "took": round(now - began, 6)}
        line = Line(NETWORK, now, "connect", given=given)
        line.then = [{"connected": True} if fault is None else {"fault": encode(fault)}]
        self._add(line)

    def close(self) -> None:
        """Write what is left. Idempotent."""
        if not self._closed:
            self._closed = True
            self._open.clear()
            self._write(0)

    # --- for the recorded -------------------------------------------------------------

    def told(self, actor: str, at: float, call: str, given: dict[str, Any]) -> None:
        """An actor is told something."""
        if call in _STREAMED:
            given = {key: _piece((actor, call), value) for key, value in given.items()}
        self._add(Line(actor, at, call, given=given))

    def came(self, actor: str, what: str, value: Any) -> None:
        """Something came of it."""
        if self._closed:
            return
        line = self._open.get(actor)
        if line is None:
            line = self._open[actor] = Line(actor, self._now)
            self._queue.append(line)
        item = {what: _with_pieces(actor, what, value)}
        line.then.append(item)
        self._note(item)

    def last_was(self, actor: str, item: dict[str, Any]) -> bool:
        """Whether this is the last that came of an actor's latest step."""
        line = self._open.get(actor)
        return line is not None and line.then[-1:] == [item]

    def _add(self, line: Line) -> None:
        if self._closed:
            return
        self._now = line.at
        self._queue.append(line)
        self._open[line.actor] = line
        self._note(line.given)
        self._write(QUEUE_BYTES)

    def _note(self, value: Any) -> None:
        self._queued_bytes += _size(value)
        self._redactor.look_at(value)

    def _write(self, keep: int) -> None:
        """Write the oldest lines until no more than so many bytes wait."""
        while self._queue and (self._queued_bytes > keep or not keep):
            line = self._queue[0]
            urgent = not keep or self._queued_bytes > 4 * keep
            if not urgent and not self._redactor.ready([line.given, line.then]):
                return
            self._queue.popleft()
            if self._open.get(line.actor) is line:
                del self._open[line.actor]
            self._queued_bytes -= _size(line.given) + sum(map(_size, line.then))
            given = self._redactor.redact(line.given)
            if line.call == "send" and "outcome" in given:
                given = abridged(given)  # it came out of a machine, which will say it again
            line.given = self._spell(given)
            line.then = [
                {key: spelt(abridged(value)) for key, value in self._redactor.redact(item).items()}
                for item in line.then
            ]
            self._sink.write(dump(line.to_data()))

    def _spell(self, given: Any) -> Any:
        """Spell data out, and put large bytes beside the file."""
        match given:
            case bytes() if len(given) > _LARGE:
                digest = hashlib.sha256(given).hexdigest()
                if self._sink.keep(digest, given):
                    return {"beside": digest, "length": len(given)}
                return spelt(given)
            case dict():
                return {key: self._spell(value) for key, value in given.items()}
            case list():
                return [self._spell(value) for value in given]
            case _:
                return spelt(given)

    def _name_of(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}-{self._counts[kind]}"


class RecordedMachine:
    """A machine whose every call is written down; all else is the machine's own."""

    def __init__(self, machine: Any, name: str, recorder: Recorder) -> None:
        self._machine, self._name, self._recorder = machine, name, recorder
        self._sent = SentBytes()
        self._deadline: float | None = None

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._machine, name)
        if not inspect.ismethod(value):
            return value
        signature = inspect.signature(value)
        if "now" not in signature.parameters:
            return value

        def call(*args: object, **kwargs: object) -> object:
            given = dict(signature.bind(*args, **kwargs).arguments)
            now = cast(float, given.pop("now"))
            encoded = {key: encode_or_name(item) for key, item in given.items()}
            self._recorder.told(self._name, now, name, encoded)
            if name == "connected":
                self._sent.new_connection()
            try:
                result = value(*args, **kwargs)
            except Exception as error:
                self._recorder.came(self._name, "raised", encode_or_name(error))
                raise
            if result is not None:
                self._recorder.came(self._name, "gave", encode_or_name(result))
            return result

        self.__dict__[name] = call
        return call

    def receive_buffer(self) -> None:
        """None: all bytes are to come by `receive_data`, where they are seen."""

    def take_output(self) -> list[Any]:
        """Empty: all output is to come by `next_event`, where it is seen."""
        return []

    def data_to_send(self) -> list[Any]:
        output: list[Any] = self._machine.data_to_send()
        if output and (sent := self._sent.take(output)):
            self._recorder.came(self._name, "send", sent)
        return output

    def next_event(self) -> Any:
        event = self._machine.next_event()
        # Asking moves a machine on, so that it was asked is written down, too (but once).
        if event is not None or not self._recorder.last_was(self._name, {"event": None}):
            self._recorder.came(self._name, "event", encode_or_name(event))
        return event

    def next_deadline(self) -> float | None:
        deadline: float | None = self._machine.next_deadline()
        if deadline != self._deadline:
            self._deadline = deadline
            self._recorder.came(self._name, "deadline", deadline)
        return deadline


def _place_of(factory: Any) -> str:
    return f"{factory.__module__.partition('.')[2]}.{factory.__qualname__}"


def _piece(stream: tuple[str, ...], value: Any) -> Any:
    return Piece(stream, value) if isinstance(value, (bytes, str)) else value


def _with_pieces(actor: str, what: str, value: Any) -> Any:
    """Mark what belongs to longer streams: output, and the data of events."""
    if what == "send":
        return [
            _piece((actor, "sent"), item)
            if isinstance(item, bytes)
            else {**item, "data": _piece((actor, "sent"), item["data"])}
            if isinstance(item, dict)
            else item
            for item in value
        ]
    if what == "event" and isinstance(value, dict):
        stream = (actor, str(value["type"]), str(value.get("stream", "")))
        names = [name for name in ("data", "raw") if name in value]
        return {**value, **{name: _piece((*stream, name), value[name]) for name in names}}
    return value


def abridged(value: Any) -> Any:
    """An encoded value in which long texts and bytes are shown by their beginning.

    Enough to compare by, for what a new run of the core says again.
    """
    match value:
        case str() | bytes() if len(value) > ABRIDGED:
            raw = value.encode() if isinstance(value, str) else value
            head = raw[: ABRIDGED // 8].decode(errors="replace")
            return {"head": head, "length": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        case dict():
            return {key: abridged(item) for key, item in value.items()}
        case list():
            return [abridged(item) for item in value]
        case _:
            return value


def _size(value: Any) -> int:
    match value:
        case str() | bytes():
            return len(value)
        case Piece():
            return len(value.data)
        case dict():
            return 16 + sum(map(_size, value.values()))
        case list():
            return 16 + sum(map(_size, value))
        case _:
            return 16
