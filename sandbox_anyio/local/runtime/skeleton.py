"""What every sandbox sees before it writes anything.

Two parts: a tiny directory tree of our own, the lowest layer of every sandbox's root, and
the host's directories that are mounted over it, read-only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import attrs

from .defaults import HOME, HOST_NAME
from .identity import Identity
from .names import HOSTS

_PYTHON = "/opt/python"
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_HOST_CONFIGURATION = (
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ld.so.cache",
    # Where the links in /etc/ssl/certs lead on other distributions.
    "/etc/ca-certificates/extracted",
    "/etc/pki/ca-trust/extracted",
)
_COPIED_CONFIGURATION = (
    "/etc/ld.so.conf",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/services",
    "/etc/shells",
)
_MAX_COPIED = 1 << 20

_DIRECTORIES = {
    "/": 0o755,
    "/dev": 0o755,
    "/etc": 0o755,
    "/home": 0o755,
    HOME: 0o755,
    "/media": 0o755,
    "/mnt": 0o755,
    "/opt": 0o755,
    "/proc": 0o555,
    "/root": 0o700,
    "/run": 0o755,
    "/run/lock": 0o1777,
    "/srv": 0o755,
    "/sys": 0o755,
    "/tmp": 0o1777,
    "/usr": 0o755,
    "/var": 0o755,
    "/var/cache": 0o755,
    "/var/lib": 0o755,
    "/var/log": 0o755,
    "/var/tmp": 0o1777,
}

_FILES = {
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hostname": f"{HOST_NAME}\n",
    "/etc/hosts": HOSTS,
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "/etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "/etc/profile": (
        "[ -d /etc/profile.d ] && for script in /etc/profile.d/*.sh; do\n"
        '    [ -r "$script" ] && . "$script"\n'
        "done\n"
        "unset script\n"
        ":\n"
    ),
    "/etc/resolv.conf": "# This sandbox has no network but its own loopback.\n",
}

_LINKS = {
    "/etc/mtab": "/proc/self/mounts",
    "/var/lock": "/run/lock",
    "/var/run": "/run",
}


@attrs.frozen
class Skeleton:
    """The lowest layer's content, and what is mounted over it.

    :ivar binds: (directory or file of the host, place in the sandbox), all read-only.
    """

    directories: dict[str, int]
    files: dict[str, str]
    links: dict[str, str]
    binds: tuple[tuple[str, str], ...]

    def create(self, parent: Path, owner: Identity | None) -> Path:
        """Write the lowest layer below `parent`, unless it is there already.

        Its name tells its content: a changed skeleton is a new directory, and never
        changes under a sandbox that runs.
        """
        content = json.dumps([self.directories, self.files, self.links], sort_keys=True)
        digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        finished = parent / f"base-{digest}"
        if finished.is_dir():
            return finished
        unfinished = parent / f"base-{digest}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(unfinished)
        self._write(unfinished, owner)
        try:
            unfinished.rename(finished)
        except OSError:  # another process of this state directory was faster
            shutil.rmtree(unfinished)
        return finished

    def _write(self, top: Path, owner: Identity | None) -> None:
        def place(path: str) -> Path:
            return top / path.lstrip("/")

        for path in sorted(self.directories):
            place(path).mkdir(parents=True, exist_ok=True)
        for path, target in self.links.items():
            place(path).symlink_to(target)
        for path, text in self.files.items():
            place(path).write_text(text, encoding="utf-8", errors="surrogateescape")
            place(path).chmod(0o644)
        if owner is not None:
            for entry in (top, *top.rglob("*")):
                os.chown(entry, owner.user, owner.group, follow_symlinks=False)
        for path, mode in sorted(self.directories.items(), reverse=True):
            place(path).chmod(mode)


def describe_image() -> Skeleton:
    """What lies below the layers of a sandbox that bring a system of their own."""
    paths = ("/", "/dev", "/etc", "/proc", "/tmp")
    names = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
    return Skeleton(
        {path: _DIRECTORIES[path] for path in paths}, {name: _FILES[name] for name in names}, {}, ()
    )


def describe_host() -> Skeleton:
    """The skeleton that suits this machine: its system directories and its Python."""
    directories = dict(_DIRECTORIES)
    files = dict(_FILES)
    links = dict(_LINKS)
    binds = [("/usr", "/usr")]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            links[path] = str(Path(path).readlink())
        elif Path(path).is_dir():
            binds.append((path, path))
    for path in ("/etc/localtime", "/etc/os-release"):
        if Path(path).is_symlink():
            links[path] = str(Path(path).readlink())
    for path in _COPIED_CONFIGURATION:
        with contextlib.suppress(OSError), Path(path).open("rb") as file:
            files[path] = file.read(_MAX_COPIED).decode("utf-8", "surrogateescape")
    # Resolved here, where links still lead to what they mean on the host.
    binds += [
        (str(Path(path).resolve()), path) for path in _HOST_CONFIGURATION if Path(path).exists()
    ]
    python = python_prefix()
    if python is not None:
        binds.append((python, _PYTHON))
        # Scripts, and the path to its own library, name the place it was installed to.
        if python != _PYTHON and not python.startswith(("/proc/", "/dev/", "/tmp/")):
            links[python] = _PYTHON
    for source, target in binds:
        if Path(source).is_dir():
            directories.setdefault(target, 0o755)
        else:
            files.setdefault(target, "")
    for path in [*files, *links, *directories]:
        for parent in Path(path).parents:
            directories.setdefault(str(parent), 0o755)
    return Skeleton(directories, files, links, tuple(binds))


def python_prefix() -> str | None:
    """Where this Python is installed, unless sandboxes see that directory anyway."""
    prefix = Path(sys.base_prefix).resolve()
    if prefix == Path("/") or prefix.is_relative_to("/usr"):
        return None
    return str(prefix)
