"""Deleting a directory full of a sandbox's files, whatever it left in there.

Odd modes, whiteouts and trees deeper than any path can name are all to be expected.
Standard library only: this runs in a child of the zygote, as the files' owner.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
from typing import Final

from . import messages

_BATCH: Final = 256
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _HostIsGone(Exception):
    """Nobody waits for the removal any more: stop at once."""


def run(reply: socket.socket, state: str, name: str) -> None:
    """Remove the tree `name` below `state` and tell how it went."""
    try:
        remove_below(state, name, reply)
    except OSError as error:
        messages.send(reply, {"error": str(error), "errno": error.errno})
    except _HostIsGone:
        pass
    else:
        messages.send(reply, {"done": True})


def remove_below(state: str, name: str, host: socket.socket | None = None) -> None:
    """Remove the directory `name`, a relative path below the directory `state`.

    :raises OSError: something could not be removed, or the path leads over a link.
    """
    *parents, last = name.split("/")
    if not last or {"", ".", ".."} & {*parents, last}:
        raise PermissionError(1, "not a plain path below the state directory", name)
    directory = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            below = os.open(
                parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
            )
            os.close(directory)
            directory = below
        top = _open_directory(directory, last)
        try:
            _empty(top, host)
        finally:
            os.close(top)
        try:
            os.rmdir(last, dir_fd=directory)
        except PermissionError:
            pass  # its parent is the host's; the host removes what is now empty
    finally:
        os.close(directory)


def _open_directory(parent: int, name: str) -> int:
    """Open a directory for emptying it, with the rights to do so."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101
        return os.open(".", _DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)


def _empty(top: int, host: socket.socket | None) -> None:
    """Remove everything in `top`.

    Subdirectories are moved up into `top` before they are looked at. So neither the depth
    of the tree nor the number of open files grows, however deep a sandbox has dug.
    """
    marker = f".removing-{os.urandom(8).hex()}-"
    numbers = itertools.count()
    while entries := _first_entries(top):
        if host is not None and _is_gone(host):
            raise _HostIsGone
        for name, is_directory in entries:
            if not is_directory:
                os.unlink(name, dir_fd=top)
                continue
            directory = _open_directory(top, name)
            try:
                while below := _first_entries(directory):
                    for inner, inner_is_directory in below:
                        if inner_is_directory:
                            # A directory can change its parent only if it is writable.
                            os.close(_open_directory(directory, inner))
                            hoisted = f"{marker}{next(numbers)}"
                            os.rename(inner, hoisted, src_dir_fd=directory, dst_dir_fd=top)
                        else:
                            os.unlink(inner, dir_fd=directory)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=top)


def _first_entries(directory: int) -> list[tuple[str, bool]]:
    # Read afresh each time: a listing that goes on while entries vanish may skip some,
    # and a hostile directory may be too large to be held in memory.
    with os.scandir(directory) as entries:
        return [
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in itertools.islice(entries, _BATCH)
        ]


def _is_gone(host: socket.socket) -> bool:
    poller = select.poll()
    poller.register(host, select.POLLRDHUP)
    return bool(poller.poll(0))
