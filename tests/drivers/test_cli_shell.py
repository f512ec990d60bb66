"""`sandbox shell`, on a terminal of its own, as a person uses it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost

T = TypeVar("T")

SANDBOX = [sys.executable, "-m", "sandbox_anyio"]
COLUMNS, ROWS = 113, 37
PATIENCE = 30.0


def environment(host: LocalHost | None) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LANGSMITH_", "LANGCHAIN_"))
    }
    if host is not None:
        clean |= {"LANGSMITH_ENDPOINT": host.endpoint, "LANGSMITH_API_KEY": host.api_key}
    return {**clean, "TERM": "dumb"}


def ask(host: LocalHost, question: Callable[[AsyncSandboxClient], Awaitable[T]]) -> T:
    """Ask the host something, as another client."""

    async def answer() -> T:
        async with AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client:
            return await question(client)

    return anyio.run(answer)


def names_on(host: LocalHost) -> list[str]:
    async def names(client: AsyncSandboxClient) -> list[str]:
        return [box.name for box in await client.list_sandboxes()]

    return ask(host, names)


def run_in(host: LocalHost, name: str, command: str) -> str:
    async def run(client: AsyncSandboxClient) -> str:
        return (await (await client.get_sandbox(name)).run(command)).stdout

    return ask(host, run)


def processes_in(host: LocalHost, name: str) -> str:
    """The shells of a sandbox, and what was started to be found."""
    return run_in(host, name, "pgrep -a -f '[b]ash -i|[s]h -i|[s]leep 47|[y]es please'")


@pytest.fixture
def box(host: LocalHost) -> Iterator[str]:
    """The name of a sandbox."""

    async def create(client: AsyncSandboxClient) -> AsyncSandbox:
        return await client.create_sandbox()

    async def delete(client: AsyncSandboxClient) -> None:
        if box.name in [each.name for each in await client.list_sandboxes()]:
            await client.delete_sandbox(box.name)

    box = ask(host, create)
    yield box.name
    ask(host, delete)


class Terminal:
    """A terminal with `sandbox shell` on it; what is shown there is read as it comes.

    :ivar before: the terminal's attributes before anything ran on it.
    """

    def __init__(self, host: LocalHost | None, *arguments: str, controlling: bool = True) -> None:
        self.keyboard, self.screen = pty.openpty()
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self.keyboard, termios.TIOCSWINSZ, size)
        self.before = self.attributes()
        self.shown = b""
        self.process = subprocess.Popen(
            [*SANDBOX, "shell", *arguments],
            env=environment(host),
            stdin=self.screen,
            stdout=self.screen,
            stderr=self.screen,
            start_new_session=True,
            preexec_fn=_take_terminal if controlling else None,
        )

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.screen)

    def type(self, keys: str | bytes) -> None:
        os.write(self.keyboard, keys.encode() if isinstance(keys, str) else keys)

    def read_until(self, words: str) -> str:
        """Read what is shown until these words are there; the next reading begins behind them."""
        until = time.monotonic() + PATIENCE
        while words.encode() not in self.shown:
            left = until - time.monotonic()
            assert left > 0 and self._read(left), f"{words!r} did not come: {self.shown!r}"
        text, _, self.shown = self.shown.partition(words.encode())
        return text.decode()

    def _read(self, seconds: float) -> bool:
        if not select.select([self.keyboard], [], [], seconds)[0]:
            return False
        self.shown += os.read(self.keyboard, 65536)
        return True

    def wait(self) -> int:
        """Wait for the end. What is shown is not read any more."""
        return self.process.wait(timeout=PATIENCE)

    def hang_up(self) -> None:
        """Close the terminal, as a window is closed."""
        os.close(self.keyboard)
        os.close(self.screen)
        self.keyboard = self.screen = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for descriptor in (self.keyboard, self.screen):
            if descriptor >= 0:
                os.close(descriptor)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


Open = Callable[..., Terminal]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens terminals, and closes them when the test is over."""
    terminals: list[Terminal] = []

    def open_terminal(*arguments: Any, **options: Any) -> Terminal:
        terminals.append(Terminal(*arguments, **options))
        return terminals[-1]

    yield open_terminal
    for terminal in terminals:
        terminal.close()


def begin(terminal: Terminal) -> None:
    """Wait until the shell answers. The prompt may be anything, so it is asked for a word."""
    terminal.read_until("# ")
    terminal.type("PS1='>''> '; cd /tmp\n")
    terminal.read_until(">> ")


# --- talking --------------------------------------------------------------------------


