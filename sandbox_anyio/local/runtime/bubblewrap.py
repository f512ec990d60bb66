"""The runtime that isolates: bubblewrap, a zygote, and a supervisor in every sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio
import attrs
from anyio.abc import TaskGroup

from ...background import background_tasks
from . import diagnosis, messages, skeleton
from .base import Isolation, RuntimeUnavailableError, SandboxSpec
from .defaults import DEFAULT_PATH
from .identity import Identity, choose_identity
from .link import SupervisorLink
from .sandbox import BubblewrapSandbox

_START_SECONDS: Final = 30
_BUILD_SECONDS: Final = 60
_END_SECONDS: Final = 10

ISOLATION: Final = Isolation(
    label="namespaces",
    description=(
        "namespaces, shared kernel: contains mistakes and ordinary hostile code, "
        "not kernel exploits"
    ),
    details={
        "files": "enforced",
        "processes": "enforced",
        "network": "enforced",
        "system calls": "enforced",
        "process count": "enforced",
        "memory": "not enforced",
        "cpu": "not enforced",
        "file size": "not enforced",
        "disk": "not enforced",
    },
)


@attrs.frozen
class Setup:
    """What a runtime found on this machine, and where it keeps its sandboxes."""

    state: Path
    state_as_given: Path
    bubblewrap: diagnosis.Bubblewrap
    identity: Identity | None
    skeleton: skeleton.Skeleton


class BubblewrapRuntime:
    """Builds sandboxes with bubblewrap. Obtained from `open_bubblewrap`.

    :ivar identity: the unused user that owns all sandbox files if the host is root, else
        None. What is put into layers must belong to it.
    """

    isolation = ISOLATION
    search_path: str = DEFAULT_PATH

    def __init__(self, setup: Setup, zygote: Zygote, tasks: TaskGroup) -> None:
        self.identity = setup.identity
        self._state = setup.state
        self._state_as_given = setup.state_as_given
        self._zygote = zygote
        self._tasks = tasks
        self._sandboxes: set[BubblewrapSandbox] = set()

    async def build(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """Build a sandbox; when this returns, commands can be started in it."""
        upper, work = self._locate(spec.upper), self._locate(spec.work)
        layers = [self._locate(layer) for layer in spec.layers]
        self._prepare_directory(upper, 0o755)
        self._prepare_directory(work, 0o700)
        for layer in layers:
            self._let_enter(layer)
        ours, theirs = messages.socket_pair()
        link = SupervisorLink(ours)
        request = {
            "do": "build",
            "layers": [str(layer) for layer in layers],
            "upper": str(upper),
            "work": str(work),
        }
        try:
            await self._zygote.send(request, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        sandbox = BubblewrapSandbox(link, self.identity)
        self._tasks.start_soon(self._attend, sandbox, link)
        try:
            with anyio.fail_after(_BUILD_SECONDS):
                await link.ready.wait()
        except BaseException as error:
            await link.wait_until_gone()
            if isinstance(error, TimeoutError):
                raise diagnosis.explain("the sandbox was not ready in time") from None
            raise
        if link.failure is not None:
            await link.died.wait()
            raise diagnosis.explain(link.failure)
        return sandbox

    async def _attend(self, sandbox: BubblewrapSandbox, link: SupervisorLink) -> None:
        self._sandboxes.add(sandbox)
        try:
            await link.listen()
        finally:
            self._sandboxes.discard(sandbox)

    async def remove_tree(self, path: Path) -> None:
        """Delete a directory of this runtime's.

        :raises ValueError: it is not below the state directory.
        :raises OSError: something in it could not be removed.
        """
        name = _relative_name(self._state, self._locate(path))
        ours, theirs = messages.socket_pair()
        ours.setblocking(False)
        with ours:
            with theirs:
                await self._zygote.send({"do": "remove", "name": name}, theirs)
            answer = await _follow_removal(ours)
        _finish_removal(path, answer)

    async def aclose(self) -> None:
        """Destroy what still runs, and end the zygote."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for sandbox in list(self._sandboxes):
                    tasks.start_soon(sandbox.destroy)
            await self._zygote.aclose()

    # --- Directories ---------------------------------------------------------------

    def _locate(self, path: Path) -> Path:
        """The absolute path, without the links that lead to the state directory."""
        absolute = path.absolute()
        if absolute.is_relative_to(self._state_as_given):
            return self._state / absolute.relative_to(self._state_as_given)
        return absolute

    def _prepare_directory(self, path: Path, mode: int) -> None:
        """Make a directory that the sandboxes' owner can use, and own the way to it."""
        self._let_enter(path)
        if not path.is_dir():
            path.mkdir(mode=0o700)
            path.chmod(mode)
        self._give_to_owner(path)

    def _let_enter(self, path: Path) -> None:
        """Give the directories between the state directory and `path` to the owner."""
        if not path.is_relative_to(self._state):
            return
        below = path.relative_to(self._state).parents
        for parent in reversed([self._state / part for part in below][:-1]):
            parent.mkdir(mode=0o700, exist_ok=True)
            self._give_to_owner(parent)

    def _give_to_owner(self, path: Path) -> None:
        if self.identity is not None and path.lstat().st_uid == 0:
            os.chown(path, self.identity.user, self.identity.group, follow_symlinks=False)


