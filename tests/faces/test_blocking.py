"""The synchronous face where it meets the world: threads, interrupts, loops, forks, ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import pytest
import trio

from sandbox_anyio import (
    AsyncSandboxClient,
    Sandbox,
    SandboxClient,
    SandboxConnectionError,
    ServiceURL,
    Tunnel,
    open_local_host,
)
from sandbox_anyio.local.launch import LocalHost

PATIENCE = 20


@pytest.fixture
def make(where: dict[str, Any]) -> Callable[[], SandboxClient]:
    """Makes clients of the embedded host."""
    return lambda: SandboxClient(**where)


@pytest.fixture
def sandbox(make: Callable[[], SandboxClient]) -> Iterator[Sandbox]:
    with make() as client, client.sandbox() as sandbox:
        yield sandbox


def is_running(sandbox: Sandbox, arguments: str) -> bool:
    return sandbox.run(f"pgrep -f '[{arguments[0]}]{arguments[1:]}'").success


def loop_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "sandbox client"]


# --- threads --------------------------------------------------------------------------


def test_callbacks_run_in_the_callers_thread_and_may_call_the_client(sandbox: Sandbox) -> None:
    heard: list[tuple[threading.Thread, str]] = []

    def hear(text: str) -> None:
        inner = sandbox.run("echo inner", on_stdout=lambda inner: heard.append((here(), inner)))
        heard.append((here(), text + inner.stdout))

    here = threading.current_thread
    sandbox.run("echo outer", on_stdout=hear)
    assert heard == [(here(), "inner\n"), (here(), "outer\ninner\n")]


def test_sources_and_progress_run_in_the_callers_thread(sandbox: Sandbox) -> None:
    seen: set[threading.Thread] = set()

    def pieces() -> Iterator[bytes]:
        for piece in (b"a", b"b"):
            seen.add(threading.current_thread())
            yield piece

    def progress(done: int, total: int | None) -> None:
        seen.add(threading.current_thread())
        sandbox.stat("/etc/hostname")

    sandbox.upload(pieces(), "x", progress)
    with sandbox.open_write("y", progress=progress) as file:
        file.write("one")
        file.write("two")
    assert seen == {threading.current_thread()}
    assert sandbox.read("y") == b"onetwo"


def test_a_slow_callback_holds_back_nobody_else(sandbox: Sandbox) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        entered.set()
        assert go_on.wait(PATIENCE)

    other = threading.Thread(target=lambda: sandbox.run("echo", on_stdout=slow))
    other.start()
    assert entered.wait(PATIENCE)
    assert sandbox.run("echo free").stdout == "free\n"
    go_on.set()
    other.join()


def test_what_would_have_to_be_awaited_is_refused(sandbox: Sandbox) -> None:
    async def hear(_: object) -> None: ...

    async def pieces() -> Any:
        yield b""

    with pytest.raises(TypeError, match="ordinary function"):
        sandbox.run("echo", on_stdout=hear)
    with pytest.raises(TypeError, match="asynchronous client"):
        sandbox.upload(pieces(), "x")  # type: ignore[arg-type]


def test_many_threads_begin_at_once_with_one_loop(make: Callable[[], SandboxClient]) -> None:
    together, names = threading.Barrier(8), []

    def use() -> None:
        with make() as client:
            together.wait(PATIENCE)
            client.list_sandboxes()
            together.wait(PATIENCE)
            names.append(len(loop_threads()))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == [1] * 8


# --- running loops --------------------------------------------------------------------


def test_inside_an_asyncio_coroutine(sandbox: Sandbox) -> None:
    async def cell() -> str:
        with sandbox.tunnel(9, local_port="any"):
            return sandbox.run("echo asyncio").stdout

    assert asyncio.run(cell()) == "asyncio\n"


def test_inside_trio(sandbox: Sandbox) -> None:
    async def cell() -> str:
        return sandbox.run("echo trio").stdout

    assert trio.run(cell) == "trio\n"


def test_a_first_call_inside_trio_makes_no_trio_things(where: dict[str, Any]) -> None:
    async def cell() -> int:
        with (
            SandboxClient(**where) as client,
            client.sandbox() as sandbox,
            sandbox.tunnel(9, local_port="any") as tunnel,
        ):
            return tunnel.remote_port

    assert trio.run(cell) == 9


# --- Ctrl-C ---------------------------------------------------------------------------

_RUN = """
import sys
from sandbox_anyio import SandboxClient
endpoint, key, name = sys.argv[1:]
with SandboxClient(api_endpoint=endpoint, api_key=key, trust_env=False) as client:
    sandbox = client.get_sandbox(name)
    sandbox.run("echo begun; sleep 4721 & sleep 4722", timeout=0,
                on_stdout=lambda text: print(text, end="", flush=True))
