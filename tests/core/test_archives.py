"""Directories as archives: what the shell is told, and what an archive may do here."""

from __future__ import annotations

import posixpath
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.errors import SandboxOperationError
from sandbox_proto.plans.archives import (
    IgnoreRules,
    archive_in,
    archive_name,
    check_unpacked,
    entry_path,
    holder_beside,
    link_is_inside,
    pack_command,
    packed_archive,
    remove_command,
    remove_packed_command,
    unpack_command,
)
from sandbox_proto.wire.command_models import ExecutionResult


def entropy(count: int) -> bytes:
    return b"\xab" * count


@pytest.mark.parametrize(
    ("directory", "parent"),
    [
        ("/home/user/project", "/home/user/"),
        ("/home/user/project/", "/home/user/"),
        ("/project", "/"),
        ("/", "/"),
        ("project", ""),
        ("a/b", "a/"),
    ],
)
def test_the_archive_lies_beside_the_directory(directory, parent):
    holder = holder_beside(directory, entropy)
    assert holder == parent + archive_name(entropy)
    assert archive_in(holder) == f"{holder}/archive.tar"
    assert archive_in(holder) in unpack_command(holder, directory)
    assert archive_name(entropy) in remove_packed_command(archive_name(entropy))


ODD = ["/a b", "/it's", "/new\nline", "-rf", "/$HOME", "/`id`", "~", "/gr\u00fc\u00dfe", "*"]


@pytest.mark.parametrize("path", ODD)
def test_no_name_is_more_than_a_name_to_the_shell(path):
    operand = path if path.startswith("/") else f"./{path}"
    for command in (
        unpack_command(path, path),
        pack_command(path, "name.tar", follow_links=False),
        remove_command(f"/x/../{path}"),
    ):
        words = shlex.split(command.replace(";", " "))
        assert operand in words or f"/x/../{path}" in words


@pytest.mark.parametrize("code", [1, 2, 127, 137])
def test_what_is_not_unpacked_is_an_error(code):
    with pytest.raises(SandboxOperationError) as failed:
        check_unpacked(ExecutionResult("", "tar: no space\n", code), "/dir")
    assert failed.value.operation == "write"
    assert ("no program `tar`" if code == 127 else "no space") in str(failed.value)


@pytest.mark.parametrize(
    ("code", "stderr"),
    [
        (0, ""),
        (0, "tar: ./s: socket ignored\n"),
        (1, "tar: ./log: file changed as we read it\n"),
        (1, "tar: ./x: File removed before we read it\ntar: ./y: file changed as we read it\n"),
    ],
)
def test_what_changes_while_it_is_packed_is_packed(code, stderr):
    assert packed_archive(ExecutionResult("/place", stderr, code), "/dir") == "/place"


@pytest.mark.parametrize(
    ("code", "stderr", "said"),
    [
        (1, "tar: ./x: something else\n", "something else"),
        (2, "tar: ./log: file changed as we read it\n", "exit code 2"),
        (66, "cd: no such directory\n", "no directory '/dir'"),
        (127, "", "no program `tar`"),
        (137, "", "no reason was given"),
    ],
)
def test_what_cannot_be_packed_is_an_error(code, stderr, said):
    with pytest.raises(SandboxOperationError) as failed:
        packed_archive(ExecutionResult("/place", stderr, code), "/dir")
    assert failed.value.operation == "read" and said in str(failed.value)


# --- what is left out -----------------------------------------------------------------


def test_ignored_names_and_paths():
    rules = IgnoreRules.of(["*.pyc", "build/", "docs/*.tmp", "**/deep/x"])
    assert rules.ignores("a.pyc", is_dir=False) and rules.ignores("x/y/a.pyc", is_dir=True)
    assert rules.ignores("x/build", is_dir=True) and not rules.ignores("build", is_dir=False)
    assert rules.ignores("docs/a.tmp", is_dir=False)
    assert not rules.ignores("x/docs/a.tmp", is_dir=False)
    assert rules.ignores("a/deep/x", is_dir=False)


def test_what_is_in_an_ignored_directory_is_ignored():
    rules = IgnoreRules.of(["build/"])
    assert rules.ignores_any("x/build/y/z", is_dir=False)
    assert not rules.ignores_any("x/builds/y", is_dir=False)


@pytest.mark.parametrize("patterns", ["*.pyc", [""], ["["]])
def test_what_is_no_list_of_patterns_is_refused(patterns):
    with pytest.raises(ValueError, match="pattern"):
        IgnoreRules.of(patterns)


# --- what is let in -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./a", "a"),
        ("a/./b//c/", "a/b/c"),
        ("./", None),
        (".", None),
        ("...", "..."),
        ("a..", "a.."),
    ],
)
def test_where_an_entry_goes(name, path):
    assert entry_path(name) == path


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "//x", "a\0b"])
def test_an_entry_outside_is_refused(name):
    with pytest.raises(ValueError, match="outside"):
        entry_path(name)


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("link", "file", True),
        ("link", "./dir/file", True),
        ("dir/link", "../file", True),
        ("a/b/link", "../../file", True),
        ("link", "..", False),
        ("dir/link", "../..", False),
        ("dir/link", "..", True),
        ("link", "/etc/passwd", False),
        ("link", "", False),
        ("link", "a/../b", False),
        ("dir/link", "../other/..", False),
        ("link", "a\0", False),
    ],
)
def test_which_links_lead_outside(path, target, inside):
    assert link_is_inside(path, target) is inside


NAME = st.sampled_from(["a", "b", "..", "."])


@given(
    st.dictionaries(
        st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join),
        st.lists(NAME, min_size=1, max_size=5).map("/".join),
        max_size=6,
    )
)
def test_no_chain_of_links_that_are_let_in_leads_out(links):
    """Links are made where nothing above them is a link; then each is followed for real."""
    made = {
        path: target
        for path, target in links.items()
        if link_is_inside(path, target)
        and not any(path.startswith(f"{other}/") for other in links if other != path)
    }

    def follow(path: str) -> None:
        here: list[str] = []
        to_go = path.split("/")
        for _ in range(200):
            if not to_go:
                return
            part = to_go.pop(0)
            if part == "..":
                assert here, f"{path!r} leads out by way of {made}"
                here.pop()
            elif part != ".":
                here.append(part)
                if (target := made.get("/".join(here))) is not None:
                    here.pop()
                    to_go = target.split("/") + to_go

    for path in made:
        follow(path)


def test_names_stay_what_they_are_when_joined():
    assert posixpath.join("/top", entry_path("./a b/\u00fc") or "") == "/top/a b/\u00fc"
