"""Files from the host's side: paths and failures (protocol/05, 13 section 5)."""

from __future__ import annotations

import errno
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.host.files import entity_tag, file_error, requested_path

from ._host import refusal_of

HOME = "/home/user"


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("path=/etc/hosts", "/etc/hosts"),
        ("path=%2Fetc%2Fhosts", "/etc/hosts"),
        ("path=a+b%20c", "/home/user/a b c"),
        ("path=caf%C3%A9", "/home/user/caf\u00e9"),
        ("path=x&other=1", "/home/user/x"),
        ("other=1&path=x", "/home/user/x"),
        ("path=../x", "/home/user/../x"),  # where that leads is the runtime's business
        ("path=a%26path%3Db", "/home/user/a&path=b"),
    ],
)
@pytest.mark.parametrize("operation", ["read", "write"])
def test_which_path_a_request_means(query, path, operation):
    assert requested_path(query, HOME, operation) == path


@pytest.mark.parametrize("query", ["", "path=", "other=x", "path=a&path=b", "path=a%00b", "PATH=x"])
@pytest.mark.parametrize(("operation", "type_"), [("read", "ReadError"), ("write", "WriteError")])
def test_a_request_without_exactly_one_path_is_refused(query, operation, type_):
    error = refusal_of(lambda: requested_path(query, HOME, operation))
    assert (error.status, error.type) == (400, type_)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_every_path_arrives_as_it_was_sent_in_either_spelling_of_a_space(name):
    for spell in (quote, quote_plus):
        assert requested_path(f"path={spell('/' + name, safe='')}", HOME, "read") == f"/{name}"


@pytest.mark.parametrize(
    ("code", "read", "write"),
    [
        (errno.ENOENT, (404, "FileNotFound"), (400, "WriteError")),
        (errno.ENOTDIR, (404, "FileNotFound"), (400, "WriteError")),
        (errno.EACCES, (403, "Forbidden"), (403, "Forbidden")),
        (errno.EPERM, (403, "Forbidden"), (403, "Forbidden")),
        (errno.EROFS, (403, "Forbidden"), (403, "Forbidden")),
        (errno.EISDIR, (400, "ReadError"), (400, "WriteError")),
        (errno.ENOSPC, (507, "ReadError"), (507, "WriteError")),
        (errno.EDQUOT, (507, "ReadError"), (507, "WriteError")),
        (errno.ENAMETOOLONG, (400, "ReadError"), (400, "WriteError")),
        (errno.ELOOP, (400, "ReadError"), (400, "WriteError")),
        (errno.EIO, (400, "ReadError"), (400, "WriteError")),
        (99999, (400, "ReadError"), (400, "WriteError")),
        (None, (400, "ReadError"), (400, "WriteError")),
    ],
)
def test_what_a_failed_file_operation_is_answered_with(code, read, write):
    for operation, expected in (("read", read), ("write", write)):
        error = file_error(code, "/some/file", operation)
        assert (error.status, error.type) == expected
        assert error.message


def test_a_very_long_path_is_not_repeated_in_full():
    assert len(file_error(errno.ENAMETOOLONG, "/x" * 10_000, "read").message) < 200


def test_an_entity_tag_is_strong_and_changes_with_time_size_and_inode():
    tags = {entity_tag(1, 2, 3), entity_tag(9, 2, 3), entity_tag(1, 9, 3), entity_tag(1, 2, 9)}
    assert len(tags) == 4
    assert all(tag[0] == tag[-1] == '"' for tag in tags)
