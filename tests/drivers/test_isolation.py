"""What code in a sandbox cannot do to this machine, tried through the client."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost

pytestmark = pytest.mark.anyio

PASSWORDS = Path("/etc/passwd").read_bytes()


@pytest.fixture(autouse=True)
def isolated(host: LocalHost) -> None:
    assert host.isolation == "namespaces", "these tests need a host that isolates"


async def test_the_hosts_secrets_home_processes_and_ports_are_out_of_reach(
    client: AsyncSandboxClient, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for you")
    home = Path.home()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        attempts = {
            "the host's password hashes": "cat /etc/shadow",
            "a private file of the host": f"cat {secret}",
            "writing to the host's files": f"echo x > {tmp_path}/sandbox-was-here",
            "writing to the system": "echo x > /usr/sandbox-was-here",
            "a host process": f"ls /proc/{os.getpid()}/exe",
            "a port on host loopback": f"exec 3<>/dev/tcp/127.0.0.1/{port}",
            "the network": "exec 3<>/dev/tcp/192.0.2.1/80",
            "the kernel's settings": "echo x > /proc/sys/kernel/core_pattern",
            "mounting": "mount -t tmpfs none /mnt",
        }
        async with client.sandbox() as sandbox:
            for what, command in attempts.items():
                result = await sandbox.run(command, timeout=20)
                assert not result.success, f"{what}: {result.stdout}"
                assert "not for you" not in result.stdout
            # It has a home of the same name, perhaps; what it writes there stays with it.
            await sandbox.run(f"echo x > {home}/sandbox-was-here")
            pids = (await sandbox.run("ls /proc | grep -c '^[0-9]'")).stdout
            assert int(pids) < 20
    assert not (home / "sandbox-was-here").exists()


async def test_two_sandboxes_share_nothing(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as one, client.sandbox() as other:
        await one.write("/tmp/mine", "x")
        await one.write("/home/user/mine", "x")
        handle = await one.run("sleep 1000", wait=False)
        assert (await other.run("ls /tmp/mine /home/user/mine")).exit_code == 2
        assert (await other.run("pgrep -x sleep")).stdout == ""
        await handle.kill()


async def test_files_are_resolved_inside_the_sandbox(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.run("ln -s / root; ln -s ../../../../etc up; ln -s /etc/hostname name")
        assert await sandbox.read("name") == await sandbox.read("/etc/hostname")
        inside = await sandbox.read("../../../../../etc/passwd")
        assert inside != PASSWORDS
        await sandbox.write("root/written", "through a link")
        assert (await sandbox.run("cat /written")).stdout == "through a link"
        assert not await anyio.Path("/written").exists()


async def test_deleting_a_sandbox_ends_its_processes(client: AsyncSandboxClient) -> None:
    sandbox = await client.create_sandbox()
    marker = f"sleep 98765{os.getpid()}"
    handle = await sandbox.run(f"exec {marker}", wait=False)
    with anyio.fail_after(20):
        while not _running(marker):  # the shell may not have got there yet
            await anyio.lowlevel.checkpoint()
    await sandbox.delete()
    assert not _running(marker)
    handle.close()


def _running(command: str) -> bool:
    wanted = command.replace(" ", "\0").encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().startswith(wanted):
                    return True
            except OSError:
                continue
    return False
