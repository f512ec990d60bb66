"""The terminal this process was started on: raw for a while, and never left so."""

from __future__ import annotations

import codecs
import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio

STDIN, STDOUT = 0, 1

_READ_BYTES = 64 * 1024

# What is to be set again when raw mode ends, by descriptor.
_before: dict[int, list[Any]] = {}


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Hand every key to the reader, Ctrl-C among them, and show nothing that is typed.

    :raises OSError: the terminal is gone.
    """
    try:
        _before[descriptor] = termios.tcgetattr(descriptor)
        # At once: a terminal that shows nothing any more must not hold us up.
        tty.setraw(descriptor, termios.TCSANOW)
    except termios.error as error:
        raise OSError(*error.args) from None
    try:
        yield
    finally:
        restore()


def restore() -> None:
    """End raw mode, if it is on. For ends at which no block is left any more."""
    while _before:
        descriptor, attributes = _before.popitem()
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


class Terminal:
    """Standard input, which is a terminal, and standard output, which usually is one.

    Neither ever holds up this process: it must be able to end while nobody types, and while
    the terminal is stopped.
    """

    def __init__(self) -> None:
        self._keys = _opened_anew(STDIN, os.O_RDONLY)
        self._screen = _opened_anew(STDOUT, os.O_WRONLY)
        # A key may be sent in several bytes, and those in several pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._keys)
        os.close(self._screen)

    async def read(self) -> str | None:
        """What was typed, or None if the terminal is gone."""
        while True:
            await anyio.wait_readable(self._keys)
            try:
                data = os.read(self._keys, _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return None
            if not data:
                return None
            if text := self._decoder.decode(data):
                return text

    async def write(self, text: str) -> None:
        """Show text.

        :raises OSError: the terminal is gone.
        """
        view = memoryview(text.encode())
        while view:
            try:
                view = view[os.write(self._screen, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._screen)


def _opened_anew(descriptor: int, flags: int) -> int:
    """The same terminal through a descriptor that does not block.

    The given one is shared with other processes, which would not expect to find it so.
    """
    try:
        return os.open(os.ttyname(descriptor), flags | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # it is a file or pipe, or a terminal that has no name here
        return os.dup(descriptor)
