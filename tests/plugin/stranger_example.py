import pytest

pytestmark = pytest.mark.anyio  # or use pytest-asyncio, or pytest-trio


@pytest.mark.sandbox_trace
async def test_recorded_once_and_played_ever_after(sandbox):
    result = await sandbox.run("sleep 1; echo hello")
    assert result.stdout == "hello\n"


async def test_without_processes_in_no_time(model_host):
    model_host.on_command("make", stdout="done", duration=600)
    async with model_host.client.sandbox() as sandbox:
        assert (await sandbox.run("make", timeout=900)).stdout == "done"


async def test_leaves_a_sandbox_behind_and_fails(sandbox_client):
    await sandbox_client.create_sandbox()
