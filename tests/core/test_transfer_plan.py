"""Reading files in parts: what is asked for next, and when everything begins again."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.errors import (
    FileChangedError,
    SandboxConnectionError,
    SandboxOperationError,
    SandboxProtocolError,
)
from sandbox_proto.host.file_ranges import FileFacts, answer_file
from sandbox_proto.host.messages import HostError
from sandbox_proto.plans.download import MAX_RESTARTS, DownloadPlan, DownloadProgress
from sandbox_proto.plans.ranged_read import WORTHWHILE_BYTES, FileVersion, RangedRead, RangeQuestion
from sandbox_proto.plans.retry import RetryPolicy
from sandbox_proto.wire.file_models import FileStat
from sandbox_proto.wire.http import Response

from ._helpers import FixedRandom

PATH = "/f"
POLICY = RetryPolicy(jitter=0.0)
LOST = SandboxConnectionError("cut")


def read(**more: object) -> RangedRead:
    return RangedRead(PATH, POLICY, FixedRandom(0.5), **more)


def plan(parallel: int = 1, **more: object) -> DownloadPlan:
    return DownloadPlan(PATH, POLICY, FixedRandom(0.5), parallel=parallel, **more)


class RemoteFile:
    """A file on a server that keeps to the rules: the host's own."""

    def __init__(self, content: bytes) -> None:
        self.write(content, 1)

    def write(self, content: bytes, version: int) -> None:
        self.content, self.version = content, version

    @property
    def stat(self) -> FileStat:
        return FileStat(len(self.content), f'"{self.version}"')

    def answer(self, asked: RangeQuestion) -> Response:
        headers = {"range": f"bytes={asked.first}-{'' if asked.last is None else asked.last}"}
        if asked.if_range is not None:
            headers["if-range"] = asked.if_range
        facts = FileFacts(len(self.content), f'"{self.version}"', "date")
        try:
            answer = answer_file("GET", headers, facts)
        except HostError as error:
            return Response(error.status, tuple(error.headers.items()))
        end = answer.first + (answer.count or 0)
        return Response(answer.status, answer.headers, self.content[answer.first : end])


# --- one stretch ----------------------------------------------------------------------


def test_a_lost_connection_is_gone_on_with_on_condition():
    file, one = RemoteFile(b"0123456789"), read(first=2, last=7)
    assert one.question() == RangeQuestion(2, 7, None)
    one.answered(file.answer(one.question()))
    assert one.received(b"234") == b"234"
    assert one.failed(LOST, now=100.0) == 101.0
    assert one.question() == RangeQuestion(5, 7, '"1"')
    one.answered(file.answer(one.question()))
    assert one.received(b"567") == b"567" and one.complete
    assert one.answers == 2


def test_the_end_of_the_file_is_known_from_the_first_answer():
    one = read()
    one.answered(RemoteFile(b"abc").answer(one.question()))
    assert (one.last, one.version) == (2, FileVersion('"1"', 3))
    one.received(b"abc")
    assert one.complete


def test_a_stretch_beyond_the_end_is_cut_there():
    one = read(first=1, last=1000)
    one.answered(RemoteFile(b"abc").answer(one.question()))
    assert one.last == 2


@pytest.mark.parametrize("first", [0, 5])
def test_a_stretch_behind_the_end_is_empty(first):
    one = read(first=first)
    one.answered(RemoteFile(b"").answer(one.question()))
    assert one.complete and one.received(b"") == b""


def test_a_file_that_was_changed_is_never_gone_on_with():
    file, one = RemoteFile(b"0123456789"), read()
    one.answered(file.answer(one.question()))
    one.received(b"0123")
    for content in (b"abcdefghij", b"", b"0123456789"):
        file.write(content, 2)
        with pytest.raises(FileChangedError) as changed:
            one.answered(file.answer(one.question()))
        assert isinstance(changed.value, SandboxOperationError)
        assert (changed.value.operation, changed.value.error_type) == ("read", "FileChanged")


@pytest.mark.parametrize("etag", ['W/"1"', None])
def test_without_a_strong_validator_nothing_is_gone_on_with(etag):
    headers = () if etag is None else (("etag", etag),)
    one = read()
    one.answered(Response(206, (*headers, ("content-range", "bytes 0-9/10"))))
    one.received(b"0123")
    assert one.question().if_range is None
    assert one.failed(LOST, now=0.0) is None


def test_before_the_first_byte_even_that_may_be_tried_again():
    one = read()
    one.answered(Response(206, (("content-range", "bytes 0-9/10"),)))
    assert one.failed(LOST, now=0.0) == 1.0


