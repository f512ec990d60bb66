"""The system call filter, run here by an interpreter of its few instructions."""

from __future__ import annotations

import errno
import struct

import pytest

from sandbox_anyio.local.runtime import seccomp

ALLOW = "allow"
KILL = "kill"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = sorted(seccomp.SUPPORTED_MACHINES)


def judge(machine: str, number: int, *arguments: int, architecture: int | None = None) -> str | int:
    """What the filter for `machine` answers: allow, kill or an errno."""
    program = seccomp.build_program(machine)
    padded = [*arguments, *[0] * (6 - len(arguments))]
    arch = AUDIT[machine] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number, arch, 0x1234, *padded)
    accumulator = 0
    position = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, position * 8)
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            verdicts: dict[int, str | int] = {0x7FFF0000: ALLOW, 0x80000000: KILL}
            return verdicts.get(operand, int(operand) - 0x50000)
        else:
            decision = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: accumulator & operand != 0,
            }[code]
            position += if_true if decision else if_false


# name -> (x86_64, aarch64); written down anew, from the kernel's tables.
ALLOWED = {
    "read": (0, 63),
    "openat": (257, 56),
    "execve": (59, 221),
    "futex": (202, 98),
    "chroot": (161, 51),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "memfd_create": (319, 279),
    "name_to_handle_at": (303, 264),
    "openat2": (437, 437),
    "pidfd_open": (434, 434),
    "rename": (82, 276),
}
REFUSED = {
    "ptrace": (101, 117),
    "mount": (165, 40),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "reboot": (169, 142),
    "move_pages": (279, 239),
    "quotactl_fd": (443, 443),
}
CLONE = {"x86_64": 56, "aarch64": 220}
SOCKET = {"x86_64": 41, "aarch64": 198}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
IOCTL = {"x86_64": 16, "aarch64": 29}


@pytest.mark.parametrize("machine", MACHINES)
def test_ordinary_calls_pass_and_dangerous_ones_do_not(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    for name, numbers in ALLOWED.items():
        assert judge(machine, numbers[column]) == ALLOW, name
    for name, numbers in REFUSED.items():
        assert judge(machine, numbers[column]) == errno.EPERM, name
    for number in (435, 428, 429, 430, 431, 432, 433, 442, 467):
        assert judge(machine, number) == errno.ENOSYS
    assert judge(machine, 0x3FFF_FFFF) == ALLOW  # the kernel's own ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_threads_and_processes_but_no_namespaces(machine: str) -> None:
    thread, fork, vfork = 0x3D0F00, 0x1200011, 0x4111
    for flags in (thread, fork, vfork):
        assert judge(machine, CLONE[machine], flags) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(machine, CLONE[machine], fork | bit) == errno.EPERM, hex(bit)


@pytest.mark.parametrize("machine", MACHINES)
def test_only_the_usual_socket_families_exist(machine: str) -> None:
    for number in (SOCKET[machine], SOCKETPAIR[machine]):
        allowed = {family for family in range(64) if judge(machine, number, family) == ALLOW}
        assert allowed == {1, 2, 10, 16}
        assert judge(machine, number, 40) == errno.EAFNOSUPPORT
        # The kernel looks at the low half only, and so must the filter.
        assert judge(machine, number, 1 << 32 | 40) == errno.EAFNOSUPPORT
        assert judge(machine, number, 1 << 32 | 2) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_terminals_cannot_be_typed_into(machine: str) -> None:
    for request in (0x5412, 0x541C, 1 << 32 | 0x5412):
        assert judge(machine, IOCTL[machine], 0, request) == errno.EPERM
    for request in (0x5413, 0x5401, 0x540E):
        assert judge(machine, IOCTL[machine], 0, request) == ALLOW
    assert judge(machine, IOCTL[machine], 0x5412, 0x5413) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_other_architectures_are_killed(machine: str) -> None:
    for other in (*(a for m, a in AUDIT.items() if m != machine), 0x40000003, 0x40000028):
        assert judge(machine, 1, architecture=other) == KILL
    if machine == "x86_64":
        assert judge(machine, 0x4000_0000) == KILL
        assert judge(machine, 0x4000_0000 | 101) == KILL
        assert judge(machine, 0xFFFF_FFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_is_one_the_kernel_takes(machine: str) -> None:
    program = seccomp.build_program(machine)
    assert len(program) % 8 == 0
    count = len(program) // 8
    assert count < 4096
    for position in range(count):
        code, if_true, if_false, _ = struct.unpack_from("=HBBI", program, position * 8)
        if code in (0x15, 0x35, 0x45):
            assert position + 1 + max(if_true, if_false) < count
    assert struct.unpack_from("=H", program, (count - 1) * 8)[0] == 0x06


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp.build_program("riscv64")
