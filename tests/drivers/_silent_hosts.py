"""Hosts that speak the exec protocol up to some point, and then say nothing more.

The connection stays; what the client says is read, except where the point of a host is that it
does not. Written with the machines of the core in the server's role.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from base64 import b64encode
from typing import Any

import attrs

from sandbox_proto.machines.http1_server import Http1Server, RequestReceived
from sandbox_proto.machines.websocket import Message, WebSocket, WebSocketLimits

from ._servers import ScriptedServer

NO_LIMITS = WebSocketLimits(ping_interval=None, pong_timeout=None, close_timeout=None, write=None)
HEARTBEAT_SECONDS = 0.05
DRIP_SECONDS = 1.0
KILLED = 137


@attrs.frozen(kw_only=True)
class Speech:
    """What a host says on one connection.

    :ivar answers: it answers the request at all.
    :ivar says: the exec messages it sends once it was told what to run.
    :ivar begins: the message of which it sends the first half.
    :ivar begins_answer: of its answer to the request it sends the first half.
    :ivar drips: what it only begins it goes on with, by one byte a second.
    :ivar alive: it answers pings, or sends heartbeats.
    :ivar reads: it reads what the client says after the first message.
    :ivar obeys: a kill is answered by an exit.
    """

    answers: bool = True
    says: tuple[dict[str, Any], ...] = ()
    begins: dict[str, Any] | None = None
    begins_answer: bool = False
    drips: bool = False
    alive: bool = False
    reads: bool = True
    obeys: bool = False


STARTED: dict[str, Any] = {"type": "started", "pid": 5}


def output(stream: str, data: str, offset: int = 0) -> dict[str, Any]:
    """A message that carries output."""
    return {"type": stream, "data": data, "offset": offset}


class SilentHost:
    """Serves every connection by a speech: the last one is said again and again."""

    def __init__(self, *speeches: Speech) -> None:
        self._speeches = list(speeches)
        self._mutex = threading.Lock()
        self.server = ScriptedServer(self._serve)
        self.url = self.server.url

    def __enter__(self) -> SilentHost:
        self.server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.__exit__(*exc)

    def _serve(self, connection: socket.socket) -> None:
        with self._mutex:
            speech = self._speeches[0] if len(self._speeches) == 1 else self._speeches.pop(0)
        _Speaker(connection, speech).serve()


class _Speaker:
    def __init__(self, connection: socket.socket, speech: Speech) -> None:
        self._connection, self._speech = connection, speech
        self._http = Http1Server()
        self._socket: WebSocket | None = None
        self._command_id = ""
        self._asked = False
        self._dripping = b""

    def serve(self) -> None:
        """From the request until the client leaves."""
        if self._speech.answers and (request := self._request()) is not None:
            self._answer(request)
        self._listen()

    def _request(self) -> RequestReceived | None:
        while (request := self._http.next_event()) is None:
            data = self._connection.recv(65536)
            if not data:
                return None
            self._http.receive_data(data)
        return request

    def _answer(self, request: RequestReceived) -> None:
        trailing = b""
        if request.upgrade_key is not None:
            trailing = self._http.accept_upgrade(request.upgrade_key)
        else:
            self._http.begin_response(200, {"content-type": "text/event-stream"})
        answer = _joined(self._http)
        if self._speech.begins_answer:
            self._begin(answer)
            return
        self._connection.sendall(answer)
        if request.upgrade_key is not None:
            self._socket = WebSocket("server", NO_LIMITS, now=0.0, trailing_data=trailing)
            self._take_messages()
        else:
            self._told(json.loads(request.body))

    # --- speaking ---------------------------------------------------------------------

    def _told(self, message: dict[str, Any]) -> None:
        """The client said what to run: the speech is due."""
        self._asked = True
        self._command_id = message["command_id"]
        for said in self._speech.says:
            self._connection.sendall(self._framed(said))
        if self._speech.begins is not None:
            self._begin(self._framed(self._speech.begins))

    def _begin(self, data: bytes) -> None:
        half = len(data) // 2
        self._connection.sendall(data[:half])
        self._dripping = data[half:] if self._speech.drips else b""

    def _framed(self, message: dict[str, Any]) -> bytes:
        if message["type"] == "started":
            message = {**message, "command_id": self._command_id}
        if self._socket is not None:
            self._socket.send_text(json.dumps(message), now=0.0)
            return _joined(self._socket)
        fields = {**message, "data": b64encode(message.get("data", "").encode()).decode()}
        text = f"event: {fields.pop('type')}\ndata: {json.dumps(fields)}\n\n"
        self._http.send_body(text.encode())
        return _joined(self._http)

    # --- listening --------------------------------------------------------------------

    def _listen(self) -> None:
        """Until the client leaves."""
        beats = self._speech.alive and self._asked and self._socket is None
        pause = DRIP_SECONDS if self._dripping else HEARTBEAT_SECONDS if beats else None
        while True:
            listens = self._speech.reads or not self._asked
            sources = [self._connection] if listens else []
            if not sources and pause is None:
                self._wait_for_the_end()
                return
            readable, _, _ = select.select(sources, [], [], pause)
            if not readable:
                self._say_a_little()
                continue
            data = self._connection.recv(65536)
            if not data:
                return
            if self._socket is not None:
                self._socket.receive_data(data, now=0.0)
                self._take_messages()

    def _wait_for_the_end(self) -> None:
        """The client leaves, or the test ends; what was sent is not read."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        poll.poll()

    def _say_a_little(self) -> None:
        if self._dripping:
            self._connection.sendall(self._dripping[:1])
            self._dripping = self._dripping[1:]
        elif self._speech.alive:
            self._http.send_body(b": alive\n\n")
            self._connection.sendall(_joined(self._http))

    def _take_messages(self) -> None:
        assert self._socket is not None
        while isinstance(event := self._socket.next_event(), Message):
            message = json.loads(event.data)
            if not self._asked:
                self._told(message)
            elif message["type"] == "kill" and self._speech.obeys:
                self._connection.sendall(self._framed({"type": "exit", "exit_code": KILLED}))
        pongs = _joined(self._socket)
        if self._speech.alive:
            self._connection.sendall(pongs)


def _joined(machine: Any) -> bytes:
    return b"".join(machine.data_to_send())
