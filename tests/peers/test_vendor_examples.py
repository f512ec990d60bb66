"""What users of the vendor's write, unchanged but for the import, with either package.

Every example is one function, which takes all it needs from the package it is given: that is the
one line in which a user's program differs.
"""

from __future__ import annotations

import importlib
import inspect
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from sandbox_anyio.local.launch import LocalHost

pytest.importorskip("langsmith.sandbox", reason="the vendor's package is part of the extra 'test'")

pytestmark = [
    # It is raised where the vendor reads a tunnel, and ends its session.
    pytest.mark.filterwarnings("ignore:connect.. must be used as a context:DeprecationWarning"),
]

Example = Callable[[ModuleType, dict[str, str]], Any]


def use_a_context_manager(package: ModuleType, where: dict[str, str]) -> None:
    SandboxClient = package.SandboxClient  # noqa: N806 - as it is imported
    with SandboxClient(**where) as client, client.sandbox() as sb:
        result = sb.run("echo 'Hello'; echo 'oops' >&2; exit 3")
        assert (result.stdout, result.stderr, result.exit_code) == ("Hello\n", "oops\n", 3)
        assert not result.success
        sb.write("/home/user/script.py", "print(6 * 7)")
        assert sb.run("python3 /home/user/script.py").stdout == "42\n"
        assert sb.read("/home/user/script.py") == b"print(6 * 7)"
        name = sb.name
    client = SandboxClient(**where)
    try:
        client.get_sandbox(name)
    except package.ResourceNotFoundError as error:
        assert error.resource_type == "sandbox"
    else:
        raise AssertionError("the sandbox is still there")
    finally:
        client.close()


async def use_an_async_context_manager(package: ModuleType, where: dict[str, str]) -> None:
    async with package.AsyncSandboxClient(**where) as client, await client.sandbox() as sb:
        result = await sb.run("echo 'Hello'")
        assert result.stdout == "Hello\n"
        handle = await sb.run("echo one; echo two", wait=False)
        assert "".join([chunk.data async for chunk in handle]) == "one\ntwo\n"
        assert (await handle.result).success


def keep_a_sandbox(package: ModuleType, where: dict[str, str]) -> None:
    client = package.SandboxClient(**where)
    sandbox = client.create_sandbox(name="kept", labels={"team": "a"})
    try:
        assert client.get_sandbox("kept").id == sandbox.id
        assert "kept" in [each.name for each in client.list_sandboxes()]
        assert client.get_sandbox_status("kept").status == "ready"
        assert client.update_sandbox("kept", idle_ttl_seconds=1200).idle_ttl_seconds == 1200
        sandbox.stop()
        assert sandbox.status == "stopped"
        sandbox.start()
        assert sandbox.run("true").success
    finally:
        client.delete_sandbox("kept")
        client.close()


