"""Where the plugin sits and watches this process's clients, in tests that use it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_proto.trace.tape import PlaybackError

from ..network import Network
from ..virtual_network import VirtualNetwork
from ..watching import watch_with
from .item_watch import ItemWatch, MadeClient
from .places import place
from .request_log import Request
from .watched_network import WatchedNetwork

if TYPE_CHECKING:
    from ..base import ClientBase, Closable


class Seat:
    """One for each run of pytest.

    :param root: what paths are shown relative to.
    :param blocks: whether no client may open connections, in any test.
    :ivar test: what is known of the test that runs; None: none does that uses the plugin.
    """

    def __init__(self, root: Path, *, blocks: bool) -> None:
        self._root, self._blocks = root, blocks
        self._thread = threading.get_ident()
        self._shared = False
        self.test: ItemWatch | None = None
        self._before = watch_with(self)

    def leave(self) -> None:
        """pytest ends."""
        watch_with(self._before)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """What is made in this block is not this test's alone."""
        before, self._shared = self._shared, True
        try:
            yield
        finally:
            self._shared = before

    @property
    def _owner(self) -> ItemWatch | None:
        return None if self._shared else self.test

    def here(self) -> str:
        """The line of the test that is being run."""
        return place(self._root, self._thread)

    # --- what clients tell (see `watching`) -------------------------------------------

    def client_made(self, client: ClientBase, network: Network) -> Network:
        """See `Watcher`."""
        test = self.test
        if test is None:
            return network
        blocked = None
        if not isinstance(network, VirtualNetwork):
            blocked = test.blocked or ("--sandbox-block-network forbids it" if self._blocks else "")
        watched = WatchedNetwork(network, self, blocked or None)
        if (owner := self._owner) is not None:
            owner.clients.append(MadeClient(client, watched, self.here()))
        return watched

    def thing_made(self, client: ClientBase, thing: Closable) -> None:
        """See `Watcher`."""
        if (owner := self._owner) is not None:
            owner.things[thing] = client, self.here()

    # --- what is seen on the wire (see `Observer`) ------------------------------------

    def connection_made(self) -> int:
        """See `Observer`."""
        if self.test is None:
            return 0
        return self.test.requests.add_connection(in_call=self.test.in_call)

    def request_made(self, method: str, target: str, connection: int) -> Request:
        """See `Told`."""
        test = self.test
        request = Request(
            method, target, connection, self.here(), test is not None and test.in_call
        )
        if test is not None:
            test.requests.everything.append(request)
        return request

    def sandbox_asked_for(self, name: str) -> None:
        """See `Told`."""
        if (owner := self._owner) is not None and owner.sandbox(name) is None:
            owner.add_sandbox(name, self.here())

    def sandbox_known(self, name: str, other: str) -> None:
        """See `Told`."""
        if self.test is not None and (made := self.test.sandbox(name)) is not None:
            made.names.add(other)

    def sandbox_gone(self, name: str) -> None:
        """See `Told`."""
        if self.test is not None and (made := self.test.sandbox(name)) is not None:
            self.test.sandboxes.remove(made)

    def played_badly(self, error: PlaybackError) -> None:
        """See `Observer`."""
        if self.test is not None:
            self.test.differs = self.test.differs or str(error)
