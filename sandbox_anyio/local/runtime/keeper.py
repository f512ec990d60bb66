"""The keeper: builds one sandbox, watches over it from outside, and clears it away.

The keeper is a child of the zygote. It starts bubblewrap, whose innermost child is a shell
that does nothing but hold the namespaces, and forks the supervisor into them. It stays
outside, in the host's mount and process namespaces, where nothing in the sandbox can see,
stop or kill it. When the host, the supervisor or the holder is gone, it ends the rest, waits
until the last process of the sandbox is reaped, and only then lets go of the host's socket:
the host reads the end of that socket as the end of the sandbox.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from . import confinement, linux, messages, names, processes, supervisor
from .defaults import HOST_NAME, SEARCH_PATHS

_BUILD_SECONDS: Final = 30
_GRACE_SECONDS: Final = 0.2
_MAX_ERROR_TEXT: Final = 4096
_TEMPORARY_FILES_SIZE: Final = 1 << 30
_SHARED_MEMORY_SIZE: Final = 256 << 20

# Signals are ignored so that a sandboxed "kill -TERM -1" does not end the sandbox. The word
# tells that the root is set up: bubblewrap's own notice of its pid comes earlier.
_HOLDER_SCRIPT: Final = "trap '' HUP INT QUIT TERM; echo ready; exec >&- 2>&-; read _"
_READY: Final = b"ready\n"

_SANDBOX_NAMESPACES: Final = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)


class Plan(NamedTuple):
    """What is the same for every sandbox of a runtime.

    :ivar bases: the lowest layer, for each system that a sandbox can have.
    :ivar binds: what the system "host" has of the host: source and place.
    """

    bwrap: str
    bases: Mapping[str, str]
    binds: tuple[tuple[str, str], ...]
    seccomp_program: bytes


class Spec(NamedTuple):
    """What is one sandbox's own: its layers, topmost first, and its writable directories.

    :ivar system: where its programs come from: ``"host"``, or ``"layers"``.
    """

    layers: tuple[str, ...]
    upper: str
    work: str
    system: str


class BuildError(Exception):
    """The sandbox could not be built; the message is bubblewrap's or ours."""


def run(control: socket.socket, spec: Spec, plan: Plan) -> None:
    """Build a sandbox, serve it, and return when nothing of it is left."""
    linux.set_process_name("sandbox-keeper")
    linux.become_subreaper()  # whoever survives bubblewrap is this process's to reap
    try:
        binds = plan.binds if spec.system == "host" else ()
        _check_mount_points(spec, [target for _, target in binds])
        if spec.system == "layers":
            names.introduce(spec.upper, (*spec.layers, plan.bases[spec.system]))
        holder = _Holder(spec, plan)
        init = holder.wait_until_ready(control)
        inner = _fork_supervisor(init, control, spec.system, plan.seccomp_program)
        _watch(control, init, inner)
    except (BuildError, OSError) as error:
        with contextlib.suppress(OSError):
            messages.send(control, {"error": str(error)})
    finally:
        _end_all_children()


class _Holder:
    """bubblewrap and the shell inside it that keeps the namespaces alive."""

    def __init__(self, spec: Spec, plan: Plan) -> None:
        _check_overlay_options(spec, plan)
        arguments = _memory_file("\0".join(_arguments(spec, plan)) + "\0")
        stdin, self._alive = os.pipe()
        self._words, stdout = os.pipe()
        self._errors, stderr = os.pipe()
        self._info, info = os.pipe()
        for descriptor in (self._words, self._errors, self._info):
            os.set_blocking(descriptor, False)
        given = (stdin, stdout, stderr, arguments, info)
        # Out of the way first, so that no duplicate lands on one that is still needed.
        moved = [_move_up(descriptor) for descriptor in given]
        # The name, the arguments and the environment of bubblewrap's pid 1 can be read
        # from inside the sandbox: nothing may stand there.
        self._pid = os.posix_spawn(
            plan.bwrap,
            ["init", "--args", "3", "--", "/bin/sh", "-c", _HOLDER_SCRIPT],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(moved)
            ],
            setsigdef=processes.CATCHABLE_SIGNALS,
        )
        messages.close_all(moved)

    def wait_until_ready(self, control: socket.socket) -> int:
        """Wait for the word from inside. Returns a handle on the sandbox's pid 1."""
        poller = select.poll()
        poller.register(control, select.POLLRDHUP)
        poller.register(self._words, select.POLLIN)
        if not poller.poll(_BUILD_SECONDS * 1000):
            raise BuildError(f"bubblewrap was not ready after {_BUILD_SECONDS} seconds")
        if _read_some(self._words) != _READY:
            raise BuildError(self._failure())
        child = json.loads(_read_some(self._info))["child-pid"]
        init = os.pidfd_open(child)
        messages.close_all((self._words, self._errors, self._info))
        return init

    def _failure(self) -> str:
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        text = _read_some(self._errors).decode(errors="replace").strip()
        return text or "bubblewrap ended without a word"


