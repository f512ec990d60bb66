"""What outlives a test fails it, and the message names it and its place."""

from __future__ import annotations

import re

import pytest

from sandbox_anyio import SandboxClient
from sandbox_anyio.local.launch import LocalHost

from ._runs import Run

HEAD = """
import anyio, pytest
from sandbox_anyio import AsyncSandboxClient

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "{backend}"

"""

LEAKS = {
    "a command": (
        """async def test_it(sandbox):
            await sandbox.run("sleep 60", wait=False)  # here""",
        ["the handle on command 'sleep 60' is still open"],
    ),
    "a stream": (
        """async def test_it(sandbox):
            async with await sandbox.run("python3 -m http.server 8000", wait=False) as server:
                server.detach()
            await sandbox.wait_for_port(8000)
            await sandbox.connect(8000)  # here""",
        ["a stream into a sandbox is still open"],
    ),
    "a tunnel": (
        """async def test_it(sandbox):
            await sandbox.tunnel(8000, local_port="any")  # here""",
        [r"<AsyncTunnel \d+ to 8000> is still open"],
    ),
    "an answer": (
        """def test_it(sandbox_sync):
            sandbox_sync.write("a", "x" * 30_000_000)
            opening = sandbox_sync.open_read("a")  # nobody leaves its block
            file = opening.__enter__()
            test_it.keep = opening, file
            next(iter(file))""",
        ["an answer that nobody read to its end"],
    ),
    "a client": (
        """async def test_it(sandbox_host):
            client = AsyncSandboxClient(  # here
                api_endpoint=sandbox_host.endpoint, api_key=sandbox_host.api_key, trust_env=False
            )
            await client.list_sandboxes()""",
        [r"AsyncSandboxClient\(.*\) was never closed: 1 connection open"],
    ),
    "a sandbox": (
        """async def test_it(sandbox_client):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sandbox_client.create_sandbox)  # from a task of its own
            await sandbox_client.create_sandbox(name="renamed")  # here
            await sandbox_client.update_sandbox("renamed", new_name="otherwise")""",
        [r"sandbox 'sandbox-\w+' is still on sandbox_host", "sandbox 'otherwise' is still on"],
    ),
    "a sandbox of the model host": (
        """async def test_it(model_host):
            model_host.on_command("sleep", duration=60)
            made = await model_host.client.create_sandbox(name="mine")  # here
            await (await model_host.new_client(latency=0.1).get_sandbox("mine")).run(
                "sleep", wait=False, detach=True
            )""",
        [
            "sandbox 'mine' is still on model_host",
            "command 'sleep' still runs in sandbox 'mine'",
            "the handle on command 'sleep' is still open",
        ],
    ),
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", LEAKS)
def test_leaks(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost, kind: str, backend: str
) -> None:
    body, complaints = LEAKS[kind]
    source = (HEAD.format(backend=backend) + body).strip()
    pytester.makepyfile(test_a=source)
    done = run()
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.re_match_lines_random([rf"  \* {complaint}.*" for complaint in complaints])
    assert f"{len(complaints)} thing" in done.stdout.str()
    here = [number for number, line in enumerate(source.splitlines(), 1) if "# here" in line]
    done.stdout.re_match_lines_random(
        [rf"      made at test_a\.py:{number} in test_it" for number in here]
    )
    with SandboxClient(api_endpoint=shared_host.endpoint, api_key=shared_host.api_key) as client:
        assert client.list_sandboxes() == []  # what was told of is deleted
    # Where it is meant, nothing is said.
    pytester.makepyfile(test_a=re.sub("(async )?def test_it", ALLOWED + r"\g<0>", source))
    run().assert_outcomes(passed=1)
    with SandboxClient(api_endpoint=shared_host.endpoint, api_key=shared_host.api_key) as client:
        for sandbox in client.list_sandboxes():
            sandbox.delete()


ALLOWED = "@pytest.mark.sandbox_leaks_allowed\n"


def test_what_is_no_leak(pytester: pytest.Pytester, run: Run, shared_host: LocalHost) -> None:
    pytester.makepyfile(
        """
        import pytest
        from sandbox_anyio import AsyncSandboxClient, SandboxClient

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module")
        def shared_client(sandbox_host):
            endpoint, key = sandbox_host.endpoint, sandbox_host.api_key
            with SandboxClient(api_endpoint=endpoint, api_key=key, trust_env=False) as client:
                yield client

        @pytest.fixture(scope="module")
        def shared_sandbox(shared_client):
            with shared_client.sandbox(name="shared") as made:
                yield made

        @pytest.fixture
        async def own_sandbox(sandbox_client):
            made = await sandbox_client.create_sandbox()
            yield made
            await made.delete()

        def test_wider_scopes(shared_sandbox, sandbox_requests):
            assert shared_sandbox.run("echo hi").stdout == "hi\\n"

        def test_wider_scopes_again(shared_sandbox, sandbox_client_sync):
            assert sandbox_client_sync.get_sandbox("shared").id == shared_sandbox.id

        async def test_fixtures_that_clean_up(own_sandbox):
            async with await own_sandbox.run("sleep 60", wait=False) as handle:
                handle.detach()

        async def test_by_name_and_by_id(sandbox_client):
            made = await sandbox_client.create_sandbox(name="one")
            await sandbox_client.update_sandbox("one", new_name="two")
            await sandbox_client.delete_sandbox("two")
            made = await sandbox_client.create_sandbox()
            await sandbox_client.delete_sandbox(made.id)

        async def test_unused_clients(sandbox_client):
            AsyncSandboxClient(api_endpoint="http://nowhere.invalid")
        """
    )
    run().assert_outcomes(passed=8)


def test_a_test_that_fails_anyway(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makepyfile(
        """
        def test_it(sandbox_client_sync):
            sandbox_client_sync.create_sandbox()
            assert False, "this is why"
        """
    )
    done = run()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*this is why*", "*sandbox leaks*", "*is still on sandbox_host*"])
    with SandboxClient(api_endpoint=shared_host.endpoint, api_key=shared_host.api_key) as client:
        assert client.list_sandboxes() == []


def test_a_command_of_the_sync_face_in_a_thread(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makepyfile(
        """
        import threading

        def make(sandbox):
            sandbox.run("sleep 60", wait=False)

        def test_it(sandbox_sync):
            thread = threading.Thread(target=make, args=[sandbox_sync])
            thread.start()
            thread.join()
        """
    )
    done = run()
    done.assert_outcomes(passed=1, errors=1)
    # Where the test was at that time: it starts the thread, or waits for it.
    done.stdout.re_match_lines_random([r"      made at .*\.py:[89] in test_it"])
