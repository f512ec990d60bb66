"""Running the embedded host: one process, one loopback port, gone without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Literal

import anyio
import attrs
from anyio.abc import TaskStatus

from ..background import background_tasks
from ..log import local_log
from .places import Places
from .runtime import Isolation, Runtime, open_runtime
from .runtime.base import RuntimeUnavailableError
from .service import ExecPatience, HostService
from .store import Store

GRACE_SECONDS = 5
DRAIN_SECONDS = 2.0
_LOCK_PATIENCE = 2.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@attrs.frozen(kw_only=True)
class ServeOptions:
    """How to serve.

    :ivar port: 0 lets the system choose.
    :ivar api_key: the key to accept; None invents one.
    :ivar state_dir: where records and files are kept; None: a directory that is deleted at the end.
    :ivar isolation: ``auto``: the strongest there is, or refuse; ``none``: no protection.
    :ivar until_eof: end when standard input ends, as it does when the parent dies.
    :ivar heartbeat: seconds of silence before an event stream gets a sign of life.
    :ivar ping_interval: seconds between pings on a WebSocket.
    :ivar ping_timeout: seconds after which a ping that is not answered ends it.
    """

    port: int = 0
    api_key: str | None = attrs.field(default=None, repr=False)
    state_dir: Path | None = None
    isolation: Literal["auto", "none"] = "auto"
    until_eof: bool = False
    heartbeat: float = 15.0
    ping_interval: float = 20.0
    ping_timeout: float = 60.0


async def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT (or the end of standard input); then drain and return.

    When ready, one line of JSON is printed: ``endpoint``, ``api_key`` and ``isolation``.

    :raises RuntimeUnavailableError: no sandbox can be built here, or another host uses the
        state directory; the message says why.
    :raises OSError: the port is taken.
    """
    api_key = options.api_key or secrets.token_urlsafe(24)
    listener = _listen(options.port)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        state_dir = stack.enter_context(_state_directory(options.state_dir))
        await stack.enter_async_context(_only_host(state_dir))
        runtime = await stack.enter_async_context(open_runtime(options.isolation, state_dir))
        store = Store(state_dir / "host.sqlite")
        stack.callback(store.close)
        patience = ExecPatience(
            heartbeat=options.heartbeat, stuck=options.ping_interval + options.ping_timeout
        )
        service = await stack.enter_async_context(
            _service(runtime, store, state_dir, api_key, patience)
        )
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready = functools.partial(_announce, endpoint, api_key, runtime.isolation)
        await _run_server(service, listener, options, ready)


def _listen(port: int) -> socket.socket:
    # Named as TCP, because asyncio turns off Nagle's delay only where it reads that name.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _state_directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield wanted.resolve()
        return
    path = Path(tempfile.mkdtemp(prefix="sandbox-host-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.asynccontextmanager
async def _only_host(state_dir: Path) -> AsyncIterator[None]:
    """Hold the state directory: records that two hosts write are nobody's.

    The kernel lets go when this process ends, however it does.
    """
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with anyio.move_on_after(_LOCK_PATIENCE):
            while not _locked(descriptor):  # noqa: ASYNC110 - nobody tells when its holder dies
                await anyio.sleep(0.02)
        if not _locked(descriptor):
            raise RuntimeUnavailableError(
                f"another host uses the state directory {state_dir}; give each one of its own"
            )
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def _service(
    runtime: Runtime, store: Store, state_dir: Path, api_key: str, patience: ExecPatience
) -> AsyncIterator[HostService]:
    async with background_tasks() as tasks:
        service = HostService(
            runtime, store, Places(state_dir), tasks, api_keys=(api_key,), patience=patience
        )
        await service.recover()
        tasks.start_soon(service.run_timers)
        yield service


def _announce(endpoint: str, api_key: str, isolation: Isolation) -> None:
    if isolation.label == "none":
        warning = (
            "WARNING: isolation is off. Commands run as ordinary processes of this machine, "
            "with its files and its network."
        )
        print(warning, file=sys.stderr, flush=True)
    ready = {"endpoint": endpoint, "api_key": api_key, "isolation": isolation.label}
    print(json.dumps(ready), flush=True)


async def _run_server(
    service: HostService,
    listener: socket.socket,
    options: ServeOptions,
    ready: Callable[[], None],
) -> None:
    from .asgi import HostApp

    try:
        import uvicorn
    except ImportError:
        raise ImportError(
            "the embedded host needs the extra 'local': pip install 'sandbox-proto[local]'"
        ) from None

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are ours: uvicorn would raise them again after it has drained

    config = uvicorn.Config(
        HostApp(service),
        http="h11",
        ws="wsproto",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # it hides who reads and who does not (protocol/09)
        ws_ping_interval=options.ping_interval,
        ws_ping_timeout=options.ping_timeout,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    server = Server(config)
    async with background_tasks() as watchers:

        async def stop() -> None:
            # First those who are attached are told in their own words: uvicorn would only hang up.
            await service.drain(DRAIN_SECONDS)
            server.should_exit = True

        async def stop_on_signal(*, task_status: TaskStatus[None]) -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                task_status.started()
                async for number in signals:
                    local_log.info("signal %s: draining", number)
                    await stop()

        async def stop_on_eof() -> None:
            descriptor = sys.stdin.fileno()
            os.set_blocking(descriptor, False)
            while True:
                await anyio.wait_readable(descriptor)
                if not os.read(descriptor, 4096):
                    break
            await stop()

        await watchers.start(stop_on_signal)
        if options.until_eof:
            watchers.start_soon(stop_on_eof)
        ready()
        await server.serve(sockets=[listener])
