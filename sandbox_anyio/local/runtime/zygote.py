"""The zygote: a small single-threaded process from which every sandbox is forked.

The host cannot fork safely (it has threads and an event loop), and a fresh interpreter
per sandbox costs more than the sandbox itself. So one interpreter is started with a clean
environment, gives up what it does not need, and forks a keeper for each sandbox. It keeps
nothing about them: a request comes with the socket on which its answer is given.

Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from . import confinement, keeper, layer_tasks, linux, messages, removal, seccomp

_NEUTRAL_PLACES: Final = ("/mnt", "/media", "/srv", "/opt")


class Places(NamedTuple):
    """Where this process sees directories of the host that only root can reach."""

    moved: tuple[tuple[str, str], ...]

    def find(self, path: str) -> str:
        """The path under which `path` is reachable from here."""
        for original, place in self.moved:
            if path == original or path.startswith(f"{original}/"):
                return place + path[len(original) :]
        return path


def main(descriptor: int) -> None:
    """Serve requests until the host closes its end of the control socket."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    confinement.close_descriptors_except([descriptor])
    linux.overwrite_command_line("sandbox-zygote")
    linux.set_process_name("sandbox-zygote")
    first = messages.receive(control, spills=True)
    if first is None:
        return
    try:
        plan, places, state = _prepare(first.body)
    except Exception as error:
        messages.send(control, {"error": f"{type(error).__name__}: {error}"})
        return
    messages.send(control, {"ready": True})
    _serve(control, plan, places, state)


def _prepare(config: Mapping[str, Any]) -> tuple[keeper.Plan, Places, str]:
    """Become what sandboxes are forked from, and lose all rights on the way."""
    program = seccomp.build_program(os.uname().machine)
    places = Places(())
    identity = config["identity"]
    if identity is not None:
        places = _move_private_directories(config["private"])
        user, group = identity
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    if 0 in os.getresuid():
        # Mapped into a sandbox, host root's files under /proc/sys stay writable to it,
        # whatever capabilities are dropped: core_pattern alone gives away the machine.
        raise PermissionError("refusing to build sandboxes as uid 0")
    for directory in config["private"].values():
        if not os.access(places.find(directory), os.X_OK):
            raise PermissionError(
                f"{directory} is closed to the user that builds sandboxes (uid {os.getuid()})"
            )
    os.umask(0o077)
    os.chdir("/")
    confinement.silence_standard_streams()
    confinement.ignore_signals()
    confinement.forget_how_to_import()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    plan = keeper.Plan(
        bwrap=places.find(config["bwrap"]),
        bases={system: places.find(base) for system, base in config["bases"].items()},
        binds=tuple((places.find(source), target) for source, target in config["binds"]),
        seccomp_program=program,
    )
    gc.freeze()
    return plan, places, places.find(config["state"])


def _move_private_directories(private: Mapping[str, str]) -> Places:
    """Show directories at neutral places, in a mount namespace of this process's own.

    The unused uid this process is about to become cannot enter root's home, where the
    state directory, Python or bubblewrap may well be.
    """
    try:
        linux.unshare(linux.CLONE_NEWNS)
    except PermissionError:
        return Places(())  # root of a container: works if the directories are accessible
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
    # Held before anything is mounted over them; a mount is only made from a directory of
    # the same namespace.
    handles = {
        name: os.open(source, os.O_PATH | os.O_DIRECTORY) for name, source in private.items()
    }
    neutral = next(place for place in _NEUTRAL_PLACES if os.path.isdir(place))  # noqa: PTH112
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", neutral, "tmpfs", flags, "mode=755,size=64k")
    moved = []
    for name, handle in handles.items():
        place = f"{neutral}/{name}"
        os.makedirs(place)  # noqa: PTH103
        linux.mount(f"/proc/self/fd/{handle}", place, None, linux.MS_BIND | linux.MS_REC)
        os.close(handle)
        moved.append((private[name], place))
    moved.sort(key=lambda pair: len(pair[0]), reverse=True)  # the most specific first
    return Places(tuple(moved))


def _serve(control: socket.socket, plan: keeper.Plan, places: Places, state: str) -> None:
    while True:
        request = messages.receive(control, spills=True)
        if request is None:
            return
        body, descriptors = request
        reply = socket.socket(fileno=descriptors[0])
        given = descriptors[1:]
        if body["do"] == "build":
            spec = keeper.Spec(
                layers=tuple(places.find(layer) for layer in body["layers"]),
                upper=places.find(body["upper"]),
                work=places.find(body["work"]),
                system=body["system"],
            )
            _fork(reply, given, functools.partial(keeper.run, reply, spec, plan))
        elif body["do"] == "remove":
            _fork(reply, given, functools.partial(removal.run, reply, state, body["name"]))
        else:
            task = layer_tasks.Task(reply, body, given, state, plan.seccomp_program)
            _fork(reply, given, functools.partial(layer_tasks.run, task))
        # This process must not hold it: the keeper's end is the sandbox's life.
        reply.close()
        messages.close_all(given)


def _fork(reply: socket.socket, given: Sequence[int], task: Callable[[], None]) -> None:
    """Run `task` in a child that holds nothing but its own socket, and what it was given."""
    try:
        child = os.fork()
    except OSError as error:
        with contextlib.suppress(OSError):
            messages.send(reply, {"error": f"fork: {error.strerror}"})
        return
    if child != 0:
        return
    try:
        confinement.close_descriptors_except([reply.fileno(), *given])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # With a handle on this process the host can tell its end exactly, and enforce it.
        own_handle = os.pidfd_open(os.getpid())
        messages.send(reply, {"process": True}, [own_handle])
        os.close(own_handle)
        task()
    except BaseException as error:
        with contextlib.suppress(OSError):
            messages.send(reply, {"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)
