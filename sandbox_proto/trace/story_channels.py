"""Telling what commands, tunnels and WebSockets did; see `story`."""

from __future__ import annotations

from typing import Any

from .frames import SentBytes
from .lines import Line
from .story_actors import Teller, dig, kind_of, message_of, seconds_of
from .story_events import Book, Level, Mood, StoryEvent
from .story_words import duration, excerpt, measure, raw_bytes, size, target_of, text_of

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 256 * 1024
_SWITCHED = 101
_FAILED = 400
_MESSAGES = ("text", "binary")
_NORMAL = "1000"
# What is told when the program leaves a stream.
CLOSED = "closes it"


class _Heard:
    """What a server says on one connection: the head of its answer, then frames."""

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._frames: SentBytes | None = None
        self.status: int | None = None

    def take(self, data: bytes | None) -> list[Any]:
        """The frames that are complete with this; the status is set when the head is."""
        if data is None:  # it is not here, so nobody knows where the next frame begins
            self._head = self._frames = None
            return []
        if self._head is not None:
            self._head += data
            head, end, rest = bytes(self._head).partition(_HEAD_END)
            if not end and len(head) < _MAX_HEAD:
                return []
            self._head = None
            words = head[:40].split(b" ")
            if len(words) > 1 and words[1][:3].isdigit():
                self.status = int(words[1][:3])
            if self.status != _SWITCHED:
                return []
            self._frames, data = SentBytes(framed=True), rest
        return [] if self._frames is None else self._frames.take([data])


class ChannelTeller(Teller):
    """Tells of an actor that holds one WebSocket (or HTTP stream) after the other."""

    def __init__(self, book: Book, actor: str) -> None:
        super().__init__(book, actor)
        self._whole: StoryEvent | None = None
        self._attach: StoryEvent | None = None
        self._attached = 0
        self._heard = _Heard()
        self._ended = False

    # --- both directions --------------------------------------------------------------

    def told(self, line: Line) -> None:
        match line.call:
            case "new":
                self.begin(line)
            case "connected":
                self._heard = _Heard()
                self._attached += 1
                self._attach = self.book.add(line, "attach", "attaches", number=self._attached)
                if self._attached > 1:
                    self._attach.mood = Mood.ODD
            case "receive_data":
                self._receive(line)
            case "receive_eof":
                self.book.add(line, "lost", "the host ends the connection", level=Level.FRAMES)
            case "connection_lost":
                fault = line.given.get("fault")
                text = message_of(fault)
                mood = Mood.BAD
                self.book.add(line, "lost", text, level=Level.FRAMES, mood=mood, fault=fault)
            case _:
                super().told(line)

    def begin(self, line: Line) -> None:
        """It is made."""

    def _receive(self, line: Line) -> None:
        data = line.given.get("data")
        frames = self._heard.take(raw_bytes(data, self.book.beside))
        if self._attach is not None and self._heard.status is not None:
            self._told_attach(line, self._heard.status)
        if frames:
            for frame in frames:
                self._frame(line, frame, "in")
        else:
            count = measure(data)
            text = f"receives {size(count)}"
            self.book.add(line, "bytes", text, level=Level.FRAMES, direction="in", bytes=count)

    def _told_attach(self, line: Line, status: int) -> None:
        event = self._attach
        assert event is not None
        event.until = line.at
        event.lines.append(line.number)
        event.details["status"] = status
        again = "attaches again" if self._attached > 1 else "attaches"
        took = duration(line.at - event.at)
        event.summary = f"{again}: {event.details.get('request', '')} -> {status} ({took})"
        if status >= _FAILED:
            event.mood = Mood.BAD
        self._attach = None

    def _frame(self, line: Line, frame: Any, direction: str) -> None:
        kind, data = str(frame.get("frame")), frame.get("data")
        shown = excerpt(text_of(data), 100) if kind in _MESSAGES else _control(kind, data)
        arrow = "->" if direction == "out" else "<-"
        count = measure(data)
        summary = f"{arrow} {kind} {size(count)}: {shown}" if shown else f"{arrow} {kind}"
        self.book.add(
            line,
            "frame",
            summary,
            level=Level.FRAMES,
            direction=direction,
            frame=kind,
            bytes=count,
            text=text_of(data)[:20_000],
        )

    def came(self, line: Line, what: str, value: Any) -> None:
        if what == "send" and isinstance(value, list):
            for item in value:
                self._sent(line, item)
        elif what == "event" and isinstance(value, dict):
            if not self.happened(line, kind_of(value), value):
                text = kind_of(value)
                self.book.add(line, "event", text, level=Level.FRAMES, event=value)
        else:
            super().came(line, what, value)

    def _sent(self, line: Line, item: Any) -> None:
        if isinstance(item, dict) and "frame" in item:
            self._frame(line, item, "out")
            return
        count = measure(item)
        first = text_of(item).partition("\r\n")[0] if isinstance(item, dict) else ""
        if " HTTP/1.1" in first:
            if self._attach is not None:
                self._attach.details["request"] = target_of(first.partition(" HTTP/")[0])
            text = f"-> {excerpt(first, 100)}"
        else:
            text = f"-> {item}" if isinstance(item, str) else f"sends {size(count)}"
        self.book.add(line, "bytes", text, level=Level.FRAMES, direction="out", bytes=count)

    def happened(self, line: Line, name: str, event: Any) -> bool:
        """An event of the machine's. False: it is not understood."""
        return False

    # --- its end ----------------------------------------------------------------------

    def ends(self, line: Line, mood: Mood) -> None:
        """It is over."""
        self._ended = True
        if self._whole is not None and self._whole.until is None:
            self._whole.until, self._whole.mood = line.at, mood
            self._whole.lines.append(line.number)

    def finish(self, at: float) -> None:
        if self._attach is not None:
            self._attach.summary = f"attaches: {self._attach.details.get('request', '')}"
        if self._whole is not None and self._whole.until is None:
            self._whole.until = at