async def _follow_removal(ours: socket.socket) -> messages.Message | None:
    """Wait for the end of the process that removes. Returns what it had to say."""
    await anyio.wait_readable(ours)
    first = messages.receive(ours)
    if first is None or "process" not in first.body:
        return first
    handle = messages.process_handle(first)
    try:
        await anyio.wait_readable(handle)
    finally:
        os.close(handle)
    return messages.receive(ours)


def _finish_removal(path: Path, answer: messages.Message | None) -> None:
    if answer is None:
        raise OSError(f"removing {path} was interrupted")
    if "error" in answer.body and path.exists():
        raise OSError(answer.body.get("errno") or 0, str(answer.body["error"]))
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()  # what is left if its parent is this process's alone


def _relative_name(state: Path, path: Path) -> str:
    if not path.is_relative_to(state) or path == state or ".." in path.parts:
        raise ValueError(f"{path} is not below the state directory {state}")
    return str(path.relative_to(state))


class Zygote:
    """The process that sandboxes are forked from, as its parent holds it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._sending = anyio.Lock()
        self._ending = anyio.Lock()

    @classmethod
    async def start(cls, setup: Setup) -> Zygote:
        """Start the zygote and wait until it can fork sandboxes.

        :raises RuntimeUnavailableError: it could not be started.
        """
        ours, theirs = messages.socket_pair()
        ours.setblocking(False)
        try:
            process = _start_interpreter(theirs)
        except OSError as error:
            ours.close()
            raise RuntimeUnavailableError(f"cannot start {sys.executable!r}: {error}") from error
        finally:
            theirs.close()
        zygote = cls(process, ours)
        try:
            with anyio.fail_after(_START_SECONDS):
                with contextlib.suppress(BrokenPipeError):  # its end is told below
                    messages.send(ours, _configuration(setup))
                await anyio.wait_readable(ours)
            answer = messages.receive(ours)
            if answer is None:
                raise diagnosis.explain(f"the zygote ended at once: {zygote._last_words()}")
            if "ready" not in answer.body:
                raise diagnosis.explain(str(answer.body.get("error")))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await zygote.aclose()
            raise
        return zygote

    async def send(self, body: messages.Body, reply: socket.socket) -> None:
        """Send a request, which is answered on `reply`'s other end.

        :raises RuntimeUnavailableError: there is no zygote any more.
        """
        async with self._sending:
            while True:
                try:
                    messages.send(self._control, body, [reply.fileno()])
                except BlockingIOError:
                    await anyio.wait_writable(self._control)
                except OSError as error:
                    raise RuntimeUnavailableError(
                        "the process that builds sandboxes has ended: restart the host"
                    ) from error
                else:
                    return

    async def aclose(self) -> None:
        """End the process and reap it."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        # Whoever waits to send is woken by that, and must have left before the descriptor's
        # number is free for something else.
        async with self._sending:
            self._control.close()
        async with self._ending:
            if self._process.returncode is None:
                await self._reap()

    async def _reap(self) -> None:
        handle = os.pidfd_open(self._process.pid)
        try:
            with anyio.move_on_after(_END_SECONDS) as patience:
                await anyio.wait_readable(handle)
            if patience.cancelled_caught:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                await anyio.wait_readable(handle)
        finally:
            os.close(handle)
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _last_words(self) -> str:
        if self._process.stderr is None:
            return ""
        os.set_blocking(self._process.stderr.fileno(), False)
        words = self._process.stderr.read(4096) or b""
        return words.decode(errors="replace").strip().rpartition("\n")[2]


