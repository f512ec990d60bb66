"""The pump by itself, on a stream that the test plays."""

from __future__ import annotations

import anyio
import pytest

from sandbox_anyio.anyio_network import AnyioNetwork
from sandbox_anyio.pump import Pump
from sandbox_proto.machines.base import Buffer
from sandbox_proto.machines.http1 import ExchangeDone, ExchangeLimits, Http1Client, ResponseHead
from sandbox_proto.wire.http import Request
from sandbox_proto.wire.urls import Url

pytestmark = pytest.mark.anyio


class PlayedStream:
    """Gives the test's pieces, one for each look, and then nothing."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.sent = b""

    def try_send(self, data: Buffer) -> int:
        self.sent += bytes(data)
        return len(data)

    def try_flush(self) -> bool:
        return True

    def try_receive(self, max_bytes: int = 0) -> bytes | None:
        return self._pieces.pop(0) if self._pieces else None

    def try_receive_into(self, buffer: memoryview) -> int | None:
        raise AssertionError("no machine here lends a buffer")

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        with anyio.CancelScope(deadline=float("inf") if until is None else until):
            await (anyio.lowlevel.checkpoint() if self._pieces else anyio.sleep_forever())

    def interrupt(self) -> None: ...

    def send_eof(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("pieces", [1, 2, 15, 16, 17, 31, 32, 33, 64])
async def test_an_answer_is_noticed_however_many_reads_it_took(pieces: int) -> None:
    """Once, the read that let other tasks run waited for bytes although the answer was there."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100
    size = -(-len(answer) // pieces)
    stream = PlayedStream(*(answer[at : at + size] for at in range(0, len(answer), size)))
    machine = Http1Client()
    pump = Pump(machine, stream, AnyioNetwork())
    request = Request("GET", Url.parse("http://x/"), {})
    machine.send_request(request, ExchangeLimits(read=None), now=anyio.current_time())
    with anyio.fail_after(5):
        assert isinstance(await pump.next_event(), ResponseHead)
        assert await pump.next_event() == ExchangeDone(b"x" * 100)
    assert stream.sent.startswith(b"GET / HTTP/1.1\r\n")
    assert machine.reusable
