"""Listing sandboxes, every page of it (protocol/02 sections 2 and 17)."""

from __future__ import annotations

import pytest

from sandbox_proto.errors import SandboxProtocolError
from sandbox_proto.flows.sandboxes import list_sandboxes

from ._helpers import Talk, make_context, reply

BOXES = "GET /api/v2/sandboxes/boxes"


def page(*names, **more):
    boxes = [{"name": name, "id": f"id-{name}"} for name in names]
    return reply(200, {"items": boxes, "sandboxes": boxes, **more})


def names_and_requests(*answers):
    talk = Talk(answers)
    found = [record.name for record in talk.run(list_sandboxes(make_context()))]
    return found, [request.removeprefix(BOXES) for request in talk.requests]


@pytest.mark.parametrize(
    ("answers", "names", "queries"),
    [
        ([page("a", "b", next_cursor=None, offset=0)], ["a", "b"], [""]),
        (
            [page("a", next_cursor="c1"), page("b", next_cursor=None)],
            ["a", "b"],
            ["", "?cursor=c1"],
        ),
        ([page("a", next_cursor="x&y="), page("b")], ["a", "b"], ["", "?cursor=x%26y%3D"]),
        ([page("a", next_cursor="")], ["a"], [""]),
        # A null cursor ends the list although an old-style offset stands beside it.
        ([page("a", next_cursor=None, offset=50)], ["a"], [""]),
        ([page("a", offset=1), page("b", offset=0)], ["a", "b"], ["", "?offset=1"]),
        # An empty page is no end.
        (
            [page(next_cursor="c1"), page("b", next_cursor=None)],
            ["b"],
            ["", "?cursor=c1"],
        ),
        # Pages overlap when sandboxes come and go meanwhile.
        ([page("a", "b", offset=2), page("b", "c", offset=0)], ["a", "b", "c"], ["", "?offset=2"]),
        ([reply(200, {"sandboxes": [{"name": "old"}]})], ["old"], [""]),
        ([reply(200, {"items": [{"name": "new"}]})], ["new"], [""]),
        ([reply(200, {"items": None, "sandboxes": None})], [], [""]),
        ([reply(200, {})], [], [""]),
    ],
)
def test_all_pages_are_followed_to_their_end(answers, names, queries):
    assert names_and_requests(*answers) == (names, queries)


def test_boxes_without_id_and_with_equal_names_in_one_page_are_one():
    answer = reply(200, {"items": [{"name": "x"}, {"name": "x"}]})
    assert names_and_requests(answer)[0] == ["x"]


@pytest.mark.parametrize(
    "answers",
    [
        [page("a", next_cursor="c"), page("b", next_cursor="c"), page("c", next_cursor="c")],
        [page("a", offset=5), page("b", offset=5), page("c", offset=5)],
        [
            page(next_cursor="c1"),
            page(next_cursor="c2"),
            page(next_cursor="c1"),
            page(next_cursor="c2"),
        ],
    ],
    ids=["cursor", "offset", "circle"],
)
def test_a_list_that_runs_in_circles_is_a_protocol_error_not_an_endless_loop(answers):
    with pytest.raises(SandboxProtocolError, match="leads back"):
        names_and_requests(*answers)


@pytest.mark.parametrize(
    "body",
    [{"items": {"a": 1}}, {"items": "text"}, {"items": ["text"]}, {"items": [None]}, [], "x", None],
)
def test_what_is_no_list_of_sandboxes_is_a_protocol_error(body):
    with pytest.raises(SandboxProtocolError):
        names_and_requests(reply(200, body) if body is not None else reply(200, body=b"null"))
