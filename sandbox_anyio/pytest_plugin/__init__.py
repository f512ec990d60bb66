"""The pytest plugin: a real sandbox in every test, or a recorded one; nothing left behind.

It is there when the package is installed (``-p no:sandbox`` turns it off), and does nothing in
tests that use none of its fixtures and markers. Everything that it stands on is loaded with the
first test that does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..blocking.client import SandboxClient
    from ..blocking.sandbox import Sandbox
    from ..client import AsyncSandboxClient
    from ..local.launch import LocalHost
    from ..sandbox import AsyncSandbox
    from .handing_out import ModelHostOfTest
    from .request_log import RequestLog

# A test that has one of these is watched from its beginning; the other fixtures see to it
# themselves, because others may have fixtures of their names.
_FIXTURES = {"sandbox_host", "sandbox_client", "sandbox_client_sync", "sandbox_requests"}
_MARKERS = {
    "sandbox_trace": (
        "sandbox_trace(name=None, *, redact=(), redact_headers=(), beside=False, strict=True): "
        "play the trace of this test to its client instead of asking a host, or record it; see "
        "--sandbox-record-mode. name: the file, beneath 'traces' beside the test's file; default: "
        "the module and the test. redact: regular expressions of what else is secret; "
        "redact_headers: names of headers whose values are. beside: keep large bodies in files of "
        "their own. strict: fail if the test asks for less than was recorded."
    ),
    "sandbox_budget": (
        "sandbox_budget(requests=None, connections=None): fail this test, with a table of its "
        "requests, if its function makes more of them than that."
    ),
    "sandbox_leaks_allowed": (
        "sandbox_leaks_allowed: do not fail this test for sandboxes, commands, tunnels and "
        "connections that outlive it."
    ),
}
_MODES = ("none", "once", "new_episodes", "all")
_ISOLATIONS = ("auto", "none")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sandbox", "sandboxes (sandbox-proto)")
    group.addoption(
        "--sandbox-record-mode",
        choices=_MODES,
        help="what becomes of tests marked with sandbox_trace. none (default): their traces are "
        "played, nothing is recorded, and no client opens a connection. once: those that have no "
        "trace yet are recorded. new_episodes: those that have none, or do anything else than "
        "their trace says, are recorded (the latter are run again for it, from their beginning, "
        "because a host knows nothing of a trace's sandboxes). all: every one is recorded anew.",
    )
    group.addoption(
        "--sandbox-isolation",
        choices=_ISOLATIONS,
        help="of sandbox_host. auto (default): the strongest that this machine has, or an error; "
        "none: commands run unprotected on this machine.",
    )
    group.addoption(
        "--sandbox-block-network",
        action="store_true",
        help="no client of sandboxes may open a connection, in any test.",
    )
    parser.addini("sandbox_record_mode", "see --sandbox-record-mode", default="none")
    parser.addini("sandbox_isolation", "see --sandbox-isolation", default="auto")
    parser.addini(
        "sandbox_trace_dir", "where traces are, seen from the test's file", default="traces"
    )
    parser.addini(
        "sandbox_trace_redact",
        "regular expressions of what is secret in traces, besides keys, tokens and cookies: the "
        "first group of each, or all it matches",
        type="linelist",
    )
    parser.addini(
        "sandbox_trace_redact_headers", "names of headers with secret values", type="linelist"
    )


def chosen(config: pytest.Config, name: str) -> str:
    """What the command line says, or else the ini file."""
    return str(config.getoption(name) or config.getini(name))


def pytest_configure(config: pytest.Config) -> None:
    for text in _MARKERS.values():
        config.addinivalue_line("markers", text)
    for name, values in (("sandbox_record_mode", _MODES), ("sandbox_isolation", _ISOLATIONS)):
        if (value := chosen(config, name)) not in values:
            raise pytest.UsageError(f"{name} is one of {', '.join(values)}, not {value!r}")


# --- around each test -----------------------------------------------------------------


def _is_used_by(item: pytest.Item) -> bool:
    return (
        not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
        or any(item.get_closest_marker(name) for name in _MARKERS)
        or bool(item.config.getoption("sandbox_block_network"))
    )


def _is_watched(item: pytest.Item) -> bool:
    if not item.config.stash.get(_IN_USE, False):
        return False
    from .running import WATCH

    return WATCH in item.stash


_IN_USE = pytest.StashKey[bool]()
_WILL_FINISH = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if chosen(item.config, "sandbox_record_mode") != "new_episodes":
        return None
    if item.get_closest_marker("sandbox_trace") is None:
        return None
    from .episodes import run_until_recorded

    return run_until_recorded(item, nextitem)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[_WILL_FINISH] = False
    if _is_used_by(item):
        from .running import begin

        item.config.stash[_IN_USE] = True
        begin(item)
    result = yield
    _finish_at_the_end(item)
    return result


def _finish_at_the_end(item: pytest.Item) -> None:
    """Have a test looked at after its own fixtures are gone, and before those of wider scope."""
    if _is_watched(item) and not item.stash[_WILL_FINISH]:
        from .running import finish

        item.stash[_WILL_FINISH] = True
        item.addfinalizer(lambda: finish(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    item = getattr(request, "_pyfuncitem", None)
    if item is None or not _is_watched(item):
        return (yield)
    if fixturedef.scope == "function":
        _finish_at_the_end(item)  # before the first of them, and so behind the last
        return (yield)
    from .running import SEAT, note_what_is_there

    with item.config.stash[SEAT].shared():
        result = yield
    note_what_is_there(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    if not _is_watched(item):
        return (yield)
    from .running import WATCH, check_call

    watch = item.stash[WATCH]
    watch.in_call = True
    try:
        result = yield
    finally:
        watch.in_call = False
    check_call(item)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None and item.config.stash.get(_IN_USE, False):
        from .running import note_failure

        note_failure(item, call.excinfo, call.when)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if _is_watched(item):
            from .running import stop_watching

            stop_watching(item)


# --- fixtures -------------------------------------------------------------------------


def _note_use(request: pytest.FixtureRequest) -> None:
    """The first fixture of the plugin that a test meets."""
    from .running import begin

    request.config.stash[_IN_USE] = True
    begin(request.node)
    _finish_at_the_end(request.node)


@pytest.fixture(scope="session")
def sandbox_host(request: pytest.FixtureRequest) -> Iterator[LocalHost]:
    """A real sandbox host on this machine, in a process of its own.

    It has ``endpoint`` and ``api_key``, for clients of any kind, and starts with the first test
    that needs it (with pytest-xdist, one for each worker). It needs the extra
    ``sandbox-proto[pytest]``. See --sandbox-isolation.

    Override it to test against another host: whatever has ``endpoint`` and ``api_key`` will do.
    """
    from .hosts import own_host

    with own_host(request.config) as host:
        yield host


@pytest.fixture
def sandbox_client_options() -> dict[str, Any]:
    """Arguments for the clients that fixtures give. Override it: ``{"timeout": 30}``."""
    return {}


@pytest.fixture
def sandbox_options() -> dict[str, Any]:
    """Arguments for the sandboxes that fixtures make. Override it: ``{"snapshot": "team/web"}``."""
    return {}


@pytest.fixture
def sandbox_client(
    request: pytest.FixtureRequest, sandbox_client_options: dict[str, Any]
) -> Iterator[AsyncSandboxClient]:
    """An `AsyncSandboxClient` of `sandbox_host`, for a test on asyncio or trio.

    In a test marked with ``sandbox_trace`` it plays the trace, and needs no host. It works with
    anyio's plugin, pytest-asyncio and pytest-trio, and is closed after the test.
    """
    from .handing_out import client_of

    _note_use(request)
    with client_of(request, sandbox_client_options) as client:
        yield client


@pytest.fixture
def sandbox_client_sync(
    request: pytest.FixtureRequest, sandbox_client_options: dict[str, Any]
) -> Iterator[SandboxClient]:
    """A `SandboxClient`, for a test that blocks; else like `sandbox_client`."""
    from .handing_out import sync_client_of

    _note_use(request)
    with sync_client_of(request, sandbox_client_options) as client:
        yield client


@pytest.fixture
def sandbox(
    request: pytest.FixtureRequest,
    sandbox_client: AsyncSandboxClient,
    sandbox_options: dict[str, Any],
) -> Iterator[AsyncSandbox]:
    """A new sandbox (`AsyncSandbox`) on `sandbox_client`, deleted after the test."""
    from .handing_out import sandbox_of

    with sandbox_of(request, sandbox_client, sandbox_options) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox_sync(
    request: pytest.FixtureRequest,
    sandbox_client_sync: SandboxClient,
    sandbox_options: dict[str, Any],
) -> Iterator[Sandbox]:
    """A new sandbox (`Sandbox`) on `sandbox_client_sync`, deleted after the test."""
    from .handing_out import sync_sandbox_of

    with sync_sandbox_of(request, sandbox_client_sync, sandbox_options) as sandbox:
        yield sandbox


@pytest.fixture
def model_host(
    request: pytest.FixtureRequest, sandbox_client_options: dict[str, Any]
) -> Iterator[ModelHostOfTest]:
    """A host without processes, whose commands you script, and time that jumps.

    ``model_host.on_command("make", stdout="done", duration=600)``, then use ``model_host.client``,
    an `AsyncSandboxClient`; ``model_host.new_client(faults=...)`` gives more. No sockets.
    """
    from .handing_out import model_host_of

    _note_use(request)
    with model_host_of(request, sandbox_client_options) as host:
        yield host


@pytest.fixture
def sandbox_requests(request: pytest.FixtureRequest) -> RequestLog:
    """The requests that this test's function has made so far, by whatever client.

    ``len(sandbox_requests)``, ``sandbox_requests.connections``, iteration, and ``table()``.
    """
    from .running import begin

    _note_use(request)
    return begin(request.node).requests
