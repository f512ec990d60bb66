"""A place from which everything is seen that the clients of this process make.

For tests: the pytest plugin sits here while a test runs that uses it. Nobody else does, and then
it costs one look at a variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .base import ClientBase, Closable
    from .network import Network


class Watcher(Protocol):
    """Who is told."""

    def client_made(self, client: ClientBase, network: Network) -> Network:
        """A client is being made; returns the network that it is to use."""

    def thing_made(self, client: ClientBase, thing: Closable) -> None:
        """Something was made that lives on a connection: a command, a tunnel, a WebSocket."""


_watcher: Watcher | None = None


def watcher() -> Watcher | None:
    """Who watches now."""
    return _watcher


def watch_with(watcher: Watcher | None) -> Watcher | None:
    """Have somebody else watch, or nobody; returns who did until now."""
    global _watcher
    before, _watcher = _watcher, watcher
    return before
