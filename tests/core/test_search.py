"""Searching: what the host understands and answers, and what the client asks and reads."""

from __future__ import annotations

import errno
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.errors import (
    ResourceNotFoundError,
    SandboxClientError,
    SandboxOperationError,
    SandboxProtocolError,
)
from sandbox_proto.flows.search import glob_files, grep_files
from sandbox_proto.host.messages import HostRequest
from sandbox_proto.host.search import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    MAX_RESULT_BYTES,
    SearchResults,
    requested_search,
    search_error,
)
from sandbox_proto.wire.file_models import FileInfo, GlobResult, GrepMatch, GrepResult

from ._flows import REFUSED, Story, each_unanswered
from ._helpers import refusal, reply
from ._host import refusal_of

DATA = "http://data.test/v2/sandboxes/id"
GLOB = "POST http://data.test/v2/sandboxes/id/glob"
GREP = "POST http://data.test/v2/sandboxes/id/grep"


def asked(kind: str, fields: object) -> HostRequest:
    return HostRequest("POST", f"/id/{kind}", body=json.dumps(fields).encode())


# --- what the host understands --------------------------------------------------------


def test_a_glob_becomes_a_search():
    search = requested_search("glob", asked("glob", {"pattern": "*.py", "path": "/src//"}))
    assert (search.kind, search.path, search.limit) == ("glob", "/src", DEFAULT_LIMIT)
    data = json.loads(json.dumps(search.to_data()))
    assert data["path"] == "/src" and data["match"] and data["descend"]


def test_a_grep_becomes_a_search_with_and_without_a_filter():
    fields = {"pattern": "a.b", "path": "/", "limit": 3}
    search = requested_search("grep", asked("grep", fields))
    assert (search.text, search.path, search.pattern, search.limit) == ("a.b", "/", None, 3)
    search = requested_search("grep", asked("grep", {**fields, "glob": "*.py"}))
    assert search.pattern is not None and search.pattern.matches("x/a.py", is_dir=False)


def test_a_limit_above_the_cap_is_the_cap():
    fields = {"pattern": "x", "path": "/", "limit": 10**9}
    assert requested_search("grep", asked("grep", fields)).limit == MAX_LIMIT


@pytest.mark.parametrize("kind", ["glob", "grep"])
@pytest.mark.parametrize(
    "change",
    [
        {"pattern": None},
        {"pattern": ""},
        {"pattern": 5},
        {"pattern": "a\0"},
        {"pattern": "\ud800"},
        {"path": None},
        {"path": ""},
        {"path": "relative"},
        {"path": "/a\0"},
        {"path": ["/"]},
        {"limit": 0},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": True},
        {"limit": "5"},
    ],
)
def test_what_makes_no_sense_is_refused(kind, change):
    fields = {"pattern": "x", "path": "/", **change}
    error = refusal_of(lambda: requested_search(kind, asked(kind, fields)))
    assert (error.status, error.type) == (400, "InvalidRequest")
    assert f"'{next(iter(change))}'" in error.message


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("glob", {"pattern": "["}),
        ("glob", {"pattern": "/abs"}),
        ("glob", {"pattern": "../x"}),
        ("grep", {"pattern": "two\nlines"}),
        ("grep", {"pattern": "x", "glob": "["}),
        ("grep", {"pattern": "x", "glob": ""}),
        ("grep", {"pattern": "x", "glob": 5}),
    ],
)
def test_a_pattern_that_can_never_match_is_refused(kind, fields):
    request = asked(kind, {"path": "/", **fields})
    assert refusal_of(lambda: requested_search(kind, request)).status == 400


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.ENOENT, 404),
        (errno.ENOTDIR, 404),
        (errno.EACCES, 403),
        (errno.EAGAIN, 503),
        (errno.ELOOP, 400),
        (None, 400),
    ],
)
def test_what_a_search_that_cannot_begin_is_answered_with(code, status):
    assert search_error(code, "/some/place").status == status


# --- what the walk says ---------------------------------------------------------------

A_GLOB = requested_search("glob", asked("glob", {"pattern": "**", "path": "/top", "limit": 2}))
A_GREP = requested_search("grep", asked("grep", {"pattern": "x", "path": "/", "limit": 2}))


def lines(*said: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in said)


@given(st.lists(st.integers(0, 200), max_size=5))
def test_findings_are_gathered_however_they_are_split(points):
    said = lines(
        ["found", "a b", False, 5, 1_500_000_000],
        ["found", "d", True, 0, 0],
        ["end", True],
    )
    results = SearchResults(A_GLOB)
    places = [0, *sorted(min(point, len(said)) for point in points), len(said)]
    for begin, end in itertools.pairwise(places):
        results.receive(said[begin:end])
    assert results.finished
    assert results.response(in_time=True).payload == {
        "matches": [
            {
                "path": "/top/a b",
                "is_dir": False,
                "size_bytes": 5,
                "modified_at": "1970-01-01T00:00:01.500000Z",
            },
            {
                "path": "/top/d",
                "is_dir": True,
                "size_bytes": 0,
                "modified_at": "1970-01-01T00:00:00.000000Z",
            },
        ],
        "truncated": True,
    }


