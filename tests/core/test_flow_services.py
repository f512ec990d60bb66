"""Addresses of services and links to files (flows.services; protocol/10 1-3, 02 13, 05 7)."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.flows.services import (
    TOKEN_HEADER,
    delete_service_urls,
    list_service_urls,
    mint_download_url,
    mint_service_url,
    request_to_service,
    service_request,
)
from sandbox_proto.wire.models import DownloadURL, ServiceLoginURL
from sandbox_proto.wire.services import ServiceAccessEntry, ServiceGrant

from ._flows import REFUSED, Story, each_unanswered
from ._helpers import KEY, body_json, refusal, reply

MINT = "POST /boxes/box/service-url"
LIST = "GET /boxes/box/service-urls"
DELETE = "DELETE /boxes/box/service-urls"
LINK = "POST /boxes/box/download-url"
NOT_FOUND = refusal(404, message="the server's words")
TOKEN = {"port": 3000, "expires_in_seconds": 600}
LOGIN = {"port": 3000, "access": "workspace"}
MINTED = {
    "browser_url": "https://id--3000.svc.test/_svc/auth?token=t1",
    "service_url": "https://id--3000.svc.test/",
    "token": "t1",
    "expires_at": "2026-01-01T00:10:00Z",
}


def asked(port=3000, *, expires_in_seconds=600, access=None, embed_origins=None):
    return service_request(
        port, expires_in_seconds=expires_in_seconds, access=access, embed_origins=embed_origins
    )


# --- the request ----------------------------------------------------------------------


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_a_port_goes_out_as_it_is(port):
    assert asked(port)["port"] == port


@pytest.mark.parametrize("port", [0, -1, 65536, 80.0, "80", None])
@pytest.mark.parametrize("access", [None, "workspace"])
def test_what_is_no_port_is_refused_and_named(port, access):
    with pytest.raises(ValueError, match=r"^port must be 1 to 65535, not ") as caught:
        asked(port, access=access)
    assert repr(port) in str(caught.value)


@pytest.mark.parametrize("seconds", [1, 600, 86_400])
def test_the_life_of_a_token_goes_out_as_it_is(seconds):
    assert asked(expires_in_seconds=seconds) == {"port": 3000, "expires_in_seconds": seconds}


@pytest.mark.parametrize("seconds", [0, -1, 86_401, 60.0, "60", None])
@pytest.mark.parametrize("access", [None, "restricted"])
def test_a_life_out_of_range_is_refused_in_either_mode(seconds, access):
    with pytest.raises(ValueError, match=r"^expires_in_seconds must be 1 to 86400, not "):
        asked(expires_in_seconds=seconds, access=access)


@pytest.mark.parametrize("access", ["restricted", "workspace"])
def test_a_login_grant_has_no_life(access):
    assert asked(access=access) == {"port": 3000, "access": access}


@pytest.mark.parametrize("access", ["", "off", "token", "Workspace", "public"])
def test_no_other_access_can_be_asked_for(access):
    with pytest.raises(ValueError, match=r"^access must be one of restricted, workspace, not "):
        asked(access=access)


@pytest.mark.parametrize(
    ("origins", "sent"),
    [
        (None, {}),
        ([], {}),
        ((), {}),
        (["https://a.test"], {"embed_origins": ["https://a.test"]}),
        (
            ("https://a.test", "http://localhost:1"),
            {"embed_origins": ["https://a.test", "http://localhost:1"]},
        ),
    ],
)
@pytest.mark.parametrize("access", [None, "workspace"])
def test_origins_are_sent_if_there_are_any_in_either_mode(origins, sent, access):
    body = asked(embed_origins=origins, access=access)
    assert {key: value for key, value in body.items() if key == "embed_origins"} == sent


def test_the_origins_sent_are_a_copy():
    origins = ["https://a.test"]
    body = asked(embed_origins=origins)
    origins.append("https://evil.test")
    assert body["embed_origins"] == ["https://a.test"]


def test_one_string_is_no_list_of_origins():
    with pytest.raises(ValueError, match="embed_origins must be a list"):
        asked(embed_origins="https://a.test")


# --- minting --------------------------------------------------------------------------


def test_a_token_is_minted():
    story = Story((MINT, reply(200, {**MINTED, "new": 1})))
    grant = story.run(mint_service_url, "box", asked(embed_origins=["https://a.test"]))
    assert grant == ServiceGrant(**MINTED)
    assert story.bodies == [{**TOKEN, "embed_origins": ["https://a.test"]}]


def test_a_grant_keeps_what_is_for_frames():
    embed = {"embed_url": "https://x/#token=t", "embed_origins": ["https://a.test"]}
    story = Story((MINT, reply(200, {**MINTED, **embed, "access": None})))
    assert story.run(mint_service_url, "box", TOKEN) == ServiceGrant(**MINTED, **embed)


@pytest.mark.parametrize(
    "browser_url",
    [
        "https://id--3000.svc.test/_svc/auth",
        MINTED["browser_url"],
    ],
)
def test_a_token_does_not_show(browser_url):
    assert "t1" not in repr(ServiceGrant(**{**MINTED, "browser_url": browser_url}))


@pytest.mark.parametrize("field", MINTED)
@pytest.mark.parametrize("value", [None, 5])
def test_a_grant_without_a_field_is_a_protocol_error_that_names_it(field, value):
    story = Story((MINT, reply(200, {**MINTED, field: value})))
    error = story.fail(errors.SandboxProtocolError, mint_service_url, "box", TOKEN)
    assert repr(field) in str(error)
    assert error.status == 200


@pytest.mark.parametrize(
    ("answer", "url"),
    [
        ({"browser_url": "https://b", "service_url": "https://s"}, "https://b"),
        ({"browser_url": "", "service_url": "https://s"}, "https://s"),
        ({"browser_url": None, "service_url": "https://s"}, "https://s"),
        ({"service_url": "https://s"}, "https://s"),
        ({}, ""),
        ({"browser_url": "https://b", "access": "restricted"}, "https://b"),
        ({"browser_url": "https://b", "access": None}, "https://b"),
    ],
)
def test_a_login_grant_needs_nothing_but_an_address(answer, url):
    story = Story((MINT, reply(200, answer)))
    grant = story.run(mint_service_url, "box", LOGIN)
    assert grant == ServiceLoginURL(url, answer.get("access") or "workspace", [])
    assert story.bodies == [LOGIN]


def test_a_login_grant_keeps_the_origins():
    story = Story((MINT, reply(200, {"browser_url": "u", "embed_origins": ["https://a.test"]})))
    assert story.run(mint_service_url, "box", LOGIN).embed_origins == ["https://a.test"]


@pytest.mark.parametrize("body", [TOKEN, LOGIN])
@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"null", b'"text"'])
def test_what_is_no_grant_is_a_protocol_error(body, answer):
    story = Story((MINT, reply(200, body=answer)))
    story.fail(errors.SandboxProtocolError, mint_service_url, "box", body)


@pytest.mark.parametrize("body", [TOKEN, LOGIN])
@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (400, errors.SandboxClientError, "why"),
        (404, errors.ResourceNotFoundError, "there is no sandbox 'box'"),
        (409, errors.SandboxClientError, "why"),
        (422, errors.ValidationError, "why"),
        (500, errors.SandboxAPIError, "why"),
        (501, errors.SandboxClientError, "why"),
    ],
)
def test_a_refusal_to_mint(body, status, error, text):
    story = Story((MINT, refusal(status, message="why")))
    raised = story.fail(error, mint_service_url, "box", body)
    assert (str(raised), raised.status) == (text, status)
    if status == 404:
        assert raised.resource_type == "sandbox"


@each_unanswered
@pytest.mark.parametrize("body", [TOKEN, LOGIN])
def test_one_token_more_harms_nobody(lost, body):
    story = Story((MINT, lost), (MINT, REFUSED), (MINT, reply(200, MINTED)))
    story.run(mint_service_url, "box", body, {"X-Trace": "t"})
    assert story.waits == [1500, 2500]
    first, *others = story.sent
    assert all(other == first for other in others)
    assert first.headers["x-trace"] == "t"


# --- what can be reached --------------------------------------------------------------


def entry(port, access="token", **more):
    return {"port": port, "access": access, **more}


def test_every_page_of_the_reachable_ports():
    first = {
        "items": [
            entry(80, "restricted", created_at="c", created_by=None, embed_origins=["https://a"]),
            entry(81, expires_at="e", created_by="me", embed_origins=None),
        ],
        "next_cursor": "x",
    }
    second = {"items": [entry(81), entry(82, "workspace")], "next_cursor": None}
    story = Story((LIST, reply(200, first)), (LIST + "?cursor=x", reply(200, second)))
    assert story.run(list_service_urls, "box") == [
        ServiceAccessEntry(80, "restricted", "c", None, ["https://a"], None),
        ServiceAccessEntry(81, "token", None, "me", [], "e"),
        ServiceAccessEntry(82, "workspace"),
    ]


@pytest.mark.parametrize("answer", [{}, {"items": []}, {"items": None, "next_cursor": None}])
def test_nothing_may_be_reachable(answer):
    assert Story((LIST, reply(200, answer))).run(list_service_urls, "box") == []


@pytest.mark.parametrize("item", [{"access": "token"}, {"port": 80}, {"port": "80"}, None, []])
def test_an_entry_without_port_or_access_is_a_protocol_error(item):
    story = Story((LIST, reply(200, {"items": [item]})))
    story.fail(errors.SandboxProtocolError, list_service_urls, "box")


@pytest.mark.parametrize(("port", "query"), [(None, ""), (80, "?port=80"), (65535, "?port=65535")])
def test_access_is_taken_back_from_one_port_or_all(port, query):
    story = Story((DELETE + query, reply(204)))
    assert story.run(delete_service_urls, "box", port) is None
    assert story.bodies == [None]


@each_unanswered
def test_taking_access_back_twice_is_harmless(lost):
    story = Story((DELETE, lost), (DELETE, reply(204)))
    story.run(delete_service_urls, "box", None)
    assert story.waits == [1500]


@pytest.mark.parametrize("flow", [list_service_urls, delete_service_urls])
def test_404_is_about_the_sandbox(flow):
    more = [None] if flow is delete_service_urls else []
    story = Story((LIST if flow is list_service_urls else DELETE, NOT_FOUND))
    error = story.fail(errors.ResourceNotFoundError, flow, "box", *more)
    assert (str(error), error.resource_type) == ("there is no sandbox 'box'", "sandbox")


# --- links to files -------------------------------------------------------------------


def link(story, path="/f", **given):
    fields = {"expires_in_seconds": None, "content_type": None, "content_disposition": None}
    return story.run(mint_download_url, "box", path, **{**fields, **given})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {}),
        ({"expires_in_seconds": 1}, {"expires_in_seconds": 1}),
        ({"content_type": ""}, {"content_type": ""}),
        (
            {
                "expires_in_seconds": 10**9,
                "content_type": "text/html; charset=utf-8",
                "content_disposition": "inline",
            },
            {
                "expires_in_seconds": 10**9,
                "content_type": "text/html; charset=utf-8",
                "content_disposition": "inline",
            },
        ),
        ({"content_disposition": "attachment"}, {"content_disposition": "attachment"}),
    ],
)
@pytest.mark.parametrize("expires_at", ["2026-01-01T00:00:00Z", None])
def test_a_link_is_asked_for_with_what_is_set(given, sent, expires_at):
    answer = {"download_url": "https://dl.test/t", "token": "t", "expires_at": expires_at}
    story = Story((LINK, reply(200, answer)))
    assert link(story, "/f \u00e9", **given) == DownloadURL("https://dl.test/t", "t", expires_at)
    assert story.bodies == [{"path": "/f \u00e9", **sent}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"expires_in_seconds": 0}, "expires_in_seconds must be at least 1, not 0"),
        ({"expires_in_seconds": -5}, "expires_in_seconds must be at least 1, not -5"),
        ({"content_disposition": ""}, "content_disposition must be one of attachment, inline"),
        ({"content_disposition": "Inline"}, "content_disposition must be one of"),
        ({"content_disposition": "attachment; filename=x"}, "content_disposition must be one of"),
        ({"expires_in_seconds": "5"}, "expires_in_seconds must be"),
    ],
)
def test_an_argument_out_of_range_is_refused_unasked(given, said):
    with pytest.raises(ValueError, match=said):
        link(Story(), **given)


@pytest.mark.parametrize(
    "answer", [{}, {"token": "t"}, {"download_url": "u"}, {"download_url": 1, "token": "t"}, []]
)
def test_what_is_no_link_is_a_protocol_error(answer):
    with pytest.raises(errors.SandboxProtocolError):
        link(Story((LINK, reply(200, answer))))


@each_unanswered
def test_one_link_more_harms_nobody(lost):
    story = Story((LINK, lost), (LINK, reply(200, {"download_url": "u", "token": "t"})))
    assert link(story).download_url == "u"


def test_a_link_to_a_file_of_no_sandbox():
    with pytest.raises(errors.ResourceNotFoundError, match="there is no sandbox 'box'") as caught:
        link(Story((LINK, NOT_FOUND)))
    assert caught.value.resource_type == "sandbox"


# --- requests to the service itself ---------------------------------------------------


def to_service(path="/", *, base="https://h.test/", method="GET", headers=None, **more):
    grant = ServiceGrant("b", base, "t1", "2026-01-01T00:00:00Z")
    return request_to_service(grant, method, path, headers=headers or {}, **more)


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("https://h.test/", "/", "https://h.test/"),
        ("https://h.test", "", "https://h.test/"),
        ("https://h.test", "a", "https://h.test/a"),
        ("https://h.test///", "///a/", "https://h.test/a/"),
        ("https://h.test/", "//evil.test/a", "https://h.test/evil.test/a"),
        ("https://h.test/", "https://evil.test/a", "https://h.test/https://evil.test/a"),
        ("https://h.test/", "@evil.test/a", "https://h.test/@evil.test/a"),
        ("http://127.0.0.1:8080/svc/id--80/", "/a/b", "http://127.0.0.1:8080/svc/id--80/a/b"),
        ("https://h.test/", "/a?x=1&y=%20", "https://h.test/a?x=1&y=%20"),
        ("https://h.test/", "?x=1", "https://h.test/?x=1"),
        ("https://h.test/", "/a b\r\n\u00e9", "https://h.test/a%20b%C3%A9"),
        ("https://h.test/", "/a#part", "https://h.test/a"),
    ],
)
def test_paths_go_below_the_service_and_nowhere_else(base, path, url):
    assert str(to_service(path, base=base).url) == url


@pytest.mark.parametrize(
    ("path", "params", "target"),
    [
        ("/a", None, "/a"),
        ("/a", {}, "/a"),
        ("/a", {"x": "1 2", "y": "&"}, "/a?x=1+2&y=%26"),
        ("/a?x=1", {"y": "2"}, "/a?x=1&y=2"),
    ],
)
def test_a_query_is_appended(path, params, target):
    assert to_service(path, params=params).url.target == target


def test_the_token_goes_with_it_and_no_key_of_ours():
    request = to_service(headers={"accept": "*/*", "cookie": "c=1"})
    assert TOKEN_HEADER == "X-Langsmith-Sandbox-Service-Token"
    assert request.headers == {
        "accept": "*/*",
        "cookie": "c=1",
        "x-langsmith-sandbox-service-token": "t1",
    }
    assert KEY not in str(request.headers)


def test_the_token_outranks_one_of_the_callers():
    headers = {"x-langsmith-sandbox-service-token": "stolen"}
    assert list(to_service(headers=headers).headers.values()) == ["t1"]
    assert headers == {"x-langsmith-sandbox-service-token": "stolen"}, "it was changed"


@pytest.mark.parametrize(("method", "sent"), [("get", "GET"), ("PATCH", "PATCH"), ("x-y", "X-Y")])
def test_any_method_goes_with_any_body(method, sent):
    request = to_service(method=method, body=(b'{"a"', b": 1}"))
    assert (request.method, body_json(request)) == (sent, {"a": 1})
    assert to_service().body == ()


def test_the_token_shows_neither_in_the_request_nor_in_its_address():
    request = to_service("/a")
    assert "t1" not in repr(request)
    assert to_service("/a?token=t1").url.without_query() == "https://h.test/a"
