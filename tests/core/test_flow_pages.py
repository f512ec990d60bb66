"""Walking through lists that come in pages (flows.paging; protocol/02 section 17)."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.errors import SandboxProtocolError
from sandbox_proto.flows.paging import Listing, Page, Pages, filters, label_filters, list_page

from ._flows import LOST, REFUSED, START, Story
from ._helpers import BASE, KEY, refusal, reply


def letter(data):
    if not isinstance(data, str):
        raise SandboxProtocolError(f"{data!r} is no letter")
    return data


LETTERS = Listing("/letters", "old_letters", letter, str.lower, "letters")


def page(items, **more):
    return reply(200, {"items": list(items), **more})


def steps(*pages):
    return [(f"GET /letters{query}", answer) for query, answer in pages]


def walk(pages, **query):
    """All letters of these (query, answer) pages, which must all be asked for."""
    return "".join(Story(*steps(*pages)).run(Pages(LETTERS, query).rest))


# --- to the end -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "letters"),
    [
        ([("", page("ab", next_cursor=None))], "ab"),
        ([("", page("ab", next_cursor="", offset=2))], "ab"),
        ([("", page("ab", next_cursor=None, offset=2))], "ab"),
        ([("", page("ab", offset=0))], "ab"),
        ([("", page("ab", offset=-1))], "ab"),
        ([("", page("ab", offset=None))], "ab"),
        ([("", page("ab"))], "ab"),
        ([("", reply(200, {}))], ""),
        ([("", reply(200, {"items": None, "old_letters": ["a"]}))], "a"),
        ([("", reply(200, {"items": ["a"], "old_letters": ["b"]}))], "a"),
        (
            [
                ("", page("a", next_cursor="c1", offset=9)),
                ("?cursor=c1", page("b", next_cursor="c2", offset=9)),
                ("?cursor=c2", page("c", next_cursor=None, offset=9)),
            ],
            "abc",
        ),
        (
            [
                ("", page("ab", offset=2)),
                ("?offset=2", page("cd", offset=4)),
                ("?offset=4", page("e", offset=0)),
            ],
            "abcde",
        ),
        # A server that learns about cursors between two pages.
        (
            [
                ("", page("ab", offset=2)),
                ("?offset=2", page("c", next_cursor="c3", offset=3)),
                ("?cursor=c3", page("d", next_cursor=None)),
            ],
            "abcd",
        ),
        # Empty pages are no end, wherever they stand.
        (
            [
                ("", page("", next_cursor="c1")),
                ("?cursor=c1", page("", next_cursor="c2")),
                ("?cursor=c2", page("a", next_cursor="c3")),
                ("?cursor=c3", page("", next_cursor="c4")),
                ("?cursor=c4", page("b", next_cursor=None)),
            ],
            "ab",
        ),
        ([("", page("", offset=5)), ("?offset=5", page("a", offset=0))], "a"),
        # Cursors are opaque.
        (
            [
                ("", page("a", next_cursor="a b&c=/\u00e9")),
                ("?cursor=a+b%26c%3D%2F%C3%A9", page("")),
            ],
            "a",
        ),
    ],
)
def test_a_list_is_followed_to_its_end_and_no_further(pages, letters):
    assert walk(pages) == letters


# --- filters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "first", "following", "second"),
    [
        (
            {"status": "ready", "page_size": "2"},
            "?status=ready&page_size=2",
            {"next_cursor": "c"},
            "?status=ready&page_size=2&cursor=c",
        ),
        (
            {"label": ["a", "b=c"]},
            "?label=a&label=b%3Dc",
            {"next_cursor": "c"},
            "?label=a&label=b%3Dc&cursor=c",
        ),
        # The two ways of paging do not mix in one request.
        ({"limit": "2", "offset": "4"}, "?limit=2&offset=4", {"next_cursor": "c"}, "?cursor=c"),
        (
            {"limit": "2", "offset": "4", "name_contains": "x"},
            "?limit=2&offset=4&name_contains=x",
            {"offset": 6},
            "?limit=2&offset=6&name_contains=x",
        ),
        ({"cursor": "c0"}, "?cursor=c0", {"next_cursor": "c1"}, "?cursor=c1"),
    ],
)
def test_the_filters_are_kept_on_every_page(query, first, following, second):
    assert walk([(first, page("a", **following)), (second, page("b"))], **query) == "ab"


def test_the_query_given_is_not_changed():
    query = {"status": "ready"}
    pages = [("?status=ready", page("a", next_cursor="c")), ("?status=ready&cursor=c", page("b"))]
    Story(*steps(*pages)).run(Pages(LETTERS, query).rest)
    assert query == {"status": "ready"}


@pytest.mark.parametrize(
    ("values", "query"),
    [
        ({}, {}),
        ({"a": None, "b": None}, {}),
        ({"a": "", "b": 0, "c": 2.5}, {"a": "", "b": "0", "c": "2.5"}),
        ({"label": ["x", "y=z"], "n": (1, 2)}, {"label": ["x", "y=z"], "n": ["1", "2"]}),
        (
            {"include_totals": True, "include_daily": False},
            {"include_totals": "true", "include_daily": "false"},
        ),
    ],
)
def test_a_query_of_the_filters_that_are_set(values, query):
    assert filters(**values) == query


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, None),
        ({}, None),
        ({"team": "x", "gpu": None, "note": "", "a=b": "c"}, ["team=x", "gpu", "note=", "a=b=c"]),
    ],
)
def test_labels_as_filters(labels, said):
    assert label_filters(labels) == said


# --- duplicates and circles -----------------------------------------------------------


def test_pages_that_shift_while_we_walk_give_every_item_once():
    # One more came at the front after the first page, and again after the second.
    pages = [
        ("", page("abc", offset=3)),
        ("?offset=3", page("cde", offset=6)),
        ("?offset=6", page("efg", offset=0)),
    ]
    assert walk(pages) == "abcdefg"


def test_of_what_comes_twice_the_first_is_kept():
    pages = [("", page("aAb", next_cursor="c")), ("?cursor=c", page("BcAC"))]
    assert walk(pages) == "abc"


def test_a_page_of_nothing_new_is_empty_and_no_end():
    pages = Pages(LETTERS)
    assert Story(*steps(("", page("ab", offset=2)))).run(pages.next_page) == ["a", "b"]
    assert Story(*steps(("?offset=2", page("ab", offset=4)))).run(pages.next_page) == []
    assert not pages.finished
    assert Story(*steps(("?offset=4", page("c")))).run(pages.rest) == ["c"]
    assert pages.finished


@pytest.mark.parametrize(
    ("pages", "back"),
    [
        (
            [("", page("a", next_cursor="c")), ("?cursor=c", page("b", next_cursor="c"))],
            "{'cursor': 'c'}",
        ),
        (
            [("", page("a", offset=1)), ("?offset=1", page("b", offset=1))],
            "{'offset': '1'}",
        ),
        (
            [
                ("", page("a", offset=2)),
                ("?offset=2", page("b", offset=1)),
                ("?offset=1", page("c", offset=2)),
            ],
            "{'offset': '2'}",
        ),
        (
            [
                ("", page("", next_cursor="x")),
                ("?cursor=x", page("", next_cursor="y")),
                ("?cursor=y", page("", next_cursor="x")),
            ],
            "{'cursor': 'x'}",
        ),
    ],
    ids=["cursor", "offset", "offsets", "empty pages"],
)
def test_a_server_that_leads_in_circles_is_left_when_the_circle_closes(pages, back):
    error = Story(*steps(*pages)).fail(SandboxProtocolError, Pages(LETTERS).rest)
    assert str(error) == f"the list of letters leads back to the page at {back}"


def test_a_circle_costs_nothing_that_was_found_before():
    pages = Pages(LETTERS)
    first = Story(*steps(("", page("a", next_cursor="c"))))
    assert first.run(pages.next_page) == ["a"]
    second = Story(*steps(("?cursor=c", page("b", next_cursor="c"))))
    assert second.run(pages.next_page) == ["b"]
    assert not pages.finished
    Story().fail(SandboxProtocolError, pages.next_page)


# --- one page -------------------------------------------------------------------------


def test_a_page_says_when_it_came_by_either_clock():
    answer = reply(200, {"items": ["a"]}, date="Thu, 01 Jan 2026 00:00:00 GMT")
    story = Story(("GET /letters?a=b", answer, 2.5))
    found = story.run(list_page, LETTERS, {"a": "b"})
    assert found == Page(["a"], None, START + 2.5, "Thu, 01 Jan 2026 00:00:00 GMT")


def test_a_page_keeps_what_the_walk_would_drop():
    story = Story(("GET /letters", page("aab", next_cursor="c")))
    found = story.run(list_page, LETTERS, {})
    assert (found.items, found.following) == (["a", "a", "b"], {"cursor": "c"})


def test_every_page_has_key_headers_and_retries_of_its_own():
    trouble = [refusal(503), LOST, REFUSED]
    answers = [*trouble, page("a", next_cursor="c")]
    more = [*trouble, page("b")]
    asked = [("", answer) for answer in answers] + [("?cursor=c", answer) for answer in more]
    story = Story(*steps(*asked))
    assert story.run(Pages(LETTERS).rest, {"X-Trace": "t"}) == ["a", "b"]
    assert story.waits == [1500, 2500, 4500] * 2
    sent = {(request.headers["x-trace"], request.headers["x-api-key"]) for request in story.sent}
    assert sent == {("t", KEY)}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "the list of letters is not a JSON object"),
        (b"null", "the list of letters is not a JSON object"),
        (b'"text"', "the list of letters is not a JSON object"),
        (b'{"items": "ab"}', "the list of letters holds no list"),
        (b'{"items": {"a": 1}}', "the list of letters holds no list"),
        (b'{"items": 7}', "the list of letters holds no list"),
        (b'{"old_letters": "ab"}', "the list of letters holds no list"),
        (b'{"items": ["a", 5]}', "5 is no letter"),
        (b'{"items": [null]}', "None is no letter"),
        (b'{"items": [], "next_cursor": 5}', "5, which is no cursor"),
        (b'{"items": [], "offset": "5"}', "'5', which is no offset"),
    ],
)
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_malformed_page_is_a_protocol_error_wherever_it_stands(body, said, earlier):
    queries = ["?a=b", "?a=b&cursor=c1", "?a=b&cursor=c2"][: earlier + 1]
    good = [page("x", next_cursor=f"c{number}") for number in (1, 2)][:earlier]
    story = Story(*steps(*zip(queries, [*good, reply(200, body=body)], strict=True)))
    error = story.fail(SandboxProtocolError, Pages(LETTERS, {"a": "b"}).rest)
    assert said in str(error)
    assert (error.status, error.context.method) == (200, "GET")
    assert error.context.url == f"{BASE}/letters"


@pytest.mark.parametrize("earlier", [0, 1])
def test_404_means_a_wrong_endpoint_unless_the_list_belongs_to_something(earlier):
    before = [("", page("a", next_cursor="c"))] * earlier
    gone = ("?cursor=c" if earlier else "", refusal(404, message="the server's words"))
    story = Story(*steps(*before, gone))
    error = story.fail(errors.SandboxAPIError, Pages(LETTERS).rest)
    assert f"there is no Sandbox API at {BASE}/letters (the server's words)" in str(error)
    assert error.status == 404

    of_box = errors.ResourceNotFoundError("there is no alphabet", "sandbox")
    owned = Listing("/letters", "old_letters", letter, str, "letters", of_box)
    error = Story(*steps(*before, gone)).fail(errors.ResourceNotFoundError, Pages(owned).rest)
    assert (str(error), error.status) == ("there is no alphabet", 404)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "SandboxClientError"), (403, "SandboxAuthenticationError"), (500, "SandboxAPIError")],
)
def test_a_page_that_is_refused_ends_the_walk(status, error):
    story = Story(*steps(("", page("a", next_cursor="c")), ("?cursor=c", refusal(status))))
    story.fail(getattr(errors, error), Pages(LETTERS).rest)


# --- going on -------------------------------------------------------------------------


def test_a_walk_can_be_taken_page_by_page_and_then_to_the_end():
    pages = Pages(LETTERS)
    assert not pages.finished
    assert Story(*steps(("", page("a", next_cursor="c1")))).run(pages.next_page) == ["a"]
    rest = [("?cursor=c1", page("ab", next_cursor="c2")), ("?cursor=c2", page("c"))]
    assert Story(*steps(*rest)).run(pages.rest) == ["b", "c"]
    assert pages.finished
    assert Story().run(pages.rest) == []


def test_a_page_that_failed_may_be_asked_for_again():
    pages = Pages(LETTERS)
    Story(*steps(("", refusal(500)))).fail(errors.SandboxAPIError, pages.next_page)
    assert Story(*steps(("", page("a")))).run(pages.next_page) == ["a"]


def test_behind_the_last_page_there_is_nothing():
    pages = Pages(LETTERS, {"status": "ready"})
    assert Story(*steps(("?status=ready", page("a")))).run(pages.next_page) == ["a"]
    assert Story().run(pages.next_page) == []
