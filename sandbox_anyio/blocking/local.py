"""An embedded host for code that blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING

from .base import Opening
from .portal import Portal

if TYPE_CHECKING:
    from ..local.launch import LocalHost


@contextmanager
def blocking_host(
    run: Callable[[], AbstractAsyncContextManager[LocalHost]],
) -> Iterator[LocalHost]:
    """The host for the length of a block, kept by the loop of the synchronous clients."""
    portal = Portal(_nothing)
    try:
        with Opening(portal, run, lambda host, _portal, _desk: host) as host:
            yield host
    finally:
        portal.close()


async def _nothing() -> None:
    pass