def _control(kind: str, data: Any) -> str:
    """What a control frame says."""
    raw = raw_bytes(data) or b""
    if kind == "close" and len(raw) >= 2:
        return f"{int.from_bytes(raw[:2])} {excerpt(raw[2:].decode(errors='replace'))}".strip()
    return excerpt(raw.decode(errors="replace"), 40) if len(raw) < 9 else ""


class CommandTeller(ChannelTeller):
    """Tells of a command."""

    def begin(self, line: Line) -> None:
        spec = line.given.get("spec")
        command = dig(spec, "command")
        if isinstance(command, list):
            command = " ".join(map(str, command))
        named = line.given.get("command_id") or dig(line.given.get("request"), "command_id")
        title = f"run: {excerpt(str(command), 120)}" if command else f"attach to command {named}"
        self.book.lane(self.actor, "command", title)
        details = {"made": line.made, "spec": spec, "command_id": named}
        self._whole = self.book.add(line, "operation", title, **details)

    def told(self, line: Line) -> None:
        match line.call:
            case "send_input":
                self._input(line, line.given.get("data"))
            case "close_input":
                self.book.add(line, "input", "closes its input")
            case "kill":
                self.book.add(line, "input", "kills it", mood=Mood.ODD)
            case _:
                super().told(line)

    def _input(self, line: Line, data: Any) -> None:
        count, text = measure(data), text_of(data)
        summary = f"stdin {size(count)}: {excerpt(text)}"
        self.book.add(line, "input", summary, piece="stdin", bytes=count, text=text)

    def happened(self, line: Line, name: str, event: Any) -> bool:
        add = self.book.add
        match name:
            case "CommandStarted":
                again = " (again)" if self._attached > 1 else ""
                summary = f"runs, pid {event.get('pid')}{again}"
                add(line, "started", summary, command_id=event.get("command_id"))
            case "OutputChunk":
                data, stream = event.get("data"), str(event.get("stream"))
                count, text = measure(data), text_of(data)
                summary = f"{stream} {size(count)}: {excerpt(text)}"
                mood = Mood.ODD if stream == "stderr" else Mood.PLAIN
                offset = event.get("offset")
                add(
                    line,
                    "output",
                    summary,
                    mood=mood,
                    piece=stream,
                    bytes=count,
                    text=text,
                    offset=offset,
                )
            case "OutputLost":
                missing = event.get("missing")
                add(line, "trouble", "output was lost for good", mood=Mood.BAD, missing=missing)
            case "InputInDoubt":
                summary = "nobody knows whether the last input arrived"
                add(line, "trouble", summary, mood=Mood.BAD)
            case "Reattaching":
                self._reattaching(line, event)
            case "CommandExited":
                code = event.get("exit_code")
                mood = Mood.GOOD if code == 0 else Mood.ODD
                add(line, "exit", f"exits with {code}", mood=mood, exit_code=code)
                self.ends(line, mood)
            case "CommandFailed":
                error = event.get("error")
                more = ", and may be running still" if event.get("may_be_running") else ""
                summary = f"fails: {kind_of(error)}: {message_of(error)}{more}"
                add(line, "trouble", summary, mood=Mood.BAD, error=error)
                self.ends(line, Mood.BAD)
            case _:
                return False
        return True

    def _reattaching(self, line: Line, event: Any) -> None:
        delay = seconds_of(event.get("delay"))
        reason = excerpt(str(event.get("reason")), 200)
        self.book.add(
            line,
            "reconnect",
            f"attaches again in {duration(delay)}: {reason}",
            mood=Mood.ODD,
            until=line.at + delay,
            reason=reason,
            seconds=delay,
        )


