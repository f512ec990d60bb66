"""Parts of files: what the host answers, and what the client asks and understands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.errors import (
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxClientError,
    SandboxNotReadyError,
    SandboxOperationError,
)
from sandbox_proto.flows.file_ranges import (
    await_file,
    open_range,
    range_header,
    read_range,
    stat_file,
)
from sandbox_proto.host.file_ranges import FileFacts, answer_file
from sandbox_proto.wire.file_models import FileChunk, FileStat
from sandbox_proto.wire.http import Response

from ._flows import REFUSED, Story, each_unanswered
from ._helpers import refusal
from ._host import refusal_of

ETAG = '"1-a-2"'
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
TEN = FileFacts(10, ETAG, DATE)
DATA = "http://data.test/v2/sandboxes/id"
HEAD = "HEAD http://data.test/v2/sandboxes/id/download?path=%2Ff"
GET = "GET http://data.test/v2/sandboxes/id/download?path=%2Ff"


def asked(facts: FileFacts = TEN, method: str = "GET", **headers: str):
    return answer_file(
        method, {name.replace("_", "-"): value for name, value in headers.items()}, facts
    )


# --- the host -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "first", "count"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 10),
        ("bytes=3-5", 3, 3),
        ("bytes=3-999", 3, 7),
        ("bytes=9-9", 9, 1),
        ("bytes=-1", 9, 1),
        ("bytes=-10", 0, 10),
        ("bytes=-999", 0, 10),
        ("BYTES= 3-5 ", 3, 3),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(header, first, count):
    answer = asked(range=header)
    assert (answer.status, answer.first, answer.count) == (206, first, count)
    headers = dict(answer.headers)
    assert headers["content-range"] == f"bytes {first}-{first + count - 1}/10"
    assert headers["content-length"] == str(count)
    assert headers["etag"] == ETAG and headers["last-modified"] == DATE


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=999-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused_with_the_size(header):
    error = refusal_of(lambda: asked(range=header))
    assert (error.status, error.headers) == (416, {"content-range": "bytes */10"})


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=5-"])
def test_an_empty_file_has_no_first_byte(header):
    error = refusal_of(lambda: asked(FileFacts(0, ETAG, DATE), range=header))
    assert (error.status, error.headers) == (416, {"content-range": "bytes */0"})


def test_the_last_bytes_of_an_empty_file_are_the_empty_file():
    answer = asked(FileFacts(0, ETAG, DATE), range="bytes=-5")
    assert (answer.status, answer.count) == (200, 0)


@pytest.mark.parametrize(
    "header",
    ["bytes=5-3", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4", "bytes 0-1", "0-1", "",
     "bytes=--5", "bytes=1-2-3", "bytes=" + "9" * 30 + "-"],
)  # fmt: skip
def test_what_is_no_range_is_ignored(header):
    answer = asked(range=header)
    assert (answer.status, answer.first, answer.count) == (200, 0, 10)


@pytest.mark.parametrize(
    "tag", [ETAG, f"W/{ETAG}", "*", f'"other", {ETAG}', f" {ETAG} ", f'"a,b", W/{ETAG}']
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unchanged_file_is_not_sent_also_where_a_range_is_asked_for(tag, method):
    for more in ({}, {"range": "bytes=0-3"}, {"range": "bytes=99-", "if_range": '"x"'}):
        answer = asked(method=method, if_none_match=tag, **more)
        assert (answer.status, answer.count) == (304, 0)
        assert dict(answer.headers) == {"etag": ETAG, "last-modified": DATE}


@pytest.mark.parametrize("tag", ['"other"', "", ETAG[1:-1], '"1-a-2', "W/", '"1", "2"'])
def test_a_changed_file_is_sent(tag):
    assert asked(if_none_match=tag).status == 200
    assert asked(if_none_match=tag, range="bytes=1-").status == 206


@pytest.mark.parametrize(
    ("tag", "status"), [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), (DATE, 200), ("", 200)]
)
def test_the_range_holds_only_for_the_version_it_is_meant_for(tag, status):
    assert asked(range="bytes=3-5", if_range=tag).status == status


def test_a_range_behind_the_end_of_another_version_is_no_error():
    assert asked(range="bytes=99-", if_range='"other"').status == 200


def test_a_head_tells_of_the_whole_file_and_sends_nothing():
    answer = asked(method="HEAD", range="bytes=3-5")
    assert (answer.status, answer.count) == (200, 0)
    headers = dict(answer.headers)
    assert headers["content-length"] == "10" and headers["accept-ranges"] == "bytes"


def test_a_file_of_unknown_size_comes_whole_and_without_a_length():
    facts = FileFacts(None, ETAG, DATE)
    answer = asked(facts, range="bytes=3-5")
    assert (answer.status, answer.first, answer.count) == (200, 0, None)
    assert set(dict(answer.headers)) == {"etag", "last-modified"}
    assert asked(facts, method="HEAD").count == 0


@given(st.integers(0, 30), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_what_one_side_asks_the_other_answers(size, start, length, to_the_end):
    """The client's header, the host's answer, the client's reading: the right bytes."""
    content = bytes(range(size))
    end = None if to_the_end else start + length
    header = range_header(start, end, None)
    facts = FileFacts(size, ETAG, DATE)
    if start >= size:
        assert refusal_of(lambda: asked(facts, range=header)).status == 416
        return
    answer = asked(facts, range=header)
    body = content[answer.first : answer.first + (answer.count or 0)]
    chunk = FileChunk.of_response(Response(answer.status, answer.headers, body))
    assert chunk.content == content[start:] if end is None else content[start : end + 1]
    assert (chunk.start, chunk.total_bytes, chunk.partial) == (start, size, True)
    assert chunk.end == start + len(chunk.content)


