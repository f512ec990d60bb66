"""The system call filter of every sandbox, assembled here without any library.

A deny-list: what a sandboxed program has no business with fails as if the kernel did
not offer it. Namespaces and dropped capabilities already forbid most of these; the
filter keeps whole subsystems of the kernel out of reach, should one of them be faulty.

Standard library only: the supervisor loads the result after the import system is gone.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

from . import linux

# --- Which calls -------------------------------------------------------------------

# name -> (x86_64, aarch64); None where the architecture has no such call.
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # Other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # Namespaces and mounts: a user namespace would give back all capabilities
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    # Large, much attacked subsystems
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    # The machine itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "uselib": (134, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # Clocks
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    # Memory placement on the host's nodes
    "mbind": (237, 235),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}

# These do not exist, so that programs use the older call they know. clone3 takes its
# flags by pointer, where a filter cannot look.
_MISSING: Final[dict[str, tuple[int | None, int | None]]] = {
    "clone3": (435, 435),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
}

_CLONE: Final = (56, 220)
_SOCKET: Final = (41, 198)
_SOCKETPAIR: Final = (53, 199)
_IOCTL: Final = (16, 29)

_NEW_NAMESPACES: Final = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWCGROUP
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUSER
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
)
# AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. Not AF_VSOCK above all: it ignores network
# namespaces and leads to the hypervisor.
_SOCKET_FAMILIES: Final = (1, 2, 10, 16)
# Both push input into a terminal, as if its owner had typed it.
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C

# --- The assembler -----------------------------------------------------------------

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCHITECTURE: Final = 4
_OFFSET_ARGUMENTS: Final = 16

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_FAIL_WITH: Final = 0x00050000  # | errno

_AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN: Final = {"x86_64": 0, "aarch64": 1}
_X32_BIT: Final = 0x40000000

SUPPORTED_MACHINES: Final = frozenset(_AUDIT_ARCHITECTURE)


class Instruction(NamedTuple):
    """One BPF instruction; `if_true` and `if_false` say how many to skip."""

    code: int
    operand: int
    if_true: int = 0
    if_false: int = 0


def _fail(code: int) -> Instruction:
    return Instruction(_RETURN, _FAIL_WITH | code)


def _load_argument(index: int) -> Instruction:
    """Load the low half of an argument: all the kernel reads of an int (little endian)."""
    return Instruction(_LOAD, _OFFSET_ARGUMENTS + 8 * index)


def _for_call(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which must return, for one system call, and skip it for all others."""
    return [Instruction(_IF_EQUAL, number, 0, len(body)), *body]


def _refuse_if_equal(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    body = [_load_argument(argument)]
    for value in values:
        body += [Instruction(_IF_EQUAL, value, 0, 1), _fail(errno.EPERM)]
    return [*body, Instruction(_RETURN, _ALLOW)]


def _allow_only(argument: int, values: tuple[int, ...], otherwise: int) -> list[Instruction]:
    body = [_load_argument(argument)]
    for value in values:
        body += [Instruction(_IF_EQUAL, value, 0, 1), Instruction(_RETURN, _ALLOW)]
    return [*body, _fail(otherwise)]


def instructions(machine: str) -> list[Instruction]:
    """The filter for a machine, as named by `os.uname().machine`.

    :raises KeyError: there is no table for this machine.
    """
    column = _COLUMN[machine]
    program = [
        # Another architecture's calls have other numbers: no table here fits them.
        Instruction(_LOAD, _OFFSET_ARCHITECTURE),
        Instruction(_IF_EQUAL, _AUDIT_ARCHITECTURE[machine], 1, 0),
        Instruction(_RETURN, _KILL_PROCESS),
        Instruction(_LOAD, _OFFSET_NUMBER),
    ]
    if machine == "x86_64":
        program += [
            Instruction(_IF_AT_LEAST, _X32_BIT, 0, 1),
            Instruction(_RETURN, _KILL_PROCESS),
        ]
    for table, code in ((_REFUSED, errno.EPERM), (_MISSING, errno.ENOSYS)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                program += _for_call(number, [_fail(code)])
    program += _for_call(
        _CLONE[column],
        [
            _load_argument(0),
            Instruction(_IF_ANY_BIT, _NEW_NAMESPACES, 0, 1),
            _fail(errno.EPERM),
            Instruction(_RETURN, _ALLOW),
        ],
    )
    families = _allow_only(0, _SOCKET_FAMILIES, errno.EAFNOSUPPORT)
    program += _for_call(_SOCKET[column], families)
    program += _for_call(_SOCKETPAIR[column], families)
    program += _for_call(_IOCTL[column], _refuse_if_equal(1, (_TIOCSTI, _TIOCLINUX)))
    return [*program, Instruction(_RETURN, _ALLOW)]


def build_program(machine: str) -> bytes:
    """The filter as the kernel takes it: an array of struct sock_filter."""
    return b"".join(
        struct.pack("=HBBI", code, if_true, if_false, operand)
        for code, operand, if_true, if_false in instructions(machine)
    )
