"""Creations whose answer is lost on the way: made once, found again, never left behind."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from sandbox_anyio import AsyncSandboxClient, RetryPolicy, SandboxClientError
from sandbox_anyio.local.launch import LocalHost

from ._servers import Relay, http_answer

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_retries=3, initial=0.01, jitter=0.0)


def first(times: int, beginning: bytes) -> Callable[[bytes], bool]:
    """True for the first requests that begin so."""
    left = [times]

    def matches(asked: bytes) -> bool:
        if asked.startswith(beginning) and left[0]:
            left[0] -= 1
            return True
        return False

    return matches


@pytest.mark.parametrize("name", [None, "chosen-name"])
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("trouble", ["cut", 502, 503, 504])
async def test_one_sandbox_whatever_happened_to_the_answer(
    host: LocalHost, name: str | None, wait: bool, trouble: str | int
) -> None:
    lost = first(1, b"POST /boxes")
    if trouble == "cut":
        relay = Relay(host.endpoint, lost)
    else:
        gateway = http_answer(int(trouble), body=b"bad gateway")
        relay = Relay(host.endpoint, replace=lambda asked: gateway if lost(asked) else None)
    with relay:
        async with AsyncSandboxClient(
            api_endpoint=relay.url, api_key=host.api_key, trust_env=False, retry=QUICK
        ) as client:
            before = {box.id for box in await client.list_sandboxes()}
            with anyio.fail_after(20):
                sandbox = await client.create_sandbox(name=name, wait_for_ready=wait)
            assert relay.cuts + relay.replaced == 1
            made = {box.id for box in await client.list_sandboxes()} - before
            assert made == {sandbox.id}
            if wait:
                assert sandbox.status == "ready"
                assert (await sandbox.run("echo alive")).stdout == "alive\n"
            await sandbox.delete()


async def test_trouble_before_the_server_is_simply_repeated(host: LocalHost) -> None:
    """The gateway answers without asking the server: the record does not exist yet."""
    from ._servers import read_request, serving

    asked: list[str] = []

    def gateway(connection: object) -> None:
        head, _ = read_request(connection)  # type: ignore[arg-type]
        asked.append(head.split(" ")[0])
        if asked.count("POST") > 1:
            answer = http_answer(201, {"id": "1", "name": "n", "status": "ready"})
        elif head.startswith("POST"):
            answer = http_answer(503, {"detail": "no backend"}, "connection: close")
        else:
            answer = http_answer(404, {"detail": "none"}, "connection: close")
        connection.sendall(answer)  # type: ignore[attr-defined]

    with serving(gateway) as server:
        async with AsyncSandboxClient(
            api_endpoint=server.url, api_key="k", trust_env=False, retry=QUICK
        ) as client:
            assert (await client.create_sandbox()).id == "1"
    assert asked == ["POST", "GET", "POST"]


async def test_a_creation_that_fails_for_good_leaves_nothing(host: LocalHost) -> None:
    """Every answer to the creation and to the questions about it is cut off."""
    with Relay(
        host.endpoint, lambda asked: asked.startswith((b"POST /boxes", b"GET /boxes/"))
    ) as relay:
        async with AsyncSandboxClient(
            api_endpoint=relay.url, api_key=host.api_key, trust_env=False, retry=QUICK
        ) as client:
            before = {box.id for box in await client.list_sandboxes()}
            with anyio.fail_after(30), pytest.raises(SandboxClientError):
                await client.create_sandbox()
            assert {box.id for box in await client.list_sandboxes()} == before


async def test_a_deletion_whose_answer_is_lost_succeeds(host: LocalHost) -> None:
    with Relay(host.endpoint, first(1, b"DELETE")) as relay:
        async with AsyncSandboxClient(
            api_endpoint=relay.url, api_key=host.api_key, trust_env=False, retry=QUICK
        ) as client:
            sandbox = await client.create_sandbox()
            await sandbox.delete()
            assert relay.cuts == 1
