"""Commands over every face: run, stream, input, kill, reattach."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sandbox_anyio import (
    CommandFailedError,
    CommandTimeoutError,
    SandboxOperationError,
    SandboxTimeoutError,
)


def test_what_a_command_leaves_behind(sandbox: Any) -> None:
    result = sandbox.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.success and result.complete


def test_arguments_environment_directory_and_input(sandbox: Any) -> None:
    assert sandbox.run(["printf", "%s|", "a b", "$HOME"]).stdout == "a b|$HOME|"
    assert sandbox.run("echo $WORD; pwd", env={"WORD": "x"}, cwd="/tmp").stdout == "x\n/tmp\n"
    assert sandbox.run("tr a-z A-Z", input="shout").stdout == "SHOUT"
    with pytest.raises(CommandFailedError, match="exit code 7"):
        sandbox.run("exit 7", check=True)
    with pytest.raises(ValueError, match="callbacks"):
        sandbox.run("true", wait=False, on_stdout=print)


def test_callbacks_hear_each_stream(sandbox: Any) -> None:
    heard: list[tuple[str, str]] = []
    sandbox.run(
        "echo one; echo two >&2",
        on_stdout=lambda text: heard.append(("stdout", text)),
        on_stderr=lambda text: heard.append(("stderr", text)),
    )
    assert sorted(heard) == [("stderr", "two\n"), ("stdout", "one\n")]


def test_an_error_in_a_callback_ends_the_command(sandbox: Any) -> None:
    def fail(text: str) -> None:
        raise ZeroDivisionError(text)

    with pytest.raises(ZeroDivisionError, match="begun"):
        sandbox.run("echo begun; exec sleep 4713", timeout=0, on_stdout=fail)
    assert sandbox.run("pgrep -f [s]leep.4713").exit_code == 1


def test_the_time_limit(sandbox: Any) -> None:
    with pytest.raises(CommandTimeoutError) as late:
        sandbox.run("sleep 1000", timeout=1)
    assert late.value.timeout == 1


def test_output_is_iterated_in_order_and_kept_for_the_result(sandbox: Any) -> None:
    handle = sandbox.run("while read line; do echo got $line; done", wait=False, close_input=False)
    assert handle.pid and handle.command_id
    chunks = iter(handle)
    for word in ("one", "two"):
        handle.send_input(f"{word}\n")
        assert next(chunks).data == f"got {word}\n"
    handle.close_input()
    assert list(chunks) == []
    assert handle.result.stdout == "got one\ngot two\n"
    assert (handle.last_stdout_offset, handle.last_stderr_offset) == (16, 0)
    with pytest.raises(SandboxOperationError):
        handle.send_input("late")


def test_iteration_goes_on_where_it_was_left(sandbox: Any) -> None:
    handle = sandbox.run("echo a; sleep 0.1; echo b; sleep 0.1; echo c", wait=False)
    for chunk in handle:
        assert chunk.data == "a\n"
        break
    assert "".join(chunk.data for chunk in handle) == "b\nc\n"
    assert handle.result.stdout == "a\nb\nc\n"


def test_much_output_arrives_whole(sandbox: Any) -> None:
    handle = sandbox.run("yes grüße | head -n 200000", wait=False)
    assert "".join(chunk.data for chunk in handle) == "grüße\n" * 200_000
    assert handle.result.complete


def test_waiting_for_output(sandbox: Any) -> None:
    with sandbox.run("echo port 8123; exec sleep 4714", wait=False) as handle:
        assert handle.wait_for_output(r"port (\d+)", 20)[1] == "8123"
        with pytest.raises(SandboxTimeoutError):
            handle.wait_for_output("never", 0.05)
        assert next(iter(handle)).data == "port 8123\n"
    assert sandbox.run("pgrep -f [s]leep.4714").exit_code == 1


def test_kill_from_elsewhere_ends_an_iteration(sandbox: Any) -> None:
    handle = sandbox.run("echo begun; sleep 1000 & sleep 1000", wait=False, timeout=0)
    seen, killers = [], []
    for chunk in handle:
        seen.append(chunk.data)
        killers.append(threading.Thread(target=handle.kill))
        killers[-1].start()
    for killer in killers:
        killer.join()
    assert (seen, handle.result.exit_code) == (["begun\n"], 137)


def test_input_from_elsewhere_while_somebody_waits(sandbox: Any) -> None:
    handle = sandbox.run("read word; echo $word", wait=False, close_input=False)
    feeder = threading.Timer(0.05, handle.send_input, ["fed\n"])
    feeder.start()
    assert handle.result.stdout == "fed\n"
    feeder.join()


def test_a_command_is_reattached(sandbox: Any) -> None:
    first = sandbox.run("echo early; read w; echo late $w", wait=False, close_input=False)
    assert next(iter(first)).data == "early\n"
    second = sandbox.reconnect(first.command_id)
    second.send_input("x\n")
    assert second.result.stdout == "early\nlate x\n"
    assert first.reconnect().result.stdout == "late x\n"
    with pytest.raises(SandboxOperationError) as unknown:
        _ = sandbox.reconnect("no-such-command").result
    assert unknown.value.error_type == "CommandNotFound"


def test_a_detached_command_outlives_its_block(sandbox: Any) -> None:
    with sandbox.run("read w; echo $w", wait=False, close_input=False) as handle:
        handle.detach()
    again = sandbox.reconnect(handle.command_id)
    again.send_input("alive\n")
    assert again.result.stdout == "alive\n"


def test_many_at_once(sandbox: Any) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(sandbox.run(f"echo {n}").stdout))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{n}\n" for n in range(8)]