def resolve_by_snapshot_name(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client:
        with client.sandbox() as sb:
            sb.write("/home/user/marker", "was here")
            snapshot = sb.capture_snapshot("my-env")
        assert snapshot.status == "ready"
        try:
            assert snapshot.id in [each.id for each in client.list_snapshots(name_contains="env")]
            assert client.get_snapshot(snapshot.id).name == "my-env"
            with client.sandbox(snapshot_name="my-env") as sb:
                assert sb.snapshot_id == snapshot.id
                assert sb.read("/home/user/marker") == b"was here"
        finally:
            client.delete_snapshot(snapshot.id)


def stream_by_callbacks(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        heard: list[tuple[str, str]] = []
        result = sb.run(
            "echo out; echo err >&2",
            timeout=600,
            on_stdout=lambda s: heard.append(("out", s)),
            on_stderr=lambda s: heard.append(("err", s)),
        )
        assert sorted(heard) == [("err", "err\n"), ("out", "out\n")]
        assert result.stdout == "out\n"


def stream_by_iteration(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        handle = sb.run("for i in 1 2 3; do echo line $i; done", timeout=600, wait=False)
        assert handle.command_id and handle.pid
        lines = ""
        for chunk in handle:
            assert chunk.stream == "stdout"
            lines += chunk.data
        assert lines == "line 1\nline 2\nline 3\n"
        assert handle.result.exit_code == 0
        assert handle.result.stdout == lines
        assert list(handle) == []


def kill_from_another_thread(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        handle = sb.run("echo begun; exec sleep 4712", timeout=0, wait=False)
        seen, killers = [], []
        try:
            for chunk in handle:
                seen.append(chunk.data)
                killers.append(threading.Thread(target=handle.kill))
                killers[-1].start()
        except package.SandboxConnectionError:
            pass  # there: its socket is closed before the end is heard
        for killer in killers:
            killer.join()
        assert seen == ["begun\n"]
        watch = f"timeout 20 tail --pid={handle.pid} -s 0.05 -f /dev/null; pgrep -f [s]leep.4712"
        assert sb.run(watch).stdout == ""


def send_input(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        handle = sb.run(
            "read name; echo Hello $name; cat", wait=False, close_input=False, timeout=60
        )
        handle.send_input("World\n")
        for chunk in handle:
            if chunk.data.endswith("Hello World\n"):
                handle.send_input("the rest")
                handle.close_input()
        assert handle.result.stdout == "Hello World\nthe rest"


def reconnect_to_a_command(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        handle = sb.run(
            "echo early; read -r line; echo late", wait=False, close_input=False, timeout=60
        )
        for chunk in handle:
            assert chunk.data == "early\n"
            break
        handle.send_input("go\n")
        again = sb.reconnect(
            handle.command_id,
            stdout_offset=handle.last_stdout_offset,
            stderr_offset=handle.last_stderr_offset,
        )
        assert again.result.stdout == "late\n"


def open_a_tunnel(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        handle = serve_files(sb, 5432)
        port = free_port()
        with sb.tunnel(remote_port=5432, local_port=port) as tunnel:
            assert (tunnel.local_port, tunnel.remote_port) == (port, 5432)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=20) as page:
                assert page.read() == b"from inside"
        port = free_port()
        tunnel = sb.tunnel(5432, local_port=port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=20) as page:
            assert page.read() == b"from inside"
        tunnel.close()
        handle.kill()


def reach_a_service(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        handle = serve_files(sb, 3000)
        svc = sb.service(port=3000)
        page = svc.get("/hello")
        assert (page.status_code, page.text) == (200, "from inside")
        assert svc.get("/nowhere").status_code == 404
        request = urllib.request.Request(
            f"{svc.service_url.rstrip('/')}/hello",
            headers={"X-Langsmith-Sandbox-Service-Token": svc.token},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.read() == b"from inside"
        assert svc.expires_at and svc.browser_url
        handle.kill()


def look_at_files(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        sb.write("/home/user/src/a.py", "import os\n")
        sb.write("/home/user/src/b.txt", b"import nothing\n")
        assert sb.stat("/home/user/src/a.py").size_bytes == 10
        assert sb.read_range("/home/user/src/a.py", start=0, end=5).content == b"import"
        assert [each.path for each in sb.glob("*.py", "/home/user/src")] == ["a.py"] or [
            each.path for each in sb.glob("*.py", "/home/user/src")
        ] == ["/home/user/src/a.py"]
        assert len(sb.ls("/home/user/src")) == 2
        assert [each.line for each in sb.grep("os", "/home/user/src", glob="*.py")] == [1]


def handle_errors(package: ModuleType, where: dict[str, str]) -> None:
    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        for wrong, error in (
            (lambda: sb.read("/nowhere"), package.ResourceNotFoundError),
            (lambda: sb.run("sleep 1000", timeout=1), package.CommandTimeoutError),
            (lambda: sb.run("true", wait=False, on_stdout=print), ValueError),
            (lambda: client.create_sandbox(name=sb.name), package.SandboxClientError),
            (lambda: client.get_snapshot("none"), package.ResourceNotFoundError),
        ):
            try:
                wrong()
            except error:
                pass
            else:
                raise AssertionError(f"{error} was expected")


def change_flavours(package: ModuleType, where: dict[str, str]) -> None:
    import asyncio

    async def use(sandbox: Any, client: Any) -> str:
        async with client:
            return str((await sandbox.run("echo async")).stdout)

    with package.SandboxClient(**where) as client, client.sandbox() as sb:
        other = client.to_async()
        assert asyncio.run(use(sb.to_async(client=other), other)) == "async\n"
        assert sb.run("echo sync").stdout == "sync\n"


def serve_files(sb: Any, port: int) -> Any:
    """A web server in the sandbox, which listens."""
    sb.write("/home/user/www/hello", "from inside")
    command = f"cd www && exec python3 -u -m http.server {port} --bind 127.0.0.1"
    handle = sb.run(command, wait=False, timeout=0)
    for chunk in handle:
        if "Serving" in chunk.data:
            break
    return handle


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


EXAMPLES: list[Example] = [
    use_a_context_manager,
    use_an_async_context_manager,
    keep_a_sandbox,
    resolve_by_snapshot_name,
    stream_by_callbacks,
    stream_by_iteration,
    kill_from_another_thread,
    send_input,
    reconnect_to_a_command,
    open_a_tunnel,
    reach_a_service,
    look_at_files,
    handle_errors,
    change_flavours,
]


@pytest.fixture
def where(host: LocalHost) -> Iterator[dict[str, str]]:
    yield {"api_endpoint": host.endpoint, "api_key": host.api_key}


@pytest.mark.parametrize("package", ["langsmith.sandbox", "sandbox_anyio"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.__name__)
def test_the_example_runs(package: str, example: Example, where: dict[str, str]) -> None:
    outcome = example(importlib.import_module(package), where)
    if inspect.iscoroutine(outcome):
        import asyncio

        asyncio.run(outcome)
