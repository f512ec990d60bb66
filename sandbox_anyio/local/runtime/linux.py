"""The system calls Python 3.11 does not wrap, as small typed functions.

Standard library only: this module also runs inside the zygote and the supervisor,
where nothing else can be imported.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from typing import Final

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_IN_ROOT: Final = 0x10

PROC_SUPER_MAGIC: Final = 0x9FA0
SYSFS_MAGIC: Final = 0x62656572

_SYS_OPENAT2: Final = 437  # the same number on every architecture

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522

if sys.platform == "linux":  # elsewhere this module can be imported, but not used
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    _libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
    _libc.unshare.argtypes = [ctypes.c_int]
    _libc.mount.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
    ]
    _libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    _libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_char_p]
    _libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _prctl(option: int, argument: int = 0, second: int = 0) -> None:
    _check(_libc.prctl(option, argument, second, 0, 0), f"prctl({option})")


def unshare(flags: int) -> None:
    """Leave the named namespaces for fresh ones."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Join the namespaces `flags` of the process behind a pidfd."""
    _check(_libc.setns(descriptor, flags), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        flags,
        options.encode() if options else None,
    )
    _check(result, f"mount {target}")


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may trace this one and read its /proc files."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def die_with_parent() -> None:
    """Be killed when the parent ends. A change of credentials after this takes it back."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_process_name(name: str) -> None:
    """Set the name `ps` shows (15 bytes)."""
    buffer = ctypes.create_string_buffer(name.encode())
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def become_subreaper() -> None:
    """Orphaned descendants become this process's children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """No execve() below this process grants anything any more."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def load_seccomp(program: bytes) -> None:
    """Install a BPF program as system call filter of this process and its children."""
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(header, len(header))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer))


def keep_capabilities(kept: frozenset[int]) -> None:
    """Drop every capability but `kept`, for this process and all it will ever execute."""
    for capability in range(64):
        if capability not in kept:
            try:
                _prctl(_PR_CAPBSET_DROP, capability)
            except OSError:
                break  # EINVAL: the kernel knows no capability of this number or above
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    mask = sum(1 << capability for capability in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)  # effective, permitted, inheritable
    _check(_libc.capset(header, data), "capset")


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2) with `resolve` restricting how the path is walked."""
    if "\0" in path:  # a C string would end there, and name another file
        raise OSError(errno.EINVAL, "a path cannot hold a NUL", path)
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(path)
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(name),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(result)


def file_system_type(descriptor: int) -> int:
    """The magic number of the file system an open file is on."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(descriptor, buffer), "fstatfs")
    (magic,) = struct.unpack_from("@l", buffer)
    return int(magic)


def overwrite_command_line(name: str) -> None:
    """Replace what /proc/self/cmdline shows, which is readable from inside a sandbox."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        label = name.encode()[: end - start - 1]
        ctypes.memmove(start, label, len(label))