"""


def script(text: str, sandbox: Sandbox, host: LocalHost) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, host.endpoint, host.api_key, sandbox.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_kills_the_command_and_ends_the_program(sandbox: Sandbox, host: LocalHost) -> None:
    with script(_RUN, sandbox, host) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        began = monotonic()
        assert process.wait(PATIENCE) != 0
        assert monotonic() - began < 5
        assert process.stderr.read().rstrip().endswith("KeyboardInterrupt")
    assert not is_running(sandbox, "sleep 472")


def test_ctrl_c_in_a_callback_kills_the_command(sandbox: Sandbox) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sandbox.run("echo begun; sleep 4723", timeout=0, on_stdout=interrupt)
    assert not is_running(sandbox, "sleep 4723")


def test_ctrl_c_in_a_write_changes_nothing(sandbox: Sandbox) -> None:
    with pytest.raises(KeyboardInterrupt), sandbox.open_write("unwritten") as file:
        file.write("a beginning")
        raise KeyboardInterrupt
    assert not sandbox.run("test -e unwritten").success


class _NeverCreates(BaseHTTPRequestHandler):
    """Interrupts whoever creates, and answers only what undoes it."""

    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append("POST")
        os.kill(os.getpid(), signal.SIGINT)  # to the main thread, as that of a terminal
        self.connection.recv(1)  # until the client hangs up

    def do_GET(self) -> None:
        made = {"name": "interrupted", "created_at": datetime.now(UTC).isoformat()}
        body = json.dumps(made).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_DELETE(self) -> None:
        self.asked.append("DELETE")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_ctrl_c_in_a_creation_leaves_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    _NeverCreates.asked = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadingHTTPServer(("127.0.0.1", 0), _NeverCreates) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            client = SandboxClient(api_endpoint=endpoint, api_key="k", trust_env=False)
            with client, pytest.raises(KeyboardInterrupt):
                client.create_sandbox(name="interrupted")
        finally:
            signal.signal(signal.SIGINT, before)
            server.shutdown()
    assert _NeverCreates.asked == ["POST", "DELETE"]


# --- the end of Python ----------------------------------------------------------------

_BEGIN = """
import sys, threading
from sandbox_anyio import SandboxClient
endpoint, key, name = sys.argv[1:]
client = SandboxClient(api_endpoint=endpoint, api_key=key, trust_env=False)
sandbox = client.get_sandbox(name)
"""
_ENDS = {
    "nothing is closed": "handle = sandbox.run('sleep 1', wait=False); client.list_sandboxes()",
    "after a transfer of a directory": """
import os
os.mkdir(sys.argv[3])
sandbox.upload_dir(sys.argv[3], '/tmp/d')
""",
    "in an open tunnel": "tunnel = sandbox.tunnel(9, local_port='any')",
    "in a block": "file = sandbox.open_write('never'); file.__enter__().write('x')",
    "in an iteration": "chunks = iter(sandbox.run('yes', wait=False)); next(chunks)",
    "amid a call of another thread": """
begun = threading.Event()
def call():
    try:
        sandbox.run("echo; sleep 4724", timeout=0, on_stdout=lambda _: begun.set())
    except Exception:
        pass  # Python ends
threading.Thread(target=call, daemon=True).start()
begun.wait()
""",
}


@pytest.mark.parametrize("end", _ENDS)
def test_python_ends_at_once(end: str, sandbox: Sandbox, host: LocalHost, tmp_path: Any) -> None:
    process = subprocess.Popen(
        [
            *[sys.executable, "-W", "error", "-c", _BEGIN + _ENDS[end] + "\nprint('done')"],
            *[host.endpoint, host.api_key, sandbox.name],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "done\n", process.stderr.read()
        began = monotonic()
        assert (process.wait(PATIENCE), process.stderr.read()) == (0, "")
        assert monotonic() - began < 5
    assert not is_running(sandbox, "sleep 4724")


# --- forks ----------------------------------------------------------------------------

_FORK = """
import json, os, sys
from sandbox_anyio import SandboxClient, SandboxClientError
endpoint, key, name = sys.argv[1:]
unused = SandboxClient(api_endpoint=endpoint, api_key=key, trust_env=False)
client = SandboxClient(api_endpoint=endpoint, api_key=key, trust_env=False)
told = {}
with client.sandbox() as sandbox, sandbox.tunnel(9, local_port="any"):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sandbox.run("true")
        except SandboxClientError as error:
            told["error"] = str(error)
        told["unused"] = unused.get_sandbox(name).name
        with SandboxClient(api_endpoint=endpoint, api_key=key, trust_env=False) as own:
            told["own"] = own.get_sandbox(name).run("echo child").stdout
        client.close()
        os.write(writing, json.dumps(told).encode())
        sys.exit()  # leaves the blocks, and runs what is to be run at exit
    told = json.loads(os.read(reading, 9999))
    _, told["status"] = os.waitpid(child, 0)
    told["parent"] = sandbox.run("echo parent").stdout
