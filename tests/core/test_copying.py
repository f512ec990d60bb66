"""What ``sandbox cp SOURCE TO`` means (plans.copying)."""

from __future__ import annotations

import pytest

from sandbox_proto.plans.copying import CopyPlace, copy_places, place_inside


@pytest.mark.parametrize(
    ("text", "sandbox", "path"),
    [
        ("box:/etc/hosts", "box", "/etc/hosts"),
        ("box:", "box", "."),
        ("my-box.1:a:b", "my-box.1", "a:b"),
        ("7:x", "7", "x"),
        ("file", None, "file"),
        ("./a:b", None, "./a:b"),
        ("dir/a:b", None, "dir/a:b"),
        ("/a:b", None, "/a:b"),
        (":x", None, ":x"),
        ("C:\\Users\\me", None, "C:\\Users\\me"),
        ("c:/x", None, "c:/x"),
        ("-", None, "-"),
        ("box:-", "box", "-"),
        ("box:new\nline", "box", "new\nline"),
    ],
)
def test_a_name_and_a_colon_are_a_sandbox(text, sandbox, path):
    assert CopyPlace.parse(text) == CopyPlace(sandbox, path)


@pytest.mark.parametrize(
    ("source", "to"), [("a", "b"), ("box:a", "bix:b"), ("-", "x"), ("", "box:x")]
)
def test_exactly_one_side_is_in_a_sandbox(source, to):
    with pytest.raises(ValueError, match=r"sandbox|empty"):
        copy_places(source, to)


def test_a_dash_is_a_stream_only_here():
    source, to = copy_places("-", "box:-")
    assert source.is_stream and not to.is_stream


@pytest.mark.parametrize("path", ["/tmp/", ".", "..", "a/.", "a/.."])
def test_some_paths_can_only_be_directories(path):
    assert CopyPlace("box", path).wants_directory
    assert not CopyPlace("box", "a").wants_directory


@pytest.mark.parametrize(
    ("directory", "name", "source", "expected"),
    [
        ("/tmp", "a", "a", "/tmp/a"),
        ("/tmp/", "a", "x/a", "/tmp/a"),
        (".", "a", "a", "./a"),
        ("/tmp", "x", "x/.", "/tmp"),
        ("/tmp", "", "/", "/tmp"),
    ],
)
def test_what_is_copied_into_a_directory_keeps_its_name(directory, name, source, expected):
    assert place_inside(CopyPlace("box", directory), name, CopyPlace(None, source)) == expected
