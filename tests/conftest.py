"""What every test can ask for: a loop of either kind, and a real embedded host."""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_anyio.local.launch import LocalHost


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sweep", type=int, default=1, help="how many times as far sweeps go")


def pytest_configure(config: pytest.Config) -> None:
    """Compile once what hundreds of child processes import.

    Each would do it again where bytecode is not written (``PYTHONDONTWRITEBYTECODE``); the zygote
    never writes any.
    """
    if not hasattr(config, "workerinput"):
        for package in ("sandbox_proto", "sandbox_anyio", "sandbox_trio_compat"):
            compileall.compile_dir(Path(__file__).parent.with_name(package), quiet=2)


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> int:
    """How many times as far a sweep is to go as it does by default."""
    return int(request.config.getoption("--sweep"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def host() -> Iterator[LocalHost]:
    """An embedded host in a process of its own, isolated as this machine allows."""
    command = [sys.executable, "-m", "sandbox_anyio", "serve", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        assert line, "the embedded host did not start; its reason stands on stderr"
        ready = json.loads(line)
        yield LocalHost(ready["endpoint"], ready["api_key"], ready["isolation"])
        process.stdin.close()
        assert process.wait(timeout=20) == 0
