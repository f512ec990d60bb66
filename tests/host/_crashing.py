"""What the crash tests share: a host that can be killed, and a ledger of what it acknowledged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Self

import anyio
import attrs

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    ExecTimeouts,
    ResourceNotFoundError,
    SandboxClientError,
    SandboxConnectionError,
    Snapshot,
)

from ._runtime import descendants_of

START_PATIENCE = 30.0
END_PATIENCE = 10.0
_SYSTEM = "system/default"

# It adopts whoever loses their parent, and ends when it has nobody left. So its end is the end
# of the last process that a host ever had, and those that overstay can be named.
_LAUNCHER = """\
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
host = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
print(host, flush=True)
statuses = {}
while True:
    try:
        pid, status = os.wait()
    except ChildProcessError:
        break
    statuses[pid] = status
sys.exit(os.waitstatus_to_exitcode(statuses[host]) & 0xff)
"""


class KillableHost:
    """An embedded host in a process of its own, whose orphans do not get lost.

    :ivar pid: the host process.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        serve = ["-m", "sandbox_anyio", "serve", "--port", "0", "--state", str(state)]
        self._complaints = state.with_suffix(".stderr").open("a+b")
        self._launcher = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *serve, "--until-eof"],
            stdin=subprocess.PIPE,  # so that it ends with the tests, however they do
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._unread = b""
        self.pid = int(self._read_line())

    def wait_until_ready(self) -> None:
        """Wait until it serves."""
        self._ready: dict[str, str] = json.loads(self._read_line())

    def client(self) -> AsyncSandboxClient:
        """A client that asks once, so that what it reports is what the host answered."""
        return AsyncSandboxClient(
            api_endpoint=self._ready["endpoint"],
            api_key=self._ready["api_key"],
            max_retries=0,
            exec_timeouts=ExecTimeouts(kill=0.1),
            trust_env=False,
        )

    def kill(self) -> None:
        """SIGKILL the host process, and it alone: what it has started must notice by itself."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """End it as an administrator does, and see to it that it left nothing."""
        os.kill(self.pid, signal.SIGTERM)
        self.check_nothing_is_left()
        assert self._launcher.returncode == 0

    def check_nothing_is_left(self) -> float:
        """Wait for the end of its last process. Returns how long that took, in seconds."""
        began = time.monotonic()
        try:
            self._launcher.wait(END_PATIENCE)
        except subprocess.TimeoutExpired:
            left = [_describe(pid) for pid in descendants_of(self._launcher.pid)]
            raise AssertionError(f"processes outlived their host: {left}") from None
        self._complaints.seek(0)
        complaints = self._complaints.read().decode()
        assert "Traceback" not in complaints, complaints
        took = time.monotonic() - began
        self.close()
        return took

    def close(self) -> None:
        """End whatever is left. Idempotent."""
        if self._launcher.returncode is None:
            for pid in descendants_of(self._launcher.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._launcher.wait()
        assert self._launcher.stdin is not None and self._launcher.stdout is not None
        self._launcher.stdin.close()
        self._launcher.stdout.close()
        self._complaints.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read_line(self) -> bytes:
        assert self._launcher.stdout is not None
        descriptor = self._launcher.stdout.fileno()
        deadline = time.monotonic() + START_PATIENCE
        while b"\n" not in self._unread:
            left = max(0, deadline - time.monotonic())
            assert select.select([descriptor], [], [], left)[0], "the host was not ready in time"
            data = os.read(descriptor, 4096)
            assert data, f"the host did not start; see {self._complaints.name}"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()!r:.100}"
    return str(pid)


# --- What may be left on the machine ------------------------------------------------------

_UPPER = re.compile(r"upperdir=\S*/sandboxes/([0-9a-f-]{36})/")


def check_machine(state: Path, box_ids: set[str]) -> None:
    """No process is at work in a state directory, and nothing in there is mounted anywhere.

    :param box_ids: of the sandboxes there ever were: overlays show no more of their paths.
    """
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            text = (process / "mountinfo").read_text()
            uppers = box_ids & set(_UPPER.findall(text))
            assert state.name not in text and not uppers, f"{_describe(int(process.name))}: {text}"
            places = {str((process / link).readlink()) for link in ("cwd", "root", "exe")}
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            assert not any(state.name in text for text in (command, *places)), command


def check_directories(state: Path) -> None:
    """The directories of a host that has just begun are those its records speak of."""
    with contextlib.closing(sqlite3.connect(state / "host.sqlite")) as database:
        rows = database.execute("SELECT kind, key, document FROM records").fetchall()
    records: dict[str, dict[str, Any]] = {"box": {}, "snapshot": {}}
    for kind, key, document in rows:
        records.setdefault(kind, {})[key] = json.loads(document)
    # One that was never built, because the host ended first, has none yet.
    orphans = _names_in(state / "sandboxes") - set(records["box"])
    assert not orphans, f"directories of sandboxes that are not there: {orphans}"
    owners = [*records["box"].values(), *records["snapshot"].values()]
    used = {layer for owner in owners for layer in owner["layers"]}
    assert not (wrong := _names_in(state / "layers") ^ used), f"too many, or not there: {wrong}"
    assert all(box["pending_layer"] is None for box in records["box"].values())


def _names_in(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()


def top_of(state: Path) -> set[str]:
    """What lies in a state directory, but for that which comes with the first use."""
    return _names_in(state) - {"sandboxes", "layers"}


# --- What was acknowledged ----------------------------------------------------------------

# Content that may be found under a name; None: no file. More than one: nobody was told which.
Files = dict[str, set[bytes | None]]


@attrs.define(eq=False)
class KnownBox:
    """What may be true of a sandbox.

    :ivar there: whether it exists; both, while nobody was told.
    :ivar names: one of these is its name.
    :ivar captures: those that are being made of it.
    """

    names: set[str]
    files: Files
    id: str | None = None
    there: set[bool] = attrs.field(factory=lambda: {True, False})
    is_being_renamed: bool = False
    captures: list[KnownSnapshot] = attrs.field(factory=list)


@attrs.define(eq=False)
class KnownSnapshot:
    """What may be true of a snapshot.

    :ivar ready: whether its readiness was acknowledged.
    """

    name: str
    files: Files
    id: str | None = None
    there: set[bool] = attrs.field(factory=lambda: {True, False})
    ready: bool = False


# Why something may be refused that would be done, if somebody else did not do something.
_CONFLICTS = (
    "there is no sandbox",
    "there is no snapshot",
    "is provisioning",
    "is being stopped",
    "meanwhile",
    "the sandbox is gone",
)


class Ledger:
    """Does things to a host, many at once, and holds it to what it has acknowledged.

    Before something is asked for, the ledger allows both its outcomes; once it is
    acknowledged, only the one.

    :ivar answered: how many operations were acknowledged.
    :ivar flying: what is asked for and not answered yet, by kind.
    :ivar refused: what was refused because of something else that was done, and why.
    """

    MAX_BOXES = 8
    MAX_SNAPSHOTS = 5

    def __init__(self) -> None:
        self.boxes: list[KnownBox] = []
        self.snapshots: list[KnownSnapshot] = []
        self.answered = 0
        self.flying: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.box_ids: set[str] = set()
        self._host_is_dead = False
        self._patient: set[anyio.CancelScope] = set()  # what would long look for a dead host
        self._numbers: Iterator[int] = iter(range(10**9))
        self._answered_one = anyio.Event()

    # --- doing things -----------------------------------------------------------------

    async def work_until_killed(
        self, host: KillableHost, random: Random, *, workers: int, most: int
    ) -> Counter[str]:
        """Work on a host, and kill it at a random moment. Returns what was in flight then.

        :param most: how many operations it may get to answer before it is killed.
        """
        self._host_is_dead = False
        enough = self.answered + random.randint(0, most)
        async with host.client() as client, anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(self._work, client, Random(random.random()))
            with anyio.fail_after(START_PATIENCE):
                while self.answered < enough:
                    await self._answered_one.wait()
            await anyio.sleep(random.uniform(0, 0.03))  # the random moment itself
            host.kill()
            self._host_is_dead = True
            flying = Counter(self.flying)
            for scope in self._patient:
                scope.cancel()
        return flying

    async def _work(self, client: AsyncSandboxClient, random: Random) -> None:
        while not self._host_is_dead:
            operation = self._choose(random)
            kind = operation.__name__.strip("_")
            self.flying[kind] += 1
            try:
                await operation(client, random)
            except SandboxClientError as error:
                if not self._host_is_dead:
                    reason = next((one for one in _CONFLICTS if one in str(error)), None)
                    assert reason is not None, f"{kind}: {error}"
                    self.refused[f"{kind}: {reason}"] += 1
            else:
                self.answered += 1
                self._answered_one.set()
                self._answered_one = anyio.Event()
            finally:
                self.flying[kind] -= 1

    def _choose(self, random: Random) -> Callable[[AsyncSandboxClient, Random], Awaitable[None]]:
        boxes, snapshots = self._there(), self._ready()
        operations = []
        if len(boxes) + self.flying["create"] < self.MAX_BOXES:
            operations += [self._create] * 4
        if boxes:
            operations += [self._write] * 4 + [self._stop, self._start, self._rename, self._leave]
            if len(self.snapshots) < self.MAX_SNAPSHOTS:
                operations += [self._capture] * 4
        if len(boxes) > self.MAX_BOXES // 2:
            operations += [self._delete] * 2
        if len(snapshots) > 1:
            operations += [self._delete_snapshot] * 2
        return random.choice(operations or [self._create])

    def _there(self) -> list[KnownBox]:
        return [box for box in self.boxes if box.there == {True}]

    def _ready(self) -> list[KnownSnapshot]:
        return [one for one in self.snapshots if one.ready and one.there == {True}]

    async def _create(self, client: AsyncSandboxClient, random: Random) -> None:
        source = random.choice([None, *self._ready()])
        files = {} if source is None else _copy(source.files)
        box = KnownBox({f"box-{next(self._numbers)}"}, files)
        self.boxes.append(box)
        try:
            made = await client.create_sandbox(
                None if source is None else source.id,
                name=min(box.names),
                wait_for_ready=random.random() < 0.7,
            )
        except SandboxClientError as error:
            if not isinstance(error, SandboxConnectionError):
                self.boxes.remove(box)
            raise
        assert made.id is not None
        box.id, box.there = made.id, {True}
        self.box_ids.add(made.id)

    async def _write(self, client: AsyncSandboxClient, random: Random) -> None:
        box = random.choice(self._there())
        # A name of its own, or one that nobody writes to now.
        settled = [path for path, contents in box.files.items() if len(contents) == 1]
        path = random.choice([f"file-{next(self._numbers)}", *settled[:3]])
        content = random.randbytes(random.choice([10, 1000, 100_000, 2_000_000]))
        for files in (box.files, *(capture.files for capture in box.captures)):
            files[path] = files.get(path, {None}) | {content}
        await (await client.get_sandbox(_id(box))).write(path, content)
        box.files[path] = {content}

    async def _stop(self, client: AsyncSandboxClient, random: Random) -> None:
        await client.stop_sandbox(_id(random.choice(self._there())))

    async def _start(self, client: AsyncSandboxClient, random: Random) -> None:
        await client.start_sandbox(_id(random.choice(self._there())))

    async def _leave(self, client: AsyncSandboxClient, random: Random) -> None:
        """Leave a process behind that does not want to end."""
        sandbox = await client.get_sandbox(_id(random.choice(self._there())))
        script = "(trap '' HUP TERM; exec setsid sleep 1000) > /dev/null 2>&1 < /dev/null &"
        with anyio.CancelScope() as scope:
            self._patient.add(scope)
            await sandbox.run(script, timeout=10)
        self._patient.discard(scope)

    async def _rename(self, client: AsyncSandboxClient, random: Random) -> None:
        box = random.choice(self._there())
        if box.is_being_renamed:
            return
        name = f"box-{next(self._numbers)}"
        box.names, box.is_being_renamed = box.names | {name}, True
        try:
            await client.update_sandbox(_id(box), new_name=name)
            box.names = {name}
        finally:
            box.is_being_renamed = False

    async def _delete(self, client: AsyncSandboxClient, random: Random) -> None:
        box = random.choice(self._there())
        box.there = {True, False}
        await client.delete_sandbox(_id(box))
        box.there = {False}

    async def _capture(self, client: AsyncSandboxClient, random: Random) -> None:
        box = random.choice(self._there())
        snapshot = KnownSnapshot(f"crash/{next(self._numbers)}", _copy(box.files))
        self.snapshots.append(snapshot)
        box.captures.append(snapshot)
        try:
            made = await client.capture_snapshot(_id(box), snapshot.name)
        finally:
            box.captures.remove(snapshot)
        snapshot.id, snapshot.there, snapshot.ready = made.id, {True}, True

    async def _delete_snapshot(self, client: AsyncSandboxClient, random: Random) -> None:
        snapshot = random.choice(self._ready())
        snapshot.there = {True, False}
        await client.delete_snapshot(_id(snapshot))
        snapshot.there = {False}

    # --- holding the host to it -------------------------------------------------------

    async def check(self, client: AsyncSandboxClient) -> None:
        """A host that has begun again has all that was acknowledged, and nothing else.

        What nobody was told is known from then on.
        """
        await self._check_boxes(client)
        await self._check_snapshots(client)

    async def _check_boxes(self, client: AsyncSandboxClient) -> None:
        listed = await client.list_sandboxes()
        found: list[tuple[AsyncSandbox, KnownBox]] = []
        for box in self.boxes:
            same = [one for one in listed if one.id == box.id or one.name in box.names]
            assert len(same) <= 1 and bool(same) in box.there, f"{box.names}: {same}, {box.there}"
            for sandbox in same:
                assert box.id in (None, sandbox.id) and sandbox.name in box.names, (sandbox, box)
                assert sandbox.status == "stopped", sandbox  # its processes are gone
                assert sandbox.id is not None
                box.id, box.names, box.there = sandbox.id, {sandbox.name}, {True}
                self.box_ids.add(sandbox.id)
                found.append((sandbox, box))
        assert len(found) == len(listed), f"nobody made some of {listed}"
        self.boxes = [box for _, box in found]
        async with anyio.create_task_group() as tasks:
            for sandbox, box in found:
                tasks.start_soon(_check_files, sandbox, box.files)

    async def _check_snapshots(self, client: AsyncSandboxClient) -> None:
        listed = [one async for one in client.iter_snapshots() if one.name != _SYSTEM]
        found: list[KnownSnapshot] = []
        async with anyio.create_task_group() as tasks:
            for known in self.snapshots:
                same = [one for one in listed if one.id == known.id or one.name == known.name]
                assert len(same) <= 1 and bool(same) in known.there, (known.name, same, known.there)
                for snapshot in same:
                    assert known.id in (None, snapshot.id), (snapshot, known.id)
                    known.id, known.there = snapshot.id, {True}
                    found.append(known)
                    tasks.start_soon(self._check_snapshot, client, snapshot, known)
        assert len(found) == len(listed), f"nobody made some of {listed}"
        self.snapshots = [known for known in found if known.ready]

    async def _check_snapshot(
        self, client: AsyncSandboxClient, snapshot: Snapshot, known: KnownSnapshot
    ) -> None:
        if snapshot.status != "ready":
            # It was being made, and nobody was told that it is ready.
            assert snapshot.status == "failed" and not known.ready, snapshot
            assert snapshot.status_message and not snapshot.tags, snapshot
            await client.delete_snapshot(snapshot.id)
            return
        known.ready = True
        assert snapshot.tags == ["latest"], snapshot
        async with client.sandbox(snapshot=f"{snapshot.name}:latest") as sandbox:
            assert sandbox.id is not None
            self.box_ids.add(sandbox.id)
            await _check_files(sandbox, known.files)


async def _check_files(sandbox: AsyncSandbox, files: Files) -> None:
    """Its home holds what was acknowledged, and nothing half-written."""
    here = set((await sandbox.run("ls -A")).stdout.split())
    for path, contents in list(files.items()):
        try:
            content = await sandbox.read(path)
        except ResourceNotFoundError:
            content = None
        assert content in contents, (
            f"{sandbox.name}: {path} is {content!r:.50}, not {contents!r:.500}"
        )
        assert (path in here) is (content is not None)
        if content is None:
            del files[path]
        else:
            files[path] = {content}
    assert here == set(files), f"{sandbox.name}: {here ^ set(files)}"


def _copy(files: Files) -> Files:
    return {path: set(contents) for path, contents in files.items()}


def _id(known: KnownBox | KnownSnapshot) -> str:
    assert known.id is not None
    return known.id