class TunnelTeller(ChannelTeller):
    """Tells of a tunnel's session, and of the streams in it, each in a lane of its own."""

    def __init__(self, book: Book, actor: str) -> None:
        super().__init__(book, actor)
        self._streams: dict[int, StoryEvent] = {}
        self._closing = False

    def begin(self, line: Line) -> None:
        title = "tunnel to " + excerpt(str(line.given.get("base")), 120)
        self.book.lane(self.actor, "tunnel", title)
        self._whole = self.book.add(line, "operation", title, made=line.made)

    def told(self, line: Line) -> None:
        number = line.given.get("stream")
        match line.call:
            case "open":
                gave = next((item["gave"] for item in line.then if "gave" in item), None)
                if isinstance(gave, int):
                    self._open(line, gave)
            case "send":
                gave = next((item["gave"] for item in line.then if "gave" in item), 0)
                raw = raw_bytes(line.given.get("data"), self.book.beside)
                count = gave if isinstance(gave, int) else 0
                self._data(line, number, "->", count, (raw or b"")[:count])
            case "send_eof":
                self._on_stream(line, number, "stream", "-> ends")
            case "close_stream":
                self._on_stream(line, number, "stream", CLOSED)
                self._stream_ends(line, number, Mood.GOOD)
            case "reset":
                self._on_stream(line, number, "stream", "resets it", Mood.ODD)
                self._stream_ends(line, number, Mood.ODD)
            case "close":
                self._closing = True
                super().told(line)
            case _:
                super().told(line)

    def came(self, line: Line, what: str, value: Any) -> None:
        if what != "gave":
            super().came(line, what, value)

    def _lane(self, number: object) -> str:
        return f"{self.actor}/{number}"

    def _open(self, line: Line, number: int) -> None:
        port = line.given.get("port")
        title = f"stream {number} to port {port}"
        self.book.lane(self._lane(number), "stream", title)
        self._streams[number] = self._on_stream(line, number, "operation", title, port=port)

    def _on_stream(
        self,
        line: Line,
        number: object,
        kind: str,
        summary: str,
        mood: Mood = Mood.PLAIN,
        **details: Any,
    ) -> StoryEvent:
        known = isinstance(number, int) and number in self._streams
        lane = self._lane(number) if known or kind == "operation" else ""
        return self.book.add(line, kind, summary, lane=lane, mood=mood, stream=number, **details)

    def _data(self, line: Line, number: object, arrow: str, count: int, data: bytes | str) -> None:
        text = data if isinstance(data, str) else data.decode(errors="replace")
        summary = f"{arrow} {size(count)}: {excerpt(text)}"
        self._on_stream(line, number, "data", summary, piece=arrow, bytes=count, text=text)

    def _stream_ends(self, line: Line, number: object, mood: Mood) -> None:
        stream = self._streams.get(number) if isinstance(number, int) else None
        if stream is not None and stream.until is None:
            stream.until, stream.mood = line.at, mood
            stream.lines.append(line.number)

    def happened(self, line: Line, name: str, event: Any) -> bool:
        number = event.get("stream")
        match name:
            case "SessionOpened":
                self.book.add(line, "started", "the session is open")
            case "StreamConnected":
                self._on_stream(line, number, "stream", "the port answers")
            case "StreamRefused":
                text = f"the port does not answer: {message_of(event.get('error'))}"
                self._on_stream(line, number, "trouble", text, Mood.BAD)
                self._stream_ends(line, number, Mood.BAD)
            case "StreamData":
                data = event.get("data")
                self._data(line, number, "<-", measure(data), text_of(data))
            case "StreamEnded":
                self._on_stream(line, number, "stream", "<- ends")
            case "StreamReset":
                self._on_stream(line, number, "trouble", "the host resets it", Mood.BAD)
                self._stream_ends(line, number, Mood.BAD)
            case "StreamRoom":
                self.book.add(line, "call", "there is room to send", level=Level.ALL)
            case "SessionLeaving":
                text = "the host takes no new streams"
                self.book.add(line, "trouble", text, mood=Mood.ODD)
            case "SessionEnded":
                self._session_ends(line, event.get("error"))
            case _:
                return False
        return True

    def _session_ends(self, line: Line, error: Any) -> None:
        mood = Mood.GOOD if self._closing else Mood.BAD
        kind = "exit" if self._closing else "trouble"
        self.book.add(line, kind, f"ends: {message_of(error)}", mood=mood, error=error)
        self.ends(line, mood)
        for number in self._streams:
            self._stream_ends(line, number, mood)

    def finish(self, at: float) -> None:
        super().finish(at)
        for stream in self._streams.values():
            if stream.until is None:
                stream.until = at