def test_what_is_typed_is_echoed_and_answered(host: LocalHost, box: str, opened: Open) -> None:
    terminal = opened(host, box)
    begin(terminal)
    terminal.type("echo größe-$((6 * 7))\n")
    assert terminal.read_until("\r\n") == "echo größe-$((6 * 7))", "the echo"
    assert terminal.read_until("\r\n") == "größe-42", "the answer"
    terminal.type("tty; stty size; echo $TERM in $PWD\n")
    terminal.read_until("\r\n")
    assert terminal.read_until("\r\n").startswith("/dev/pts/")
    assert terminal.read_until("\r\n") == f"{ROWS} {COLUMNS}"
    assert terminal.read_until("\r\n") == "dumb in /tmp"
    terminal.type("exit\n")
    assert terminal.wait() == 0
    assert terminal.attributes() == terminal.before
    assert processes_in(host, box) == ""
    assert box in names_on(host), "it was there before, and stays"


def test_a_key_of_several_bytes_may_come_in_pieces(host: LocalHost, box: str, opened: Open) -> None:
    terminal = opened(host, box)
    begin(terminal)
    smile = "🙂".encode()
    terminal.type("cat\n")
    terminal.read_until("\r\n")
    for number in range(1, 4):
        terminal.type(f"{number}:".encode() + smile[:number])
        terminal.read_until(f"{number}:")  # the terminal echoes, so that much has arrived
        terminal.type(smile[number:] + b"\n")
        terminal.read_until("🙂\r\n")
        assert terminal.read_until("\r\n") == f"{number}:🙂"
    terminal.type("\x04")
    terminal.read_until(">> ")
    terminal.type("exit 0\n")
    assert terminal.wait() == 0


def test_ctrl_c_reaches_the_program_inside_and_not_us(
    host: LocalHost, box: str, opened: Open
) -> None:
    terminal = opened(host, box)
    begin(terminal)
    for _ in range(2):
        terminal.type("(trap 'echo caught; exit 5' INT; echo wait''ing; sleep 4711 & wait)\n")
        terminal.read_until("waiting\r\n")
        terminal.type("\x03")
        terminal.read_until("caught\r\n")
        terminal.read_until(">> ")
        terminal.type("echo status-$?\n")
        terminal.read_until("\r\n")
        assert terminal.read_until("\r\n") in ("status-5", "status-130")
    assert terminal.process.poll() is None
    terminal.type("exit\n")
    assert terminal.wait() == 0


def test_ctrl_z_stops_the_program_inside_and_not_us(
    host: LocalHost, box: str, opened: Open
) -> None:
    terminal = opened(host, box)
    begin(terminal)
    terminal.type("sleep 4711\n")
    terminal.read_until("\r\n")
    run_in(host, box, "until pgrep -f '[s]leep 4711'; do sleep 0.02; done")
    terminal.type("\x1a")
    terminal.read_until("Stopped")
    terminal.read_until(">> ")
    terminal.type("fg\n")
    terminal.read_until("sleep 4711\r\n")
    terminal.type("\x03")
    terminal.read_until(">> ")
    terminal.type("exit 0\n")
    assert terminal.wait() == 0


def test_much_output_is_shown_complete(host: LocalHost, box: str, opened: Open) -> None:
    terminal = opened(host, box)
    begin(terminal)
    terminal.type("seq -f 'größe %g' 100000; echo o''ver\n")
    terminal.read_until("\r\n")
    told = terminal.read_until("over\r\n")
    assert told == "".join(f"größe {number}\r\n" for number in range(1, 100_001))
    terminal.type("exit\n")
    assert terminal.wait() == 0


@pytest.mark.parametrize(("keys", "status"), [("exit 7\n", 7), ("\x04", 3)])
def test_the_exit_status_is_the_shells(
    host: LocalHost, box: str, opened: Open, keys: str, status: int
) -> None:
    terminal = opened(host, box)
    begin(terminal)
    terminal.type("(exit 3)\n")
    terminal.read_until(">> ")
    terminal.type(keys)
    assert terminal.wait() == status
    assert terminal.attributes() == terminal.before


# --- which sandbox, which shell -------------------------------------------------------


def test_without_a_name_the_sandbox_is_new_and_goes_with_the_shell(
    host: LocalHost, opened: Open
) -> None:
    before = names_on(host)
    terminal = opened(host)
    begin(terminal)
    assert len(names_on(host)) == len(before) + 1
    terminal.type("exit 7\n")
    assert terminal.wait() == 7
    assert names_on(host) == before


def test_without_an_endpoint_it_starts_a_host_of_its_own(opened: Open) -> None:
    terminal = opened(None)
    begin(terminal)
    terminal.type("echo he''re\n")
    terminal.read_until("here\r\n")
    terminal.type("exit 7\n")
    assert terminal.wait() == 7
    assert terminal.attributes() == terminal.before


def test_another_shell_can_be_asked_for(host: LocalHost, box: str, opened: Open) -> None:
    terminal = opened(host, box, "--shell", "/bin/sh")
    begin(terminal)
    terminal.type("echo $0 ${BASH:-is no bash}\n")
    terminal.read_until("\r\n")
    assert terminal.read_until("\r\n").startswith("/bin/sh ")
    terminal.type("exit 4\n")
    assert terminal.wait() == 4


