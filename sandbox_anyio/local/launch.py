"""An embedded host of one's own, for the length of a block."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Literal

import anyio
import attrs
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

from ..background import background_tasks
from ..log import local_log
from .runtime.base import RuntimeUnavailableError

START_PATIENCE = 60.0
STOP_PATIENCE = 15.0
_MAX_READY_LINE = 64 * 1024


@attrs.frozen
class LocalHost:
    """A running embedded host.

    :ivar endpoint: for `AsyncSandboxClient(api_endpoint=...)`, or ``LANGSMITH_ENDPOINT``.
    :ivar api_key: the only key it accepts.
    :ivar isolation: what stands between its sandboxes and this machine: ``namespaces``,
        or ``none`` if that was asked for.
    """

    endpoint: str
    api_key: str = attrs.field(repr=False)
    isolation: str


def open_local_host(
    *, isolation: Literal["auto", "none"] = "auto", state_dir: str | Path | None = None
) -> HostOpening:
    """Start an embedded host as a child process; it ends with the block, and with this process.

    ``async with open_local_host() as host``, or ``with`` where code blocks.

    :param isolation: ``auto``: the strongest there is, or an error; ``none``: commands run
        unprotected on this machine.
    :param state_dir: where records and files are kept; default: they go with the block.
    :raises RuntimeUnavailableError: no sandbox can be built here; the message says what to
        install or to set.
    """
    return HostOpening(lambda: _run_host(isolation, state_dir))


class HostOpening:
    """What `open_local_host` returns: enter it, with ``async with`` or ``with``."""

    def __init__(self, run: Callable[[], AbstractAsyncContextManager[LocalHost]]) -> None:
        self._run = run
        self._block: AbstractAsyncContextManager[LocalHost] | None = None
        self._blocking: AbstractContextManager[LocalHost] | None = None

    async def __aenter__(self) -> LocalHost:
        self._block = self._run()
        return await self._block.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return await self._block.__aexit__(exc_type, exc, traceback)

    def __enter__(self) -> LocalHost:
        from ..blocking.local import blocking_host

        self._blocking = blocking_host(self._run)
        return self._blocking.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._blocking is not None
        return self._blocking.__exit__(exc_type, exc, traceback)


@contextlib.asynccontextmanager
async def _run_host(
    isolation: Literal["auto", "none"], state_dir: str | Path | None
) -> AsyncIterator[LocalHost]:
    command = [sys.executable, "-m", "sandbox_anyio", "serve", "--port", "0", "--until-eof"]
    command += ["--isolation", isolation]
    if state_dir is not None:
        command += ["--state", str(state_dir)]
    # A session of its own: Ctrl-C is for us first, who still need the host to clean up.
    process = await anyio.open_process(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    complaints: deque[str] = deque(maxlen=20)
    async with background_tasks() as tasks:
        try:
            assert process.stdout is not None and process.stderr is not None
            tasks.start_soon(_listen, process.stderr, complaints)
            host = await _wait_ready(process, process.stdout, complaints)
            yield host
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)


async def _wait_ready(
    process: Process, stdout: ByteReceiveStream, complaints: deque[str]
) -> LocalHost:
    lines = BufferedByteReceiveStream(stdout)
    try:
        with anyio.fail_after(START_PATIENCE):
            line = await lines.receive_until(b"\n", _MAX_READY_LINE)
    except TimeoutError:
        message = f"the embedded host was not ready within {START_PATIENCE:g} s"
        raise RuntimeUnavailableError(message) from None
    except (anyio.IncompleteRead, anyio.EndOfStream):
        await process.wait()
        with anyio.move_on_after(1):  # its last words may still be in the pipe
            while not complaints:
                await anyio.lowlevel.checkpoint()
        reason = "\n".join(complaints) or f"it exited with status {process.returncode}"
        raise RuntimeUnavailableError(f"the embedded host did not start: {reason}") from None
    ready = json.loads(line)
    return LocalHost(ready["endpoint"], ready["api_key"], ready["isolation"])


async def _listen(stderr: ByteReceiveStream, complaints: deque[str]) -> None:
    async for text in TextReceiveStream(stderr, errors="replace"):
        for line in text.splitlines():
            complaints.append(line)
            local_log.warning("host: %s", line)


async def _stop(process: Process) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    for end, patience in ((process.terminate, STOP_PATIENCE), (process.kill, math.inf)):
        with anyio.move_on_after(patience):
            await process.wait()
        if process.returncode is not None:
            break
        end()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            await stream.aclose()
