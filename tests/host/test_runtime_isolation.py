"""What a sandboxed program cannot do, and what it still can."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio.local.runtime import RunningSandbox, RuntimeUnavailableError

from ._runtime import (
    close,
    give_to_sandboxes,
    opened,
    own_processes,
    read_until,
    run,
    sandbox_in,
    shell,
    spec,
    start_shell,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def _python(sandbox: RunningSandbox, script: str) -> str:
    result = await run(sandbox, "python3", "-c", script)
    assert result.code == 0, result.stderr
    return result.stdout.strip()


# The result of a system call, by number, as "value errno".
_CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in ({arguments})]
result = libc.syscall(*arguments)
print(os.strerror(ctypes.get_errno()) if result < 0 else 'went through')
"""


async def _call(sandbox: RunningSandbox, *arguments: int) -> str:
    return await _python(sandbox, _CALL.format(arguments=f"{', '.join(map(str, arguments))},"))


# --- What it sees ----------------------------------------------------------------------


async def test_the_hosts_files_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("for the host only")
    async with sandbox_in(tmp_path) as sandbox:
        for path in ("/etc/shadow", "/proc/1/root/etc/shadow", str(secret), str(Path.home())):
            await run(sandbox, "cat", path)
            result = await shell(sandbox, f"cat '{path}' || ls -A '{path}/.ssh'")
            assert result.code != 0, path
            assert result.stdout == ""
        listing = (await run(sandbox, "ls", "-A", "/", "/home", "/root", "/mnt", "/var/lib")).stdout
        names = {line for line in listing.splitlines() if line and not line.endswith(":")}
        usual = "bin dev etc home lib lib64 media mnt opt proc root run sbin srv sys tmp usr var"
        architectures = {"lib32", "libx32"}
        # Where the host's Python is installed leads, as a link, to where it is mounted.
        assert names <= {*usual.split(), *architectures, "user", *Path(sys.base_prefix).parts}


async def test_only_its_own_processes_are_there(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        listing = await run(sandbox, "ps", "-eo", "args=")
        lines = listing.stdout.splitlines()
        assert len(lines) == 4
        assert lines[0].startswith("init ")
        assert lines[1].startswith("/bin/sh -c trap")
        assert lines[2].strip() == "supervisor"
        assert (await shell(sandbox, f"kill -0 {os.getpid()}")).code != 0


async def test_two_sandboxes_do_not_see_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        one = await runtime.build(spec(tmp_path, "one"))
        two = await runtime.build(spec(tmp_path, "two"))
        command = await start_shell(one, "touch mine; echo up; sleep 1234")
        await read_until(command.stdout, b"up")
        assert "1234" not in (await run(two, "ps", "-eo", "args=")).stdout
        assert (await run(two, "ls", "-A")).stdout == ""
        close(command)


async def test_bubblewraps_own_process_has_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "planted")
    async with sandbox_in(tmp_path) as sandbox:
        result = await shell(sandbox, "cat /proc/*/environ | tr '\\0' '\\n' | grep SECRET")
        assert result.stdout == ""
        command_lines = await shell(sandbox, "cat /proc/1/cmdline /proc/2/cmdline /proc/3/cmdline")
        assert str(tmp_path) not in command_lines.stdout
        assert "site-packages" not in command_lines.stdout
        assert "runtime" not in command_lines.stdout
        descriptors = await shell(sandbox, "ls -l /proc/1/fd /proc/2/fd | grep -o '[^ ]*$'")
        for name in descriptors.stdout.split():
            assert name.startswith(("pipe:", "anon_inode:", "/dev/null", "/proc/", "0")), name


