"""Patterns for paths (wire.patterns; protocol/05 sections 5 and 6)."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.wire.patterns import name_pattern, path_pattern

MATCHING = [
    ("*", "a"),
    ("*", ".hidden"),
    ("*", "new\nline"),
    ("*.py", "a.py"),
    ("*.py", ".py"),
    ("a?c", "abc"),
    ("a?c", "a\nc"),
    ("[ab]x", "bx"),
    ("[a-c]x", "bx"),
    ("[!a]x", "bx"),
    ("[^a]x", "bx"),
    ("[]]x", "]x"),
    ("[!]]x", "ax"),
    ("[a-]x", "-x"),
    ("[*]", "*"),
    ("[[]", "["),
    ("a.b", "a.b"),
    ("a*b*c", "aXbYc"),
    ("a*b*c", "abbc"),
    ("*a*b", "xaab"),
    ("src/*.py", "src/a.py"),
    ("./src//*.py", "src/a.py"),
    ("**", "a"),
    ("**", "a/b\n/c"),
    ("**/*.py", "a.py"),
    ("**/*.py", "x/y/a.py"),
    ("src/**", "src"),
    ("src/**", "src/a/b"),
    ("src/**/x", "src/x"),
    ("src/**/x", "src/a/b/x"),
    ("**/a/**/b", "ax/a/b"),
    ("**/a/**/b", "a/q/a/r/b"),
    ("**/a/**", "x/a"),
    ("**/a/b/**/c", "a/a/b/c"),
    ("a/**/**/b", "a/b"),
    ("**/**", "a"),
    ("a**b", "axxb"),
    ("\u00e9*", "\u00e9t\u00e9"),
]
OTHER = [
    ("*", "a/b"),
    ("a?c", "a/c"),
    ("[!a]", "/"),
    ("*.py", "a.pyc"),
    ("a.b", "aXb"),
    ("A", "a"),
    ("src/*", "src/a/b"),
    ("src/**/x", "srcx"),
    ("src/**", "srcs/a"),
    ("**/a/**/b", "ax/b"),
    ("**/a", "xa"),
    ("a**b", "a/b"),
    ("[a-c]x", "dx"),
    ("a*b*c", "ac"),
]


@pytest.mark.parametrize(("text", "path"), MATCHING)
def test_what_matches(text, path):
    assert path_pattern(text).matches(path, is_dir=False)


@pytest.mark.parametrize(("text", "path"), OTHER)
def test_what_does_not_match(text, path):
    assert not path_pattern(text).matches(path, is_dir=False)


@pytest.mark.parametrize(
    "text",
    ["", "/a", "..", "a/../b", "/", "./", "a\0", "[", "a[b", "[!", "[]", "[z-a]", "[a/b]",
     "a" * 4097, "a/" * 129],
)  # fmt: skip
def test_what_can_never_match_is_refused(text):
    for make in (path_pattern, name_pattern):
        with pytest.raises(ValueError, match="pattern"):
            make(text)


def test_a_slash_at_the_end_is_for_directories():
    pattern = path_pattern("build/")
    assert pattern.matches("build", is_dir=True)
    assert not pattern.matches("build", is_dir=False)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("*.py", "a.py", True),
        ("*.py", "x/y/a.py", True),
        ("x/*.py", "x/a.py", True),
        ("x/*.py", "y/x/a.py", False),
        ("**/a.py", "x/a.py", True),
        ("a.py", "a.py/b", False),
        (".git/", "sub/.git", True),
    ],
)
def test_a_filter_without_a_slash_is_for_the_name_alone(text, path, expected):
    assert name_pattern(text).matches(path, is_dir=True) is expected


@pytest.mark.parametrize(
    ("text", "entered", "left_alone"),
    [
        ("*", [], ["a"]),
        ("a/*", ["a"], ["b", "a/x", "ab"]),
        ("a/b*/c", ["a", "a/bx"], ["a/x", "b", "a/bx/c"]),
        ("**/x", ["a", "a/b"], []),
        ("a/**/x", ["a", "a/b", "a/b/c"], ["b", "ab"]),
    ],
)
def test_only_directories_that_may_hold_matches_are_entered(text, entered, left_alone):
    descend = path_pattern(text).descend
    assert all(re.fullmatch(descend, path) for path in entered)
    assert not any(re.fullmatch(descend, path) for path in left_alone)


SEGMENT = st.text("ab*?", min_size=1, max_size=4).filter(lambda text: "**" not in text)
PATTERN = st.lists(st.one_of(SEGMENT, st.just("**")), min_size=1, max_size=5)
PATH = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=6)


def plainly(pattern: list[str], path: list[str]) -> bool:
    """The same by trying everything."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(plainly(pattern[1:], path[skipped:]) for skipped in range(len(path) + 1))
    return bool(path) and letters(pattern[0], path[0]) and plainly(pattern[1:], path[1:])


def letters(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(letters(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and letters(pattern[1:], name[1:])


@given(PATTERN, PATH)
def test_it_agrees_with_trying_everything(pattern, path):
    made = path_pattern("/".join(pattern))
    expected = plainly(pattern, path)
    assert made.matches("/".join(path), is_dir=False) is expected
    if expected:
        above = ["/".join(path[:depth]) for depth in range(1, len(path))]
        assert all(re.fullmatch(made.descend, directory) for directory in above)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("*a" * 60 + "b", "a" * 255),
        ("**/a/" * 25 + "b", "a/" * 2000 + "c"),
        ("**/*a*a/" * 25 + "b", "aaaa/" * 800 + "c"),
    ],
)
def test_no_pattern_takes_long(text, path):
    began = time.perf_counter()
    assert not path_pattern(text).matches(path, is_dir=False)
    assert time.perf_counter() - began < 2
