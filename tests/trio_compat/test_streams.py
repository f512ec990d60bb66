"""trio's own checks of streams, over real tunnels and real processes in an embedded host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from subprocess import PIPE

import attrs
import pytest
import trio
from trio.abc import ReceiveStream, SendStream
from trio.testing import check_half_closeable_stream, check_one_way_stream

from sandbox_anyio import AsyncSandbox, TunnelConnectionRefusedError
from sandbox_trio_compat import (
    SandboxProcess,
    SandboxTcpStream,
    open_tcp_stream,
    run_process,
)

pytestmark = pytest.mark.anyio

_RELAY = Path(__file__).with_name("_relay.py")
NEAR, FAR, PROBE, NOBODY = 7101, 7102, 7103, 7999
PATIENCE = 60
# So many bytes went through the relay and back, and nothing else moved meanwhile: it is stuck.
QUIET_ROUNDS = 10


@attrs.frozen
class Joined:
    """A sandbox whose ports `NEAR` and `FAR` are joined, so that both ends of a pair are ours."""

    sandbox: AsyncSandbox
    probe: SandboxTcpStream

    async def pair(self) -> tuple[SandboxTcpStream, SandboxTcpStream]:
        return await open_tcp_stream(self.sandbox, NEAR), await open_tcp_stream(self.sandbox, FAR)

    async def clogged_pair(self) -> tuple[SandboxTcpStream, SandboxTcpStream]:
        """Neither end can send any more before the other receives."""
        ends, sent = await self.pair(), [0]

        async def push(end: SandboxTcpStream) -> None:
            while True:
                await end.send_all(bytes(16 * 1024))
                sent[0] += 1

        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(push, end)
            quiet = 0
            while quiet < QUIET_ROUNDS:
                before = sent[0]
                await self.probe.send_all(b"x")
                await self.probe.receive_some(1)
                quiet = quiet + 1 if sent[0] == before else 0
            nursery.cancel_scope.cancel()
        return ends


@pytest.fixture(scope="module")
async def joined(sandbox: AsyncSandbox) -> AsyncIterator[Joined]:
    await sandbox.write("relay.py", _RELAY.read_bytes())
    ports = f"{NEAR} {FAR} {PROBE}"
    async with await sandbox.run(f"exec python3 relay.py {ports}", wait=False, timeout=0) as relay:
        await relay.wait_for_output("listening", 10)
        async with await open_tcp_stream(sandbox, PROBE) as probe:
            yield Joined(sandbox, probe)


async def test_tunnels_are_half_closeable_streams(joined: Joined) -> None:
    with trio.fail_after(PATIENCE):
        await check_half_closeable_stream(joined.pair, joined.clogged_pair)


async def test_a_stream_without_anybody_behind_it(sandbox: AsyncSandbox) -> None:
    with pytest.raises(TunnelConnectionRefusedError):
        await open_tcp_stream(sandbox, NOBODY)
    with pytest.raises(ValueError, match="port"):
        await open_tcp_stream(sandbox, 70_000)


# --- the pipes of a process ---------------------------------------------------------------


class LastReader(ReceiveStream):
    """The output of a process that ends when nobody reads it, as a local one would by SIGPIPE.

    The protocol has no way to tell a command that its output is not wanted. So what trio's
    checks want of a pair of streams ("closing one end breaks the other") takes a kill.
    """

    def __init__(self, process: SandboxProcess) -> None:
        assert process.stdout is not None
        self._process, self._stream = process, process.stdout

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self._process.kill()
        await self._stream.aclose()


async def test_pipes_are_one_way_streams(sandbox: AsyncSandbox) -> None:
    """From the standard input of a process to its output, which is the same."""
    async with trio.open_nursery() as nursery:
        cat = partial(run_process, sandbox, "exec cat", check=False, stdin=PIPE, stdout=PIPE)

        async def through_cat() -> tuple[SendStream, ReceiveStream]:
            process: SandboxProcess = await nursery.start(cat)
            assert process.stdin is not None
            return process.stdin, LastReader(process)

        with trio.fail_after(PATIENCE):
            await check_one_way_stream(through_cat, None)