def test_a_server_without_ranges_gives_all_and_the_known_is_skipped():
    whole = Response(200, (("etag", '"1"'), ("content-length", "6")))
    one = read(first=2, last=3)
    one.answered(whole)
    assert [one.received(b"0"), one.received(b"123"), one.received(b"4")] == [b"", b"23", b"4"]
    one.failed(LOST, now=0.0)
    one.answered(whole)
    assert one.received(b"012345") == b"5" and one.complete


def test_a_body_of_unknown_length_ends_when_it_ends():
    one = read()
    one.answered(Response(200, (("etag", '"1"'),)))
    one.received(b"abc")
    assert not one.complete
    one.body_ended()
    assert one.complete


def test_an_answer_that_is_shorter_than_asked_for_is_gone_on_with():
    one = read()
    one.answered(Response(206, (("etag", '"1"'), ("content-range", "bytes 0-3/10"))))
    one.received(b"0123")
    one.body_ended()
    assert not one.complete and one.question() == RangeQuestion(4, 9, '"1"')


def test_more_than_was_asked_for_is_left_out():
    one = read(first=0, last=1)
    one.answered(Response(206, (("etag", '"1"'), ("content-range", "bytes 0-1/10"))))
    assert one.received(b"01234") == b"01"


@pytest.mark.parametrize("extent", ["bytes 1-9/10", "bytes */10", "nonsense", None])
def test_an_answer_to_another_question_breaks_the_protocol(extent):
    headers = () if extent is None else (("content-range", extent),)
    with pytest.raises(SandboxProtocolError):
        read().answered(Response(206, headers))


def test_patience_is_renewed_by_every_connection_that_was_worth_it():
    one = read()
    big = WORTHWHILE_BYTES * 20
    one.answered(Response(206, (("etag", '"1"'), ("content-range", f"bytes 0-{big - 1}/{big}"))))
    for _ in range(10):
        one.received(bytes(WORTHWHILE_BYTES))
        assert one.failed(LOST, now=0.0) == 1.0
    delays = [one.failed(LOST, now=0.0) for _ in range(3)]
    assert delays == [2.0, 4.0, None]


def test_a_broken_protocol_is_final():
    assert read().failed(SandboxProtocolError("no"), now=0.0) is None


# --- a download -----------------------------------------------------------------------


def test_one_connection_asks_once_for_everything():
    whole = plan()
    first = whole.next_read()
    assert first.question() == RangeQuestion(0, None, None)
    first.answered(RemoteFile(bytes(100)).answer(first.question()))
    whole.learned(first)
    assert whole.total == 100 and whole.next_read() is None and not whole.is_doubtful


def test_several_connections_share_the_parts():
    file, shared = RemoteFile(bytes(100)), plan(4, part_bytes=30)
    first = shared.next_read()
    assert first.question() == RangeQuestion(0, 29, None)
    first.answered(file.answer(first.question()))
    shared.learned(first)
    assert shared.has_more
    rest = [shared.next_read() for _ in range(3)]
    assert [each.question() for each in rest] == [
        RangeQuestion(30, 59, '"1"'),
        RangeQuestion(60, 89, '"1"'),
        RangeQuestion(90, 99, '"1"'),
    ]
    assert shared.next_read() is None and not shared.has_more


def test_a_small_file_is_one_part():
    small = plan(4, part_bytes=30)
    first = small.next_read()
    first.answered(RemoteFile(bytes(30)).answer(first.question()))
    small.learned(first)
    assert small.next_read() is None


def test_a_server_that_does_not_tell_the_size_cannot_be_asked_for_parts():
    parts = plan(4, part_bytes=30)
    first = parts.next_read()
    first.answered(Response(206, (("content-range", "bytes 0-29/*"),)))
    with pytest.raises(SandboxProtocolError):
        parts.learned(first)


def test_what_came_in_several_answers_is_confirmed():
    file, doubtful = RemoteFile(b"0123456789"), plan()
    first = doubtful.next_read()
    first.answered(file.answer(first.question()))
    doubtful.learned(first)
    first.received(b"01234")
    first.failed(LOST, now=0.0)
    first.answered(file.answer(first.question()))
    first.received(b"56789")
    assert first.complete and doubtful.is_doubtful
    doubtful.confirm(file.stat)
    file.write(b"written in place", 2)
    with pytest.raises(FileChangedError):
        doubtful.confirm(file.stat)


def test_beginning_again_has_an_end():
    endless = plan()
    for _ in range(MAX_RESTARTS):
        endless.next_read()
        endless.restart(FileChangedError("changed"))
        assert (endless.fetched, endless.total) == (0, None)
    with pytest.raises(FileChangedError, match="faster"):
        endless.restart(FileChangedError("changed"))


@pytest.mark.parametrize("parallel", [0, -1])
def test_there_is_no_download_without_a_connection(parallel):
    with pytest.raises(ValueError, match="parallel"):
        plan(parallel)


# --- going on later -------------------------------------------------------------------