# --- the client -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "header"),
    [
        ((0, None, None), "bytes=0-"),
        ((5, 5, None), "bytes=5-5"),
        ((5, 9, None), "bytes=5-9"),
        ((None, None, 1), "bytes=-1"),
    ],
)
def test_the_range_header(arguments, header):
    assert range_header(*arguments) == header


@pytest.mark.parametrize(
    "arguments",
    [
        (None, None, None),
        (None, 5, None),
        (-1, None, None),
        (5, 4, None),
        (None, None, 0),
        (None, None, -1),
        (0, None, 1),
        (None, 3, 1),
    ],
)
def test_what_names_no_part_is_refused_before_anything_is_asked(arguments):
    with pytest.raises(ValueError, match=r"start|end|suffix"):
        range_header(*arguments)


def ranged(**more):
    unset = {"start": None, "end": None, "suffix_bytes": None, "if_range": None}
    return {**unset, "if_none_match": None, "timeout": 60, **more}


def test_a_ranged_read_sends_its_conditions_and_tells_all_of_the_answer():
    headers = (("etag", ETAG), ("last-modified", DATE), ("content-range", "bytes 3-5/10"))
    story = Story((GET, Response(206, headers, b"345")))
    more = ranged(start=3, end=5, if_range=ETAG, if_none_match='"x"')
    chunk = story.run(read_range, DATA, "/f", **more)
    assert chunk == FileChunk(b"345", ETAG, 10, 3, True, False, DATE)
    sent = story.sent[0].headers
    assert (sent["range"], sent["if-range"]) == ("bytes=3-5", ETAG)
    assert sent["if-none-match"] == '"x"'


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (200, (), b"whole", FileChunk(b"whole", None, 5)),
        (203, (("etag", "e"),), b"w", FileChunk(b"w", "e", 1)),
        (206, (), b"x", FileChunk(b"x", None, None, 0, True)),
        (206, (("content-range", "bytes 7-7/*"),), b"x", FileChunk(b"x", None, None, 7, True)),
        (206, (("content-range", "bytes=7-7/9"),), b"x", FileChunk(b"x", None, None, 0, True)),
        (206, (("content-range", "items 7-7/9"),), b"x", FileChunk(b"x", None, None, 0, True)),
        (304, (("etag", "e"),), b"", FileChunk(b"", "e", None, 0, False, True)),
    ],
)
def test_how_answers_are_read(status, headers, body, expected):
    story = Story((GET, Response(status, headers, body)))
    assert story.run(read_range, DATA, "/f", **ranged(start=0)) == expected


