"""`run_process` beside `trio.run_process`: the same commands, the same endings."""

from __future__ import annotations

import io
import signal
import subprocess
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest
import trio

from sandbox_anyio import AsyncSandbox, CommandTimeoutError, SandboxOperationError
from sandbox_trio_compat import SandboxProcess, run_process
from tests.drivers._processes import COMMANDS, TEXTS, Ending, ending_of

pytestmark = pytest.mark.anyio

PATIENCE = 20


async def both(sandbox: AsyncSandbox, command: Any, **options: Any) -> tuple[Ending, Ending]:
    """How it ends in the sandbox, and here."""
    with trio.fail_after(PATIENCE):
        there = await ending_of(partial(run_process, sandbox, command, **options))
        here = await ending_of(partial(trio.run_process, command, **options))
    return there, here


@pytest.mark.parametrize("check", [True, False], ids=["check", "no check"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_programs(sandbox: AsyncSandbox, command: Any, check: bool) -> None:
    there, here = await both(
        sandbox, command, check=check, capture_stdout=True, capture_stderr=True
    )
    # The embedded host keeps text; a server that keeps bytes: tests/drivers/test_processes.py.
    assert there == here.as_text()


@pytest.mark.parametrize("command", TEXTS)
async def test_texts_for_the_shell(sandbox: AsyncSandbox, command: Any) -> None:
    options = {"shell": True, "executable": "/bin/bash", "check": False}
    there, here = await both(sandbox, command, capture_stdout=True, capture_stderr=True, **options)
    assert there == here
    merged, here = await both(sandbox, command, capture_stdout=True, stderr=STDOUT, **options)
    assert merged == here
    assert merged.stderr is None


WRITES = ["sh", "-c", "echo out; echo err >&2; exit 1"]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"capture_stdout": True},
        {"capture_stderr": True},
        {"capture_stdout": True, "stderr": STDOUT},
        {"capture_stdout": True, "stderr": DEVNULL},
        {"stdout": DEVNULL, "stderr": STDOUT},
        {"stderr": STDOUT},
        {"stdout": DEVNULL, "capture_stderr": True},
    ],
    ids=str,
)
async def test_where_output_goes(
    sandbox: AsyncSandbox, capfd: pytest.CaptureFixture[str], flags: dict[str, Any]
) -> None:
    """Into the result, into nothing, or to where our own output goes."""
    with trio.fail_after(PATIENCE):
        there = await ending_of(partial(run_process, sandbox, WRITES, **flags))
        passed_on = capfd.readouterr()
        here = await ending_of(partial(trio.run_process, WRITES, **flags))
    assert there == here
    assert passed_on == capfd.readouterr()