def test_a_shell_that_is_not_there_says_so(host: LocalHost, box: str, opened: Open) -> None:
    terminal = opened(host, box, "--shell", "/no/such shell")
    terminal.read_until("/no/such shell: not found")
    assert terminal.wait() == 127
    assert terminal.attributes() == terminal.before


def test_a_sandbox_that_is_not_there_says_so(host: LocalHost, opened: Open) -> None:
    terminal = opened(host, "no-such-box")
    terminal.read_until("no sandbox 'no-such-box'")
    assert terminal.wait() == 125
    nowhere = opened(None, "some-box")
    nowhere.read_until("LANGSMITH_ENDPOINT is not set")
    assert nowhere.wait() == 125


# --- ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_shell_and_restores_the_terminal(
    host: LocalHost, box: str, opened: Open, number: signal.Signals
) -> None:
    terminal = opened(host, box)
    begin(terminal)
    terminal.type("sleep 4711\n")
    terminal.read_until("\r\n")
    assert terminal.attributes() != terminal.before
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert terminal.attributes() == terminal.before
    assert processes_in(host, box) == ""


def test_a_signal_deletes_a_new_sandbox(host: LocalHost, opened: Open) -> None:
    before = names_on(host)
    terminal = opened(host)
    begin(terminal)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 128 + signal.SIGTERM
    assert names_on(host) == before


def test_impatient_signals_restore_the_terminal_too(
    host: LocalHost, box: str, opened: Open
) -> None:
    terminal = opened(host, box)
    begin(terminal)
    # Stopped, so that it gets both at the same moment, however busy this machine is.
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        terminal.process.send_signal(number)
    assert terminal.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert terminal.attributes() == terminal.before


def test_a_terminal_that_shows_nothing_any_more_holds_nobody_up(
    host: LocalHost, box: str, opened: Open
) -> None:
    terminal = opened(host, box)
    begin(terminal)
    terminal.type("yes please\n")
    terminal.read_until("please\r\nplease\r\n")  # and from now on nobody reads
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 128 + signal.SIGTERM
    assert terminal.attributes() == terminal.before
    assert processes_in(host, box) == ""


@pytest.mark.parametrize("controlling", [True, False], ids=["with SIGHUP", "without a word"])
def test_a_terminal_that_is_closed_takes_the_shell_with_it(
    host: LocalHost, box: str, opened: Open, controlling: bool
) -> None:
    terminal = opened(host, box, controlling=controlling)
    begin(terminal)
    terminal.type("sleep 4711\n")
    terminal.read_until("\r\n")
    terminal.hang_up()
    assert terminal.wait() == 128 + signal.SIGHUP
    assert processes_in(host, box) == ""


def test_a_closed_terminal_deletes_a_new_sandbox(host: LocalHost, opened: Open) -> None:
    before = names_on(host)
    terminal = opened(host)
    begin(terminal)
    terminal.hang_up()
    assert terminal.wait() == 128 + signal.SIGHUP
    assert names_on(host) == before


def test_a_sandbox_that_is_deleted_takes_the_shell_with_it(
    host: LocalHost, box: str, opened: Open
) -> None:
    terminal = opened(host, box)
    begin(terminal)

    async def delete(client: AsyncSandboxClient) -> None:
        await client.delete_sandbox(box)

    ask(host, delete)
    assert terminal.wait() == 137
    assert terminal.attributes() == terminal.before


def test_a_host_that_forgot_the_shell_is_told_and_the_terminal_restored(
    tmp_path: Path, opened: Open
) -> None:
    """The processes of a host that dies die with it; its successor knows the sandbox still."""
    with serving(tmp_path) as (first, own):
        terminal = opened(own)
        begin(terminal)
        first.kill()
    with serving(tmp_path, "--port", own.endpoint.rpartition(":")[2]) as (_, again):
        assert terminal.wait() == 125
        assert terminal.attributes() == terminal.before
        terminal.read_until("sandbox: ")
        assert names_on(again) == []


@contextmanager
def serving(state: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], LocalHost]]:
    command = [*SANDBOX, "serve", "--state", str(state), "--api-key", "k", *arguments]
    with subprocess.Popen(command, env=environment(None), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, LocalHost(**json.loads(process.stdout.readline()))
        process.terminate()


# --- mistakes -------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_to_do_instead(host: LocalHost) -> None:
    before = names_on(host)
    for given in (subprocess.DEVNULL, subprocess.PIPE):
        done = subprocess.run(
            [*SANDBOX, "shell"],
            env=environment(host),
            stdin=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "not a terminal" in done.stderr and "sandbox run" in done.stderr
    assert names_on(host) == before


def test_help_teaches() -> None:
    def help_of(*arguments: str) -> str:
        return subprocess.run(
            [*SANDBOX, *arguments, "--help"], capture_output=True, text=True, check=True
        ).stdout

    assert "sandbox shell my-box" in help_of("shell")
    assert "--shell PATH" in help_of("shell") and "--isolation" in help_of("shell")
    assert "shell" in help_of()
