"""One exchange on an `Http1Client`, driven by hand."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from sandbox_proto.faults import Fault
from sandbox_proto.machines.base import SEND_EOF
from sandbox_proto.machines.http1 import (
    BodyData,
    ExchangeDone,
    ExchangeFailed,
    ExchangeLimits,
    Http1Client,
    ResponseHead,
)
from sandbox_proto.wire.http import Request

from ._helpers import make_request

NO_LIMITS = ExchangeLimits(read=None, write=None)


@attrs.define
class Outcome:
    """What an exchange came to. `order` is the kinds of its events, for tests of the order."""

    head: ResponseHead | None = None
    body: bytes | None = None
    streamed: bytes = b""
    fault: Fault | None = None
    order: list[str] = attrs.field(factory=list, eq=False)

    @property
    def status(self) -> int | None:
        return None if self.head is None else self.head.status

    @property
    def whole(self) -> bytes:
        """The body, however it was delivered."""
        return self.streamed + (self.body or b"")


class Exchange:
    """A request that was sent, and what is fed to its machine."""

    def __init__(
        self,
        request: Request | None = None,
        limits: ExchangeLimits = NO_LIMITS,
        *,
        stream: bool = False,
        machine: Http1Client | None = None,
        now: float = 0.0,
        flush: bool = True,
    ) -> None:
        self.machine = machine or Http1Client()
        self.now = now
        self.outcome = Outcome()
        self.machine.send_request(request or make_request(), limits, now=now, stream=stream)
        self.sent = b""
        if flush:
            self.flush()

    def flush(self, most: int | None = None) -> bytes:
        """Write what is due (or its first bytes) and say so; returns it."""
        output = b"".join(
            bytes(piece) for piece in self.machine.data_to_send() if piece is not SEND_EOF
        )
        taken = len(output) if most is None else min(most, len(output))
        if taken:
            self.machine.data_sent(taken, now=self.now)
        self.sent += output
        return output

    def feed(self, *pieces: bytes, direct: bool = False) -> Outcome:
        """Bytes arrive; `direct` writes into the machine's own buffer where it has one."""
        for piece in pieces:
            self._feed_piece(piece, direct)
        return self.take()

    def _feed_piece(self, piece: bytes, direct: bool) -> None:
        while piece and self.machine.wants_read:
            view = self.machine.receive_buffer() if direct else None
            if view is None:
                self.machine.receive_data(piece, now=self.now)
                return
            count = min(len(view), len(piece))
            view[:count] = piece[:count]
            view.release()
            self.machine.buffer_filled(count, now=self.now)
            piece = piece[count:]

    def eof(self) -> Outcome:
        self.machine.receive_eof(now=self.now)
        return self.take()

    def at(self, now: float) -> Outcome:
        """It is this late now."""
        self.now = now
        self.machine.handle_timeout(now=now)
        return self.take()

    def take(self) -> Outcome:
        while (event := self.machine.next_event()) is not None:
            self.outcome.order.append(type(event).__name__)
            match event:
                case ResponseHead():
                    self.outcome.head = event
                case BodyData(data):
                    self.outcome.streamed += data
                case ExchangeDone(body):
                    self.outcome.body = body
                case ExchangeFailed(fault):
                    self.outcome.fault = fault
        return self.outcome


def response(
    status: int = 200, body: bytes = b"", *headers: str, length: int | None = None
) -> bytes:
    """An answer framed by Content-Length."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Fine", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(chunks: Iterable[bytes], *headers: str, trailer: bytes = b"") -> bytes:
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return head + body + b"0\r\n" + trailer + b"\r\n"
