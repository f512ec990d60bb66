"""`sandbox tunnel`, as a person types it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost

from ._tunnels import ECHO, NOBODY, serving_ports

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with serving_ports(client) as sandbox:
        yield sandbox


@contextlib.contextmanager
def command(host: LocalHost, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {
        "LANGSMITH_ENDPOINT": host.endpoint,
        "LANGSMITH_API_KEY": host.api_key,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox_anyio", "tunnel", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say_hello(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(100), b""))


async def test_a_tunnel_lasts_until_it_is_interrupted(
    host: LocalHost, sandbox: AsyncSandbox
) -> None:
    def story() -> None:
        with command(host, sandbox.name, f"{ECHO}:0") as process:
            assert process.stdout is not None
            local, _, remote = process.stdout.readline().strip().partition(" -> ")
            assert remote == f"{sandbox.name}:{ECHO}"
            for _ in range(2):
                assert say_hello(int(local.removeprefix("127.0.0.1:"))) == b"hello"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 128 + signal.SIGINT
            assert process.stderr is not None
            assert process.stderr.read() == ""

    await anyio.to_thread.run_sync(story)


async def test_why_a_connection_was_reset_is_said(host: LocalHost, sandbox: AsyncSandbox) -> None:
    def story() -> None:
        with command(host, sandbox.name, f"{NOBODY}:0") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            local = process.stdout.readline().partition(" -> ")[0]
            with pytest.raises(ConnectionError):
                say_hello(int(local.removeprefix("127.0.0.1:")))
            assert f"nothing listens on port {NOBODY}" in process.stderr.readline()

    await anyio.to_thread.run_sync(story)


async def test_what_cannot_be(host: LocalHost, sandbox: AsyncSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, status, words in [
            ((sandbox.name, f"80:{port}"), 1, f"127.0.0.1 port {port}"),
            (("no-such-sandbox", "80:0"), 1, "no-such-sandbox"),
            ((sandbox.name, "0"), 2, "'0' is not a port"),
            ((sandbox.name, "80:x"), 2, "'x' is not a port"),
            ((sandbox.name, "80:65536"), 2, "'65536' is not a port"),
        ]:
            with command(host, *arguments) as process:
                _, said = await anyio.to_thread.run_sync(process.communicate)
            assert (process.returncode, words in said) == (status, True), said