class WebSocketTeller(ChannelTeller):
    """Tells of a WebSocket to a service."""

    def begin(self, line: Line) -> None:
        url = line.given.get("url")
        origin = url.get("origin") if isinstance(url, dict) else None
        host = f"{dig(origin, 'host')}:{dig(origin, 'port')}" if origin else ""
        title = f"WebSocket {host}{excerpt(str(dig(url, 'target') or ''), 120)}"
        self.book.lane(self.actor, "websocket", title)
        self._whole = self.book.add(line, "operation", title, made=line.made)

    def told(self, line: Line) -> None:
        match line.call:
            case "send" | "send_text" | "send_bytes" | "send_message":
                self._message(line, "->", next(iter(line.given.values()), None))
            case _:
                super().told(line)

    def _message(self, line: Line, arrow: str, data: Any) -> None:
        count, text = measure(data), text_of(data)
        summary = f"{arrow} {size(count)}: {excerpt(text)}"
        self.book.add(line, "message", summary, arrow=arrow, bytes=count, text=text)

    def happened(self, line: Line, name: str, event: Any) -> bool:
        match name:
            case "Opened":
                self.book.add(line, "started", "the WebSocket is open")
            case "Message":
                self._message(line, "<-", event.get("data"))
            case "Closed":
                code = f"{event.get('code')} {event.get('reason') or ''}".strip()
                mood = Mood.GOOD if code.startswith(_NORMAL) else Mood.ODD
                self.book.add(line, "exit", f"closed by the host: {code}", mood=mood)
                self.ends(line, mood)
            case "Failed":
                fault = event.get("fault")
                text = f"failed: {message_of(fault)}"
                self.book.add(line, "trouble", text, mood=Mood.BAD, fault=fault)
                self.ends(line, Mood.BAD)
            case "UpgradeRejected" | "UpgradeFailed":
                text = f"was refused: {message_of(event.get('fault')) or name}"
                self.book.add(line, "trouble", text, mood=Mood.BAD, event=event)
                self.ends(line, Mood.BAD)
            case _:
                return False
        return True
