"""The record mode ``new_episodes``: a test that does anything else than its trace is recorded."""

from __future__ import annotations

import pytest
from _pytest.runner import runtestprotocol  # what every plugin uses that runs tests again

from .running import DIFFERS
from .traces import RECORD_ANEW


def run_until_recorded(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test; if it differs from its trace, run it again and record that.

    A trace is not continued: the host that would have to know its sandboxes does not.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if DIFFERS in item.stash:
        item.stash[RECORD_ANEW] = True
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
