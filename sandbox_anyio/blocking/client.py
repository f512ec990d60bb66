"""The synchronous client."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sandbox_proto.config import ClientConfig

from ..client import AsyncSandboxClient
from .generated.base import Construction
from .generated.client_sandboxes import SandboxMethods
from .generated.client_services import ServiceMethods
from .generated.client_snapshots import SnapshotMethods

if TYPE_CHECKING:
    from .registries import Registries


class SandboxClient(SandboxMethods, SnapshotMethods, ServiceMethods, Construction):
    """A client of the Sandbox API for code that blocks.

    Making one does no I/O. Close it with `close`, or use it as a context manager. It may be
    used by many threads at once, and where an event loop runs; a forked process needs one of
    its own. Ctrl-C ends the call that waits, kills its command, or undoes its creation.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._async.config.api_endpoint!r})"

    @property
    def config(self) -> ClientConfig:
        """What this client was told, with what the environment says."""
        return self._async.config

    @cached_property
    def registries(self) -> Registries:
        """Image registries that snapshots can be built from."""
        from .registries import Registries

        return Registries(self._async.registries, self._portal)

    def to_async(self) -> AsyncSandboxClient:
        """An asynchronous client with the same settings and connections of its own.

        Close both.
        """
        return AsyncSandboxClient(**self._async.settings())

    def close(self) -> None:
        """Close every connection. Commands that run are left to themselves. Idempotent.

        Calls that wait in other threads fail.

        :raises PlaybackError: with `replay`: the program did less than was recorded.
        """
        self._portal.close()
        self._async.check_replay()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.close()
        if exc is None:
            self._async.check_replay()