def test_a_stat_reads_the_headers_alone():
    headers = (
        ("content-length", "42"),
        ("etag", ETAG),
        ("last-modified", DATE),
        ("content-type", "text/x"),
    )
    story = Story((HEAD, Response(200, headers)))
    assert story.run(stat_file, DATA, "/f", timeout=5) == FileStat(42, ETAG, DATE, "text/x")
    assert story.timeouts[0].read == 5


@pytest.mark.parametrize("length", [None, "x", "-1", "\u0664"])
def test_a_size_that_is_not_told_is_0(length):
    headers = () if length is None else (("content-length", length),)
    assert Story((HEAD, Response(200, headers))).run(stat_file, DATA, "/f", timeout=5) == FileStat(
        0
    )


CALLS = [
    (HEAD, stat_file, {"timeout": 5}),
    (GET, read_range, ranged(start=0)),
    (GET, open_range, {"first": 0, "last": None, "if_range": None, "timeout": 5}),
]


@pytest.mark.parametrize(("step", "flow", "more"), CALLS)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404, "FileNotFound"), ResourceNotFoundError),
        (refusal(400, "NotReady"), SandboxNotReadyError),
        (refusal(400, "ReadError"), SandboxOperationError),
        (refusal(403), SandboxOperationError),
        (refusal(401), SandboxClientError),
        (refusal(500), SandboxClientError),
    ],
)
def test_what_errors_mean(step, flow, more, answer, error):
    raised = Story((step, answer)).fail(error, flow, DATA, "/f", **more)
    assert raised.status == answer.status
    if error is ResourceNotFoundError:
        assert raised.resource_type == "file" and "'/f'" in str(raised)


def test_a_range_behind_the_end_names_the_size():
    answer = Response(416, (("content-range", "bytes */10"),))
    error = Story((GET, answer)).fail(
        SandboxOperationError, read_range, DATA, "/f", **ranged(start=10)
    )
    assert (error.operation, error.error_type) == (None, None)
    assert "bytes */10" in str(error)


def test_an_opened_range_takes_416_for_an_answer():
    answer = Response(416, (("content-range", "bytes */0"),))
    assert Story((GET, answer)).run(open_range, DATA, "/f", **CALLS[2][2]) is answer


@pytest.mark.parametrize(("step", "flow", "more"), CALLS)
@each_unanswered
def test_looking_and_reading_are_repeated_freely(step, flow, more, lost):
    Story((step, lost), (step, REFUSED), (step, Response(200, ()))).run(flow, DATA, "/f", **more)


# --- waiting --------------------------------------------------------------------------


def test_a_file_is_waited_for():
    missing = refusal(404, "FileNotFound")
    story = Story((HEAD, missing), (HEAD, missing), (HEAD, Response(200, (("etag", ETAG),))))
    found = story.run(await_file, DATA, "/f", timeout=10, poll_interval=0.25)
    assert found == FileStat(0, ETAG)
    assert story.waits == [250, 250]


def test_waiting_ends_at_its_time_with_a_last_look():
    missing = refusal(404)
    story = Story((HEAD, missing), (HEAD, missing), (HEAD, missing))
    error = story.fail(ResourceTimeoutError, await_file, DATA, "/f", timeout=1.5, poll_interval=1.0)
    assert error.resource_type == "file" and "1.5 s" in str(error)
    assert story.took == 1500


def test_trouble_ends_the_waiting():
    story = Story((HEAD, refusal(403)))
    story.fail(SandboxOperationError, await_file, DATA, "/f", timeout=9, poll_interval=1.0)