def _arguments(spec: Spec, plan: Plan) -> list[str]:
    arguments = [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
        # Without both, bubblewrap makes a second user namespace and the supervisor
        # cannot enter the others.
        *("--uid", "0", "--gid", "0"),
        *("--hostname", HOST_NAME),
        "--die-with-parent",
        "--new-session",
        *("--info-fd", "4"),
        *("--overlay-src", plan.bases[spec.system]),
    ]
    for layer in reversed(spec.layers):
        arguments += ["--overlay-src", layer]
    arguments += ["--overlay", spec.upper, spec.work, "/"]
    if spec.system == "host":
        for source, target in plan.binds:
            arguments += ["--ro-bind", source, target]
    return [
        *arguments,
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--perms", "1777", "--size", str(_SHARED_MEMORY_SIZE), "--tmpfs", "/dev/shm"),
        # Only /dev itself: its files would be memory that nothing limits.
        *("--remount-ro", "/dev"),
        *("--perms", "1777", "--size", str(_TEMPORARY_FILES_SIZE), "--tmpfs", "/tmp"),
        *("--chdir", "/"),
    ]


def _check_overlay_options(spec: Spec, plan: Plan) -> None:
    """mount(2) takes its options in one page, and bubblewrap puts a prefix on each path."""
    paths = (plan.bases[spec.system], *spec.layers, spec.upper, spec.work)
    length = sum(len(os.fsencode(path)) + len("/oldroot:") for path in paths)
    if length + len("lowerdir=,upperdir=,workdir=,userxattr") >= resource.getpagesize():
        raise BuildError(
            f"too many layers: the paths of {len(spec.layers)} do not fit one mount; flatten some"
        )


def _check_mount_points(spec: Spec, targets: Sequence[str]) -> None:
    """Refuse to mount over links that a sandbox, or an image, has left in its layers.

    bubblewrap makes mount points while the host's files are still within reach: it would
    follow a link and make directories there.
    """
    layers = [
        os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for path in (spec.upper, *spec.layers)
    ]
    try:
        for target in ("/proc", "/dev", "/tmp", *targets):
            parts = target.strip("/").split("/")
            for end in range(1, len(parts) + 1):
                _check_mount_point("/".join(parts[:end]), layers, is_last=end == len(parts))
    finally:
        messages.close_all(layers)


def _check_mount_point(path: str, layers: Sequence[int], is_last: bool) -> None:
    for layer in layers:
        try:
            handle = linux.openat2(
                layer, path, os.O_PATH | os.O_NOFOLLOW, linux.RESOLVE_NO_SYMLINKS
            )
        except OSError as error:
            # Not in this layer. ELOOP and ENOTDIR: hidden by what a higher layer has in
            # place of a parent, which was found to be a directory.
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                continue
            raise
        try:
            status = os.fstat(handle)
        finally:
            os.close(handle)
        kind = stat.S_IFMT(status.st_mode)
        whiteout = kind == stat.S_IFCHR and status.st_rdev == 0
        if whiteout or kind == stat.S_IFDIR or (is_last and kind == stat.S_IFREG):
            return  # the topmost decides
        raise BuildError(f"/{path} is no directory in this sandbox, and something is mounted there")


def _fork_supervisor(init: int, control: socket.socket, system: str, seccomp_program: bytes) -> int:
    # The keeper itself joins no more than it must to fork into the process namespace:
    # in the mount namespace it would keep the overlay mounted until after its own end.
    linux.setns(init, linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    child = os.fork()
    if child != 0:
        return child
    try:
        confinement.volunteer_for_oom_killer()
        linux.setns(init, _SANDBOX_NAMESPACES)
        os.chdir("/")
        confinement.close_descriptors_except([control.fileno()])
        confinement.silence_standard_streams()
        linux.overwrite_command_line("supervisor")
        linux.set_process_name("supervisor")
        confinement.confine(seccomp_program)
        supervisor.Supervisor(control, SEARCH_PATHS[system]).serve()
    except BaseException as error:
        with contextlib.suppress(OSError):
            messages.send(control, {"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)


def _watch(control: socket.socket, init: int, inner: int) -> None:
    """Return when the host, the supervisor or the sandbox's pid 1 is gone."""
    supervisor_handle = os.pidfd_open(inner)
    poller = select.poll()
    poller.register(control, select.POLLRDHUP)
    poller.register(init, select.POLLIN)
    poller.register(supervisor_handle, select.POLLIN)
    poller.poll()
    # The supervisor sees the host's end too, and removes half-written files. It gets a
    # moment for that, but not longer: a sandboxed program may have stopped it.
    poller.unregister(control)
    poller.poll(_GRACE_SECONDS * 1000)
    # The end of pid 1 is the end of every process in the sandbox.
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(init, signal.SIGKILL)
    os.close(init)
    os.close(supervisor_handle)


def _end_all_children() -> None:
    """Kill and reap until no child is left, those handed down by bubblewrap included."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            own = os.getpid()
            children = [
                pid
                for pid, process in processes.read_table().items()
                if process.parent == own and process.state not in "ZX"
            ]
            processes.send_signal(children, signal.SIGKILL)
            os.waitpid(-1, 0)


def _memory_file(text: str) -> int:
    descriptor = os.memfd_create("arguments", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(os.fsencode(text))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _move_up(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16)
    os.close(descriptor)
    return moved


def _read_some(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _MAX_ERROR_TEXT)
    except BlockingIOError:
        return b""
