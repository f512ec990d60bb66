"""The runtime that isolates: bubblewrap, a zygote, and a supervisor in every sandbox."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import attrs
from anyio.abc import TaskGroup

from ...background import background_tasks
from . import diagnosis, messages, skeleton
from .base import Isolation, RuntimeUnavailableError, SandboxSpec
from .defaults import DEFAULT_PATH, SEARCH_PATHS
from .directories import StateDirectory
from .forking import Zygote
from .identity import choose_identity
from .layers import BubblewrapLayers, remove_tree
from .link import SupervisorLink
from .sandbox import BubblewrapSandbox

_BUILD_SECONDS: Final = 60

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

    state: StateDirectory
    bubblewrap: diagnosis.Bubblewrap
    binds: tuple[tuple[str, str], ...]
    bases: Mapping[str, Path]


class BubblewrapRuntime:
    """Builds sandboxes with bubblewrap. Obtained from `open_bubblewrap`.

    :ivar identity: the unused user that owns all sandbox files if the host is root, else
        None. What is put into layers must belong to it.
    """

    isolation = ISOLATION
    search_path: str = DEFAULT_PATH

    def __init__(self, setup: Setup, zygote: Zygote, tasks: TaskGroup) -> None:
        self.identity = setup.state.identity
        self._state = setup.state
        self._zygote = zygote
        self._tasks = tasks
        self._sandboxes: dict[BubblewrapSandbox, Path] = {}  # and where each writes
        self.layers = BubblewrapLayers(zygote, setup.state, setup.bases, self._is_in_use)

    async def build(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """Build a sandbox; when this returns, commands can be started in it."""
        locate, prepare = self._state.locate, self._state.prepare
        upper, work = locate(spec.upper), locate(spec.work)
        layers = [locate(layer) for layer in spec.layers]
        prepare(upper, _mode_of_root(layers))
        prepare(work, 0o700)
        for layer in layers:
            self._state.let_enter(layer)
        ours, theirs = messages.socket_pair()
        link = SupervisorLink(ours)
        request = {
            "do": "build",
            "layers": [str(layer) for layer in layers],
            "upper": str(upper),
            "work": str(work),
            "system": spec.system,
        }
        try:
            await self._zygote.send(request, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        sandbox = BubblewrapSandbox(link, self.identity, SEARCH_PATHS[spec.system])
        self._tasks.start_soon(self._attend, sandbox, link, upper)
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

    async def _attend(self, sandbox: BubblewrapSandbox, link: SupervisorLink, upper: Path) -> None:
        self._sandboxes[sandbox] = upper
        try:
            await link.listen()
        finally:
            del self._sandboxes[sandbox]

    def _is_in_use(self, upper: Path) -> bool:
        return upper in self._sandboxes.values()

    async def remove_tree(self, path: Path) -> None:
        """Delete a directory of this runtime's.

        :raises ValueError: it is not below the state directory.
        :raises OSError: something in it could not be removed.
        """
        await remove_tree(self._zygote, self._state, path)

    async def aclose(self) -> None:
        """Destroy what still runs, and end the zygote."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for sandbox in list(self._sandboxes):
                    tasks.start_soon(sandbox.destroy)
            await self._zygote.aclose()


def _mode_of_root(layers: Sequence[Path]) -> int:
    """What a new writable layer's own mode is: the one of what it lies over.

    Its owner can always write: something may have to be put there before it is mounted.
    """
    mode = 0o755
    with contextlib.suppress(OSError):
        if layers:
            mode = stat.S_IMODE(layers[0].stat().st_mode)
    return mode | 0o700


def _configuration(setup: Setup) -> dict[str, object]:
    state, identity = str(setup.state.path), setup.state.identity
    private = {"state": state, **setup.bubblewrap.directories}
    python = skeleton.python_prefix()
    if python is not None:
        private["python"] = python
    return {
        "identity": None if identity is None else [identity.user, identity.group],
        "state": state,
        "bwrap": setup.bubblewrap.path,
        "bases": {system: str(base) for system, base in setup.bases.items()},
        "binds": setup.binds,
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
    host, image = skeleton.describe_host(), skeleton.describe_image()
    bases = {"host": host.create(state, identity), "layers": image.create(state, identity)}
    return Setup(
        StateDirectory(state, state_dir.absolute(), identity), bubblewrap, host.binds, bases
    )


@contextlib.asynccontextmanager
async def open_bubblewrap(state_dir: Path) -> AsyncIterator[BubblewrapRuntime]:
    """A runtime that isolates, with its sandboxes below `state_dir`.

    One sandbox is built and taken down before this begins, so that a machine which cannot
    isolate is found out here and not at the first use.

    :raises RuntimeUnavailableError: sandboxes cannot be built here; the message says why.
    """
    setup = _prepare(state_dir)
    async with background_tasks() as tasks:
        zygote = await Zygote.start(_configuration(setup))
        runtime = BubblewrapRuntime(setup, zygote, tasks)
        try:
            await _build_one(runtime, setup.state.path)
            yield runtime
        finally:
            await runtime.aclose()


async def _build_one(runtime: BubblewrapRuntime, state: Path) -> None:
    place = state / "check"
    await runtime.remove_tree(place)  # one that was killed meanwhile may have left it
    spec = SandboxSpec(id="check", layers=(), upper=place / "upper", work=place / "work")
    try:
        sandbox = await runtime.build(spec)
        await sandbox.destroy()
    finally:
        with contextlib.suppress(OSError):  # that one is worth less than why it failed
            await runtime.remove_tree(place)
