"""A sandbox's own name, made known in an /etc that an image brought.

Images carry the /etc/hosts and /etc/hostname of the machine that built them, or empty
ones, or none. Programs expect that `localhost` and the host's own name can be looked up.
So a new sandbox begins with what is missing, in its writable layer: the image's layers
stay as they are, and what is changed in the sandbox later stays changed.

Standard library only: this runs in the keeper, as the layers' owner.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import Final

from . import trees
from .defaults import HOST_NAME

_MAX_FILE: Final = 64 * 1024
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

HOSTS: Final = f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost ip6-localhost ip6-loopback\n"


def introduce(upper: str, layers: Sequence[str]) -> None:
    """Put into a writable layer, if it is still empty, what the layers below it lack.

    :param layers: topmost first.
    """
    if os.listdir(upper):  # noqa: PTH208
        return
    with contextlib.ExitStack() as opened:
        below = _etc_directories(layers, opened)
        if not below:
            return
        missing = {
            "hosts": _completed_hosts(_read(below, "hosts")),
            "hostname": _completed_hostname(_read(below, "hostname")),
        }
        changed = {name: text for name, text in missing.items() if text is not None}
        if not changed:
            return
        status = os.fstat(below[0])
        parent = os.open(upper, _DIRECTORY)
        opened.callback(os.close, parent)
        os.mkdir("etc", 0o700, dir_fd=parent)
        etc = os.open("etc", _DIRECTORY, dir_fd=parent)
        opened.callback(os.close, etc)
        for name, text in changed.items():
            descriptor = os.open(name, _CREATE, 0o600, dir_fd=etc)
            with open(descriptor, "wb") as file:  # noqa: PTH123
                file.write(text)
                os.fchmod(descriptor, 0o644)
        os.fchmod(etc, stat.S_IMODE(status.st_mode))


def _etc_directories(layers: Sequence[str], opened: contextlib.ExitStack) -> list[int]:
    """The directories that are merged into /etc, topmost first. None if it is something else."""
    found: list[int] = []
    for layer in layers:
        try:
            descriptor = os.open(f"{layer}/etc", _DIRECTORY)
        except FileNotFoundError:
            continue
        except OSError:  # a link or a file, or closed even to its owner
            break
        opened.callback(os.close, descriptor)
        found.append(descriptor)
        if trees.is_opaque(descriptor):
            break
    return found


def _read(directories: Sequence[int], name: str) -> bytes | None:
    """A file's content; empty if it is not there, None if it is no ordinary text file."""
    for directory in directories:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if trees.is_whiteout(status):
            break
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
            return None
        try:
            descriptor = os.open(name, _READ, dir_fd=directory)
        except PermissionError:  # closed even to its owner: then it is meant so
            return None
        with open(descriptor, "rb") as file:  # noqa: PTH123
            return file.read(_MAX_FILE)
    return b""


def _completed_hosts(text: bytes | None) -> bytes | None:
    """The file with both names in it; None if nothing is to be done."""
    if text is None:
        return None
    words = {word for line in text.splitlines() for word in line.partition(b"#")[0].split()[1:]}
    if {b"localhost", HOST_NAME.encode()} <= words:
        return None
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text + HOSTS.encode()


def _completed_hostname(text: bytes | None) -> bytes | None:
    own = HOST_NAME.encode() + b"\n"
    return None if text is None or text == own else own
