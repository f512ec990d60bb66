"""Runs of pytest within a test, in this process, with the one real host that all tests share."""

from __future__ import annotations

import importlib

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._runs import PLUGIN, Run

# A run within a run forgets the modules that it has loaded: load what must not be there twice.
for _name in (
    "anyio._backends._asyncio",
    "anyio._backends._trio",
    "pytest_asyncio.plugin",
    "pytest_trio.plugin",
    "sandbox_anyio.blocking.client",
    "sandbox_anyio.blocking.local",
    "sandbox_anyio.blocking.sandbox",
    "sandbox_anyio.pytest_plugin.episodes",
    "sandbox_anyio.pytest_plugin.handing_out",
    "sandbox_anyio.replaying",
    "sandbox_anyio.tunnel",
    "sandbox_anyio.websocket",
    "sandbox_proto.wire.typed_dicts",
):
    importlib.import_module(_name)

_SHARED_HOST = """
import pytest
from sandbox_anyio.local.launch import LocalHost

@pytest.fixture(scope="session")
def sandbox_host():
    return LocalHost({host.endpoint!r}, {host.api_key!r}, {host.isolation!r})
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a test file; others than anyio's plugin only where they are named."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("SANDBOX_RECORD", raising=False)

    def run(*args: str, frameworks: tuple[str, ...] = ()) -> pytest.RunResult:
        chosen = [f"no:{name}" for name in ("asyncio", "trio") if name not in frameworks]
        plugins = [word for name in (PLUGIN, *chosen) for word in ("-p", name)]
        if "asyncio" in frameworks:
            plugins += ["-o", "asyncio_default_fixture_loop_scope=function"]
        strict = ["-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return pytester.runpytest_inprocess(*plugins, *strict, *args)

    return run


@pytest.fixture
def shared_host(pytester: pytest.Pytester, host: LocalHost) -> LocalHost:
    """The runs within use the host of this run."""
    pytester.makeconftest(_SHARED_HOST.format(host=host))
    return host
