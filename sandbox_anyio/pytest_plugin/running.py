"""What the plugin does around a test that uses it."""

from __future__ import annotations

import contextlib

import pytest

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.trace.tape import PlaybackError

from . import chosen
from .apart import run_apart
from .hosts import OWN_HOST, delete_from, sandboxes_on
from .item_watch import ItemWatch
from .request_log import budget_complaint
from .seat import Seat
from .traces import trace_of

SEAT = pytest.StashKey[Seat]()
WATCH = pytest.StashKey[ItemWatch]()
DIFFERS = pytest.StashKey[str]()
_COMMAND = pytest.StashKey[str]()
_BEFORE = pytest.StashKey[set[str]]()

BLOCKED = (
    "this test replays a trace, and opens none: use the fixtures sandbox_client or "
    "sandbox_client_sync, or record it with --sandbox-record-mode=all"
)


def begin(item: pytest.Item) -> ItemWatch:
    """Watch this test from now on. Harmless when repeated."""
    if item.stash.get(WATCH, None) is not None:
        return item.stash[WATCH]
    config = item.config
    trace = trace_of(item, chosen(config, "sandbox_record_mode"))
    watch = item.stash[WATCH] = ItemWatch(trace)
    item.stash[_COMMAND] = "" if trace is None else trace.command
    if trace is not None and not trace.records:
        watch.blocked = BLOCKED
    if SEAT not in config.stash:
        blocks = bool(config.getoption("sandbox_block_network"))
        config.stash[SEAT] = Seat(config.rootpath, blocks=blocks)
        config.add_cleanup(config.stash[SEAT].leave)
    config.stash[SEAT].test = watch
    note_what_is_there(item)
    return watch


def note_what_is_there(item: pytest.Item) -> None:
    """What is on the session's host now is not this test's."""
    if (host := item.config.stash.get(OWN_HOST, None)) is not None and not _plays(item):
        others = item.stash[WATCH].not_made_here(sandboxes_on(host))
        item.stash.setdefault(_BEFORE, set()).update(others)


def _plays(item: pytest.Item) -> bool:
    trace = item.stash[WATCH].trace
    return trace is not None and not trace.records


def check_call(item: pytest.Item) -> None:
    """The test's function has returned.

    :raises pytest.fail.Exception: it did more than it may, or other than its trace.
    """
    watch = item.stash[WATCH]
    if watch.differs is not None:  # the test swallowed the error
        pytest.fail(watch.differs, pytrace=False)
    for marker in item.iter_markers("sandbox_budget"):
        requests, connections = _limits(item, *marker.args, **marker.kwargs)
        if complaint := budget_complaint(watch.requests, requests, connections):
            pytest.fail(complaint, pytrace=False)


def _limits(item: pytest.Item, *args: object, **kwargs: object) -> tuple[int | None, int | None]:
    unknown = kwargs.keys() - {"requests", "connections"}
    limits = kwargs.get("requests"), kwargs.get("connections")
    wrong = [limit for limit in limits if limit is not None and not isinstance(limit, int)]
    if args or unknown or wrong or limits == (None, None):
        pytest.fail(
            "write @pytest.mark.sandbox_budget(requests=12, connections=2), with one or both",
            pytrace=False,
        )
    return limits  # type: ignore[return-value]


def finish(item: pytest.Item) -> None:
    """The test is over, and so are its fixtures.

    :raises pytest.fail.Exception: something of it is left.
    """
    watch = item.stash[WATCH]
    try:
        _look_at_what_is_left(item, watch)
    finally:
        stop_watching(item)
    allowed = item.get_closest_marker("sandbox_leaks_allowed") is not None
    failed = watch.failed or watch.differs is not None or (bool(watch.leaks) and not allowed)
    if watch.trace is not None and (kept := watch.trace.settle(keep=not failed)) and failed:
        text = f"the test failed, so its recording was put aside: {kept}"
        item.add_report_section("teardown", "sandbox trace", text)
    if not watch.leaks or allowed:
        return
    if watch.failed:  # it has failed already; this may be why, or the consequence
        item.add_report_section("teardown", "sandbox leaks", watch.complaint())
    else:
        pytest.fail(watch.complaint(), pytrace=False)


def stop_watching(item: pytest.Item) -> None:
    """Whatever happened: this test is no longer of interest."""
    if item.stash.get(WATCH, None) is not None:
        item.config.stash[SEAT].test = None
        del item.stash[WATCH]
    item.stash.setdefault(_BEFORE, set()).clear()


def _look_at_what_is_left(item: pytest.Item, watch: ItemWatch) -> None:
    for host in watch.model_hosts:
        watch.look_at_model(host)
    own = item.config.stash.get(OWN_HOST, None)
    host_of_test = watch.host or own
    if _plays(item):
        watch.look_at_sandboxes(None, "", known=set())
    elif host_of_test is not None:
        there = sandboxes_on(host_of_test)
        known = item.stash.get(_BEFORE, set())
        if host_of_test is not own:  # others may use it, too
            known = {
                id for id, name in there.items() if not (watch.sandbox(id) or watch.sandbox(name))
            }
        allowed = item.get_closest_marker("sandbox_leaks_allowed") is not None
        watch.look_at_sandboxes(there, "sandbox_host", known=known, cleans_up=not allowed)
        if not allowed:
            delete_from(host_of_test, [box_id for box_id in there if box_id not in known])
    for client in watch.look_at_own_clients():
        with contextlib.suppress(SandboxClientError):
            run_apart(client.aclose)


def note_failure(
    item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], phase: str
) -> None:
    """A phase of the test failed, or was skipped."""
    differs = next((e for e in _all_of(excinfo.value) if isinstance(e, PlaybackError)), None)
    if differs is not None:
        item.stash[DIFFERS] = str(differs)
    if (watch := item.stash.get(WATCH, None)) is not None:
        watch.failed = True
        if watch.differs is not None:
            item.stash[DIFFERS] = watch.differs
    if DIFFERS in item.stash:
        text = f"if the test is right, record it anew with: {item.stash[_COMMAND]}"
        item.add_report_section(phase, "sandbox trace", text)


def _all_of(error: BaseException | None) -> list[BaseException]:
    """An error, what is in it, and what it came from."""
    found: list[BaseException] = []
    queue = [error]
    while queue:
        one = queue.pop()
        if one is None or one in found:
            continue
        found.append(one)
        queue += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            queue += one.exceptions
    return found
