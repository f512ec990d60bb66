"""``sandbox record``: a program is run, and what its clients do is written down."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from sandbox_proto.trace.story_words import size

from ..recording import BESIDE_VARIABLE, HEADERS_VARIABLE, REDACT_VARIABLE, VARIABLE

_EXAMPLES = """\
examples:
  sandbox record session.jsonl -- python3 my_agent.py
  sandbox record --redact 'sk-[a-z0-9]+' session.jsonl -- pytest tests/
  sandbox record build.jsonl -- sandbox run -- make
  sandbox trace show session.jsonl      then: what happened

Each client that the program makes has a file of its own: session.jsonl, session-2.jsonl, and
so on. API keys, tokens, cookies and signed URLs are masked before anything is written. Works
for programs that use this package's clients (also in processes that they start).

The exit status is the command's. 127 and 126 mean that it was not found or cannot be run."""

_USAGE, _NOT_FOUND, _CANNOT_RUN = 2, 127, 126
_DIGEST = re.compile("[0-9a-f]{64}")
_HEADER = b'{"sandbox-trace"'


class RecordingRefused(Exception):
    """Something the user has to change; the text says what."""


def add_record(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand, its options and its help."""
    record = commands.add_parser(
        "record",
        help="run a program and record what it does with sandboxes",
        description="Runs COMMAND with recording switched on, and says which files were written.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    record.add_argument("file", type=Path, metavar="FILE", help="where to (JSON Lines)")
    # All that follows, with every `--` in it, which argparse would take some of otherwise.
    record.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="and its arguments"
    )
    record.add_argument(
        "--redact",
        action="append",
        type=_pattern,
        default=[],
        metavar="REGEX",
        help="mask this, too: the first group of the expression, or all of it; may be repeated",
    )
    record.add_argument(
        "--redact-header",
        action="append",
        default=[],
        metavar="NAME",
        help="mask the values of this header, too; may be repeated",
    )
    record.add_argument(
        "--beside",
        action="store_true",
        help="keep bodies of more than 16 KiB in files of their own, in FILE.d",
    )
    record.add_argument(
        "--replace", action="store_true", help="replace earlier recordings of that name"
    )


def _pattern(text: str) -> str:
    if "\n" in text:
        raise argparse.ArgumentTypeError("write \\n for the end of a line")
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def record(options: argparse.Namespace) -> int:
    """Carry it out. Returns the exit status.

    :raises RecordingRefused: there is a file of that name already.
    """
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or command[0].startswith("-"):
        wrong = f"{command[0]!r} is no command: options go before FILE" if command else "no command"
        print(f"sandbox: {wrong}; see `sandbox record --help`", file=sys.stderr)
        return _USAGE
    file: Path = options.file.absolute()
    for old in _recordings(file):
        if options.replace and _is_recording(old):
            old.unlink()
            _forget_contents(old.with_name(old.name + ".d"))
        elif old == file:
            raise RecordingRefused(
                f"{options.file} exists already; --replace replaces a recording, or give another "
                "name"
            )
    before = set(_recordings(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    status = _run(command, _environment(file, options))
    _tell(options.file, [path for path in _recordings(file) if path not in before])
    return status


def _is_recording(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HEADER)) in (_HEADER, b"")  # nothing yet: a program that was killed


def _forget_contents(directory: Path) -> None:
    """What was kept beside a recording; nothing else that may be there."""
    if directory.is_dir():
        for path in directory.iterdir():
            if _DIGEST.fullmatch(path.name):
                path.unlink()
        if not any(directory.iterdir()):
            directory.rmdir()


def _environment(file: Path, options: argparse.Namespace) -> Mapping[str, str]:
    own = {
        VARIABLE: str(file),
        REDACT_VARIABLE: "\n".join(options.redact),
        HEADERS_VARIABLE: "\n".join(options.redact_header),
        BESIDE_VARIABLE: "1" if options.beside else "",
    }
    return {**os.environ, **own}


def _recordings(file: Path) -> list[Path]:
    """The file and its numbered companions, in their order, as far as they exist."""
    numbered = re.compile(rf"{re.escape(file.stem)}-(\d+){re.escape(file.suffix)}")
    if not file.parent.is_dir():
        return []
    numbers = {path: numbered.fullmatch(path.name) for path in file.parent.iterdir()}
    found = [(int(match[1]), path) for path, match in numbers.items() if match]
    found += [(1, file)] if file.exists() else []
    return [path for _, path in sorted(found)]


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=environment)
    except FileNotFoundError:
        print(f"sandbox: there is no command {command[0]!r}", file=sys.stderr)
        return _NOT_FOUND
    except OSError as error:
        print(f"sandbox: {command[0]!r} cannot be run: {error.strerror}", file=sys.stderr)
        return _CANNOT_RUN

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:  # which the terminal sends to both
            process.send_signal(number)

    before = {one: signal.signal(one, pass_on) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def _tell(file: Path, written: list[Path]) -> None:
    if not written:
        print(
            "sandbox: nothing was recorded: the program made no client of sandbox_anyio "
            "(or one with record= or replay= of its own)",
            file=sys.stderr,
        )
        return
    names = [file.with_name(path.name) for path in written]
    shown = ", ".join(
        f"{name} ({size(path.stat().st_size)})" for name, path in zip(names, written, strict=True)
    )
    print(f"sandbox: recorded {shown}; `sandbox trace show {names[0]}` tells it", file=sys.stderr)
