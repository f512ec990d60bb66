"""Two recordings, compared by what they do."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_proto.trace.diff import Change, compare, parting
from sandbox_proto.trace.story import tell

from ._traces import Script, busy, perform

BODY = 'POST /boxes request body: {"key": "<id>", "labels": {"colour": "?"}, "name": "<name>"}'


def differences(left: Script, right: Script) -> list[Change]:
    return compare(tell(left.trace()), tell(right.trace()))


@pytest.mark.parametrize(
    "other",
    [
        {"port": 4001},
        {"name": "sandbox-ffffffffffff"},
        {"number": "00000000-ac36-4b0c-b2b9-e66e095255de"},
        {"key": "f" * 32},
        {"date": "2027-01-01T00:00:00Z"},
        {"pace": 3.0},
        {"polls": 1},
        {"polls": 7},
        {"pieces": ("he", "llo", " world", "\n")},
    ],
    ids=str,
)
def test_what_time_and_chance_decide_is_no_difference(other: dict[str, Any]) -> None:
    assert differences(busy(), busy(**other)) == []


def test_masked_values_are_alike_whatever_their_length() -> None:
    assert differences(busy(key="*" * 32), busy(key="*" * 9)) == []


@pytest.mark.parametrize(
    ("other", "where", "before", "after"),
    [
        ({"exit_code": 1}, "run: make", "exits with 0", "exits with 1"),
        ({"pieces": ("hello",)}, "run: make", "stdout hello world\\n", "stdout hello"),
        ({"cut": True}, "run: make", None, "reconnects: cut"),
        ({"sent": "pang"}, "stream to port 80", "-> ping", "-> pang"),
        ({"answer": ""}, "stream to port 80", "<- pong", "<- "),
        ({"status": 202}, "create sandbox <name>", "POST /boxes -> 201", "POST /boxes -> 202"),
        (
            {"label": "red"},
            "create sandbox <name>",
            BODY.replace("?", "blue"),
            BODY.replace("?", "red"),
        ),
        (
            {"late_delete": False},
            "only in the first: delete sandbox <name>",
            "DELETE /boxes/<name> -> 204",
            None,
        ),
    ],
    ids=str,
)
def test_what_was_done_is_compared(
    other: dict[str, Any], where: str, before: str | None, after: str | None
) -> None:
    [change] = differences(busy(), busy(**other))
    assert (change.where, change.before, change.after) == (where, before, after)
    [back] = differences(busy(**other), busy())
    assert (back.before, back.after) == (after, before)


def test_a_change_knows_its_lines_and_says_itself() -> None:
    left, right = busy(), busy(exit_code=1)
    [change] = differences(left, right)
    for script, number in ((left, change.line_before), (right, change.line_after)):
        [line] = [line for line in script.trace().lines if line.number == number]
        assert "CommandExited" in str(line.then)
    assert str(change) == "run: make\n  - exits with 0\n  + exits with 1"


def test_the_order_of_what_runs_side_by_side_is_no_difference() -> None:
    left, right = Script(), Script()
    for script, order in ((left, (1, 2, 3)), (right, (3, 1, 2))):
        for place, number in enumerate(order, 1):
            asked = perform("GET", f"/files/{number}")
            given = {"path": f"/{number}"}
            script.flow(f"flow-{place}", "flows.files.read_file", given, asked)
            script.answered(f"flow-{place}", 200 + number, {"returned": None})
    assert differences(left, right) == []


def test_of_many_that_look_alike_the_one_that_differs_is_told() -> None:
    left, right = Script(), Script()
    for script, codes in ((left, [0] * 5), (right, [0, 0, 3, 0, 0])):
        for number, code in enumerate(codes, 1):
            script.command(f"command-{number}", "true")
            script.exit(f"command-{number}", code)
    [change] = differences(left, right)
    assert (change.before, change.after) == ("exits with 0", "exits with 3")


def test_one_that_is_done_twice_is_told() -> None:
    left, right = Script(), Script()
    for script, times in ((left, 1), (right, 2)):
        for number in range(1, times + 1):
            script.command(f"command-{number}", "true")
            script.exit(f"command-{number}", 0)
    [change] = differences(left, right)
    assert change.where == "only in the second: run: true"
    assert (change.line_before, change.line_after) == (None, 7)


def test_options_that_were_not_given_are_no_difference() -> None:
    left, right = Script(), Script()
    for script, more in ((left, {}), (right, {"pty": False, "cwd": None})):
        spec = {"type": "flows.commands.CommandSpec", "command": "x", **more}
        script.add("command-1", "new flows.commands.start_command", {"spec": spec})
    assert differences(left, right) == []


def test_long_texts_are_shown_where_they_part() -> None:
    before, after = parting("a" * 500 + "b" + "c" * 500, "a" * 500 + "x")
    assert before == "... " + "a" * 60 + "b" + "c" * 239 + "..."
    assert after == "... " + "a" * 60 + "x"
    assert parting("ab", "ac") == ("ab", "ac")
    assert parting("a" * 400, "a" * 401)[1].endswith("a")
