"""HTTP and WebSocket as raw as they travel, for what a client of ours would never do."""

from __future__ import annotations

import contextlib
import json
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Self

import anyio
import h11
from anyio.abc import SocketStream

from sandbox_anyio.local.launch import LocalHost
from sandbox_proto.wire.sse import HEARTBEAT, AckRequired, SseParser, StreamMessage, decode_event

_OPEN_SOCKET = (
    "GET {path} HTTP/1.1\r\nHost: h\r\nX-Api-Key: {key}\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def connect(host: LocalHost) -> SocketStream:
    """A connection to the host."""
    name, _, port = host.endpoint.removeprefix("http://").partition(":")
    return await anyio.connect_tcp(name, int(port))


class Answer:
    """The answer to one request, as it comes in.

    :ivar heartbeats: how many signs of life were in it so far.
    """

    def __init__(self, stream: SocketStream, connection: h11.Connection) -> None:
        self._stream, self._connection = stream, connection
        self._parser = SseParser()
        self._messages: deque[StreamMessage] = deque()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.heartbeats = 0

    async def _next(self) -> Any:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            try:
                self._connection.receive_data(await self._stream.receive())
            except anyio.EndOfStream:
                self._connection.receive_data(b"")
        return event

    async def head(self) -> Self:
        response = await self._next()
        assert isinstance(response, h11.Response), response
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        return self

    async def _next_piece(self) -> bytes | None:
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        return None

    async def json(self) -> Any:
        """The whole of it as JSON."""
        body = b""
        while (piece := await self._next_piece()) is not None:
            body += piece
        return json.loads(body)

    async def next_message(self) -> StreamMessage | None:
        """The next message of an event stream, or None at its end."""
        while not self._messages:
            if (piece := await self._next_piece()) is None:
                return None
            self.heartbeats += piece == HEARTBEAT
            messages = [decode_event(*event) for event in self._parser.feed(piece)]
            self._messages += [message for message in messages if message is not None]
        return self._messages.popleft()

    async def all_messages(self) -> list[StreamMessage]:
        """All that is still to come."""
        messages = []
        while (message := await self.next_message()) is not None:
            messages.append(message)
        return messages


class Caller:
    """Asks a host about one sandbox."""

    def __init__(self, host: LocalHost, box_id: str) -> None:
        self.host, self.base = host, f"/v2/sandboxes/{box_id}"

    async def send(self, stream: SocketStream, path: str, fields: object) -> Answer:
        """Send a request on a connection; the answer is still to come."""
        connection = h11.Connection(h11.CLIENT)
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        headers = [
            ("host", "h"),
            ("x-api-key", self.host.api_key),
            ("content-length", str(len(body))),
        ]
        request = h11.Request(method="POST", target=f"{self.base}/{path}", headers=headers)
        data = connection.send(request), connection.send(h11.Data(data=body))
        await stream.send(b"".join(piece or b"" for piece in data))
        connection.send(h11.EndOfMessage())
        return Answer(stream, connection)

    @contextlib.asynccontextmanager
    async def ask(self, path: str, **fields: object) -> AsyncIterator[Answer]:
        """A request on a connection of its own, which ends with the block."""
        async with await connect(self.host) as stream:
            yield await (await self.send(stream, path, fields)).head()

    async def follow(self, path: str, **fields: object) -> list[list[StreamMessage]]:
        """What is told to a client that comes back whenever it is asked to, by response."""
        responses = []
        while True:
            async with self.ask(f"execute/stream/{path}", **fields) as answer:
                responses.append(await answer.all_messages())
            last = responses[-1][-1]
            if not isinstance(last, AckRequired):
                return responses
            offsets = {"stdout_offset": last.stdout_offset, "stderr_offset": last.stderr_offset}
            path, fields = "resume", {"command_id": fields["command_id"], **offsets}

    async def run(self, command: str, **fields: object) -> Any:
        """Run a command in a blocking request. Returns the answer's payload."""
        async with self.ask("execute", command=command, **fields) as answer:
            assert answer.status == 200
            return await answer.json()

    async def ended(self, pid: int | None, patience: int = 10) -> bool:
        """Whether a process in the sandbox ends in time."""
        wait = f"while kill -0 {pid} 2>/dev/null; do sleep 0.02; done"
        async with self.ask("execute", command=wait, timeout=patience) as answer:
            return answer.status == 200

    async def open_socket(self, stream: SocketStream, **execute: object) -> RawSocket:
        """Begin a command on an exec WebSocket."""
        path = f"{self.base}/execute/ws"
        await stream.send(_OPEN_SOCKET.format(path=path, key=self.host.api_key).encode())
        socket = RawSocket(stream)
        await socket.head()
        await socket.say({"type": "execute", **execute})
        return socket


class RawSocket:
    """A WebSocket that answers nothing by itself.

    :ivar status: with which status the host answered its opening.
    """

    def __init__(self, stream: SocketStream) -> None:
        self._stream, self._data = stream, bytearray()
        self.status = 0
        self.answered = ""

    async def head(self) -> None:
        while b"\r\n\r\n" not in self._data:
            self._data += await self._stream.receive()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        self.answered = head.decode().lower()
        self.status = int(head.split()[1])

    async def say(self, message: object) -> None:
        payload = json.dumps(message).encode()
        length = (
            bytes([len(payload)]) if len(payload) < 126 else struct.pack(">BH", 126, len(payload))
        )
        mask = bytes(4)  # which changes nothing
        await self._stream.send(bytes([0x81, 0x80 | length[0]]) + length[1:] + mask + payload)

    async def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._data += await self._stream.receive()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    async def next_frame(self) -> tuple[int, bytes]:
        """The next frame: its kind, and what is in it."""
        first, length = await self._take(2)
        if length == 126:
            [length] = struct.unpack(">H", await self._take(2))
        elif length == 127:
            [length] = struct.unpack(">Q", await self._take(8))
        return first & 15, await self._take(length)

    async def hear(self) -> Any:
        """The next message."""
        while (frame := await self.next_frame())[0] != 1:
            pass
        return json.loads(frame[1])

    async def close_code(self) -> int:
        """The code with which the host closes, whatever it says before."""
        while (frame := await self.next_frame())[0] != 8:
            pass
        [code] = struct.unpack(">H", frame[1][:2])
        return int(code)
