"""Commands that run here and in a sandbox, and how it ends in both places."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

PRINT_BYTES = r"import sys; sys.stdout.buffer.write(b'a\xff\xfe\xc3\xa9\xe2\x82'); exit(4)"
MUCH = "import sys; [sys.stdout.write('x' * 999 + '\\n') for _ in range(1000)]"


@attrs.frozen
class Ending:
    """How a run ended: it returned, or raised."""

    kind: str
    returncode: int | None = None
    stdout: bytes | None = None
    stderr: bytes | None = None
    args: Any = None

    def as_text(self) -> Ending:
        """As a host tells it that keeps text: what is none is U+FFFD."""
        texts = {
            name: None if data is None else data.decode(errors="replace").encode()
            for name, data in (("stdout", self.stdout), ("stderr", self.stderr))
        }
        return attrs.evolve(self, **texts)


async def ending_of(run: Callable[[], Awaitable[subprocess.CompletedProcess[bytes]]]) -> Ending:
    """Run, and say how it ended. Errors of `subprocess`'s are endings, as others' kinds are."""
    try:
        done = await run()
    except subprocess.CalledProcessError as error:
        assert error.output is error.stdout
        return Ending("failed", error.returncode, error.stdout, error.stderr, error.cmd)
    except (TypeError, ValueError) as error:
        return Ending(type(error).__name__)
    return Ending("returned", done.returncode, done.stdout, done.stderr, done.args)


COMMANDS: list[Any] = [
    pytest.param(["true"], id="success"),
    pytest.param(["false"], id="failure"),
    pytest.param(["sh", "-c", "exit 200"], id="exit code"),
    pytest.param(["printf", "%s|", "two words", "a'b", "$HOME", "*", "line\nline", ""], id="words"),
    pytest.param([b"echo", "bytes"], id="bytes"),
    pytest.param(["sh", "-c", "echo out; echo err >&2; exit 1"], id="both outputs"),
    pytest.param(["sh", "-c", "printf 'no end of line'"], id="no end of line"),
    pytest.param(["cat"], id="no input"),
    pytest.param(["python3", "-c", MUCH], id="much output"),
    pytest.param(["python3", "-c", PRINT_BYTES], id="no UTF-8"),
]
TEXTS: list[Any] = [
    pytest.param("echo $((1 + 2)); exit 5", id="exit"),
    pytest.param("no-such-program-anywhere", id="not found"),
    pytest.param("echo a; echo b >&2; echo c; echo d >&2", id="in turns"),
    pytest.param("[[ x == x ]] && echo bash", id="bash"),
    pytest.param("# a comment", id="nothing"),
]
