"""``sandbox shell``: a shell in a sandbox, on the terminal at hand."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import closing

from sandbox_proto.errors import SandboxClientError

from ..background import background_tasks
from ..command import AsyncCommandHandle
from ..sandbox import AsyncSandbox
from .terminal import STDIN, Terminal, raw_mode

# How long the shell outlives a lost connection, or the sudden end of this process.
_IDLE_SECONDS = 60
_NO_TERMINAL = """\
sandbox: standard input is not a terminal, so there is nobody to type;
`sandbox run -- COMMAND` runs a command without one"""

# The exit status of what a closed terminal ended.
HUNG_UP = 128 + signal.SIGHUP


def is_on_terminal() -> bool:
    """Whether somebody can type; if not, that is said."""
    if os.isatty(STDIN):
        return True
    print(_NO_TERMINAL, file=sys.stderr)
    return False


async def attend_shell(sandbox: AsyncSandbox, shell: str | None) -> int:
    """Connect the terminal with a shell until either ends. Returns the exit status."""
    term = os.environ.get("TERM")
    handle = await sandbox.run(
        shell_command(shell, _terminal_size()),
        timeout=0,
        env={"TERM": term} if term else None,
        shell="/bin/sh",
        idle_timeout=_IDLE_SECONDS,
        pty=True,
        close_input=False,
        wait=False,
        max_output=0,  # what was shown is of no further use, however long the shell lives
    )
    try:
        with closing(Terminal()) as terminal, raw_mode(STDIN):
            hung_up = not await _converse(terminal, handle)
        return HUNG_UP if hung_up else (await handle.result).exit_code
    finally:
        await handle.end_shielded()  # does nothing if it has ended


def shell_command(shell: str | None, size: os.terminal_size | None) -> str:
    """What /bin/sh is to run on the sandbox's terminal.

    The protocol knows no sizes of terminals, so a word to the terminal itself has to do.
    """
    resize = f"stty cols {size.columns} rows {size.lines} 2>/dev/null\n" if size else ""
    if shell is not None:
        return f"{resize}exec {shlex.quote(shell)} -i"
    first = 'for shell in "$SHELL" /bin/bash; do [ -x "$shell" ] && exec "$shell" -i; done\n'
    return f"{resize}{first}exec /bin/sh -i"


def _terminal_size() -> os.terminal_size | None:
    try:
        size = os.get_terminal_size(STDIN)
    except OSError:
        return None
    return size if size.columns and size.lines else None


async def _converse(terminal: Terminal, handle: AsyncCommandHandle) -> bool:
    """Pass on keys and output until the shell's end. Returns False if the terminal's came first."""
    hung_up = False
    async with background_tasks() as tasks:

        async def listen() -> None:
            nonlocal hung_up
            while (text := await terminal.read()) is not None:
                try:
                    await handle.send_input(text)
                except SandboxClientError:
                    return  # who shows the output learns why
            hung_up = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        async for chunk in handle:
            try:
                await terminal.write(chunk.data)
            except OSError:
                hung_up = True
                break
    return not hung_up
