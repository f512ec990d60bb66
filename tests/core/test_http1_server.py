"""The server's half of HTTP/1.1, alone and against the client's half."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.machines.http1_server import Http1Server, RequestReceived
from sandbox_proto.machines.upgrade import ClientUpgrade, Upgraded
from sandbox_proto.wire.http import StreamedBody
from sandbox_proto.wire.urls import Url

from ._helpers import bytewise, cut, cut_points, make_request
from ._http import Exchange


def sent(server):
    return b"".join(bytes(piece) for piece in server.data_to_send())


def received(*pieces):
    """A server that was fed these bytes, and its requests."""
    server = Http1Server()
    for piece in pieces:
        server.receive_data(piece)
    requests = []
    while (request := server.next_event()) is not None:
        requests.append(request)
    return server, requests


GET = b"GET /x?y=%2F HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (GET, RequestReceived("GET", "/x?y=%2F", {"host": "h", "x-a": "1"}, b"")),
        (POST, RequestReceived("POST", "/p", {"host": "h", "content-length": "3"}, b"abc")),
        (
            CHUNKED,
            RequestReceived("POST", "/c", {"host": "h", "transfer-encoding": "chunked"}, b"abc"),
        ),
    ],
)
@pytest.mark.parametrize("split", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_a_request_is_delivered_whole(data, request_, split):
    assert received(*split(data))[1] == [request_]


@pytest.mark.parametrize(
    ("status", "headers", "body", "answer"),
    [
        (200, {"X-A": "1"}, b"ok", b"HTTP/1.1 200 \r\ncontent-length: 2\r\nX-A: 1\r\n\r\nok"),
        (204, {}, b"", b"HTTP/1.1 204 \r\n\r\n"),
        (404, {}, b"", b"HTTP/1.1 404 \r\ncontent-length: 0\r\n\r\n"),
    ],
)
def test_the_bytes_of_an_answer(status, headers, body, answer):
    server, _ = received(GET)
    server.respond(status, headers, body)
    assert sent(server) == answer
    assert not server.finished


def test_requests_follow_each_other_even_when_pipelined():
    server, requests = received(GET + POST + GET)
    assert [each.method for each in requests] == ["GET"]
    methods = []
    for _ in range(3):
        server.respond(200, {})
        request = server.next_event()
        methods.append(request and request.method)
    assert methods == ["POST", "GET", None]


@pytest.mark.parametrize("close", [b"Connection: close\r\n", b""])
def test_a_request_that_closes_is_the_last(close):
    server, _ = received(GET.replace(b"\r\n\r\n", b"\r\n" + close + b"\r\n", 1))
    server.respond(200, {})
    assert server.finished == bool(close)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"v" * 70_000, b"431"),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(data, status):
    server, requests = received(data)
    assert requests == []
    assert sent(server).startswith(b"HTTP/1.1 " + status)
    assert server.finished
    server.receive_data(GET)
    assert server.next_event() is None


@pytest.mark.parametrize("data", [b"", GET[:10]])
def test_a_client_that_leaves_ends_it(data):
    server, _ = received(*([data] if data else []))
    server.receive_eof()
    assert server.finished


def test_answering_what_is_no_request_is_a_mistake():
    server, _ = received(GET[:10])
    server.receive_eof()
    with pytest.raises(LocalProtocolError):
        server.respond(200, {})


# --- both halves ----------------------------------------------------------------------


@given(
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.binary(max_size=50),
    st.binary(max_size=50),
    st.data(),
)
def test_client_and_server_understand_each_other_in_every_split(method, body, answer, data):
    upload = (body,) if method == "POST" else ()
    exchange = Exchange(
        make_request(method, "http://h/x?y", headers={"x-a": "caf\u00e9"}, body=upload)
    )
    server, [request] = received(*cut(exchange.sent, data.draw(cut_points(len(exchange.sent)))))
    assert (request.method, request.target, request.body) == (method, "/x?y", b"".join(upload))
    assert request.headers["x-a"] == "caf\u00e9"
    server.respond(200, {"x-b": "\u00fc"}, answer)
    output = sent(server)
    outcome = exchange.feed(*cut(output, data.draw(cut_points(len(output)))))
    assert outcome.body == (b"" if method == "HEAD" else answer)
    assert ("x-b", "\u00fc") in outcome.head.headers
    assert exchange.machine.reusable


def test_a_streamed_request_arrives_whole():
    exchange = Exchange(make_request("POST", body=StreamedBody(None)))
    for piece in (b"abc", b"de"):
        exchange.machine.send_body(piece, now=0)
    exchange.machine.end_request(now=0)
    exchange.flush()
    _, [request] = received(exchange.sent)
    assert request.body == b"abcde"


@pytest.mark.parametrize("trailing", [b"", b"\x81\x80abcd"])
def test_an_upgrade_is_agreed_on_by_both_halves(trailing):
    client = ClientUpgrade(Url.parse("ws://h/x"), {}, nonce=bytes(16), deadline=None)
    head = b"".join(bytes(piece) for piece in client.data_to_send())
    server, [request] = received(head + trailing)
    assert request.upgrade_key is not None
    assert server.accept_upgrade(request.upgrade_key) == trailing
    client.receive_data(sent(server), now=0)
    assert isinstance(client.next_event(), Upgraded)


@pytest.mark.parametrize(
    "headers",
    [b"", b"Upgrade: h2c\r\nSec-WebSocket-Key: k\r\n", b"Sec-WebSocket-Key: k\r\n"],
)
def test_other_requests_are_no_upgrades(headers):
    _, [request] = received(GET.replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n", 1))
    assert request.upgrade_key is None
