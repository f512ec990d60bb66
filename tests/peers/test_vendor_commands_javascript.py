"""The vendor's JavaScript client, unchanged, runs commands on our host, over WebSocket.

The stories are in `commands.mjs`; they print what they saw, and the tests here look at that.
Where the client does otherwise than protocol/06 says, the test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._javascript import Seen, tell

STORIES = Path(__file__).with_name("commands.mjs")
LINES = 20_000

Story = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def seen(host: LocalHost, packages: Path) -> Seen:
    """What the stories saw, by name."""
    return tell(STORIES, packages, host)


@pytest.fixture
def story(seen: Seen) -> Story:
    """What one story saw, if it came to its end."""

    def look(name: str) -> dict[str, Any]:
        assert "failed" not in seen[name], seen[name]["failed"]
        return seen[name]

    return look


def result(stdout: str, stderr: str = "", exit_code: int = 0) -> dict[str, Any]:
    return {"stdout": stdout, "stderr": stderr, "exit_code": exit_code}


def refusal(told: dict[str, Any]) -> tuple[str, str | None, str | None]:
    assert told["message"]
    return told["error"], told.get("operation"), told.get("errorType")


CLOSED = ("LangSmithSandboxOperationError", "sendInput", None)


def test_output_comes_piece_by_piece_with_its_offsets(story: Story) -> None:
    told = story("pieces")
    assert len(told["commandId"]) == 36, "the vendor's other client leaves the dashes out"
    assert [(chunk["stream"], chunk["data"], chunk["offset"]) for chunk in told["told"]] == [
        ("stdout", "grüße\n", 0),
        ("stderr", "err\n", 0),
        ("stdout", "日本\n", 8),
        ("stderr", "🙂🙂\n", 4),
        ("stdout", "out\n", 15),
        ("stderr", "ß\n", 13),
    ]
    assert told["result"] == result("grüße\n日本\nout\n", "err\n🙂🙂\nß\n")
    assert told["offsets"] == [19, 16]
    assert told["after"] == []


def test_callbacks_hear_what_the_result_holds(story: Story) -> None:
    told = story("callbacks")
    assert told["result"] == result("out 1\nout 2\nout 3\n", "err 1\nerr 2\nerr 3\n")
    assert told["heard"] == {name: told["result"][name] for name in ("stdout", "stderr")}


def test_an_exit_code_is_a_result_and_no_error(story: Story) -> None:
    plain, signalled, unknown = story("exits")["results"]
    assert plain == result("out\n", "err\n", 3)
    assert (signalled["exit_code"], unknown["exit_code"]) == (128 + 15, 127)


def test_kill_ends_the_whole_group_and_the_end_is_told(story: Story) -> None:
    """Other than the vendor's Python clients, this one stays to hear the end (06 section 11)."""
    told = story("kill")
    assert told["before"] is True
    assert told["result"] == told["again"] == result("begun\n", exit_code=137)
    assert told["after"] == [False, False]


def test_input_goes_in_until_it_is_closed(story: Story) -> None:
    told = story("input")
    assert told["same"] == [True] * 3
    assert refusal(told["late"]) == CLOSED
    assert told["exit"] == 0


@pytest.mark.parametrize("asked", ["unsaid", "closed"])
def test_without_a_word_input_is_closed_from_the_start(story: Story, asked: str) -> None:
    told = story("noInput")[asked]
    assert refusal(told["late"]) == CLOSED
    assert told["result"] == result("over\n")


def test_input_is_closed_through_a_second_handle(story: Story) -> None:
    assert story("secondHandle")["results"] == [result("over\n")] * 2


def test_a_terminal_is_one_stream_of_24_by_80(story: Story) -> None:
    look = story("terminal")["look"]
    size, terminal, error = look["stdout"].splitlines(keepends=True)
    assert (size, terminal[:9], error) == ("24 80\r\n", "/dev/pts/", "err\r\n")
    assert (look["stderr"], look["exit_code"]) == ("", 0)


def test_a_terminal_echoes_and_obeys_its_control_characters(story: Story) -> None:
    told = story("terminal")
    output = "grüße\r\ngrüße\r\nagain\r\nagain\r\nover\r\n"
    assert told["typed"] == result(output)
    assert told["interrupted"]["exit_code"] == 130
    assert "not reached" not in told["interrupted"]["stdout"]


def test_megabytes_arrive_complete_and_in_order(story: Story) -> None:
    told = story("megabytes")
    assert (told["gaps"], told["same"]) == (0, True)
    assert told["position"] > 3 << 20
    assert (told["stderr"], told["exit_code"]) == ("over\n", 0)


def test_a_slow_reader_gets_everything(story: Story) -> None:
    """This client reads on while nobody asks it for output, so it holds no writer back."""
    assert story("slowReader")["same"] is True


def test_a_command_past_its_time_is_killed_and_that_is_told_again(story: Story) -> None:
    told = story("timeout")
    assert told["first"] == "begun\n"
    for error in (told["late"], told["again"], told["waited"]):
        assert refusal(error)[0] == "LangSmithCommandTimeoutError"
    assert told["after"] is False


def test_what_nobody_is_attached_to_is_killed_after_its_idle_time(story: Story) -> None:
    told = story("idle")
    assert told["attached"] == result("alive\n")
    assert told["result"] == result("begun\n", exit_code=137)


def test_kill_on_disconnect_is_at_once(story: Story) -> None:
    assert story("killOnDisconnect")["result"] == result("begun\n", exit_code=137)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_finished_command_expires_after_its_time_to_live(story: Story, seconds: int) -> None:
    told = story("expiry")[str(seconds)]
    assert told["before"] == (result("out\n") if seconds else None)
    expired = ("LangSmithSandboxOperationError", "reconnect", "SessionExpired")
    assert refusal(told["late"]) == expired


def test_a_command_outlives_the_process_that_started_it(story: Story) -> None:
    """Whoever attaches reads on from any byte; from inside a character, from the next one."""
    out = "".join(f"größe {n}\n" for n in range(1, LINES + 1)) + "über\n"
    err = "".join(f"{n}\n" for n in range(1, LINES + 1))
    whole, left, inside = story("outlived")["seen"]
    assert 0 < left["stdoutOffset"] <= len(out.encode())
    for told, reached in ((whole, 0), (left, left["stdoutOffset"]), (inside, 4)):
        assert told["first"] == reached
        assert told["stdout"] == out.encode()[reached:].decode()
        assert (told["stderr"], told["exit_code"]) == (err[told["stderrOffset"] :], 0)


def test_an_id_of_the_callers_own_is_never_run_twice(story: Story) -> None:
    told = story("sameId")
    first, second = told["pids"]
    assert first == second
    assert told["results"] == [result("one\n")] * 2


def test_environment_and_place_are_this_commands_only(story: Story) -> None:
    told = story("places")
    assert told["legacy"] == result("/usr ü b\n0\n")
    assert told["config"] == result("/tmp config\n0\n")
    assert told["neither"] == result("/home/user\n0\n")
    assert told["shell"] == result("/bin/sh\n")
    assert told["both"]["error"] is not None


@pytest.mark.parametrize("what", ["shell", "cwd", "user"])
def test_what_cannot_be_started_raises(story: Story, what: str) -> None:
    refused = ("LangSmithSandboxOperationError", "command", "CommandError")
    assert refusal(story("refusals")[what]) == refused


def test_many_commands_run_at_once(story: Story) -> None:
    """None of them ends before all have begun."""
    for number, told in enumerate(story("many")["results"]):
        lines = [f"{number}: {n}\n" for n in range(1, 1001)]
        assert told == result("".join(lines), exit_code=number)
