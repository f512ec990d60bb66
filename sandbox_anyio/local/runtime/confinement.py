"""What a supervisor gives up before it serves: all that its commands must not have.

Children inherit every one of these restrictions, so starting a command costs no more
work. Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import resource
import signal
import sys
from collections.abc import Iterable
from typing import Final

from . import linux

MAX_PROCESSES: Final = 1024
"""Processes and threads a sandbox can have at a time, its supervisor included."""

_HIGHEST_DESCRIPTOR: Final = 1 << 20
_MAX_OPEN_FILES: Final = 65536
_USUAL_OPEN_FILES: Final = 1024
_OOM_SCORE: Final = "800"  # of 1000: the kernel, short of memory, takes a sandbox first

# Docker's default set without what is useless or harmful in here: NET_RAW, MKNOD,
# AUDIT_WRITE. All count against the sandbox's own user namespace only.
_KEPT_CAPABILITIES: Final = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        18,  # SYS_CHROOT
        31,  # SETFCAP
    }
)


def close_descriptors_except(kept: Iterable[int]) -> None:
    """Close every descriptor above the standard streams but `kept`.

    Every forked process must do so at once: a sibling sandbox's control socket, held open
    by accident, never reports the end of the conversation, and its teardown hangs.
    """
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = max(first, descriptor + 1)
    os.closerange(first, _HIGHEST_DESCRIPTOR)


def silence_standard_streams() -> None:
    """Point 0, 1 and 2 at /dev/null: /proc/PID/fd of this process may be looked at."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor, inheritable=True)
    if null > 2:
        os.close(null)


def forget_how_to_import() -> None:
    """Make every import from a file fail from now on.

    A module first imported inside the sandbox would be loaded from the sandbox's files:
    its programs would choose what the supervisor executes.
    """
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder
    ]


def ignore_signals() -> None:
    """Survive ``kill -TERM -1`` by a sandboxed program. Commands get the defaults back."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def volunteer_for_oom_killer() -> None:
    """Be ended first when the host runs out of memory, and with this all that it starts.

    To be called before anything untrusted can see this process: its /proc files have to be
    its own for a moment.
    """
    linux.set_dumpable(True)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(_OOM_SCORE)
    linux.set_dumpable(False)


def confine(seccomp_program: bytes) -> None:
    """Restrict this process, inside its sandbox, and with it all it will ever start."""
    os.umask(0o022)
    _set_limits()
    linux.become_subreaper()
    linux.keep_capabilities(_KEPT_CAPABILITIES)
    linux.forbid_new_privileges()
    linux.load_seccomp(seccomp_program)
    # Last, since a change of capabilities may reset it. Without it every program in the
    # sandbox could read and write this process's memory.
    linux.set_dumpable(False)


def _set_limits() -> None:
    # Set in here, RLIMIT_NPROC counts the sandbox's own processes. Set before the user
    # namespace exists it would count the host user's, and bubblewrap would not start.
    _lower(resource.RLIMIT_NPROC, MAX_PROCESSES, MAX_PROCESSES)
    _lower(resource.RLIMIT_NOFILE, _USUAL_OPEN_FILES, _MAX_OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0, 0)
    _lower(resource.RLIMIT_MEMLOCK, 8 << 20, 8 << 20)


def _lower(kind: int, soft: int, hard: int) -> None:
    allowed = resource.getrlimit(kind)[1]
    if allowed != resource.RLIM_INFINITY:
        hard = min(hard, allowed)
    resource.setrlimit(kind, (min(soft, hard), hard))
