"""Where a verifier's keys come from, when they are fetched, and how often (protocol/10 §5.5)."""

from __future__ import annotations

import base64
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from sandbox_anyio import verifier as module
from sandbox_anyio.verifier import SandboxTokenVerifier
from sandbox_proto.errors import SandboxTokenVerificationError

from ._servers import ScriptedServer, http_answer, read_request, silent
from ._tokens import (
    AUDIENCE,
    KeyServer,
    Way,
    claims,
    jwk,
    jwks,
    sign,
    user_token,
)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        yield server


@pytest.fixture
def verifier(server: KeyServer) -> SandboxTokenVerifier:
    return SandboxTokenVerifier(api_url=server.url)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The verifier's monotonic clock, as a list of one."""
    now = [5000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.fixture(params=["async", "sync"])
def way(request: pytest.FixtureRequest) -> Way:
    """Plain calls are made in the loop's own thread here."""
    return Way(request.param)


def refused(text: str = "") -> Any:
    return pytest.raises(SandboxTokenVerificationError, match=text)


# --- key sets ------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "keys",
    [
        [5, None, "x", jwk("ed")],
        [{"kty": "unheard of", "kid": "x"}, jwk("ed")],
        [{"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": "!!"}, jwk("ed")],
        [{"kty": "EC", "crv": "P-256", "kid": "x", "x": 5, "y": 5}, jwk("ed")],
        [{"kty": ["RSA"], "kid": "x"}, jwk("ed")],
        [{"kty": "RSA", "kid": "x", "n": 5, "e": 5}, jwk("ed")],
        [jwk("ec", kid=5), jwk("ed")],
        [jwk("ed", alg="EdDSA", use="sig")],
        [jwk("ed"), jwk("ed2", kid="ed")],
        [{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "!!"}, jwk("ed")],
    ],
)
async def test_keys_that_cannot_be_used_do_not_matter(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer, keys: list[Any]
) -> None:
    server.publish({"keys": keys})
    assert (await way.user(verifier, user_token())).subject == "user-1"


@pytest.mark.anyio
async def test_a_key_s_own_algorithm_counts(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer
) -> None:
    server.publish({"keys": [jwk("rsa", alg="PS256")]})
    with refused("its key is for PS256"):
        await way.user(verifier, user_token("rsa"))
    token = sign(json.dumps(claims()).encode(), "rsa", algorithm="PS256")
    assert (await way.user(verifier, token)).subject == "user-1"


OK = http_answer(200, jwks())


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (http_answer(404, jwks()), "answered 404"),
        (http_answer(503), "answered 503"),
        (http_answer(302, jwks(), "location: /elsewhere"), "answered 302"),
        (http_answer(200, {"keys": []}), "none of the keys"),
        (http_answer(200, {"keys": [{"kty": "unheard of", "kid": "ed"}]}), "none of the keys"),
        (http_answer(200, {"keys": [{**jwk("ed"), "kid": None}]}), "none of the keys"),
        (http_answer(200, [jwk("ed")]), "list named 'keys'"),
        (http_answer(200, body=b"<html>"), "not JSON"),
        (http_answer(200, {**jwks(), "more": "x" * 1024 * 1024}), ""),
        (b"nonsense\r\n\r\n", ""),
    ],
)
async def test_a_fetch_that_fails_is_told_and_tried_again_at_once(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer, answer: bytes, text: str
) -> None:
    server.answer = answer
    for attempt in (1, 2):
        with refused(f"^no signing keys from {server.url}/.well-known/jwks.json: .*{text}"):
            await way.user(verifier, user_token())
        assert server.fetches == attempt
    server.answer = OK
    assert (await way.user(verifier, user_token())).subject == "user-1"
    assert server.fetches == 3