client.close()
print(json.dumps(told))
"""


def test_a_forked_process_is_told_so_and_leaves_the_parents_things_alone(
    sandbox: Sandbox, host: LocalHost
) -> None:
    with script(_FORK, sandbox, host) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    told = json.loads(out)
    assert "make a new client in the child" in told.pop("error")
    assert told == {
        "unused": sandbox.name,
        "own": "child\n",
        "parent": "parent\n",
        "status": 0,
    }


# --- closing --------------------------------------------------------------------------


def test_a_closed_client_says_so(make: Callable[[], SandboxClient]) -> None:
    client = make()
    sandbox = client.create_sandbox()
    handle = sandbox.run("read word", wait=False, close_input=False)
    sandbox.delete()
    client.close()
    client.close()
    for late in (client.list_sandboxes, handle.kill, lambda: sandbox.read("x")):
        with pytest.raises(SandboxConnectionError, match="closed: make a new one"):
            late()


def test_closing_ends_the_calls_of_other_threads(make: Callable[[], SandboxClient]) -> None:
    client = make()
    sandbox = client.create_sandbox()
    begun, errors = threading.Event(), []

    def wait() -> None:
        try:
            sandbox.run("echo; sleep 1000", timeout=0, on_stdout=lambda _: begun.set())
        except SandboxConnectionError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(PATIENCE)
    client.close()
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and len(errors) == 1
    with make() as other:
        other.delete_sandbox(sandbox.name)


def test_the_thread_ends_with_the_last_client(make: Callable[[], SandboxClient]) -> None:
    with make() as first:
        first.list_sandboxes()
        [thread] = loop_threads()
        with make() as second:
            second.list_sandboxes()
        first.list_sandboxes()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_thread_ends_when_nobody_has_the_client_any_more(
    make: Callable[[], SandboxClient],
) -> None:
    client = make()
    sandbox = client.create_sandbox()
    del client
    assert sandbox.run("echo kept").stdout == "kept\n"  # by what was made of it
    handle = sandbox.run("true", wait=False)
    [thread] = loop_threads()
    sandbox.delete()
    del sandbox, handle
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_client_is_free_after_an_error_without_the_garbage_collector(
    make: Callable[[], SandboxClient],
) -> None:
    client = make()
    with pytest.raises(SandboxConnectionError):
        SandboxClient(
            api_endpoint="http://127.0.0.1:9", api_key="k", max_retries=0, trust_env=False
        ).list_sandboxes()
    client.close()
    gc.collect()
    for thread in loop_threads():
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_what_is_made_without_a_client_has_a_thread_for_itself(
    sandbox: Sandbox, host: LocalHost
) -> None:
    handle = sandbox.run("exec python3 -um http.server 8800", wait=False, timeout=0)
    handle.wait_for_output("Serving", PATIENCE)
    minted = sandbox.service(8800)
    service = ServiceURL.from_dict(
        {
            "browser_url": minted.browser_url,
            "service_url": minted.service_url,
            "token": minted.token,
            "expires_at": minted.expires_at,
        }
    )
    assert service.get("/").status_code == 200
    service.close()
    assert sandbox.dataplane_url is not None
    with Tunnel(sandbox.dataplane_url, host.api_key, 8800, local_port="any") as tunnel:
        assert tunnel.local_port
    with pytest.raises(ValueError, match="remote_port"):
        Tunnel(sandbox.dataplane_url, host.api_key, 0)
    handle.kill()


# --- conversions, the embedded host ---------------------------------------------------


def test_conversions_have_connections_of_their_own(where: dict[str, Any]) -> None:
    async def there_and_back() -> None:
        async with AsyncSandboxClient(**where, headers={"X-Own": "1"}) as first:
            sandbox = await first.create_sandbox()
            blocking = sandbox.to_sync()
            assert blocking == Sandbox.from_record(sandbox, blocking._client, auto_delete=False)
            with blocking:
                assert blocking.run("echo sync").stdout == "sync\n"
            async with blocking._client.to_async() as second:
                assert second.config == first.config
                again = blocking.to_async(client=second)
                async with again:
                    assert (await again.run("echo async")).stdout == "async\n"
            blocking._client.close()
            await sandbox.delete()

    asyncio.run(there_and_back())


def test_an_embedded_host_for_blocking_code() -> None:
    with (
        open_local_host() as host,
        SandboxClient(api_endpoint=host.endpoint, api_key=host.api_key) as client,
        client.sandbox() as sandbox,
    ):
        assert sandbox.run("echo hi").stdout == "hi\n"
    with pytest.raises(ZeroDivisionError), open_local_host():
        raise ZeroDivisionError


def test_sockets_stand_open_here_too(host: LocalHost) -> None:
    where: dict[str, Any] = {"api_endpoint": host.endpoint, "api_key": host.api_key}
    with SandboxClient(**where, prewarm=1) as client, client.sandbox() as sandbox:
        kept = client._async._prewarming
        assert kept is not None
        sandbox.run("true")
        for _ in range(1000):
            if kept._sockets:
                break
            client.get_sandbox(sandbox.name)  # which takes some time
        assert kept._sockets
        assert sandbox.run("cat", input="hello").stdout == "hello"
    assert not kept._sockets
