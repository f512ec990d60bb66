"""The model host's end of one connection: bytes in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.exec_blocking import BlockingExec
from ..host.exec_socket import ExecSocket
from ..host.exec_stream import ExecStream
from ..host.files import file_error, requested_path
from ..host.messages import HostError, HostRequest, HostResponse
from ..host.routing import CONTROL_PLANE
from ..host.search import requested_search
from ..machines.base import SEND_EOF, Buffer, Output
from ..machines.http1_server import Http1Server, RequestReceived
from ..machines.websocket import Closed, Failed, Message, WebSocket, WebSocketLimits
from ..wire.exec_messages import encode
from .model_files import answer_download, answer_search
from .model_tunnel import ModelTunnel

if TYPE_CHECKING:
    from .model_host import ModelHost

HOME = "/home/user"
_NO_SUCH_FILE = 2
_SOCKETS = ("exec_socket", "tunnel")


class ModelConnection:
    """See the module's text."""

    def __init__(self, model: ModelHost) -> None:
        self._model = model
        self._http = Http1Server()
        self._websocket: WebSocket | None = None
        self._exec: ExecSocket | ExecStream | BlockingExec | None = None
        self._tunnel: ModelTunnel | None = None
        self._box_id = ""
        self._broken = False

    def receive_data(self, data: Buffer, *, now: float) -> None:
        """Bytes arrived from the client."""
        if self._websocket is not None:
            self._websocket.receive_data(data, now=now)
            self._serve_messages(now)
            return
        self._http.receive_data(data)
        self._serve_requests(now)

    def receive_eof(self, *, now: float) -> None:
        """The client closed."""
        if self._websocket is None:
            self._http.receive_eof()
        self.abandon(now=now)

    def abandon(self, *, now: float) -> None:
        """The connection is gone."""
        self._broken = True
        self._leave_tunnel(now)
        if self._exec is not None:
            self._leave(now)
            self._model.act_on_commands(now=now)

    def data_to_send(self, *, now: float) -> list[Output]:
        """Bytes for the client."""
        self._model.settle(now=now)
        self._speak(now)
        if self._websocket is None:
            self._serve_requests(now)  # one may have waited for an answer to end
            return self._http.data_to_send()
        output = self._websocket.data_to_send()
        sent = sum(len(chunk) for chunk in output if chunk is not SEND_EOF)
        self._websocket.data_sent(sent, now=now)
        return self._http.data_to_send() + output

    @property
    def finished(self) -> bool:
        """Whether the host closes the connection once its output is sent."""
        return (
            self._broken
            or self._http.finished
            or (self._websocket is not None and self._websocket.finished)
        )

    # --- HTTP -------------------------------------------------------------------------

    def _serve_requests(self, now: float) -> None:
        while (request := self._http.next_event()) is not None:
            self._serve(request, now)

    def _serve(self, received: RequestReceived, now: float) -> None:
        path, _, query = received.target.partition("?")
        request = HostRequest(
            received.method, path, query, received.headers, received.body, self._model.origin
        )
        host = self._model.host
        try:
            match = host.route(request)
        except HostError as error:
            self._refuse(error)
            return
        if match.name in CONTROL_PLANE:
            self._model.carry_out(
                host.respond(request, now=now), lambda answer, at: self._answer(answer), now=now
            )
            return
        if self._model.draining:
            text, again = "the host is shutting down", {"retry-after": "1"}
            self._refuse(HostError(503, "ServiceUnavailable", text, headers=again))
            return
        opening = host.open_box_for_socket if match.name in _SOCKETS else host.open_box
        self._model.carry_out(
            opening(match.names[0], now=now),
            lambda box, at: self._serve_box(match.name, received, request, box.id, at),
            self._refuse,
            now=now,
        )

    def _serve_box(
        self, route: str, received: RequestReceived, request: HostRequest, box_id: str, now: float
    ) -> None:
        if self._broken:
            return  # the sandbox was longer in waking up than its client stayed
        try:
            if route in _SOCKETS and received.upgrade_key is not None:
                self._upgrade(route, received.upgrade_key, box_id, now)
            elif route == "upload":
                self._answer(self._upload(request, box_id))
            elif route == "download":
                self._download(request, box_id)
            elif route in ("glob", "grep"):
                self._search(route, request, box_id)
            elif route in ("start_stream", "resume_stream"):
                self._stream(route, request, box_id, now)
            elif route == "execute":
                self._exec = blocking = BlockingExec(
                    self._model.commands, box_id, self._model.entropy
                )
                self._model.attached[blocking] = None
                blocking.start(request.json(), now=now, wall=now)
                self._spawn(now)
            else:
                raise HostError(426, "UpgradeRequired", "this is a WebSocket endpoint")
        except HostError as error:
            self._exec = None
            self._refuse(error)

    def _refuse(self, error: HostError) -> None:
        self._answer(error.response())

    def _answer(self, response: HostResponse) -> None:
        headers = {"content-type": "application/json", **response.headers}
        self._http.respond(response.status, headers, response.body)

    def _upload(self, request: HostRequest, box_id: str) -> HostResponse:
        path = requested_path(request.query, HOME, "write")
        boundary = request.headers.get("content-type", "").partition("boundary=")[2].encode()
        _, _, part = request.body.partition(b"\r\n\r\n")
        content = part.rpartition(b"\r\n--" + boundary + b"--")[0]
        self._model.write(box_id, path, content)
        return HostResponse(200, {"path": path, "written": len(content)})

    def _download(self, request: HostRequest, box_id: str) -> None:
        path = requested_path(request.query, HOME, "read")
        content = self._model.read(box_id, path)
        if content is None:
            raise file_error(_NO_SUCH_FILE, path, "read")
        self._answer(answer_download(request, content))

    def _search(self, route: str, request: HostRequest, box_id: str) -> None:
        search = requested_search("glob" if route == "glob" else "grep", request)
        self._answer(answer_search(search, self._model.files(box_id)))

    # --- exec and tunnels -------------------------------------------------------------

    def _upgrade(self, route: str, key: str, box_id: str, now: float) -> None:
        trailing = self._http.accept_upgrade(key)
        self._websocket = WebSocket(
            "server", WebSocketLimits(ping_interval=None), now=now, trailing_data=trailing
        )
        if route == "tunnel":
            self._box_id = box_id
            self._tunnel = ModelTunnel(self._model.ports, now=now)
            self._model.tunnels[self._tunnel] = None
            self._model.host.hold(box_id, now=now)
        else:
            self._exec = ExecSocket(self._model.commands, box_id, self._model.entropy)
            self._model.attached[self._exec] = None
        self._serve_messages(now)

    def _serve_messages(self, now: float) -> None:
        assert self._websocket is not None
        while (event := self._websocket.next_event()) is not None:
            match event:
                case Message(data) if isinstance(self._exec, ExecSocket):
                    self._exec.receive(data, now=now, wall=now)
                    self._spawn(now)
                    self._model.act_on_commands(now=now)
                case Message(data) if self._tunnel is not None:
                    self._tunnel.receive(data, now=now)
                case Closed() | Failed():
                    self.abandon(now=now)

    def _stream(self, route: str, request: HostRequest, box_id: str, now: float) -> None:
        self._exec = stream = ExecStream(self._model.commands, box_id, self._model.entropy)
        if route == "start_stream":
            stream.start(request.json(), now=now, wall=now)
        else:
            stream.resume(request.json(), now=now)
        self._spawn(now)
        self._model.streams.add(stream)
        self._model.attached[stream] = None
        self._http.begin_response(200, {"content-type": "text/event-stream"})

    def _spawn(self, now: float) -> None:
        if self._exec is not None and (command := self._exec.to_spawn) is not None:
            self._exec.to_spawn = None
            self._model.start(command, now=now)

    def _leave(self, now: float) -> None:
        if self._exec is not None:
            self._exec.disconnected(now=now)
            self._model.attached.pop(self._exec, None)
            if isinstance(self._exec, ExecStream):
                self._model.streams.discard(self._exec)
            self._exec = None

    def _leave_tunnel(self, now: float) -> None:
        if self._tunnel is not None:
            del self._model.tunnels[self._tunnel]
            self._tunnel = None
            self._model.host.release(self._box_id, now=now)

    def _speak(self, now: float) -> None:
        if self._tunnel is not None:
            self._speak_in_tunnel(self._tunnel, now)
        match self._exec:
            case ExecSocket() as socket:
                self._speak_on_socket(socket, now)
            case ExecStream() as stream:
                while (event := stream.next_event(now=now)) is not None:
                    self._http.send_body(event)
                if stream.finished:
                    self._leave(now)
                    self._http.end_response()
            case BlockingExec() as blocking:
                if (response := blocking.response(now=now)) is not None:
                    self._leave(now)
                    self._answer(response)

    def _speak_in_tunnel(self, tunnel: ModelTunnel, now: float) -> None:
        assert self._websocket is not None
        while self._websocket.open and (data := tunnel.next_message(now=now)) is not None:
            self._websocket.send_bytes(data, now=now)
        if tunnel.session.finished:
            self._websocket.close(tunnel.session.close_code, now=now)
            self._leave_tunnel(now)

    def _speak_on_socket(self, socket: ExecSocket, now: float) -> None:
        assert self._websocket is not None
        while self._websocket.open:
            message = socket.next_message(now=now)
            if message is not None:
                self._websocket.send_text(encode(message), now=now)
            if socket.finished:
                self._leave(now)
                self._websocket.close(socket.close_code, now=now)
                return
            if message is None:
                return