def _start_interpreter(control: socket.socket) -> subprocess.Popen[bytes]:
    bootstrap = Path(__file__).with_name("bootstrap.py")
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", "-B", "-X", "utf8"),
            *(str(bootstrap), str(control.fileno())),
        ],
        env=_interpreter_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


def _interpreter_environment() -> dict[str, str]:
    """Nothing, but for an interpreter that is not found without its library's path."""
    path = os.environ.get("LD_LIBRARY_PATH")
    if path and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return {"LD_LIBRARY_PATH": path}
    return {}


def _configuration(setup: Setup) -> dict[str, object]:
    base = setup.skeleton.create(setup.state, setup.identity)
    private = {"state": str(setup.state), **setup.bubblewrap.directories}
    python = skeleton.python_prefix()
    if python is not None:
        private["python"] = python
    identity = setup.identity
    return {
        "identity": None if identity is None else [identity.user, identity.group],
        "state": str(setup.state),
        "bwrap": setup.bubblewrap.path,
        "base": str(base),
        "binds": setup.skeleton.binds,
        "private": private,
    }


def _prepare(state_dir: Path) -> Setup:
    diagnosis.require_linux()
    bubblewrap = diagnosis.find_bubblewrap()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = state_dir.resolve()
    if state.stat().st_mode & 0o002:  # somebody's mistake, and about to be closed to them all
        raise RuntimeUnavailableError(
            f"{state} is shared by everybody: choose a state directory of its own"
        )
    identity = choose_identity(state / "sandbox-owner")
    if identity is not None:
        # Root's own files stay root's; sandboxes' directories can be entered, no more.
        os.chown(state, -1, identity.group)
        state.chmod(0o710)
    else:
        state.chmod(0o700)
    return Setup(state, state_dir.absolute(), bubblewrap, identity, skeleton.describe_host())


@contextlib.asynccontextmanager
async def open_bubblewrap(state_dir: Path) -> AsyncIterator[BubblewrapRuntime]:
    """A runtime that isolates, with its sandboxes below `state_dir`.

    One sandbox is built and taken down before this begins, so that a machine which cannot
    isolate is found out here and not at the first use.

    :raises RuntimeUnavailableError: sandboxes cannot be built here; the message says why.
    """
    setup = _prepare(state_dir)
    async with background_tasks() as tasks:
        runtime = BubblewrapRuntime(setup, await Zygote.start(setup), tasks)
        try:
            await _build_one(runtime, setup.state)
            yield runtime
        finally:
            await runtime.aclose()


async def _build_one(runtime: BubblewrapRuntime, state: Path) -> None:
    place = state / f"check-{os.getpid()}"
    spec = SandboxSpec(id="check", layers=(), upper=place / "upper", work=place / "work")
    try:
        sandbox = await runtime.build(spec)
        await sandbox.destroy()
    finally:
        with contextlib.suppress(OSError):  # that one is worth less than why it failed
            await runtime.remove_tree(place)