async def test_output_goes_to_files(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    for name, run in (("there", partial(run_process, sandbox)), ("here", trio.run_process)):
        with (tmp_path / name).open("wb") as file:
            await run(["seq", "20000"], stdout=file, stderr=file.fileno())
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    assert (tmp_path / "there").stat().st_size > 100_000


@pytest.mark.parametrize(
    "given",
    [b"", b"one\ntwo\n", "h\u00e9 \u20ac \U0001f600".encode(), b"y" * 1_000_000, bytearray(b"z")],
    ids=["none", "lines", "characters", "a million", "bytearray"],
)
async def test_input(sandbox: AsyncSandbox, given: Any) -> None:
    there, here = await both(sandbox, ["cat"], stdin=given, capture_stdout=True)
    assert there == here
    assert there.stdout == given


async def test_input_has_two_names(sandbox: AsyncSandbox) -> None:
    done = await run_process(sandbox, ["cat"], input=b"x", capture_stdout=True)
    assert done.stdout == b"x"
    with pytest.raises(ValueError, match="both"):
        await run_process(sandbox, ["cat"], input=b"x", stdin=b"y")


async def test_where_and_with_what(sandbox: AsyncSandbox) -> None:
    command = ["sh", "-c", 'echo "$PWD $WORD"']
    options: dict[str, Any] = {"cwd": Path("/usr"), "env": {"WORD": "a b"}, "capture_stdout": True}
    there, here = await both(sandbox, command, **options)
    assert there == here
    whoami = await run_process(sandbox, ["id", "-u"], user=0, **options)
    assert whoami.stdout == b"0\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"stdin": "text"},
        {"capture_stdout": True, "stdout": DEVNULL},
        {"capture_stderr": True, "stderr": STDOUT},
        {"stdin": PIPE},
        {"stdout": PIPE},
        {"stderr": PIPE},
        {"shell": True},
        {"command": "text", "shell": False},
        {"text": True},
        {"encoding": "utf-8"},
    ],
    ids=str,
)
async def test_what_cannot_be(sandbox: AsyncSandbox, wrong: dict[str, Any]) -> None:
    there, here = await both(sandbox, **{"command": ["true"], **wrong})
    assert there == here
    assert there.kind in ("TypeError", "ValueError", "UnicodeError")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stdin": io.BytesIO()}, "cannot be read there"),
        ({"stdin": b"\xff"}, "UTF-8"),
        ({"errors": "ignore"}, "errors"),
        ({"timeout": -1}, "timeout"),
        ({"command": []}, "empty"),
        ({"stdout": -77}, "stdout cannot be redirected"),
    ],
    ids=lambda part: part if isinstance(part, str) else next(iter(part)),  # no address in it
)
async def test_what_cannot_be_in_a_sandbox(
    sandbox: AsyncSandbox, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        await run_process(sandbox, **{"command": ["true"], **wrong})


# --- where it is not as here ----------------------------------------------------------------


async def test_a_signal_is_told_as_the_server_tells_it(sandbox: AsyncSandbox) -> None:
    there, here = await both(sandbox, ["sh", "-c", "kill -9 $$"], check=False)
    assert (there.returncode, here.returncode) == (128 + signal.SIGKILL, -signal.SIGKILL)


async def test_a_program_that_is_not_there(sandbox: AsyncSandbox) -> None:
    """A shell looks for it."""
    done = await run_process(sandbox, ["no-such-program"], check=False, stderr=DEVNULL)
    assert done.returncode == 127
    with pytest.raises(FileNotFoundError):
        await trio.run_process(["no-such-program"], check=False)


async def test_bytes_that_a_transport_of_text_replaced(sandbox: AsyncSandbox) -> None:
    """Input takes a WebSocket, which has text."""
    run = partial(
        run_process,
        sandbox,
        ["sh", "-c", r"cat; printf '\377'"],
        stdin=b"in",
        capture_stdout=True,
    )
    with pytest.raises(SandboxOperationError, match="no UTF-8"):
        await run()
    assert (await run(errors="replace")).stdout == "in\ufffd".encode()


async def test_the_servers_limit(sandbox: AsyncSandbox) -> None:
    with pytest.raises(CommandTimeoutError):
        await run_process(sandbox, ["sleep", "100"], timeout=1)


# --- the end comes from here ------------------------------------------------------------------


async def is_running(sandbox: AsyncSandbox, name: str) -> bool:
    return (await sandbox.run(["pgrep", "-f", f"[{name[0]}]{name[1:]}"])).success


@pytest.mark.parametrize("transport", ["stream", "websocket"])
async def test_cancelling_kills(sandbox: AsyncSandbox, transport: str) -> None:
    name = f"cancelled-{transport}"
    command = f"(exec -a {name} sleep 1000) & cat; wait"
    stdin = b"in" if transport == "websocket" else b""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process: SandboxProcess = await nursery.start(
                partial(run_process, sandbox, command, stdin=stdin, capture_stdout=True)
            )
            while not await is_running(sandbox, name):
                pass
            assert process.returncode is None
            nursery.cancel_scope.cancel()
        assert process.returncode == -signal.SIGKILL
        while await is_running(sandbox, name):
            pass


async def test_a_deadline_kills(sandbox: AsyncSandbox) -> None:
    with pytest.raises(trio.TooSlowError):
        await run_process(
            sandbox, "exec -a deadline sleep 1000", deadline=trio.current_time() + 0.5
        )
    with trio.fail_after(PATIENCE):
        while await is_running(sandbox, "deadline sleep"):
            pass


async def test_cancelling_can_be_polite(sandbox: AsyncSandbox) -> None:
    """A signal is another command's business; the process may then end in its own way."""

    async def ask(process: SandboxProcess) -> None:
        await sandbox.run(["kill", "-TERM", str(process.pid)])
        await trio.sleep_forever()

    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process: SandboxProcess = await nursery.start(
                partial(run_process, sandbox, script, stdout=PIPE, deliver_cancel=ask)
            )
            assert process.stdout is not None
            assert await process.stdout.receive_some() == b"ready\n"
            nursery.cancel_scope.cancel()
        assert process.returncode == 3
        assert await process.stdout.receive_some() == b"bye\n"


async def test_politeness_has_an_end(sandbox: AsyncSandbox) -> None:
    async def do_nothing(process: SandboxProcess) -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process: SandboxProcess = await nursery.start(
                partial(run_process, sandbox, "sleep 1000", deliver_cancel=do_nothing)
            )
            nursery.cancel_scope.cancel()
    assert process.returncode == -signal.SIGKILL


async def test_an_error_of_ours_is_not_wrapped(sandbox: AsyncSandbox) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        await run_process(sandbox, "echo out; exit 7", capture_stdout=True)
    assert (caught.value.returncode, caught.value.stdout) == (7, b"out\n")
