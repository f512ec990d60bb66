"""The vendor's own clients, unchanged, against our host."""

from __future__ import annotations

import os

import pytest

from sandbox_anyio.local.launch import LocalHost

vendor = pytest.importorskip(
    "langsmith.sandbox", reason="the vendor's package is part of the extra 'test'"
)

NAMES = ["plain.bin", "with space", "grüße-日本", "100%2Fslash"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


@pytest.mark.anyio
async def test_the_asynchronous_client_tells_the_whole_story(host: LocalHost) -> None:
    content = os.urandom(1024 * 1024)
    async with vendor.AsyncSandboxClient(
        api_endpoint=host.endpoint, api_key=host.api_key
    ) as client:
        async with await client.sandbox() as sandbox:
            result = await sandbox.run("echo out; echo err >&2; exit 3", env={"A": "b"})
            assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
            for name in NAMES:
                await sandbox.write(f"/home/user/{name}", content)
                assert await sandbox.read(f"/home/user/{name}") == content
            assert sandbox.name in [box.name for box in await client.list_sandboxes()]
            assert (await client.get_sandbox_status(sandbox.name)).status == "ready"
            handle = await sandbox.run("echo a; sleep 0.1; echo b", wait=False)
            assert [chunk.data async for chunk in handle] == ["a\n", "b\n"]
            with pytest.raises(vendor.CommandTimeoutError):
                await sandbox.run("sleep 100", timeout=1)
            with pytest.raises(vendor.ResourceNotFoundError):
                await sandbox.read("/nowhere")
        assert sandbox.name not in [box.name for box in await client.list_sandboxes()]


def test_the_synchronous_client_tells_the_whole_story(host: LocalHost) -> None:
    content = os.urandom(1024 * 1024)
    with vendor.SandboxClient(api_endpoint=host.endpoint, api_key=host.api_key) as client:
        sandbox = client.create_sandbox(name="vendor-sync")
        assert sandbox.run("echo out; exit 3").exit_code == 3
        for name in NAMES:
            sandbox.write(f"/home/user/{name}", content)
            assert sandbox.read(f"/home/user/{name}") == content
        assert client.get_sandbox("vendor-sync").id == sandbox.id
        assert "vendor-sync" in [box.name for box in client.list_sandboxes()]
        handle = sandbox.run("cat", wait=False, close_input=False)
        handle.send_input("typed\n")
        handle.close_input()
        assert handle.result.stdout == "typed\n"
        with pytest.raises(vendor.SandboxClientError):
            client.create_sandbox(name="vendor-sync")
        client.delete_sandbox("vendor-sync")
        with pytest.raises(vendor.ResourceNotFoundError):
            client.get_sandbox("vendor-sync")


def test_a_wrong_key_is_what_the_vendor_calls_it(host: LocalHost) -> None:
    with (
        vendor.SandboxClient(api_endpoint=host.endpoint, api_key="wrong") as client,
        pytest.raises(vendor.SandboxAuthenticationError),
    ):
        client.list_sandboxes()
