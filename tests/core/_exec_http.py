"""An `ExecSession` over plain HTTP and the server it talks to, response by response."""

from __future__ import annotations

import json
from typing import Any

from sandbox_proto.config import ExecTimeouts
from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.exec_transports import Transport
from sandbox_proto.machines.http1_server import Http1Server, RequestReceived
from sandbox_proto.wire.exec_messages import Execute, Reconnect
from sandbox_proto.wire.sse import RawOutput, StreamMessage, encode_event

from ._exec import Line, _join

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def out(data: bytes, offset: int) -> RawOutput:
    return RawOutput("stdout", data, offset)


def err(data: bytes, offset: int) -> RawOutput:
    return RawOutput("stderr", data, offset)


class HttpLine(Line):
    """A `Line` whose server speaks HTTP only.

    :ivar requests: what was asked, in order.
    """

    def __init__(
        self,
        opening: Execute | Reconnect | None = None,
        timeouts: ExecTimeouts | None = None,
        *,
        transports: tuple[Transport, ...] = (Transport.SSE,),
        **more: Any,
    ) -> None:
        super().__init__(opening, timeouts, transports=transports, stdin_closed=True, **more)
        self.requests: list[RequestReceived] = []

    def ask(self, *, connect: bool = True) -> dict[str, Any]:
        """The next request's body; a connection is made for it, or was reused."""
        if connect:
            assert self.session.connection_wanted is not None
            self.session.connected(now=self.now)
        self._http = Http1Server()  # its answers are written by hand, so it serves one request
        self.take()
        self._http.receive_data(self._flush())
        request = self._http.next_event()
        assert request is not None
        if request.upgrade_key is not None:
            self.upgrades.append(request)
            return {}
        self.requests.append(request)
        body: dict[str, Any] = json.loads(request.body)
        return body

    def begin(self) -> dict[str, Any]:
        """Ask, and have the stream begin."""
        body = self.ask()
        self.feed(HEAD)
        return body

    def tell(self, *messages: StreamMessage, end: bool = False) -> None:
        """Events from the server; with `end`, the last of this response."""
        data = b"".join(encode_event(message) for message in messages)
        self.feed((chunked(data) if data else b"") + (LAST_CHUNK if end else b""))

    def answer(self, status: int, payload: Any = None, **headers: str) -> None:
        """A whole answer instead of a stream."""
        content = b"" if payload is None else json.dumps(payload).encode()
        lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(content)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.feed("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    def lose(self) -> None:
        """The connection is lost."""
        self.session.connection_lost(Fault(FaultKind.DISCONNECTED, "reset"), now=self.now)
        self.take()

    def wait_for_connection(self) -> float:
        """Let time pass until a connection is wanted; returns how much that was."""
        began = self.now
        while self.session.connection_wanted is None:
            assert not self.session.over, self.events[-1]
            self.wait()
        return self.now - began


__all__ = ["HEAD", "LAST_CHUNK", "HttpLine", "_join", "chunked", "err", "out"]
