"""What is done to layers, each time in a process of its own: copied, merged, unpacked, measured.

That process is the layers' owner and, in a user namespace of its own, root over that one
user: it can read what a sandbox has closed to everybody, and write what only root may.
It is not root over anything else. Should it be killed, what it has written so far is in a
directory that is not a layer yet, and never becomes one.

Standard library only: this runs in a child of the zygote.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from . import extraction, linux, merging, messages, trees
from .tar_reader import TarError

_KEPT_CAPABILITIES: Final = frozenset({1, 3, 4, 31})  # DAC_OVERRIDE, FOWNER, FSETID, SETFCAP

TREE: Final = "tree"
"""Where a task makes the new layer, in the directory it is given."""
STAGING: Final = "staging"
"""Beside it: what is thrown away afterwards."""


class Task(NamedTuple):
    """What a task is given.

    :ivar reply: the socket to the host.
    :ivar body: the request.
    :ivar descriptors: what came along with it.
    :ivar state: the directory that all names in the request are relative to.
    :ivar system_call_filter: for this process, once everything is open.
    """

    reply: socket.socket
    body: Mapping[str, Any]
    descriptors: Sequence[int]
    state: str
    system_call_filter: bytes

    def open(self, name: str) -> int:
        """Open a directory that the request names."""
        return trees.open_below(self.state, name)

    def open_result(self) -> tuple[int, int]:
        """Open the new layer's directory, and the one beside it that is thrown away."""
        result = self.body["result"]
        return self.open(f"{result}/{TREE}"), self.open(f"{result}/{STAGING}")

    def confine(self) -> None:
        """Give up what no task needs, once everything is open."""
        linux.keep_capabilities(_KEPT_CAPABILITIES)
        linux.forbid_new_privileges()
        linux.load_seccomp(self.system_call_filter)


def run(task: Task) -> None:
    """Do what is asked, and tell how it went."""
    try:
        _become_root_over_oneself()
        result = _OPERATIONS[task.body["task"]](task)
    except TarError as error:
        messages.send(task.reply, {"error": str(error), "damaged": True})
    except OSError as error:
        text = error.strerror or str(error)
        messages.send(task.reply, {"error": text, "errno": error.errno or 0})
    else:
        messages.send(task.reply, {"done": True, **result})


def _become_root_over_oneself() -> None:
    user, group, parent = os.getuid(), os.getgid(), os.getppid()
    linux.set_dumpable(True)  # else this process's own files in /proc are not its own
    linux.unshare(linux.CLONE_NEWUSER)
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as mapping:  # noqa: PTH123
            mapping.write(text)
    # The zygote ends with the host, and then nobody waits for this process any more.
    linux.die_with_parent()
    if os.getppid() != parent:
        raise SystemExit
    os.umask(0)


def _merge(task: Task) -> dict[str, Any]:
    body = task.body
    layers = [task.open(name) for name in body["layers"]]
    below = None if body["below"] is None else [task.open(name) for name in body["below"]]
    target, staging = task.open_result()
    task.confine()
    if body["wait"]:
        # What is copied must stand still meanwhile, and not a moment longer than that.
        messages.send(task.reply, {"waiting": True})
        if messages.receive(task.reply) is None:
            raise SystemExit
    finish = merging.merge(layers, below, target, staging)
    if body["wait"]:
        messages.send(task.reply, {"copied": True})
    finish()
    return {}


def _extract(task: Task) -> dict[str, Any]:
    body = task.body
    target, trash = task.open_result()
    os.fchdir(target)
    os.close(target)
    os.chroot(".")
    task.confine()
    limits = extraction.Limits(body["entries"], body["size"])
    return extraction.extract(task.descriptors[0], limits, trash)._asdict()


def _measure(task: Task) -> dict[str, Any]:
    top = task.open(task.body["name"])
    task.confine()
    return {"bytes": trees.disk_usage(top)}


_OPERATIONS: Final = {"merge": _merge, "extract": _extract, "measure": _measure}
