"""The commands of the simulation: what they do on the host, and what they must have said."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Generator
from typing import Any

import attrs

from sandbox_proto.testing import CommandRun, ModelHost, echo
from sandbox_proto.wire.command_models import MissingOutput

ECHO_PORT = 7
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n\"\\'{}[]:,äéß€𝄞"


@attrs.frozen
class Say:
    """Writes so many bytes in some pieces, with pauses.

    :ivar token: what makes it unlike all others.
    """

    token: str
    size: int
    pieces: int
    pause: float
    exit_code: int

    def __str__(self) -> str:
        return f"say {self.token} {self.size} {self.pieces} {self.pause!r} {self.exit_code}"

    @property
    def duration(self) -> float:
        return self.pieces * self.pause

    def expected(self) -> dict[str, bytes]:
        """Its output."""
        return {
            "stdout": text_of(f"{self.token}/out", self.size),
            "stderr": text_of(f"{self.token}/err", self.size // 5),
        }


@functools.lru_cache(256)
def text_of(token: str, size: int) -> bytes:
    """Text that belongs to a token, of about so many bytes."""
    chance = random.Random(token)
    block = "".join(chance.choices(_LETTERS, k=min(size, 997)))
    return (block * (size // max(len(block), 1) + 1))[:size].encode()


def say(run: CommandRun) -> Generator[Any, str, int]:
    assert run.match is not None
    token, size, pieces, pause, exit_code = run.match.groups()
    command = Say(token, int(size), int(pieces), float(pause), int(exit_code))
    out, err = command.expected().values()
    for piece in range(command.pieces):
        for data, write in ((out, run.write), (err, run.write_error)):
            step = len(data) // command.pieces + 1
            write(data[piece * step : (piece + 1) * step])
        if command.pause:
            yield run.sleep(command.pause)
    return command.exit_code


def repeat(run: CommandRun) -> Generator[Any, str, None]:
    while line := (yield run.read_line()):
        run.write(line)


def hang(run: CommandRun) -> Generator[Any, str, None]:
    run.write("hanging\n")
    yield run.sleep(1e7)


def script(host: ModelHost) -> None:
    """Teach the host what the simulation's clients run."""
    host.on_command(re.compile(r"say (\S+) (\d+) (\d+) (\S+) (\d+)"), say)
    host.on_command(re.compile(r"repeat \S+"), repeat)
    host.on_command(re.compile(r"hang \S+"), hang)
    host.on_port(ECHO_PORT, echo)


def without(data: bytes, missing: tuple[MissingOutput, ...], stream: str) -> bytes:
    """A stream with its gaps cut out; gaps may lie in each other."""
    kept, position = bytearray(), 0
    for gap in sorted(missing, key=lambda gap: gap.start):
        if gap.stream == stream:
            kept += data[position : gap.start]
            position = max(position, gap.end)
    return bytes(kept + data[position:])
