"""The budget of requests and connections, and the fixture that counts them."""

from __future__ import annotations

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._runs import Run


def test_budgets(pytester: pytest.Pytester, run: Run, shared_host: LocalHost) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def sandbox_client_options():
            return {"exec_transport": "websocket"}

        async def work(client):
            async with client.sandbox(name="abc") as made:
                await made.run("true")
                await made.write("a", "content")
                assert await made.read("a") == b"content"

        @pytest.mark.sandbox_budget(requests=5, connections=2)
        async def test_within(sandbox_client):
            await work(sandbox_client)

        @pytest.mark.sandbox_budget(requests=4)
        async def test_too_many_requests(sandbox_client):
            await work(sandbox_client)

        @pytest.mark.sandbox_budget(connections=1)
        async def test_too_many_connections(sandbox_client):
            await work(sandbox_client)

        @pytest.mark.sandbox_budget(requests=0, connections=0)
        async def test_fixtures_are_not_counted(sandbox):
            pass

        async def test_counting(sandbox, sandbox_requests):
            assert (len(sandbox_requests), sandbox_requests.connections) == (0, 0)
            await sandbox.write("a", "content")
            (request,) = sandbox_requests
            assert (request.method, request.status) == ("POST", 200)
            assert "upload?..." in sandbox_requests.table()

        @pytest.mark.sandbox_budget(requests=2)
        @pytest.mark.sandbox_trace
        async def test_in_a_replay(sandbox_client):
            await work(sandbox_client)

        @pytest.mark.sandbox_budget(requests=2)
        async def test_on_the_model(model_host):
            async with model_host.client.sandbox() as made:
                await made.run("true")

        @pytest.mark.sandbox_budget(12)
        async def test_wrongly_marked(sandbox_client):
            pass
        """
    )
    done = run("--sandbox-record-mode=once", "-k", "asyncio")
    done.assert_outcomes(passed=3, failed=5, deselected=8)
    done.stdout.fnmatch_lines(
        [
            "the test made 5 requests, and 4 are allowed (sandbox_budget)",
            "conn  method *path *code",
            "   1  POST      boxes * 201  test_budgets.py:10 in work",
            "   2  WebSocket *execute/ws * 101  test_budgets.py:11 in work",
            "   1  POST      *upload?... * 200  test_budgets.py:12 in work",
            "   1  GET       *download?... * 200  test_budgets.py:13 in work",
            "   1  DELETE    boxes/abc * 204  test_budgets.py:10 in work",
            "the test made 2 connections, and 1 are allowed (sandbox_budget)",
            "the test made 5 requests, and 2 are allowed (sandbox_budget)",
            "the test made 3 requests, and 2 are allowed (sandbox_budget)",
            "*write @pytest.mark.sandbox_budget(requests=12, connections=2), with one or both",
        ]
    )