def test_progress_is_told_and_gone_on_with():
    file, begun = RemoteFile(bytes(range(100))), plan(2, part_bytes=30)
    first = begun.next_read()
    first.answered(file.answer(first.question()))
    begun.learned(first)
    first.received(bytes(30))
    second, third = begun.next_read(), begun.next_read()
    for each, count in ((second, 10), (third, 5)):
        each.answered(file.answer(each.question()))
        each.received(bytes(count))
    saved = begun.progress()
    assert saved == DownloadProgress(PATH, '"1"', 100, ((0, 40), (60, 65)))
    parsed = DownloadProgress.parse(json.loads(json.dumps(saved.to_data())))
    assert parsed == saved

    later = plan(2, part_bytes=30, saved=parsed)
    assert (later.fetched, later.total) == (45, 100)
    asked = []
    while (each := later.next_read()) is not None:
        asked.append(each.question())
    assert asked == [RangeQuestion(40, 59, '"1"'), RangeQuestion(65, 94, '"1"'),
                     RangeQuestion(95, 99, '"1"')]  # fmt: skip
    assert later.is_doubtful


def test_the_progress_of_another_file_is_none():
    saved = DownloadProgress("/other", '"1"', 100, ((0, 40),))
    assert plan(saved=saved).next_read().question() == RangeQuestion(0, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"path": 5},
        {"etag": None},
        {"etag": ""},
        {"etag": 'W/"1"'},
        {"total": "9"},
        {"done": None},
        {"done": [[0]]},
        {"done": [[5, 3]]},
        {"done": [[0, 101]]},
        {"done": [[0, 5], [3, 9]]},
        {"done": [["0", 5]]},
        {"done": [[0, 5.5]]},
    ],
)
def test_a_note_that_is_damaged_is_none(change):
    good = DownloadProgress(PATH, '"1"', 100, ((0, 40),)).to_data()
    assert DownloadProgress.parse(good) is not None
    assert DownloadProgress.parse({**good, **change}) is None
    assert DownloadProgress.parse([good]) is None


def test_nothing_is_noted_of_a_file_without_a_validator():
    bare = plan()
    assert bare.progress() is None
    first = bare.next_read()
    first.answered(Response(200, (("content-length", "5"),)))
    bare.learned(first)
    first.received(b"12")
    assert bare.progress() is None


# --- all of it, with every kind of trouble --------------------------------------------


@settings(max_examples=300)
@given(
    size=st.integers(0, 120),
    parallel=st.integers(1, 4),
    part=st.integers(1, 50),
    seed=st.integers(0, 2**32),
    trouble=st.floats(0, 0.4),
    changes=st.integers(0, 3),
)
def test_what_is_downloaded_is_one_version_of_the_file(
    size, parallel, part, seed, trouble, changes
):
    """Cuts, changes of the file and resumptions at random; parts in any order."""
    dice = random.Random(seed)
    file = RemoteFile(dice.randbytes(size))
    versions = {1: file.content}
    policy = RetryPolicy(max_retries=10**6, jitter=0.0, max_backoff=1.0)
    saved: DownloadProgress | None = None
    target = bytearray()

    def maybe_change() -> None:
        nonlocal changes
        if changes and dice.random() < 0.1:
            changes -= 1
            file.write(dice.randbytes(dice.randint(0, 120)), len(versions) + 1)
            versions[file.version] = file.content

    def put(each: RangedRead, data: bytes) -> None:
        place = each.position - len(data)
        target.extend(bytes(max(0, each.position - len(target))))
        target[place : each.position] = data

    def fetch(work: DownloadPlan, each: RangedRead) -> bool:
        """One answer, perhaps cut. Whether the part is complete."""
        maybe_change()
        response = file.answer(each.question())
        each.answered(response)
        work.learned(each)
        body = response.body
        whole = dice.random() >= trouble
        body = body if whole else body[: dice.randint(0, len(body))]
        if data := each.received(body):
            put(each, data)
        if whole:
            each.body_ended()
        elif not each.complete:
            assert each.failed(LOST, now=0.0) is not None
        return each.complete

    for _ in range(100_000):
        work = DownloadPlan(
            PATH, policy, FixedRandom(0.5), parallel=parallel, part_bytes=part, saved=saved
        )
        try:
            first = work.next_read()
            going = [] if first is None else [first]
            while going:
                each = dice.choice(going)
                if fetch(work, each):
                    going.remove(each)
                if len(going) < parallel and (more := work.next_read()) is not None:
                    going.append(more)
                if dice.random() < 0.02:
                    saved = work.progress()
                    raise InterruptedError
            if work.is_doubtful:
                work.confirm(file.stat)
        except FileChangedError:
            saved = None
            target.clear()
        except InterruptedError:
            if saved is None:
                target.clear()
        else:
            break
    assert bytes(target[: work.fetched]) in versions.values()
    assert work.fetched == work.total