def test_lines_that_were_found():
    results = SearchResults(A_GREP)
    results.receive(lines(["found", "etc/x", 3, "a line"], ["found", "", 1, "y"], ["end", False]))
    assert results.response(in_time=True).payload == {
        "matches": [
            {"path": "/etc/x", "line": 3, "text": "a line"},
            {"path": "/", "line": 1, "text": "y"},
        ],
        "truncated": False,
    }


def test_a_walk_that_took_too_long_is_an_answer_and_one_that_was_ended_is_not():
    results = SearchResults(A_GREP)
    results.receive(lines(["found", "x", 3, "a line"]))
    assert results.response(in_time=False).payload["truncated"] is True
    assert refusal_of(lambda: results.response(in_time=True)).status == 500


def test_a_walk_that_cannot_begin():
    results = SearchResults(A_GREP)
    assert refusal_of(lambda: results.receive(lines(["error", errno.ENOENT]))).status == 404


@pytest.mark.parametrize(
    "said",
    [
        b"no json\n",
        b"[]\n",
        b"5\n",
        b"[" * 100_000 + b"\n",
        lines(["shout"]),
        lines(["end"]),
        lines(["end", False], ["found", "x", 1, "y"]),
        lines(["found"]),
        lines(["found", 5, 1, "y"]),
        lines(["found", "x", "one", "y"]),
        lines(["found", "x", None, "y"]),
        lines(*[["found", "x", 1, "y"]] * 3),
        b"x" * (2 * MAX_RESULT_BYTES + 1),
    ],
)
def test_nonsense_from_inside_the_sandbox_is_refused(said):
    results = SearchResults(A_GREP)
    assert refusal_of(lambda: results.receive(said)).status == 500


@pytest.mark.parametrize("moment", [10**40, -(10**40), "now", None])
def test_an_impossible_moment_is_nonsense(moment):
    results = SearchResults(A_GLOB)
    said = lines(["found", "x", False, 5, moment])
    assert refusal_of(lambda: results.receive(said)).status == 500


# --- the client -----------------------------------------------------------------------


def test_a_glob_asks_and_reads():
    found = {"path": "/a", "is_dir": True, "size_bytes": 0, "modified_at": "2026-01-01T00:00:00Z"}
    story = Story((GLOB, reply(200, {"matches": [found, {}], "truncated": True})))
    result = story.run(glob_files, DATA, "*", "/", limit=5, timeout=9)
    assert result == GlobResult(
        [FileInfo("/a", True, 0, "2026-01-01T00:00:00Z"), FileInfo("")], True
    )
    assert [each.path for each in result] == ["/a", ""] and len(result) == 2
    assert story.bodies == [{"pattern": "*", "path": "/", "limit": 5}]
    assert story.timeouts[0].read == 9


def test_a_grep_asks_and_reads():
    story = Story((GREP, reply(200, {"matches": [{"path": "/a", "line": 2, "text": "x"}, {}]})))
    result = story.run(grep_files, DATA, "x", "/", glob="*.py", limit=None, timeout=9)
    assert result == GrepResult([GrepMatch("/a", 2, "x"), GrepMatch("", 0, "")], False)
    assert story.bodies == [{"pattern": "x", "path": "/", "glob": "*.py"}]


@pytest.mark.parametrize("nothing", [{}, {"matches": None}, {"matches": [], "truncated": None}])
def test_nothing_found_is_empty_and_falsy(nothing):
    story = Story((GLOB, reply(200, nothing)))
    result = story.run(glob_files, DATA, "*", "/", limit=None, timeout=9)
    assert result == GlobResult() and not result


def test_null_and_absent_fields_of_a_file_are_the_same():
    empty = {"path": None, "is_dir": None, "size_bytes": None, "modified_at": None}
    assert FileInfo.from_dict(empty) == FileInfo("")


@pytest.mark.parametrize(
    "answer", [[], {"matches": "x"}, {"matches": [5]}, {"matches": [{"path": 5}]}]
)
def test_an_answer_that_is_none_breaks_the_protocol(answer):
    Story((GLOB, reply(200, answer))).fail(
        SandboxProtocolError, glob_files, DATA, "*", "/", limit=None, timeout=9
    )


CALLS = [
    (GLOB, glob_files, {"limit": None, "timeout": 9}),
    (GREP, grep_files, {"glob": None, "limit": None, "timeout": 9}),
]


@pytest.mark.parametrize(("step", "flow", "more"), CALLS)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404, "FileNotFound"), ResourceNotFoundError),
        (refusal(403, "Forbidden"), SandboxOperationError),
        (refusal(400, "InvalidRequest"), SandboxClientError),
    ],
)
def test_what_errors_mean(step, flow, more, answer, error):
    raised = Story((step, answer)).fail(error, flow, DATA, "x", "/dir", **more)
    assert raised.status == answer.status
    if error is ResourceNotFoundError:
        assert raised.resource_type == "file" and "'/dir'" in str(raised)


@pytest.mark.parametrize(("step", "flow", "more"), CALLS)
@each_unanswered
def test_searches_are_repeated_freely(step, flow, more, lost):
    found = reply(200, {})
    assert not Story((step, lost), (step, REFUSED), (step, found)).run(flow, DATA, "x", "/", **more)
