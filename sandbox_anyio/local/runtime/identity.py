"""Which user builds the sandboxes when the host process is root.

Never root itself: what root owns under /proc/sys stays writable to a sandbox that has
host root mapped in. So a numeric uid nobody uses is chosen once and kept with the state.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import random
from collections.abc import Iterator
from pathlib import Path

import attrs

from .base import RuntimeUnavailableError

# Above everything that distributions, systemd and container engines hand out.
_UNCLAIMED = range(1_879_048_192, 2_147_483_646)
# In a container with few mapped ids: between ordinary users and `nobody`.
_CROWDED = range(60_000, 2_000, -1)
_ATTEMPTS = 100


@attrs.frozen
class Identity:
    """A numeric user and group that sandboxes belong to on this machine."""

    user: int
    group: int


def choose_identity(file: Path) -> Identity | None:
    """The identity for sandboxes, or None when the host process's own will do.

    :param file: where root's choice is kept; the files of sandboxes are owned by it.
    :raises RuntimeUnavailableError: no unused uid could be found.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError, ValueError):
        number = int(file.read_text())
        if number > 0:
            if _is_claimed(number):
                raise RuntimeUnavailableError(
                    f"user id {number}, which owns the sandboxes in {file.parent}, now belongs "
                    "to somebody: use a fresh state directory"
                )
            return Identity(number, number)
    for number in _candidates():
        if not _is_claimed(number):
            file.write_text(f"{number}\n")
            return Identity(number, number)
    raise RuntimeUnavailableError(
        "running as root, and no unused user id was found to build sandboxes with: run as an "
        "ordinary user, or map more user ids into this container"
    )


def _candidates() -> Iterator[int]:
    mapped = _mapped("/proc/self/uid_map"), _mapped("/proc/self/gid_map")
    system = random.SystemRandom()
    for number in (
        *(system.choice(_UNCLAIMED) for _ in range(_ATTEMPTS)),
        *_CROWDED,
    ):
        if all(any(number in part for part in parts) for parts in mapped):
            yield number


def _mapped(file: str) -> list[range]:
    """The ids that exist in this process's user namespace."""
    parts = []
    for line in Path(file).read_text().splitlines():
        first, _, count = map(int, line.split())
        parts.append(range(first, first + count))
    return parts


def _is_claimed(number: int) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwuid(number)
        return True
    with contextlib.suppress(KeyError):
        grp.getgrgid(number)
        return True
    return any(number in part for name in ("subuid", "subgid") for part in _subordinate(name))


def _subordinate(name: str) -> list[range]:
    """The ranges /etc/subuid or /etc/subgid gives to users."""
    parts = []
    with contextlib.suppress(OSError):
        for line in Path("/etc", name).read_text().splitlines():
            fields = line.split(":")
            with contextlib.suppress(ValueError, IndexError):
                parts.append(range(int(fields[1]), int(fields[1]) + int(fields[2])))
    return parts
