"""More output than anybody wants to hold: every byte arrives, in order, in bounded memory."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from sandbox_anyio import (
    AsyncCommandHandle,
    AsyncSandbox,
    AsyncSandboxClient,
    ExecTimeouts,
    ExecutionResult,
)
from sandbox_anyio.local.launch import LocalHost

from ._networks import TRANSPORTS

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
OUTPUT_BYTES = 24_000_000
KEPT_BYTES = 1 * MIB
# The client keeps what it is asked to, what is on its way, and garbage not collected yet.
CLIENT_GROWTH = 16 * MIB
# A host keeps two rings of 2 MiB for a command; the rest are buffers of its connections.
HOST_GROWTH = 24 * MIB
BOUNDED = "max_output" in inspect.signature(AsyncSandbox.run).parameters
REST_EVERY = 2 * MIB
REST_SECONDS = 0.01
# How far a command may run ahead of its reader: a ring, a pipe, and the buffers of two sockets.
AHEAD = 16 * MIB


@attrs.frozen
class OwnHost:
    """A host that nobody else uses.

    :ivar pid: its process.
    """

    host: LocalHost
    pid: int


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def own_host() -> Iterator[OwnHost]:
    command = [sys.executable, "-m", "sandbox_anyio", "serve", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        ready = json.loads(process.stdout.readline())
        host = LocalHost(ready["endpoint"], ready["api_key"], ready["isolation"])
        yield OwnHost(host, process.pid)
        process.stdin.close()
        assert process.wait(timeout=20) == 0


class Numbers:
    """What ``seq`` writes up to some number, a part at a time.

    :param size: about how many bytes in all.
    """

    PART = 100_000

    def __init__(self, size: int) -> None:
        self.last = self.size = 0
        digits, first = 1, 1
        while self.size < size:
            count = min(9 * first, (size - self.size) // (digits + 1) + 1)
            self.last = first + count - 1
            self.size += count * (digits + 1)
            digits, first = digits + 1, 10 * first

    def parts(self) -> Iterator[bytes]:
        """All of it."""
        for start in range(1, self.last + 1, self.PART):
            numbers = range(start, min(start + self.PART, self.last + 1))
            yield ("\n".join(map(str, numbers)) + "\n").encode()

    def digest(self) -> str:
        """The hash of all of it."""
        digest = hashlib.sha256()
        for part in self.parts():
            digest.update(part)
        return digest.hexdigest()

    def head(self, size: int) -> bytes:
        """Its first bytes."""
        part = next(self.parts())
        while len(part) < size:
            part = b"".join(self.parts())
        return part[:size]

    def tail(self, size: int) -> bytes:
        """Its last bytes."""
        first = max(self.last - size // 2, 1)
        return ("\n".join(map(str, range(first, self.last + 1))) + "\n").encode()[-size:]


class HighWater:
    """How far the memory of a process rises from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the peak, see proc(5)
        self._before = self._read("VmRSS")

    def _read(self, name: str) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")

    @property
    def growth(self) -> int:
        """Bytes between then and the highest since."""
        return self._read("VmHWM") - self._before


async def test_a_consumer_who_rests_gets_every_byte_in_bounded_memory(
    own_host: OwnHost, transport: str, sweep: int, anyio_backend: str
) -> None:
    numbers = Numbers(OUTPUT_BYTES * sweep)
    bounds = {"max_output": KEPT_BYTES} if BOUNDED else {}
    async with client_of(own_host.host, transport) as client, client.sandbox() as sandbox:
        assert (await sandbox.run("seq 100000")).success  # what it needs once is in memory
        ours, theirs = HighWater(os.getpid()), HighWater(own_host.pid)
        began = time.monotonic()
        handle = await sandbox.run(f"seq {numbers.last}", wait=False, **bounds)
        ahead = await wait_until_held_back(sandbox, handle)
        size, digest = await read_all(handle)
        result = await handle.result
        took = time.monotonic() - began
        growth = ours.growth, theirs.growth
    print(
        f"\n{anyio_backend}, {transport}: {size / 1e6:.0f} MB in {took:.1f} s; "
        f"the client grew by {growth[0] / MIB:.1f} MiB, the host by {growth[1] / MIB:.1f} MiB; "
        f"the command was held back after {ahead / MIB:.1f} MiB"
    )
    assert ahead < AHEAD
    assert size == numbers.size
    assert digest == numbers.digest()
    assert result.missing == ()
    assert result.exit_code == 0
    assert growth[1] < HOST_GROWTH
    if BOUNDED:
        check_kept(result, numbers)
        assert growth[0] < CLIENT_GROWTH


async def test_a_command_that_is_held_back_can_be_killed(
    own_host: OwnHost, transport: str, anyio_backend: str
) -> None:
    """Its reader reads on then, to the end."""
    patience = ExecTimeouts(kill=1.5)
    async with (
        client_of(own_host.host, transport, exec_timeouts=patience) as client,
        client.sandbox() as sandbox,
        await sandbox.run("yes", wait=False, timeout=0) as handle,
    ):
        await anext(handle)
        await wait_until_held_back(sandbox, handle)
        await handle.kill()
        assert (await handle.result).exit_code == 137


def client_of(host: LocalHost, transport: str, **settings: Any) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        **settings,
        api_endpoint=host.endpoint,
        api_key=host.api_key,
        trust_env=False,
        exec_transport=transport,  # type: ignore[arg-type]
    )


async def wait_until_held_back(sandbox: AsyncSandbox, handle: AsyncCommandHandle) -> int:
    """Nobody reads, so the command has to stop. Returns how many bytes it has written by then."""
    before, written = -1, 0
    with anyio.fail_after(30):
        while written == 0 or written > before:
            before = written
            counters = (await sandbox.run(["cat", f"/proc/{handle.pid}/io"])).stdout
            written = int(counters.partition("wchar: ")[2].split()[0])
            await anyio.sleep(REST_SECONDS)
    return written


async def read_all(handle: AsyncCommandHandle) -> tuple[int, str]:
    """Iterate over all output, with rests. Returns its size and hash."""
    digest, size, rest_at = hashlib.sha256(), 0, REST_EVERY
    with anyio.fail_after(300):
        async for chunk in handle:
            assert chunk.stream == "stdout"
            assert chunk.offset == size, "a piece is missing, or came twice"
            data = chunk.data.encode()
            digest.update(data)
            size += len(data)
            if size >= rest_at:
                rest_at += REST_EVERY
                await anyio.sleep(REST_SECONDS)
    return size, digest.hexdigest()


def check_kept(result: ExecutionResult, numbers: Numbers) -> None:
    """The head and the tail, and the truth about what is between them."""
    (omitted,) = result.omitted
    kept = result.stdout.encode()
    tail = numbers.size - omitted.end
    assert omitted.stream == "stdout"
    assert omitted.start + tail == len(kept) <= KEPT_BYTES
    assert len(kept) > KEPT_BYTES - 10
    assert kept[: omitted.start] == numbers.head(omitted.start)
    assert kept[omitted.start :] == numbers.tail(tail)
