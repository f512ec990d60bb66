"""Sandboxes for trio: its streams, its processes, its exceptions.

    async with open_sandbox_client() as client, client.sandbox() as sandbox:
        done = await run_process(sandbox, ["uname", "-a"], capture_stdout=True)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(run_process, sandbox, "bc", stdin=PIPE, ...))

The client is that of `sandbox_anyio`, which runs in trio as it is. Time is trio's clock, so
that `trio.testing.MockClock` moves it.
"""

from .client import open_sandbox_client
from .process import SandboxProcess, run_process
from .streams import SandboxTcpStream, open_tcp_stream

__all__ = [
    "SandboxProcess",
    "SandboxTcpStream",
    "open_sandbox_client",
    "open_tcp_stream",
    "run_process",
]
