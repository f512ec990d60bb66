"""The walk through a sandbox's directories that answers ``/glob`` and ``/grep``.

It is told in plain data what to look for (`sandbox_proto.host.search`), and writes what it
finds as lines of JSON: ``["found", ...]`` for each match, then ``["end", truncated]``, or
``["error", errno]`` when it cannot begin.

No link is followed below the directory where it begins, and no path is put together: each
step goes from a directory that is open to an entry of it. Nothing on procfs or sysfs is
looked into. Directories are visited so that paths come in lexical order, and no more of them
are listed at a time than lie above one another; so the memory it takes does not grow with the
tree.

Standard library only: this module runs in the sandbox, in a child of the supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

from . import linux
from .guarded_files import TEMPORARY_PREFIX

_BLOCK_BYTES: Final = 1 << 20
_BINARY_BYTES: Final = 8192
_MAX_DEPTH: Final = 400
_CHECKED_EVERY: Final = 256
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Over(Exception):
    """The time is up, enough was found, or nobody listens any more."""


class _Entry(NamedTuple):
    """One thing that the walk comes by.

    :ivar path: relative to where it began.
    :ivar directory: the directory it is in, open.
    """

    path: str
    name: str
    directory: int
    is_dir: bool
    is_file: bool


_Step = tuple[str, _Entry | None]


class _Level:
    """A directory that the walk is in.

    :ivar prefix: its path, with a slash at the end; empty at the top.
    :ivar steps: what is left to do in it.
    """

    def __init__(self, directory: int, prefix: str) -> None:
        self.directory = directory
        self.prefix = prefix
        self.steps: Iterator[_Step] = iter(())


class Walk:
    """One search, from its beginning to the last line that is written about it.

    :param question: see `sandbox_proto.host.search.Search.to_data`.
    :param output: a pipe, for the lines. It is closed at the end.
    """

    def __init__(self, question: Mapping[str, Any], output: int) -> None:
        self._question = question
        self._output: BinaryIO = os.fdopen(output, "wb")
        self._listener = select.poll()
        self._listener.register(output, 0)  # an error is always told
        self._until = time.monotonic() + question["seconds"]
        self._left: int = question["limit"]
        self._bytes_left: int = question["max_bytes"]
        self._steps = 0
        self._truncated = False
        self._matches = _matcher(question["match"])
        self._descends = _matcher(question["descend"])

    def run(self, open_start: Callable[[str], int]) -> None:
        """Search, and say what was found.

        :param open_start: opens the directory or file to begin with.
        """
        with contextlib.suppress(BrokenPipeError), self._output:
            try:
                start = open_start(self._question["path"])
            except OSError as error:
                self._say("error", error.errno or errno.EIO)
                return
            is_dir = stat.S_ISDIR(os.fstat(start).st_mode)
            if not is_dir and self._question["kind"] == "glob":
                os.close(start)
                self._say("error", errno.ENOTDIR)
                return
            try:
                if self._question["kind"] == "glob":
                    self._glob(start)
                elif is_dir:
                    self._grep(start)
                else:
                    self._grep_file(start, "")
            except _Over:
                self._truncated = True
            self._say("end", self._truncated)

    # --- what is looked for -----------------------------------------------------------

    def _glob(self, top: int) -> None:
        directories_only = self._question["directories_only"]
        for entry in self._walk(top):
            if (directories_only and not entry.is_dir) or not self._matches(entry.path):
                continue
            try:
                status = os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=False)
            except OSError:
                continue  # it is gone
            size = 0 if entry.is_dir else status.st_size
            self._found(_readable(entry.path), entry.is_dir, size, status.st_mtime_ns)

    def _grep(self, top: int) -> None:
        for entry in self._walk(top):
            if not entry.is_file or not self._matches(entry.path):
                continue
            try:
                file = os.open(entry.name, _FILE, dir_fd=entry.directory)
            except OSError:
                continue  # it is gone, or closed even to root
            self._grep_file(file, _readable(entry.path))

    def _grep_file(self, file: int, path: str) -> None:
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return
            for line, text in self._lines(file):
                shown = text.removesuffix(b"\r").decode("utf-8", "replace")
                self._found(path, line, shown[: self._question["max_text"]])
        except OSError:
            pass  # a file that cannot be read to its end has been read so far
        finally:
            os.close(file)

    def _lines(self, file: int) -> Iterator[tuple[int, bytes]]:
        # A character has up to four bytes.
        search = LineSearch(self._question["text"].encode(), 4 * self._question["max_text"])
        first = True
        while block := os.read(file, _BLOCK_BYTES):
            if first and b"\0" in block[:_BINARY_BYTES]:
                return
            first = False
            yield from search.feed(block)
            self._pause()
        yield from search.finish()

    # --- the walk ---------------------------------------------------------------------

    def _walk(self, top: int) -> Iterator[_Entry]:
        """Everything below a directory, whose descriptor it closes."""
        levels: list[_Level] = [_Level(top, "")]
        try:
            levels[0].steps = self._list(top, "")
            while levels:
                directory, prefix = levels[-1].directory, levels[-1].prefix
                step = next(levels[-1].steps, None)
                self._steps += 1
                if self._steps % _CHECKED_EVERY == 0:
                    self._pause()
                if step is None:
                    levels.pop()
                    os.close(directory)
                    continue
                name, entry = step
                if entry is not None:
                    yield entry
                    continue
                if len(levels) >= _MAX_DEPTH:
                    self._truncated = True
                    continue
                with contextlib.suppress(OSError):  # it is gone, or no directory any more
                    below = os.open(name[:-1], _DIRECTORY, dir_fd=directory)
                    levels.append(_Level(below, prefix + name))
                    levels[-1].steps = self._list(below, prefix + name)
        finally:
            for level in levels:
                os.close(level.directory)

    def _list(self, directory: int, prefix: str) -> Iterator[_Step]:
        """What to do in a directory, in order: entries to look at, and (None) to enter.

        What lies in `a` comes after `a-b`, because a dash sorts before a slash.
        """
        if _is_of_the_kernel(directory):
            return iter(())
        steps: list[_Step] = []
        with os.scandir(directory) as entries:
            for number, found in enumerate(entries):
                if number % _CHECKED_EVERY == 0:
                    self._pause()
                name = found.name
                if name.startswith(TEMPORARY_PREFIX):
                    continue  # an upload that is not there yet
                path = prefix + name
                is_dir = found.is_dir(follow_symlinks=False)
                is_file = found.is_file(follow_symlinks=False)
                steps.append((name, _Entry(path, name, directory, is_dir, is_file)))
                if is_dir and self._descends(path):
                    steps.append((f"{name}/", None))
        steps.sort(key=lambda step: step[0])
        return iter(steps)

    # --- the conversation -------------------------------------------------------------

    def _pause(self) -> None:
        """Whether to go on."""
        if time.monotonic() > self._until or self._listener.poll(0):
            raise _Over

    def _found(self, path: str, *facts: object) -> None:
        if not self._left:
            raise _Over
        self._left -= 1
        self._say("found", path, *facts)

    def _say(self, *words: object) -> None:
        line = json.dumps(words, separators=(",", ":")).encode("ascii") + b"\n"
        self._bytes_left -= len(line)
        if self._bytes_left < 0 and words[0] == "found":
            raise _Over
        self._output.write(line)


class LineSearch:
    """Finds the lines that hold a text, in blocks of any size, and remembers little of them.

    :param needle: without a line break.
    :param shown: how many bytes of a line to give at most.
    """

    def __init__(self, needle: bytes, shown: int) -> None:
        self._needle = needle
        self._shown = shown
        self._number = 1
        self._head = self._tail = b""
        self._hit = False

    def feed(self, block: bytes) -> Iterator[tuple[int, bytes]]:
        """The next bytes. Gives the number and the beginning of each line that is found."""
        first = block.find(b"\n")
        if first < 0:
            self._go_on(block)
            return
        self._go_on(block[:first])
        yield from self._end_line()
        after = block.rfind(b"\n") + 1
        yield from self._whole_lines(block, first + 1, after)
        self._go_on(block[after:])

    def finish(self) -> Iterator[tuple[int, bytes]]:
        """There is no more: the last line may have no end."""
        yield from self._end_line()

    def _go_on(self, piece: bytes) -> None:
        """The next piece of a line whose end is not there yet."""
        joined = self._tail + piece
        self._hit = self._hit or self._needle in joined
        self._head += piece[: self._shown - len(self._head)]
        keep = len(self._needle) - 1
        self._tail = joined[-keep:] if keep else b""

    def _end_line(self) -> Iterator[tuple[int, bytes]]:
        if self._hit:
            yield self._number, self._head
        self._number += 1
        self._head = self._tail = b""
        self._hit = False

    def _whole_lines(self, block: bytes, place: int, end: int) -> Iterator[tuple[int, bytes]]:
        while (found := block.find(self._needle, place, end)) >= 0:
            begin = block.rfind(b"\n", place, found) + 1 or place
            self._number += block.count(b"\n", place, found)
            stop = block.find(b"\n", found, end)
            yield self._number, block[begin : min(stop, begin + self._shown)]
            self._number += 1
            place = stop + 1
        self._number += block.count(b"\n", place, end)


def _matcher(expression: str | None) -> Callable[[str], object]:
    if expression is None:
        return lambda path: True
    return re.compile(expression).fullmatch


def _readable(path: str) -> str:
    """A name that is not UTF-8 is shown with replacement characters; no text could name it."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_of_the_kernel(directory: int) -> bool:
    return sys.platform == "linux" and linux.file_system_type(directory) in (
        linux.PROC_SUPER_MAGIC,
        linux.SYSFS_MAGIC,
    )