async def test_the_supervisor_cannot_be_looked_into(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        for name in ("mem", "environ", "exe", "root", "fd", "maps", "cwd"):
            result = await shell(sandbox, f"cat /proc/$PPID/{name} || ls /proc/$PPID/{name}/")
            assert (result.code, result.stdout) != (0, ""), name
            assert result.stdout == "", name
            assert "ermission denied" in result.stderr, name


async def test_the_host_name_is_its_own(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        assert (await run(sandbox, "hostname")).stdout == "sandbox\n"


# --- What it reaches -------------------------------------------------------------------


async def test_the_hosts_network_is_out_of_reach(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0sandbox-test-{os.getpid()}")
        abstract.listen()
        async with sandbox_in(tmp_path) as sandbox:
            attempts = f"""
import socket
for family, address in (
    (socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]})),
    (socket.AF_INET, ("192.0.2.1", 80)),
    (socket.AF_UNIX, {abstract.getsockname()!r}),
):
    try:
        socket.socket(family).connect(address)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
print([name for _, name in socket.if_nameindex()])
"""
            lines = (await _python(sandbox, attempts)).splitlines()
        assert lines == ["ConnectionRefusedError", "OSError", "ConnectionRefusedError", "['lo']"]


async def test_sockets_reach_what_listens_inside(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "echo served > index.html")
        server = await start_shell(sandbox, "exec python3 -u -m http.server 8000 2>&1")
        await read_until(server.stdout, b"Serving")
        connection = await sandbox.open_socket("inet")
        with connection:
            assert connection.getblocking() is False
            with pytest.raises(BlockingIOError):
                connection.connect(("127.0.0.1", 8000))
            await anyio.wait_writable(connection)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while not answer.endswith(b"served\n"):
                await anyio.wait_readable(connection)
                answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.0 200 ")
        await server.kill()
        close(server)
        with await sandbox.open_socket("inet6") as six:
            assert six.family == socket.AF_INET6
            six.bind(("::1", 0))


@pytest.mark.parametrize("family", [40, 17, 38, 31], ids=["vsock", "packet", "alg", "bluetooth"])
async def test_other_socket_families_do_not_exist(tmp_path: Path, family: int) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        result = await run(
            sandbox, "python3", "-c", f"import socket; socket.socket({family}, socket.SOCK_STREAM)"
        )
        assert "Address family not supported" in result.stderr


# --- What it may do ----------------------------------------------------------------------

_MACHINE = os.uname().machine
_NUMBERS = {  # name: (x86_64, aarch64, arguments)
    "ptrace": (101, 117, (0, 0, 0, 0)),
    "process_vm_readv": (310, 270, (1, 0, 0, 0, 0, 0)),
    "unshare": (272, 97, (0x10000000,)),
    "setns": (308, 268, (0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "umount2": (166, 39, (0, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "io_uring_setup": (425, 425, (1, 0)),
    "keyctl": (250, 219, (0, 0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "perf_event_open": (298, 241, (0, 0, 0, 0, 0)),
    "open_by_handle_at": (304, 265, (0, 0, 0)),
    "clock_settime": (227, 112, (0, 0)),
    "kexec_load": (246, 104, (0, 0, 0, 0)),
    "finit_module": (313, 273, (0, 0, 0)),
    "clone": (56, 220, (0x10000011, 0, 0, 0, 0)),
}
_ABSENT = {"clone3": 435, "fsopen": 430, "open_tree": 428, "mount_setattr": 442}


async def test_dangerous_calls_are_refused(tmp_path: Path) -> None:
    column = 0 if _MACHINE == "x86_64" else 1
    async with sandbox_in(tmp_path) as sandbox:
        for name, (*numbers, arguments) in _NUMBERS.items():
            answer = await _call(sandbox, numbers[column], *arguments)
            assert answer == "Operation not permitted", name
        for name, number in _ABSENT.items():
            assert await _call(sandbox, number, 0, 0) == "Function not implemented", name


@pytest.mark.skipif(_MACHINE != "x86_64", reason="another architecture's calls")
async def test_calls_of_another_abi_are_fatal(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        x32 = _CALL.format(arguments="0x40000000 + 39,")  # getpid
        assert (await run(sandbox, "python3", "-c", x32)).code == 128 + 31  # SIGSYS


@pytest.mark.parametrize(
    "script",
    [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/vm/overcommit_memory",
        "echo -1000 > /proc/self/oom_score_adj",
        "echo x > /proc/sysrq-trigger",
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /usr",
        "umount /usr",
        "unshare -U true",
        "unshare -m true",
        "mknod disk b 254 0",
        "touch /usr/bin/new",
        "touch /dev/new",
        "touch /opt/python/new",
        "echo > /etc/ssl/certs/new",
        "ulimit -u 100000",
        "nsenter -t 1 -m true",
        "chown 1:1 /home/user",
        "hostname other",
        "ip link set lo down",
    ],
)
async def test_what_is_not_allowed_fails(tmp_path: Path, script: str) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        result = await run(sandbox, "bash", "-c", script)
        assert result.code != 0, result
        assert "not found" not in result.stderr or not shutil.which(script.split()[0])


async def test_terminals_take_no_pushed_input(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        script = (
            "import fcntl, os, termios\n"
            "master, slave = os.openpty()\n"
            "try: fcntl.ioctl(slave, termios.TIOCSTI, b'x')\n"
            "except OSError as error: print(error.strerror)\n"
        )
        assert await _python(sandbox, script) == "Operation not permitted"


async def test_privileges_are_few_and_cannot_grow(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        status = (await run(sandbox, "cat", "/proc/self/status")).stdout
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert fields["CapInh"] == fields["CapAmb"] == "0" * 16
        assert fields["CapPrm"] == fields["CapEff"] == fields["CapBnd"] == "00000000800405fb"
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        assert (await run(sandbox, "cat", "/proc/self/oom_score_adj")).stdout == "800\n"
        limits = (await run(sandbox, "bash", "-c", "ulimit -Hu; ulimit -Hc; ulimit -Sn")).stdout
        assert limits.split() == ["1024", "0", "1024"]
        host_user = int((await run(sandbox, "cat", "/proc/self/uid_map")).stdout.split()[1])
        assert host_user != 0


async def test_ordinary_programs_work(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        check = "import ssl, sqlite3, ctypes, threading; print(2 + 2)"
        assert await _python(sandbox, check) == "4"
        threads = (
            "from concurrent.futures import ThreadPoolExecutor as T, ProcessPoolExecutor as P\n"
            "import multiprocessing, socket, subprocess, asyncio\n"
            "print(sum(T(8).map(abs, range(50))))\n"
            "print(subprocess.run(['sh', '-c', 'exit 3']).returncode)\n"
            "print(multiprocessing.Queue().empty())\n"
            "asyncio.run(asyncio.sleep(0))\n"
            "socket.socketpair()\n"
        )
        assert await _python(sandbox, threads) == "1225\n3\nTrue"
        work = (
            "set -e; seq 100000 | sort -rn --parallel=2 | head -1 > top; tar cf a.tar top;"
            "mkdir x; tar xf a.tar -C x; cat x/top; chown root:root top; su -c 'id -u' || true;"
            "bash -c 'set -m; sleep 0 & wait %1; echo ${PIPESTATUS[0]}'; date > /dev/null;"
            "find / -xdev -name nonsense; echo done"
        )
        result = await shell(sandbox, work)
        assert result.stdout.splitlines()[0] == "100000"
        assert result.stdout.splitlines()[-1] == "done", result.stderr
        if shutil.which("node", path="/usr/bin:/usr/local/bin"):
            script = "new (require('worker_threads').Worker)('console.log(6*7)', {eval: true})"
            assert (await run(sandbox, "node", "-e", script)).stdout == "42\n"


# --- What it leaves ----------------------------------------------------------------------


async def test_a_fork_bomb_stays_inside_and_goes_with_the_sandbox(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        bomb = await start_shell(sandbox, "b() { echo x; b | b & wait; }; exec 2>&-; b")
        with anyio.move_on_after(1):
            while True:
                await anyio.wait_readable(bomb.stdout)
                os.read(bomb.stdout, 65536)
        assert len(own_processes()) <= 1024 + 10
        with anyio.fail_after(15):
            await sandbox.destroy()
        assert await bomb.wait() == 137
        assert len(own_processes()) == 1  # the zygote
        close(bomb)


async def test_a_fork_bomb_can_be_killed(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        bomb = await start_shell(sandbox, "b() { b | b & wait; }; exec 2>&-; echo up; b")
        await read_until(bomb.stdout, b"up")
        await bomb.kill()
        assert await bomb.wait() == 137
        assert (await shell(sandbox, "echo fine")).stdout == "fine\n"
        close(bomb)


async def test_mount_points_cannot_be_replaced_from_inside(tmp_path: Path) -> None:
    attempt = (
        "import os, sys\n"
        "for name in ('/usr', '/etc', '/etc/ssl', '/proc', '/dev', '/tmp'):\n"
        "    try:\n"
        "        os.rename(name, '/was')\n"
        "        print(name, 'was moved')\n"
        "    except OSError: pass\n"
    )
    async with opened(tmp_path) as runtime:
        for _ in range(2):
            sandbox = await runtime.build(spec(tmp_path))
            assert await _python(sandbox, attempt) == ""
            await shell(sandbox, "rm -rf /etc; ln -s /mnt /etc; ln -s /mnt /etc/ssl")
            assert (await shell(sandbox, "test -e /etc/alternatives && echo ok")).stdout == "ok\n"
            await sandbox.destroy()


@pytest.mark.parametrize("link", ["etc", "etc/ssl", "etc/alternatives", "usr", "tmp", "dev"])
async def test_links_in_an_image_do_not_redirect_mounts(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    layer = tmp_path / "layers/image"
    (layer / link).parent.mkdir(parents=True)
    (layer / link).symlink_to(f"/oldroot{outside}")
    async with opened(tmp_path) as runtime:
        with pytest.raises(RuntimeUnavailableError, match=f"/{link} is no directory"):
            await runtime.build(spec(tmp_path, layers=(layer,)))
        assert list(outside.iterdir()) == []
        # A directory above the link hides it, and is good enough.
        above = tmp_path / "layers/above"
        (above / link).mkdir(parents=True)
        give_to_sandboxes(runtime, above)
        sandbox = await runtime.build(spec(tmp_path, layers=(above, layer)))
        assert (await shell(sandbox, "echo fine")).stdout == "fine\n"


async def test_a_file_system_full_of_odd_things_can_be_removed(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        sandbox = await runtime.build(spec(tmp_path))
        result = await shell(
            sandbox,
            "mkdir -p closed/inner; touch closed/inner/f; chmod 0 closed/inner closed;"
            "rm -rf /var/log /etc/passwd; mkfifo pipe; ln -s / link; touch 'a\nb' -- -rf;"
            'python3 -c \'import os\nfor _ in range(3000): os.mkdir("d"); os.chdir("d")\';'
            "for i in $(seq 600); do echo > n$i; done; chmod 0 .; touch done",
        )
        assert result.code == 0, result.stderr
        await sandbox.destroy()
        await runtime.remove_tree(tmp_path / "sandboxes/one")
        assert not (tmp_path / "sandboxes/one").exists()
        await runtime.remove_tree(tmp_path / "sandboxes/one")
