"""URLs: no name reaches another path than its own (protocol/01 sections 1 and 9)."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.flows.control import box_path
from sandbox_proto.flows.files import read_file
from sandbox_proto.flows.sandboxes import delete_sandbox, get_sandbox, get_status
from sandbox_proto.wire.urls import Origin, Url, quote_segment, with_query

from ._helpers import Talk, make_context, reply


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("plain-name_1.2~x", "plain-name_1.2~x"),
        ("a/b", "a%2Fb"),
        ("a:b", "a%3Ab"),
        ("a b", "a%20b"),
        ("a%2Fb", "a%252Fb"),
        ("caf\u00e9", "caf%C3%A9"),
        ("!'()*", "%21%27%28%29%2A"),
        ("?x#y", "%3Fx%23y"),
        ("..", None),
        (".", None),
        ("", None),
        ("...", "..."),
    ],
)
def test_names_in_a_path(name, quoted):
    if quoted is None:
        with pytest.raises(ValueError, match="name"):
            quote_segment(name)
    else:
        assert quote_segment(name) == quoted


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@given(TEXT)
def test_any_name_stays_one_segment_of_the_request_line(name):
    target = Url.parse("http://h/v2" + box_path(name, "status")).target
    prefix, boxes, segment, action = target[1:].split("/")
    assert (prefix, boxes, unquote(segment), action) == ("v2", "boxes", name, "status")
    assert target.isascii() and target.isprintable() and " " not in target


@given(TEXT)
def test_any_file_path_stays_inside_its_query(path):
    target = Url.parse(with_query("http://h/download", {"path": path})).target
    assert target.startswith("/download?path=")
    assert not set(target[15:]) & set("&?#/ \r\n")


@pytest.mark.parametrize("call", [get_sandbox, get_status, delete_sandbox])
@pytest.mark.parametrize("name", ["", ".", ".."])
def test_unaddressable_names_are_refused_before_anything_is_sent(call, name):
    talk = Talk([])
    with pytest.raises(ValueError, match="name"):
        talk.run(call(make_context(), name))
    assert talk.performed == []


@pytest.mark.parametrize(
    ("params", "url"),
    [
        ({}, "http://h/x"),
        ({"path": "/a b/\u00e9"}, "http://h/x?path=%2Fa+b%2F%C3%A9"),
        ({"label": ["a=1", "b"]}, "http://h/x?label=a%3D1&label=b"),
        ({"q": "x&y=z"}, "http://h/x?q=x%26y%3Dz"),
    ],
)
def test_queries_are_form_style_with_repeated_keys_for_lists(params, url):
    assert with_query("http://h/x", params) == url


def test_a_file_name_cannot_leave_its_query_parameter():
    talk = Talk([reply(200)])
    talk.run(read_file(make_context(), "http://d/sb", "/x&path=/etc/shadow#", timeout=1))
    assert talk.requests == ["GET /sb/download?path=%2Fx%26path%3D%2Fetc%2Fshadow%23"]


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("http://h", Origin("http", "h", 80), "/"),
        ("https://H.test/a?b=c", Origin("https", "h.test", 443), "/a?b=c"),
        ("ws://h:8080/x", Origin("http", "h", 8080), "/x"),
        ("wss://h", Origin("https", "h", 443), "/"),
        ("http://[::1]:5/x", Origin("http", "::1", 5), "/x"),
        ("http://h/a b", Origin("http", "h", 80), "/a%20b"),
        ("http://h/\u00e4?\u00e4", Origin("http", "h", 80), "/%C3%A4?%C3%A4"),
        ("http://h/x#fragment", Origin("http", "h", 80), "/x"),
        ("http://h/a%2Fb", Origin("http", "h", 80), "/a%2Fb"),
    ],
)
def test_taking_urls_apart(text, origin, target):
    assert Url.parse(text) == Url(origin, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h/x",
        "/x",
        "ftp://h/x",
        "http://",
        "http:///x",
        "http://h:0/",
        "http://h:65536/",
        "http://h:x/",
        "http://user:s3cret@h/",
        "http://s3cret@h/",
        "http://[::1/",
        "http://user:s3cret@h\u2100st/",
        "http://a b/",
        "http://a\x01b/",
        "http://m\u00fcnchen/",
        "ftp://user:s3cret@h/",
        "http://user:s3cret@h:99999/",
    ],
)
def test_what_is_no_usable_url_is_refused_without_showing_a_password(text):
    with pytest.raises(ValueError, match="URL") as caught:
        Url.parse(text)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "authority", "host_header", "shown"),
    [
        ("http://h/x?token=1", "h:80", "h", "http://h/x"),
        ("http://h:81/x?token=1", "h:81", "h:81", "http://h:81/x"),
        ("https://h:80/x", "h:80", "h:80", "https://h:80/x"),
        ("https://[::1]/x", "[::1]:443", "[::1]", "https://[::1]/x"),
        ("https://[::1]:8/", "[::1]:8", "[::1]:8", "https://[::1]:8/"),
    ],
)
def test_how_an_origin_is_written(url, authority, host_header, shown):
    parsed = Url.parse(url)
    assert parsed.origin.authority == authority
    assert parsed.origin.host_header == host_header
    assert parsed.without_query() == shown
