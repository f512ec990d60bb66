"""Debian's Redis, without installing it: server and client, with the libraries they need."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_PACKAGES = ("redis-tools", "libjemalloc2", "liblzf1", "libatomic1")
_PATIENCE = 60


class Redis:
    """The programs in a directory of their own.

    :ivar place: the directory; ``redis-server`` and ``redis-cli`` are in it, and libraries.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def call(self, port: int, *words: str, said: str | None = None) -> str:
        """What the client prints when it is given these words."""
        done = subprocess.run(
            [self.place / "redis-cli", "-h", "127.0.0.1", "-p", str(port), *words],
            env=os.environ | {"LD_LIBRARY_PATH": str(self.place)},
            input=said,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
        return done.stdout.strip()


def fetch_redis(place: Path) -> Redis:
    """Get it from Debian's archive, or skip the test that asks for it."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("needs Debian's package tools to get Redis")
    done = subprocess.run(
        ["apt-get", "download", "-q", *_PACKAGES],
        cwd=place,
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"Debian's packages {', '.join(_PACKAGES)} are not to be had here")
    tree = place / "tree"
    for archive in place.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, tree], check=True)
    ready = place / "redis"
    ready.mkdir()
    shutil.copy(tree / "usr/bin/redis-cli", ready)
    # One program with several names, of which the package has only these.
    shutil.copy(tree / "usr/bin/redis-check-rdb", ready / "redis-server")
    for library in tree.glob("usr/lib/*/*.so.*"):
        shutil.copy(library, ready)
    return Redis(ready)
