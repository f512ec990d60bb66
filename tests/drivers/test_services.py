"""Services in sandboxes through their URLs, on either loop, against the real host."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    AsyncServiceURL,
    ResourceNotFoundError,
    SandboxClientError,
    SandboxConnectionError,
    ServiceLoginURL,
    ServiceResponse,
    ServiceStatusError,
)
from sandbox_proto.wire.services import ServiceGrant

from ._serving import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox


async def token_service(sandbox: AsyncSandbox, port: int = 8000, **options: int) -> AsyncServiceURL:
    service = await sandbox.service(port, **options)
    assert isinstance(service, AsyncServiceURL)
    return service


async def test_every_method_reaches_the_service_as_it_was_meant(sandbox: AsyncSandbox) -> None:
    async with serving(sandbox):
        service = await token_service(sandbox)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            call = getattr(service, method.lower())
            content = None if method == "GET" else b"\x00body\xff"
            answer = await call("/a%20b/c?q=1%262", content=content, headers={"X-Own": "mine"})
            said = answer.raise_for_status().json()
            assert (said["method"], said["target"]) == (method, "/a%20b/c?q=1%262")
            assert base64.b64decode(said["body"]) == (content or b"")
            headers = dict(said["headers"])
            assert headers["x-own"] == "mine"
            assert not {name for name in headers if "token" in name or name == "cookie"}
            assert service.token not in str(said)


async def test_the_services_own_errors_redirects_and_headers_come_back(
    sandbox: AsyncSandbox,
) -> None:
    async with serving(sandbox):
        service = await token_service(sandbox)
        failed = await service.get("/fail")
        assert (failed.status, failed.content) == (503, b"not today")
        with pytest.raises(ServiceStatusError) as refused:
            failed.raise_for_status()
        assert refused.value.response is failed
        moved = await service.get("/move")
        assert (moved.status, moved.headers["location"]) == (302, "/page")
        page = await service.get("/page")
        assert page.text.startswith("<!doctype html>")
        assert page.headers["content-security-policy"] == "frame-ancestors 'self'"
        head = await service.request("HEAD", "/page")
        assert (head.status, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(page.content))


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


async def test_bodies_stream_in_both_directions(sandbox: AsyncSandbox) -> None:
    async with serving(sandbox) as running:
        service = await token_service(sandbox)
        content = os.urandom(3 * 1024 * 1024)
        answer = await service.post("/", content=content)
        assert base64.b64decode(answer.json()["body"]) == content
        answer = await service.post("/", content=in_pieces(content))
        assert base64.b64decode(answer.json()["body"]) == content

        streamed = await service.request("GET", "/stream", stream=True)
        pieces = streamed.aiter_bytes()
        assert await anext(pieces) == b"first\n"
        await running.send_input("second\n")
        assert await anext(pieces) == b"second\n"
        await running.close_input()
        assert [piece async for piece in pieces] == []


async def test_websockets_pass_with_messages_subprotocol_and_close_code(
    sandbox: AsyncSandbox,
) -> None:
    async with serving(sandbox):
        service = await token_service(sandbox)
        async with await service.websocket("/ws", subprotocols=("other", "echo")) as socket:
            assert socket.subprotocol == "echo"
            for message in ("grüße", b"\x00\xff", "x" * 200_000, ""):
                await socket.send(message)
                assert await socket.receive() == message
            await socket.send("bye")
            assert await socket.receive() is None
            assert socket.close_code == 4000
        with pytest.raises(SandboxConnectionError, match="403") as refused:
            await service.websocket("/elsewhere")
        assert refused.value.status == 403


async def test_ipv6_only_services_are_found(sandbox: AsyncSandbox) -> None:
    async with serving(sandbox, 8001, "--ipv6"):
        service = await token_service(sandbox, 8001)
        assert (await service.get("/")).status == 200


async def test_where_nothing_listens_the_answer_says_so(sandbox: AsyncSandbox) -> None:
    service = await token_service(sandbox, 9)
    answer = await service.get("/")
    assert answer.status == 502
    assert "nothing listens on port 9" in answer.json()["detail"]["message"]
    with pytest.raises(SandboxConnectionError, match="502"):
        await service.websocket("/ws")


async def test_an_object_from_a_stored_answer_works_without_a_client(
    sandbox: AsyncSandbox,
) -> None:
    async with serving(sandbox):
        service = await token_service(sandbox)
        names = ("browser_url", "service_url", "token", "expires_at")
        stored = {name: getattr(service, name) for name in names}
        again = AsyncServiceURL.from_dict(stored)
        assert (await again.get("/page")).status == 200
        await again.aclose()


async def test_a_token_opens_its_own_port_only(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    service = await token_service(sandbox)
    other = AsyncServiceURL(
        service.browser_url,
        service.service_url.replace("--8000", "--8001"),
        service.token,
        service.expires_at,
        _client=client,
    )
    assert (await other.get("/")).status == 401
    forged = AsyncServiceURL("", service.service_url, "x" + service.token, "", _client=client)
    assert (await forged.get("/")).status == 401


async def test_a_request_wakes_a_stopped_sandbox(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    service = await token_service(sandbox)
    await sandbox.stop()
    assert (await service.get("/")).status == 502  # awake, and nothing listens yet
    assert (await client.get_sandbox_status(sandbox.name)).status == "ready"


async def test_login_mode_knows_its_user_and_ends_when_taken_back(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    async with serving(sandbox):
        login = await client.service(sandbox.name, 8000, access="workspace")
        assert isinstance(login, ServiceLoginURL)
        assert login.access == "workspace"
        with pytest.raises(SandboxClientError) as refused:
            await sandbox.service(8000)
        assert refused.value.status == 409
        visitor = Visitor(client, login.url)
        await visitor.enter()
        forged = {"X-Langsmith-User-Id": "somebody", "X-Langsmith-User-Token": "else"}
        said = (await visitor.get("/", headers=forged)).json()
        headers = dict(said["headers"])
        assert headers["x-langsmith-user-id"] == "local-user"
        assert "x-langsmith-user-token" not in headers
        listed = await client.list_service_urls(sandbox.name)
        assert [(entry.port, entry.access) for entry in listed] == [(8000, "workspace")]
        await client.delete_service_urls(sandbox.name, port=8000)
        assert await client.list_service_urls(sandbox.name) == []
        assert (await visitor.get("/")).status == 401
        with pytest.raises(ResourceNotFoundError):
            await client.list_service_urls("no-such-box")


class Visitor:
    """What a browser is after it opened a URL with a token in it: a cookie and an origin."""

    def __init__(self, client: AsyncSandboxClient, url: str) -> None:
        self._origin, _, self._entry = url.partition("/_svc/auth?")
        self._service = AsyncServiceURL("", self._origin, "", "", _client=client)
        self._cookie = ""

    async def enter(self) -> list[str]:
        """Trade the token. Returns the cookie's attributes."""
        answer = await self._service.get(f"/_svc/auth?{self._entry}&redirect=/page")
        assert (answer.status, answer.headers["location"]) == (302, "/page")
        self._cookie, *attributes = answer.headers["set-cookie"].split("; ")
        return attributes

    async def get(self, path: str, headers: dict[str, str] | None = None) -> ServiceResponse:
        """A further page."""
        own = {"cookie": f"own=1; {self._cookie}", **(headers or {})}
        return await self._service.get(path, headers=own)


