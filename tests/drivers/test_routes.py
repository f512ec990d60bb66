"""TLS and proxies: for HTTP and WebSocket alike, by argument and by environment."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from pathlib import Path

import anyio
import pytest
import trustme

from sandbox_anyio import AsyncSandboxClient, RetryPolicy, SandboxConnectionError
from sandbox_anyio.local.launch import LocalHost

from ._servers import ScriptedServer, read_request
from ._terminator import address_of, carry, tls_in_front_of

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_retries=0)


class Proxy(ScriptedServer):
    """An HTTP proxy that knows CONNECT and nothing else.

    :ivar targets: what it was asked to connect to.
    :ivar authorizations: the credentials it was given.
    """

    def __init__(self, *, context: ssl.SSLContext | None = None, refuse: bool = False) -> None:
        super().__init__(self._proxy)
        self._context, self._refuse = context, refuse
        self.targets: list[str] = []
        self.authorizations: list[str | None] = []

    def _proxy(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        head, _ = read_request(connection)
        method, target, _ = head.split("\r\n")[0].split(" ")
        assert method == "CONNECT"
        self.targets.append(target)
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        self.authorizations.append(lines.get("proxy-authorization"))
        if self._refuse:
            connection.sendall(b"HTTP/1.1 407 Who Are You\r\ncontent-length: 0\r\n\r\n")
            return
        _, _, port = target.rpartition(":")
        # Names are the proxy's to resolve; here all of them are this machine.
        with socket.create_connection(("127.0.0.1", int(port))) as upstream:
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            carry(connection, upstream)
        connection.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost", "sandbox.example").configure_cert(context)
    return context


async def story(client: AsyncSandboxClient) -> None:
    """HTTP, a file and a WebSocket, by the client's route."""
    with anyio.fail_after(20):
        async with client.sandbox() as sandbox:
            assert (await sandbox.run("echo hi")).stdout == "hi\n"
            content = b"0123456789" * 100_000
            await sandbox.write("f", content)
            assert await sandbox.read("f") == content


async def test_tls_with_a_context_of_ones_own(
    host: LocalHost, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tls_in_front_of(host, server_context) as port:
        async with AsyncSandboxClient(
            api_endpoint=f"https://localhost:{port}", api_key=host.api_key, verify=context
        ) as client:
            await story_over_tls(client, port)


async def story_over_tls(client: AsyncSandboxClient, port: int) -> None:
    sandbox = await client.create_sandbox()
    # The terminator speaks plain HTTP to the host, which therefore names itself so.
    sandbox.dataplane_url = f"https://localhost:{port}/v2/sandboxes/{sandbox.id}"
    with anyio.fail_after(20):
        assert (await sandbox.run("echo hi")).stdout == "hi\n"
        content = b"0123456789" * 100_000
        await sandbox.write("f", content)
        assert await sandbox.read("f") == content
    await sandbox.delete()


async def test_tls_trusts_ssl_cert_file(
    host: LocalHost,
    authority: trustme.CA,
    server_context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with tls_in_front_of(host, server_context) as port:
        async with AsyncSandboxClient(
            api_endpoint=f"https://localhost:{port}", api_key=host.api_key
        ) as client:
            await story_over_tls(client, port)


async def test_an_untrusted_certificate_is_refused_at_once_unless_verification_is_off(
    host: LocalHost, server_context: ssl.SSLContext
) -> None:
    with tls_in_front_of(host, server_context) as port:
        url = f"https://localhost:{port}"
        async with AsyncSandboxClient(api_endpoint=url, api_key=host.api_key) as client:
            with anyio.fail_after(5), pytest.raises(SandboxConnectionError, match="not trusted"):
                await client.list_sandboxes()  # no retries: the certificate will not improve
        async with AsyncSandboxClient(
            api_endpoint=url, api_key=host.api_key, verify=False
        ) as client:
            await story_over_tls(client, port)


async def test_a_certificate_for_another_name_is_refused(
    host: LocalHost, authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with tls_in_front_of(host, context) as port:
        async with AsyncSandboxClient(
            api_endpoint=f"https://localhost:{port}", api_key="k", verify=trusting, retry=ONCE
        ) as client:
            with pytest.raises(SandboxConnectionError, match="not trusted"):
                await client.list_sandboxes()


async def test_plain_http_where_tls_is_expected(host: LocalHost) -> None:
    url = host.endpoint.replace("http://", "https://")
    async with AsyncSandboxClient(api_endpoint=url, api_key="k", retry=ONCE) as client:
        with anyio.fail_after(5), pytest.raises(SandboxConnectionError, match="TLS handshake"):
            await client.list_sandboxes()


async def test_everything_goes_through_the_proxy_of_the_argument(host: LocalHost) -> None:
    with Proxy() as proxy:
        async with AsyncSandboxClient(
            api_endpoint=host.endpoint,
            api_key=host.api_key,
            proxy=f"http://user:p%40ss@127.0.0.1:{proxy.port}",
            exec_transport="websocket",
        ) as client:
            await story(client)
    assert set(proxy.targets) == {host.endpoint.removeprefix("http://")}
    assert len(proxy.targets) == 2  # one kept for HTTP, one for the command
    expected = "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert set(proxy.authorizations) == {expected}


async def test_the_proxy_of_the_environment_and_its_exceptions(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"api_endpoint": host.endpoint, "api_key": host.api_key}
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        async with AsyncSandboxClient(**settings, exec_transport="websocket") as client:
            await story(client)
        assert len(proxy.targets) == 2
        async with AsyncSandboxClient(**settings, trust_env=False) as client:
            await story(client)
        monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.0/8")
        async with AsyncSandboxClient(**settings) as client:
            await story(client)
        assert len(proxy.targets) == 2


async def test_tls_through_a_proxy_that_speaks_tls_itself(
    host: LocalHost, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with tls_in_front_of(host, server_context) as port, Proxy(context=server_context) as proxy:
        async with AsyncSandboxClient(
            api_endpoint=f"https://sandbox.example:{port}",
            api_key=host.api_key,
            verify=trusting,
            proxy=f"https://localhost:{proxy.port}",
        ) as client:
            with anyio.fail_after(10):
                assert isinstance(await client.list_sandboxes(), list)
        assert proxy.targets == [f"sandbox.example:{port}"]


async def test_a_proxy_that_refuses_is_named(host: LocalHost) -> None:
    with Proxy(refuse=True) as proxy:
        async with AsyncSandboxClient(
            api_endpoint=host.endpoint,
            api_key="k",
            proxy=f"http://127.0.0.1:{proxy.port}",
            retry=ONCE,
        ) as client:
            with pytest.raises(
                SandboxConnectionError, match=f"proxy .*:{proxy.port}.*407 Who Are You"
            ):
                await client.list_sandboxes()


async def test_addresses_are_tried_until_one_answers(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with a dead address and a living one: the living one is found."""
    _, port = address_of(host.endpoint)

    async def resolve(name: str, port: int, **_: object) -> list[object]:
        assert name == "two-addresses.example"
        dead = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        alive = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        return [dead, alive]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    async with AsyncSandboxClient(
        api_endpoint=f"http://two-addresses.example:{port}", api_key=host.api_key, trust_env=False
    ) as client:
        with anyio.fail_after(5):
            assert isinstance(await client.list_sandboxes(), list)


def test_threads_of_the_helpers_end() -> None:
    """The servers of this file join what they start; a leak here would hide one of ours."""
    assert threading.active_count() < 10
