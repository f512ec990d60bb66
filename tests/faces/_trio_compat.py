"""trio's own face in the dress of the blocking one: its client, its processes, its streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from sandbox_anyio import AsyncSandbox, ExecutionResult
from sandbox_trio_compat import (
    SandboxTcpStream,
    open_sandbox_client,
    open_tcp_stream,
    run_process,
)

from ._driven import Driven, _is_asynchronous

# What `run` and `run_process` have in common; all else of `run` is the client's own business.
_SHARED = {"timeout", "env", "cwd", "input"}


@contextmanager
def open_client(**settings: Any) -> Iterator[Any]:
    """A client, opened by `open_sandbox_client`.

    Where a trace is played, commands are run as they were when it was recorded: by `run`.
    """
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(open_sandbox_client(**settings)) as client,
    ):
        yield (Driven if "replay" in settings else TrioDriven)(client, portal)


class TrioDriven(Driven):
    """An object of the client, whose sandboxes run commands by `run_process`."""

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        if isinstance(value, AsyncSandbox):
            return TrioSandbox(value, self._portal)
        return TrioDriven(value, self._portal) if _is_asynchronous(type(value)) else value


class TrioSandbox(TrioDriven):
    """A sandbox."""

    def run(self, command: Any, **options: Any) -> Any:
        """By `run_process`, if it can be."""
        if not options.keys() <= _SHARED:
            return self.__getattr__("run")(command, **options)
        if isinstance(text := options.get("input"), str):
            options["input"] = text.encode()
        done = self._portal.call(
            partial(run_process, capture_stdout=True, capture_stderr=True, check=False, **options),
            self._thing,
            command,
        )
        return ExecutionResult(done.stdout.decode(), done.stderr.decode(), done.returncode)

    def open_tcp_stream(self, port: int) -> TrioStream:
        """By `open_tcp_stream`."""
        return TrioStream(self._portal.call(open_tcp_stream, self._thing, port), self._portal)


class TrioStream:
    """A stream of trio's, by the names of the blocking face."""

    def __init__(self, stream: SandboxTcpStream, portal: BlockingPortal) -> None:
        self._stream, self._portal = stream, portal

    def send(self, data: bytes) -> None:
        self._portal.call(self._stream.send_all, data)

    def send_eof(self) -> None:
        self._portal.call(self._stream.send_eof)

    def receive(self) -> bytes:
        return self._portal.call(self._stream.receive_some)

    def close(self) -> None:
        self._portal.call(self._stream.aclose)