@pytest.mark.anyio
async def test_a_server_that_is_not_there(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    verifier = SandboxTokenVerifier(jwks_url=f"http://127.0.0.1:{port}/keys?secret=hunter2")
    with refused("no signing keys from .*/keys: .*refused") as caught:
        await way.user(verifier, user_token())
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.anyio
async def test_a_server_that_never_answers(way: Way) -> None:
    with ScriptedServer(silent) as server:
        verifier = SandboxTokenVerifier(api_url=server.url, timeout=0.05)
        with refused("no signing keys from"):
            await way.user(verifier, user_token())


def test_a_server_that_drips_is_left(server: KeyServer, clock: list[float]) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"

    def drip(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head + b" ")
        clock[0] += 31
        connection.sendall(b" ")
        silent(connection)

    with ScriptedServer(drip) as server, refused("longer than 30 s"):
        SandboxTokenVerifier(api_url=server.url).verify_user_token(user_token(), audience=AUDIENCE)


# --- when keys are fetched -----------------------------------------------------------


@pytest.mark.anyio
async def test_keys_change_hands(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer, clock: list[float]
) -> None:
    server.publish(jwks("ed"))
    old, new = user_token("ed"), user_token("ed2")
    assert (await way.user(verifier, old)).subject == "user-1"
    server.publish(jwks("ed2"))
    clock[0] += 29.9
    with refused("not among those"):
        await way.user(verifier, new)
    assert server.fetches == 1
    clock[0] += 0.1
    assert (await way.user(verifier, new)).subject == "user-1"
    assert server.fetches == 2
    with refused("not among those"):
        await way.user(verifier, old)
    assert server.fetches == 2


@pytest.mark.anyio
async def test_old_keys_are_not_used_when_new_ones_cannot_be_had(
    way: Way, verifier: SandboxTokenVerifier, server: KeyServer, clock: list[float]
) -> None:
    token = user_token()
    await way.user(verifier, token)
    server.answer = http_answer(500)
    clock[0] += 299.9
    await way.user(verifier, token)
    assert server.fetches == 1
    clock[0] += 0.1
    for _ in range(2):
        with refused("answered 500"):
            await way.user(verifier, token)
    server.answer = OK
    await way.user(verifier, token)
    assert server.fetches == 4


@pytest.mark.anyio
async def test_many_tasks_and_one_fetch(verifier: SandboxTokenVerifier, server: KeyServer) -> None:
    server.gate.clear()
    users: list[Any] = []

    async def verify() -> None:
        users.append(await verifier.averify_user_token(user_token(), audience=AUDIENCE))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(verify)
        await anyio.to_thread.run_sync(server.asked.wait, 30)
        server.gate.set()
    assert len(users) == 20
    assert server.fetches == server.connections == 1


@pytest.mark.anyio
async def test_tasks_that_wait_for_a_fetch_share_its_failure(
    verifier: SandboxTokenVerifier, server: KeyServer
) -> None:
    server.answer = http_answer(500)
    server.gate.clear()
    errors: list[Exception] = []

    async def verify() -> None:
        with refused("answered 500") as caught:
            await verifier.averify_user_token(user_token(), audience=AUDIENCE)
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(verify)
        await anyio.to_thread.run_sync(server.asked.wait, 30)
        server.gate.set()
    assert len({id(error) for error in errors}) == 20
    assert server.fetches == 1
    server.answer = OK
    assert (await verifier.averify_user_token(user_token(), audience=AUDIENCE)).subject == "user-1"


@pytest.mark.anyio
async def test_who_waits_for_a_fetch_that_is_cancelled_fetches(
    verifier: SandboxTokenVerifier, server: KeyServer
) -> None:
    server.gate.clear()
    token, users = user_token(), []
    first = anyio.CancelScope()

    async def verify_first() -> None:
        with first:
            await verifier.averify_user_token(token, audience=AUDIENCE)

    async def verify_second() -> None:
        users.append(await verifier.averify_user_token(token, audience=AUDIENCE))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(verify_first)
        await anyio.to_thread.run_sync(server.asked.wait, 30)
        tasks.start_soon(verify_second)
        await anyio.wait_all_tasks_blocked()
        server.asked.clear()
        first.cancel()
        await anyio.to_thread.run_sync(server.asked.wait, 30)
        server.gate.set()
    assert first.cancelled_caught
    assert [user.subject for user in users] == ["user-1"]
    assert server.fetches == 2


def in_threads(count: int, work: Callable[[], object]) -> list[object]:
    """What `work` returned, or the error that it raised, in so many threads."""
    done: list[object] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return done


@pytest.fixture
def all_ask_first(verifier: SandboxTokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads look for the key, and only then may any of them go on."""
    barrier, looked = threading.Barrier(8, timeout=30), threading.local()
    look_up = verifier._cache.look_up

    def look_up_together(kid: str, *, now: float) -> Any:
        found = look_up(kid, now=now)
        if not hasattr(looked, "once"):
            looked.once = True
            barrier.wait()
        return found

    monkeypatch.setattr(verifier._cache, "look_up", look_up_together)


@pytest.mark.usefixtures("all_ask_first")
def test_many_threads_and_one_fetch(verifier: SandboxTokenVerifier, server: KeyServer) -> None:
    token = user_token()
    users = in_threads(8, lambda: verifier.verify_user_token(token, audience=AUDIENCE))
    assert [getattr(user, "subject", user) for user in users] == ["user-1"] * 8
    assert server.fetches == server.connections == 1


def test_threads_that_wait_for_a_fetch_share_its_failure(
    verifier: SandboxTokenVerifier, server: KeyServer
) -> None:
    server.answer = http_answer(500)
    failure = verifier._cache.last_failure
    with refused("answered 500"):
        verifier.verify_user_token(user_token(), audience=AUDIENCE)
    # As seen by one who asked before that fetch failed, and gets the lock after it.
    with refused("answered 500"), verifier._fetching(failure):
        pytest.fail("nothing is fetched")
    assert server.fetches == 1


def test_one_verifier_serves_threads_and_loops_of_either_kind(
    verifier: SandboxTokenVerifier, server: KeyServer, clock: list[float]
) -> None:
    async def verify() -> str:
        return (await verifier.averify_user_token(user_token(), audience=AUDIENCE)).subject

    assert verifier.verify_user_token(user_token(), audience=AUDIENCE).subject == "user-1"
    for fetches, backend in enumerate(("asyncio", "trio", "asyncio"), start=2):
        clock[0] += 300
        assert anyio.run(verify, backend=backend) == "user-1"
        assert server.fetches == fetches


# --- the way to the keys -------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_server(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedServer]:
    """A key server that speaks TLS, with a certificate for keys.test that is trusted here."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("keys.test").configure_cert(context)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            read_request(secure)
            secure.sendall(OK)

    with ScriptedServer(serve) as server:
        yield server


@pytest.mark.anyio
async def test_a_certificate_for_another_host_is_refused(
    way: Way, secure_server: ScriptedServer
) -> None:
    verifier = SandboxTokenVerifier(api_url=f"https://127.0.0.1:{secure_server.port}")
    with refused("certificate"):
        await way.user(verifier, user_token())


@pytest.mark.anyio
async def test_keys_come_over_tls_and_through_the_proxy_that_the_environment_names(
    way: Way, secure_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[str] = []

    def proxy(connection: socket.socket) -> None:
        heads.append(read_request(connection)[0])
        with socket.create_connection(("127.0.0.1", secure_server.port)) as upstream:
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            while True:
                readable, _, _ = select.select([connection, upstream], [], [], 30)
                for end in readable:
                    data = end.recv(65536)
                    if not data:
                        return
                    (upstream if end is connection else connection).sendall(data)

    with ScriptedServer(proxy) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pw@127.0.0.1:{server.port}")
        monkeypatch.setenv("NO_PROXY", "elsewhere.test")
        verifier = SandboxTokenVerifier(api_url="https://keys.test:8443/api/v1")
        assert (await way.user(verifier, user_token())).subject == "user-1"
    [head] = heads
    assert head.startswith("CONNECT keys.test:8443 HTTP/1.")
    assert f"Basic {base64.b64encode(b'me:pw').decode()}" in head


@pytest.mark.anyio
async def test_no_proxy_is_asked_for_what_no_proxy_names(
    way: Way, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    verifier = SandboxTokenVerifier(api_url=server.url)
    assert (await way.user(verifier, user_token())).subject == "user-1"
