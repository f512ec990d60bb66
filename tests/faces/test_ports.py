"""Ports in a sandbox over every face: streams, tunnels, services."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_anyio import (
    SandboxTimeoutError,
    ServiceLoginURL,
    ServiceStatusError,
    TunnelConnectionRefusedError,
)

from .conftest import Face

_DRIVERS = Path(__file__).parents[1] / "drivers"
ECHO, NOBODY, WEB = 7000, 7999, 8000


@pytest.fixture(scope="module")
def listening(sandbox: Any) -> Iterator[Any]:
    """The sandbox, with an echo on one port and a web service on another."""
    sandbox.write("tunnelled.py", (_DRIVERS / "_tunnel_service.py").read_bytes())
    sandbox.write("service.py", (_DRIVERS / "_echo_service.py").read_bytes())
    handles = [
        sandbox.run(f"exec python3 {command}", wait=False, close_input=False, timeout=0)
        for command in ("tunnelled.py", f"service.py {WEB}")
    ]
    for handle in handles:
        handle.wait_for_output("listening", 20)
    yield sandbox
    for handle in handles:
        handle.kill()


def test_a_stream_to_a_port(listening: Any, face: Face) -> None:
    stream = face.connect(listening, ECHO)
    stream.send(b"hello")
    assert stream.receive() == b"hello"
    stream.send(b"bye")
    stream.send_eof()
    assert stream.receive() == b"bye"
    assert stream.receive() == b""
    stream.close()


def test_a_stream_carries_much_both_ways_at_once(listening: Any, face: Face) -> None:
    stream = face.connect(listening, ECHO)
    content = bytes(range(256)) * 8192
    sender = threading.Thread(target=lambda: (stream.send(content), stream.send_eof()))
    sender.start()
    received = b""
    while piece := stream.receive():
        received += piece
    sender.join()
    stream.close()
    assert received == content


def test_a_port_on_which_nobody_listens(listening: Any, face: Face) -> None:
    with pytest.raises(TunnelConnectionRefusedError):
        face.connect(listening, NOBODY)
    with pytest.raises(SandboxTimeoutError):
        listening.wait_for_port(NOBODY, 0.05)
    listening.wait_for_port(ECHO)


def test_a_tunnel(listening: Any) -> None:
    with listening.tunnel(ECHO, local_port="any") as tunnel:
        port = tunnel.local_port
        assert tunnel.remote_port == ECHO
        for word in (b"one", b"two"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(word)
                assert connection.recv(10) == word
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)


def test_a_tunnel_tells_why_a_connection_was_refused(listening: Any) -> None:
    told: list[Exception] = []
    heard = threading.Event()

    def hear(error: Exception) -> None:
        told.append(error)
        heard.set()

    with listening.tunnel(NOBODY, local_port="any", on_error=hear) as tunnel:
        address = ("127.0.0.1", tunnel.local_port)
        with (
            socket.create_connection(address, timeout=20) as connection,
            pytest.raises(ConnectionResetError),
        ):
            connection.recv(1)
        assert heard.wait(20)
        assert isinstance(tunnel.last_error, TunnelConnectionRefusedError)
    assert told == [tunnel.last_error]


def test_a_tunnel_needs_a_port_that_is_free(listening: Any) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="cannot listen"),
        listening.tunnel(ECHO, local_port=taken.getsockname()[1]),
    ):
        raise AssertionError
    with pytest.raises(ValueError, match="remote_port"):
        listening.tunnel(0)


def test_a_service_is_asked(listening: Any, face: Face) -> None:
    service = listening.service(WEB)
    answer = service.post("/a%20b?q=1", content=b"body", headers={"X-Own": "mine"})
    said = answer.raise_for_status().json()
    assert (answer.status_code, said["method"], said["target"]) == (200, "POST", "/a%20b?q=1")
    streamed = service.request("PUT", "/", content=face.pieces(b"bit", b"by bit"))
    assert streamed.json()["body"] == "Yml0YnkgYml0"
    with pytest.raises(ServiceStatusError) as failed:
        service.get("/fail").raise_for_status()
    assert failed.value.response.status_code == 503
    assert service.token and service.service_url and service.expires_at and service.browser_url
    request = urllib.request.Request(
        service.service_url, headers={"X-Langsmith-Sandbox-Service-Token": service.token}
    )
    with urllib.request.urlopen(request, timeout=20) as page:
        assert json.load(page)["method"] == "GET"


def test_a_service_answers_piece_by_piece(listening: Any) -> None:
    service = listening.service(WEB)
    answer = service.get("/any", stream=True)
    pieces = b"".join(answer.iter_bytes())
    assert json.loads(pieces)["target"] == "/any"
    whole = service.get("/any", stream=True)
    assert json.loads(whole.read())["target"] == "/any" and whole.json()
    whole.close()


def test_a_websocket_to_a_service(listening: Any) -> None:
    with listening.service(WEB).websocket("/ws") as websocket:
        websocket.send("text")
        assert websocket.receive() == "text"
        websocket.send(b"bytes")
        assert next(iter(websocket)) == b"bytes"


def test_login_urls_and_links(client: Any, listening: Any) -> None:
    login = client.service(listening.name, WEB, access="workspace")
    assert isinstance(login, ServiceLoginURL)
    assert [each.port for each in client.list_service_urls(listening.name)] == [WEB]
    client.delete_service_urls(listening.name)
    assert client.list_service_urls(listening.name) == []
    listening.write("linked", "content")
    link = listening.generate_download_url("/home/user/linked")
    with urllib.request.urlopen(link.download_url, timeout=20) as page:
        assert page.read() == b"content"


def test_a_closed_stream_says_so(listening: Any, face: Face) -> None:
    stream = face.connect(listening, ECHO)
    stream.close()
    with pytest.raises(Exception) as closed:
        stream.send(b"late")
    assert "clos" in f"{type(closed.value).__name__} {closed.value}".lower()