async def test_a_browsers_url_trades_its_token_for_a_cookie(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    async with serving(sandbox):
        service = await token_service(sandbox)
        visitor = Visitor(client, service.browser_url)
        assert (await visitor.get("/page")).status == 401
        assert await visitor.enter() == ["Path=/", "HttpOnly", "SameSite=Lax"]
        assert (await visitor.get("/page")).text.startswith("<!doctype")
        headers = dict((await visitor.get("/")).json()["headers"])
        assert headers["cookie"] == "own=1"


async def test_a_download_link_gives_the_file_as_asked(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    content = os.urandom(300_000)
    await sandbox.write("grüße.bin", content)
    link = await sandbox.generate_download_url(
        "grüße.bin", content_type="image/png", content_disposition="attachment"
    )
    origin, _, token = link.download_url.rpartition("/dl/")
    anybody = AsyncServiceURL("", origin, "", "", _client=client)
    answer = await anybody.get(f"/dl/{token}")
    assert (answer.status, answer.content) == (200, content)
    assert answer.headers["content-type"] == "image/png"
    assert "filename*=UTF-8''gr%C3%BC%C3%9Fe.bin" in answer.headers["content-disposition"]
    assert "sandbox" in answer.headers["content-security-policy"]
    assert (await anybody.get(f"/dl/{token[:-4]}AAAA")).status == 404
    missing = await sandbox.generate_download_url("/nowhere")
    answer = await anybody.get("/dl/" + missing.download_url.rpartition("/dl/")[2])
    assert answer.status == 404
    with pytest.raises(ResourceNotFoundError):
        await client.generate_download_url("no-such-box", "/x")


class Mint:
    """Where tokens come from, in tests: counts, and fails when told to."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.lifetime = lifetime  # of each token, in seconds
        self.minted = 0
        self.broken = False

    async def __call__(self) -> ServiceGrant:
        await anyio.lowlevel.checkpoint()
        self.minted += 1
        if self.broken:
            raise SandboxConnectionError("the mint is closed")
        token = f"token-{self.minted}"
        return ServiceGrant("", "http://localhost", token, in_seconds(self.lifetime))

    def service(self, client: AsyncSandboxClient, seconds_left: float) -> AsyncServiceURL:
        """A service whose first token has so long to live."""
        expires = in_seconds(seconds_left)
        return AsyncServiceURL("", "", "first", expires, _refresher=self, _client=client)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("seconds_left", "token"), [(60, "first"), (25, "token-1"), (-5, "token-1")]
)
async def test_a_token_is_renewed_30_seconds_before_its_end(
    client: AsyncSandboxClient, seconds_left: float, token: str
) -> None:
    service = Mint().service(client, seconds_left)
    assert await service.get_token() == token
    assert await service.get_token() == service.token == token


@pytest.mark.parametrize("lifetime", [3600, 20], ids=["long", "shorter than the margin"])
@pytest.mark.parametrize("seconds_left", [25, -5])
async def test_one_renewal_serves_all_who_ask(
    client: AsyncSandboxClient, seconds_left: float, lifetime: float
) -> None:
    mint = Mint(lifetime)
    service = mint.service(client, seconds_left)
    tokens: list[str] = []

    async def ask() -> None:
        tokens.append(await service.get_token())

    async with anyio.create_task_group() as askers:
        for _ in range(10):
            askers.start_soon(ask)
    assert tokens == ["token-1"] * 10
    assert mint.minted == 1


async def test_a_failing_renewal_matters_only_when_the_old_token_is_dead(
    client: AsyncSandboxClient,
) -> None:
    mint = Mint()
    mint.broken = True
    assert await mint.service(client, 25).get_token() == "first"
    dead = mint.service(client, -5)
    with pytest.raises(SandboxConnectionError, match="the mint is closed"):
        await dead.get_token()
    mint.broken = False
    assert await dead.get_token() == "token-3"


async def test_a_cancelled_renewal_leaves_the_next_asker_free(client: AsyncSandboxClient) -> None:
    mint = Mint()
    service = mint.service(client, -5)
    async with anyio.create_task_group() as askers:
        askers.start_soon(service.get_token)
        await anyio.lowlevel.checkpoint()
        askers.cancel_scope.cancel()
    assert (await service.get_token()).startswith("token-")
