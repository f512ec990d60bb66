"""The fixtures under anyio's plugin, pytest-asyncio in both modes, and pytest-trio."""

from __future__ import annotations

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._runs import Run

# name -> mark, plugins, options, how often each test runs
FRAMEWORKS = {
    "anyio": ("pytest.mark.anyio", (), (), 2),
    "asyncio-strict": ("pytest.mark.asyncio", ("asyncio",), (), 1),
    "asyncio-auto": ("[]", ("asyncio",), ("-o", "asyncio_mode=auto"), 1),
    "trio": ("pytest.mark.trio", ("trio",), (), 1),
    "trio-mode": ("[]", ("trio",), ("-o", "trio_mode=true"), 1),
}
ASYNC_FIXTURE = {"asyncio-strict": "pytest_asyncio.fixture", "trio": "pytest_trio.trio_fixture"}

TESTS = """
import pytest
import {fixture_module}

pytestmark = {mark}

@{fixture}
async def prepared(sandbox_client):
    async with sandbox_client.sandbox(name="prepared") as made:
        yield made

async def test_the_client(sandbox_client):
    async with sandbox_client.sandbox() as made:
        assert (await made.run("echo hello")).stdout == "hello\\n"
    assert not sandbox_client.closed

async def test_the_sandbox(sandbox, sandbox_client):
    await sandbox.write("a.txt", "content")
    assert (await sandbox.run("cat a.txt")).stdout == "content"
    assert (await sandbox_client.get_sandbox(sandbox.name)).id == sandbox.id

async def test_a_sandbox_that_the_test_deletes(sandbox):
    await sandbox.delete()

async def test_a_fixture_of_the_users(prepared):
    assert (await prepared.run("echo prepared")).stdout == "prepared\\n"

async def test_the_model_host(model_host):
    model_host.on_command("make", stdout="done", duration=600)
    async with model_host.client.sandbox() as made:
        assert (await made.run("make", timeout=900)).stdout == "done"

@pytest.mark.sandbox_trace
async def test_a_trace(sandbox):
    assert (await sandbox.run("echo traced")).stdout == "traced\\n"

async def test_fails_for_a_sandbox(sandbox_client):
    await sandbox_client.create_sandbox()

async def test_fails_for_a_command(sandbox):
    await sandbox.run("sleep 60", wait=False)
"""


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_async_tests(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost, name: str
) -> None:
    mark, plugins, options, times = FRAMEWORKS[name]
    fixture = ASYNC_FIXTURE.get(name, "pytest.fixture")
    module = fixture.partition(".")[0]
    pytester.makepyfile(TESTS.format(mark=mark, fixture=fixture, fixture_module=module))
    done = run(*options, "--sandbox-record-mode=once", frameworks=plugins)
    done.assert_outcomes(passed=8 * times, errors=2 * times)
    done.stdout.re_match_lines_random(
        [
            r".* \* sandbox 'sandbox-\w+' is still on sandbox_host",
            r".*made at test_async_tests\.py:\d+ in test_fails_for_a_sandbox",
            r".* \* the handle on command 'sleep 60' is still open",
            r".*made at test_async_tests\.py:\d+ in test_fails_for_a_command",
        ]
    )
    # What one framework recorded plays, with no network.
    done = run(*options, "-k", "trace", "--sandbox-block-network", frameworks=plugins)
    done.assert_outcomes(passed=times, deselected=7 * times)


def test_the_synchronous_fixtures(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from sandbox_anyio import SandboxClient

        def test_the_client(sandbox_client_sync):
            with sandbox_client_sync.sandbox() as made:
                assert made.run("echo hello").stdout == "hello\\n"

        @pytest.mark.sandbox_trace
        def test_the_sandbox(sandbox_sync):
            assert sandbox_sync.run("echo hello").stdout == "hello\\n"

        def test_unused(sandbox_client_sync):
            pass

        def test_fails_for_a_sandbox(sandbox_client_sync):
            sandbox_client_sync.create_sandbox()

        def test_fails_for_a_command(sandbox_sync):
            sandbox_sync.run("sleep 60", wait=False)

        def test_fails_for_a_client(sandbox_host):
            client = SandboxClient(
                api_endpoint=sandbox_host.endpoint, api_key=sandbox_host.api_key, trust_env=False
            )
            client.list_sandboxes()
            test_fails_for_a_client.keep = client
        """
    )
    done = run("--sandbox-record-mode=once")
    done.assert_outcomes(passed=6, errors=3)
    done.stdout.re_match_lines_random(
        [
            r".*made at test_the_synchronous_fixtures\.py:16 in test_fails_for_a_sandbox",
            r".*made at test_the_synchronous_fixtures\.py:19 in test_fails_for_a_command",
            r".* \* AsyncSandboxClient\(.*\) was never closed: 1 connection open",
            r".*made at test_the_synchronous_fixtures\.py:22 in test_fails_for_a_client",
        ]
    )
    run("-k", "test_the_sandbox", "--sandbox-block-network").assert_outcomes(passed=1, deselected=5)


def test_all_at_once(pytester: pytest.Pytester, run: Run, shared_host: LocalHost) -> None:
    """The three plugins side by side, in one file."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.anyio
        async def test_anyio(sandbox):
            assert (await sandbox.run("echo hi")).stdout == "hi\\n"

        @pytest.mark.asyncio
        async def test_asyncio(sandbox):
            assert (await sandbox.run("echo hi")).stdout == "hi\\n"

        @pytest.mark.trio
        async def test_trio(sandbox):
            assert (await sandbox.run("echo hi")).stdout == "hi\\n"

        def test_none(sandbox_sync):
            assert sandbox_sync.run("echo hi").stdout == "hi\\n"
        """
    )
    run(frameworks=("asyncio", "trio")).assert_outcomes(passed=5)
