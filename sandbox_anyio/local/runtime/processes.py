"""Starting processes, finding their descendants, stopping and killing them.

Used inside a sandbox by the supervisor and on the bare host by the plain runtime.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct
import termios
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

TERMINAL_SIZE: Final = (80, 24)
_TIOCGPTN: Final = 0x80045430  # the number of a terminal, asked of its master
_KILL_ROUNDS: Final = 100
_STANDSTILL_POLL: Final = 0.001  # seconds
CATCHABLE_SIGNALS: Final = [
    number
    for number in range(1, signal.NSIG)
    if number not in (signal.SIGKILL, signal.SIGSTOP) and not 32 <= number <= 33
]


class StartError(Exception):
    """A program could not be started; the message says why."""


class Process(NamedTuple):
    """One line of the process table."""

    parent: int
    group: int
    session: int
    state: str


# --- Starting ----------------------------------------------------------------------


def find_program(name: str, directory: str, search_path: str) -> str:
    """The file that running `name` means, as execvp(3) would find it.

    :raises StartError: there is none, or it may not be executed.
    """
    if "/" in name:
        candidates = [os.path.join(directory, name)]  # noqa: PTH118
    else:
        places = [place or directory for place in search_path.split(":")]
        candidates = [os.path.join(directory, place, name) for place in places]  # noqa: PTH118
    found: str | None = None
    for candidate in candidates:
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.stat(candidate).st_mode):  # noqa: PTH116
                if os.access(candidate, os.X_OK):
                    return candidate
                found = candidate
    if found is not None:
        raise StartError(f"not executable: {found}")
    raise StartError(f"no such program: {name or chr(34) * 2}")


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    directory: str,
    default_search_path: str,
    standard_streams: Sequence[int] | str,
) -> int:
    """Start a program as leader of its own session, without a fork of this process.

    posix_spawn(3) uses vfork semantics, which costs a third of a fork here. It knows no
    working directory, so the caller's is changed for the moment of the call; callers
    are single-threaded and use no relative paths.

    :param standard_streams: three descriptors, or the path of a terminal. A session leader
        without one gets the first terminal it opens as its controlling terminal.
    :raises StartError: there is no such directory or program, or it cannot run.
    """
    if not argv:
        raise StartError("no program was named")
    actions: list[tuple[object, ...]]
    if isinstance(standard_streams, str):
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, standard_streams, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ]
    else:
        actions = [
            (os.POSIX_SPAWN_DUP2, descriptor, target)
            for target, descriptor in enumerate(standard_streams)
        ]
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _enter(directory)
        program = find_program(argv[0], directory, env.get("PATH", default_search_path))
        return os.posix_spawn(
            program,
            list(argv),
            dict(env),
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=CATCHABLE_SIGNALS,
        )
    except OSError as error:
        raise StartError(f"{argv[0]}: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:  # a NUL in a string, "=" in a variable's name
        raise StartError(str(error)) from error
    finally:
        os.fchdir(before)
        os.close(before)


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        reason = (
            "no such directory" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
        )
        raise StartError(f"{reason}: {directory}") from error


def open_terminal() -> tuple[int, int, str]:
    """A fresh terminal of the usual size: master, slave and the slave's path."""
    master, slave = os.openpty()
    resize_terminal(master, *TERMINAL_SIZE)
    (number,) = struct.unpack("@I", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))
    return master, slave, f"/dev/pts/{number}"


def resize_terminal(descriptor: int, columns: int, rows: int) -> None:
    """Tell a terminal, and the programs on it, its new size."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("@4H", rows, columns, 0, 0))


def exit_code(wait_status: int) -> int:
    """A shell's view of how a process ended: its code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


# --- Finding -----------------------------------------------------------------------


def read_table() -> dict[int, Process]:
    """Every process that /proc shows. Empty on a system without /proc."""
    table = {}
    try:
        names = os.listdir("/proc")  # noqa: PTH208
    except FileNotFoundError:
        return {}
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                line = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name in parentheses may itself hold spaces and parentheses.
        fields = line.rpartition(b")")[2].split()
        table[int(name)] = Process(
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            state=fields[0].decode(),
        )
    return table


def family(leader: int, table: Mapping[int, Process]) -> set[int]:
    """The living members of `leader`'s group and session, and all their descendants.

    What made its own session is still found through its parents, as long as these live.
    """
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    todo = [
        pid for pid, process in table.items() if leader in (pid, process.group, process.session)
    ]
    found: set[int] = set()
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, ())
    return {pid for pid in found if table[pid].state not in "ZX"}


# --- Stopping and killing ----------------------------------------------------------


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes, some of which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_family(leader: int, spared: Set[int], *, reaped: bool) -> None:
    """SIGKILL `leader`'s whole family.

    Everybody is stopped first: what stands still cannot fork away, nor become an orphan
    whose parents are no longer known.

    :param reaped: the leader itself is gone. Should its number be in use again, then by a
        stranger, which also tells that nothing is left of the session it named.
    """
    stopped: set[int] = set()
    standing = False
    for _ in range(_KILL_ROUNDS):
        table = read_table()
        if not table:  # no /proc on this system: the group is all that can be found
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, signal.SIGKILL)
            return
        if reaped and leader in table:
            return
        fresh = family(leader, table) - spared - stopped
        # One that was told to stop in the middle of a fork stops when the child is there; so only
        # a table that was begun when all stood still has everybody.
        moving = {pid for pid in stopped if pid in table and table[pid].state not in "TtZXx"}
        if fresh:
            send_signal(fresh, signal.SIGSTOP)
            stopped |= fresh
        elif moving:
            time.sleep(_STANDSTILL_POLL)
        elif standing:
            break
        standing = not fresh and not moving
    send_signal(stopped, signal.SIGKILL)


def next_to_stop(table: Mapping[int, Process], spared: Set[int]) -> tuple[set[int], set[str]]:
    """What to stop next on the way to stopping everything, and the states of all that runs.

    Parents come before their children: a shell that sees its job stop says so and takes the
    terminal back, unless it stands still itself by then.
    """
    running = {
        pid for pid, process in table.items() if pid not in spared and process.state not in "TtZXx"
    }
    first = {pid for pid in running if table[pid].parent not in running}
    return first, {table[pid].state for pid in running}


def children_first(pids: Iterable[int], table: Mapping[int, Process]) -> list[int]:
    """Sort processes so that nobody comes before its descendants."""

    def depth(pid: int) -> int:
        steps = 0
        while pid in table and steps < len(table):
            pid = table[pid].parent
            steps += 1
        return steps

    return sorted(pids, key=depth, reverse=True)
