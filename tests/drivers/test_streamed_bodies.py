"""A streamed request body on a connection that has room at odd moments."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio.anyio_network import AnyioNetwork
from sandbox_anyio.http import HttpPool, Progress
from sandbox_anyio.network import ByteStream
from sandbox_proto.flows.effects import Answered, Perform
from sandbox_proto.machines.base import Buffer
from sandbox_proto.plans.pool import PoolLimits
from sandbox_proto.plans.route import Route, RoutePlan
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.wire.http import Request, StreamedBody
from sandbox_proto.wire.urls import Url

pytestmark = pytest.mark.anyio

SIZE = 100_000


class MoodyStream:
    """Takes nothing at every other try, and answers when the whole request is there."""

    def __init__(self) -> None:
        self.sent = b""
        self._moody = False
        self._answer: bytes | None = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    @property
    def _whole(self) -> bool:
        return self.sent.partition(b"\r\n\r\n")[2].endswith(b"x" * SIZE)

    def try_send(self, data: Buffer) -> int:
        self._moody = not self._moody
        if self._moody:
            return 0
        self.sent += bytes(data)
        return len(data)

    def try_flush(self) -> bool:
        return True

    def try_receive(self, max_bytes: int = 0) -> bytes | None:
        if not self._whole:
            return None
        answer, self._answer = self._answer, None
        return answer

    def try_receive_into(self, buffer: memoryview) -> int | None:
        raise AssertionError("no machine here lends a buffer")

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        assert writable or self._whole, "nobody would ever wake this up"
        await anyio.lowlevel.checkpoint()

    def interrupt(self) -> None: ...

    def send_eof(self) -> None: ...

    def close(self) -> None: ...


class MoodyNetwork(AnyioNetwork):
    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        return MoodyStream()


async def test_a_body_goes_on_when_room_comes_between_two_looks() -> None:
    """Once, whoever had looked in vain waited for the peer's word, having sent all meanwhile."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * (SIZE // 10)

    pool = HttpPool(MoodyNetwork(), RoutePlan.through(None), PoolLimits())
    body = StreamedBody(pieces(), SIZE)
    request = Request("POST", Url.parse("http://host.test/"), {}, body)
    with anyio.fail_after(10):
        outcome = await pool.perform(Perform(request, Timeouts()), Progress())
    assert isinstance(outcome, Answered) and outcome.response.status == 200
    pool.close()
