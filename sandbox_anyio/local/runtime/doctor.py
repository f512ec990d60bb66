"""Trying out what this machine can do: the substance of ``sandbox doctor``."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import anyio
import attrs

from . import diagnosis
from .base import CommandSpec, RunningSandbox, RuntimeUnavailableError, SandboxSpec
from .defaults import DEFAULT_PATH, HOME

if TYPE_CHECKING:
    from .bubblewrap import BubblewrapRuntime

_PYTHON_CHECK: Final = "import ssl, sqlite3, ctypes; print(2 + 2)"
_MAX_OUTPUT: Final = 64 * 1024
_COMMAND_SECONDS: Final = 30


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "missing", "note"]
    text: str


@attrs.frozen
class ProbeReport:
    """What was found out by really building a sandbox.

    :ivar usable: sandboxes can be built and commands run in them.
    :ivar problem: if not, the sentence that says what to install or set.
    :ivar isolation: if so, what stands between a sandbox and this machine.
    """

    usable: bool
    problem: str | None
    isolation: str
    findings: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """The report for people, a line per finding and the verdict last."""
        width = max((len(finding.name) for finding in self.findings), default=0)
        marks = {"ok": "ok  ", "missing": "NO  ", "note": "-   "}
        lines = [
            f"{marks[finding.state]}{finding.name:<{width}}  {finding.text}"
            for finding in self.findings
        ]
        if self.usable:
            return [*lines, f"Sandboxes work here: {self.isolation}."]
        return [*lines, f"Sandboxes do not work here: {self.problem}."]


async def probe(state_dir: Path | None = None) -> ProbeReport:
    """Build one sandbox, run a few commands in it, and report every capability found.

    :param state_dir: where sandboxes would be kept; a temporary directory if not given.
    """
    findings: list[Finding] = []
    problem: str | None = None
    isolation = ""
    with contextlib.ExitStack() as cleanup:
        try:
            findings += _look_at_machine()
            from .bubblewrap import open_bubblewrap  # Linux only

            place = _temporary_directory(cleanup) if state_dir is None else state_dir
            async with open_bubblewrap(place) as runtime:
                isolation = runtime.isolation.description
                findings += await _try_out(runtime, place)
        except RuntimeUnavailableError as error:
            problem = str(error)
            findings.append(Finding("sandbox", "missing", "could not be built"))
    return ProbeReport(problem is None, problem, isolation, tuple(findings))


def _temporary_directory(cleanup: contextlib.ExitStack) -> Path:
    # Not in /tmp, which may be a tmpfs that older kernels allow no overlay on.
    parent = "/var/tmp" if Path("/var/tmp").is_dir() else None
    path = tempfile.mkdtemp(prefix="sandbox-doctor-", dir=parent)
    cleanup.callback(shutil.rmtree, path, ignore_errors=True)
    return Path(path).resolve()


def _look_at_machine() -> list[Finding]:
    diagnosis.require_linux()
    system = os.uname()
    findings = [Finding("kernel", "ok", f"Linux {system.release} on {system.machine}")]
    found = diagnosis.find_bubblewrap()
    findings.append(Finding("bubblewrap", "ok", f"{found.version} ({found.origin}): {found.path}"))
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    version = "2" if controllers.exists() else "1 or none"
    findings.append(
        Finding("cgroups", "note", f"version {version}; not used: no memory or CPU limits")
    )
    return findings


async def _try_out(runtime: BubblewrapRuntime, state: Path) -> list[Finding]:
    place = state / f"probe-{os.getpid()}"
    spec = SandboxSpec(id="probe", layers=(), upper=place / "upper", work=place / "work")
    started = anyio.current_time()
    sandbox = await runtime.build(spec)
    milliseconds = (anyio.current_time() - started) * 1000
    findings = [
        Finding("user namespaces", "ok", "available"),
        Finding("overlay file system", "ok", "available without privileges"),
        Finding("sandbox", "ok", f"built in {milliseconds:.0f} ms"),
    ]
    try:
        code, _ = await _run(sandbox, "true")
        findings.append(_judge("command", code == 0, "`true` ran", f"`true` ended with {code}"))
        _, status = await _run(sandbox, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        findings.append(
            _judge(
                "system call filter", fields.get("Seccomp") == "2", "seccomp, loaded", "not loaded"
            )
        )
        _, uid_map = await _run(sandbox, "cat", "/proc/self/uid_map")
        findings.append(Finding("user ids", "ok", _describe_ids(uid_map, runtime)))
        _, interfaces = await _run(sandbox, "cat", "/proc/net/dev")
        names = [line.partition(":")[0].strip() for line in interfaces.splitlines() if ":" in line]
        findings.append(
            _judge("network", names == ["lo"], "own loopback only", f"interfaces {names}")
        )
        code, said = await _run(sandbox, "python3", "-c", _PYTHON_CHECK)
        findings.append(
            _judge("python3", (code, said) == (0, "4\n"), "works in sandboxes", "does not work")
        )
    finally:
        await sandbox.destroy()
        await runtime.remove_tree(place)
    return findings


def _judge(name: str, good: bool, yes: str, no: str) -> Finding:
    return Finding(name, "ok" if good else "missing", yes if good else no)


def _describe_ids(uid_map: str, runtime: BubblewrapRuntime) -> str:
    host = (uid_map.split() or ["0", "?"])[1]
    if runtime.identity is not None:
        return f"one: the sandbox's root is host uid {host}, which nobody else uses"
    return f"one: the sandbox's root is host uid {host}, yours"


async def _run(sandbox: RunningSandbox, *argv: str) -> tuple[int, str]:
    env = {"PATH": DEFAULT_PATH, "HOME": HOME}
    command = await sandbox.spawn(CommandSpec(argv=argv, env=env))
    output = b""
    try:
        with anyio.move_on_after(_COMMAND_SECONDS):
            while len(output) < _MAX_OUTPUT:
                await anyio.wait_readable(command.stdout)
                data = os.read(command.stdout, _MAX_OUTPUT)
                if not data:
                    break
                output += data
        await command.kill()
    finally:
        for descriptor in (command.stdin, command.stdout, command.stderr):
            if descriptor is not None:
                os.close(descriptor)
    return await command.wait(), output.decode(errors="replace")
