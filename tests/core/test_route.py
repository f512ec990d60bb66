"""How to reach an origin: proxies, exceptions from them, and CONNECT."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.faults import FaultKind
from sandbox_proto.machines.connect import ProxyConnect
from sandbox_proto.plans.route import Proxy, Route, RoutePlan
from sandbox_proto.wire.urls import Origin

from ._helpers import bytewise, cut, cut_points

PROXY = Origin("http", "proxy", 3128)
SECURE = Origin("https", "api.test", 443)
PLAIN = Origin("http", "api.test", 80)


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


# --- proxies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy:3128", Proxy(PROXY)),
        ("proxy:3128", Proxy(PROXY)),
        ("http://proxy", Proxy(Origin("http", "proxy", 80))),
        ("https://proxy", Proxy(Origin("https", "proxy", 443))),
        ("http://proxy:3128/", Proxy(PROXY)),
        ("http://[::1]:3128", Proxy(Origin("http", "::1", 3128))),
        ("http://user:pass@proxy:3128", Proxy(PROXY, basic("user:pass"))),
        ("http://user@proxy:3128", Proxy(PROXY, basic("user:"))),
        ("http://us%40er:p%3Aa%2Fss@proxy:3128", Proxy(PROXY, basic("us@er:p:a/ss"))),
        ("user:pass@proxy:3128", Proxy(PROXY, basic("user:pass"))),
        ("http://\u00fcser:p\u00e4ss@proxy:3128", Proxy(PROXY, basic("\u00fcser:p\u00e4ss"))),
    ],
)
def test_the_ways_to_write_a_proxy(url, proxy):
    assert Proxy.parse(url) == proxy


@pytest.mark.parametrize(
    "url",
    [
        "",
        "socks5://user:s3cret@proxy:1080",
        "ftp://proxy",
        "http://",
        "http://:3128",
        "http://user:s3cret@",
        "http://user:s3cret@proxy:99999",
        "http://user:s3cret@proxy:port",
        "http://user:s3cret@[proxy",
        "http://user:s3cret@pr\u2100xy",
    ],
)
def test_what_is_no_proxy_is_refused_without_showing_the_password(url):
    with pytest.raises(ValueError, match=r"proxy|[Pp]ort") as caught:
        Proxy.parse(url)
    assert "s3cret" not in str(caught.value)


def test_a_line_break_in_a_password_cannot_inject_a_header():
    proxy = Proxy.parse("http://user:a%0d%0aEvil%3A1@proxy")
    connect = ProxyConnect(Route(SECURE, proxy))
    head = b"".join(connect.data_to_send())
    assert b"Evil" not in head
    assert head.count(b"\r\n\r\n") == 1


def test_the_password_does_not_show():
    plan = RoutePlan.through("http://user:s3cret@proxy:3128")
    for holder in (plan, plan.route_to(SECURE), *plan.proxies.values()):
        assert "s3cret" not in repr(holder)
        assert basic("user:s3cret") not in repr(holder)


@pytest.mark.parametrize(
    ("environ", "plain", "secure"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://a"}, "a", None),
        ({"HTTPS_PROXY": "http://b"}, None, "b"),
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b"}, "a", "b"),
        ({"ALL_PROXY": "c"}, "c", "c"),
        ({"ALL_PROXY": "c", "HTTPS_PROXY": "b"}, "c", "b"),
        ({"http_proxy": "low", "HTTP_PROXY": "high"}, "low", None),
        ({"HTTPS_PROXY": ""}, None, None),
        ({"https_proxy": "", "HTTPS_PROXY": "b"}, None, "b"),
        # Under CGI, HTTP_PROXY is what a stranger's "Proxy:" header says.
        ({"HTTP_PROXY": "evil", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "low", "HTTP_PROXY": "evil", "REQUEST_METHOD": "GET"}, "low", None),
    ],
)
def test_proxies_from_the_environment(environ, plain, secure):
    plan = RoutePlan.from_env(environ)
    for origin, host in ((PLAIN, plain), (SECURE, secure)):
        route = plan.route_to(origin)
        assert route.origin == origin
        assert (route.proxy and route.proxy.origin.host) == host


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_bad_variable_is_named(name):
    with pytest.raises(ValueError, match=name) as caught:
        RoutePlan.from_env({name: "socks5://user:s3cret@proxy"})
    assert "s3cret" not in str(caught.value)


def test_no_proxy_at_all_and_one_for_everything():
    assert RoutePlan.through(None).route_to(SECURE).proxy is None
    plan = RoutePlan.through("http://proxy:3128")
    assert plan.route_to(SECURE).proxy == plan.route_to(PLAIN).proxy == Proxy(PROXY)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "api.test", 443, False),
        ("*", "api.test", 443, True),
        ("api.test", "api.test", 443, True),
        ("API.Test", "api.test", 443, True),
        ("api.test", "other.test", 443, False),
        ("test", "api.test", 443, True),
        ("est", "api.test", 443, False),
        (".test", "api.test", 443, True),
        ("*.test", "api.test", 443, True),
        (".api.test", "api.test", 443, True),
        ("i.test", "api.test", 443, False),
        ("a, ,b , api.test", "api.test", 443, True),
        (",", "api.test", 443, False),
        (".", "api.test", 443, False),
        ("*.", "api.test", 443, False),
        ("api.test:443", "api.test", 443, True),
        ("api.test:8443", "api.test", 443, False),
        (".test:443", "api.test", 443, True),
        ("localhost", "localhost", 443, True),
        ("127.0.0.1", "127.0.0.1", 443, True),
        ("27.0.0.1", "127.0.0.1", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.1/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "ten.test", 443, False),
        ("10.0.0.0/99", "10.1.2.3", 443, False),
        ("::1", "::1", 443, True),
        ("[::1]", "::1", 443, True),
        ("[::1]:443", "::1", 443, True),
        ("[::1]:80", "::1", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("fd00::/8", "10.0.0.1", 443, False),
    ],
)
def test_what_is_reached_directly(no_proxy, host, port, direct):
    plan = RoutePlan.from_env({"ALL_PROXY": "http://proxy", "NO_PROXY": no_proxy})
    assert (plan.route_to(Origin("https", host, port)).proxy is None) == direct


# --- CONNECT --------------------------------------------------------------------------


def connect(url="http://proxy:3128", origin=SECURE):
    return ProxyConnect(RoutePlan.through(url).route_to(origin))


def answered(*pieces, eof=False):
    """The fault of a CONNECT that is answered so (None: the tunnel stands)."""
    machine = connect()
    machine.data_to_send()
    for piece in pieces:
        assert not machine.finished, "nothing more is read when it is over"
        machine.receive_data(piece)
    if eof:
        machine.receive_eof()
    assert machine.finished
    return machine.fault


@pytest.mark.parametrize(
    ("url", "origin", "head"),
    [
        (
            "http://proxy:3128",
            SECURE,
            b"CONNECT api.test:443 HTTP/1.1\r\nhost: api.test:443\r\n\r\n",
        ),
        ("http://proxy", PLAIN, b"CONNECT api.test:80 HTTP/1.1\r\nhost: api.test:80\r\n\r\n"),
        (
            "http://proxy",
            Origin("https", "::1", 8443),
            b"CONNECT [::1]:8443 HTTP/1.1\r\nhost: [::1]:8443\r\n\r\n",
        ),
        (
            "http://u:p@proxy",
            SECURE,
            b"CONNECT api.test:443 HTTP/1.1\r\nhost: api.test:443\r\n"
            b"proxy-authorization: Basic dTpw\r\n\r\n",
        ),
    ],
)
def test_the_bytes_of_a_connect(url, origin, head):
    machine = connect(url, origin)
    assert b"".join(machine.data_to_send()) == head
    assert machine.data_to_send() == []
    assert not machine.finished


OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n",
        b"HTTP/1.1 201 Fine\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
@pytest.mark.parametrize("split", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_any_success_is_a_tunnel(answer, split):
    assert answered(*split(answer)) is None


@pytest.mark.parametrize(
    ("answer", "eof", "text"),
    [
        (
            b"HTTP/1.1 407 Auth Required\r\nContent-Length: 0\r\n\r\n",
            False,
            "it answered 407 Auth Required",
        ),
        (b"HTTP/1.1 502\r\n\r\n", False, "it answered 502"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", False, "it answered 302 Found"),
        (OK + b"x", False, "it sent data of its own into the tunnel"),
        (b"SSH-2.0\r\n\r\n", False, "its answer is not valid HTTP"),
        (b"HTTP/1.1 200", True, "it closed the connection"),
        (b"", True, "it closed the connection"),
    ],
)
def test_anything_else_is_a_refusal_that_names_the_proxy(answer, eof, text):
    fault = answered(*([answer] if answer else []), eof=eof)
    assert fault.kind is FaultKind.UNREACHABLE
    assert fault.while_connecting, "nothing was sent to the origin, so all may be tried again"
    assert fault.message.startswith(f"the proxy http://proxy:3128 refused the tunnel: {text}")


@given(st.data())
def test_bytes_behind_the_answer_refuse_the_tunnel_in_every_split_that_shows_them(data):
    pieces = cut(OK + b"smuggled", data.draw(cut_points(len(OK) + 8)))
    machine = connect()
    read = b""
    for piece in pieces:
        if machine.finished:
            break
        machine.receive_data(piece)
        read += piece
    assert (machine.fault is None) == (read == OK)


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 403 No\r\n\r\n"])
def test_the_verdict_stands_whatever_comes_afterwards(answer):
    machine = connect()
    machine.receive_data(answer)
    verdict = machine.fault
    machine.receive_data(b"more")
    machine.receive_eof()
    assert machine.fault is verdict


def test_a_route_without_a_proxy_needs_no_connect():
    with pytest.raises(LocalProtocolError):
        ProxyConnect(Route(SECURE))
