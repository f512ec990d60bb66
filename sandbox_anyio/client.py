"""The asynchronous client, on asyncio and trio alike."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from .client_sandboxes import SandboxMethods
from .client_services import ServiceMethods
from .client_snapshots import SnapshotMethods

if TYPE_CHECKING:
    from .blocking.client import SandboxClient
    from .registries import AsyncRegistries


class AsyncSandboxClient(SandboxMethods, SnapshotMethods, ServiceMethods):
    """A client of the Sandbox API.

    Making one does no I/O. Close it with `aclose`, or use it as an async context manager.
    It belongs to the event loop it is first used in.

    :param api_endpoint: the control plane's base URL; default: ``LANGSMITH_ENDPOINT`` (or
        ``LANGCHAIN_ENDPOINT``) with ``/api/v2/sandboxes``.
    :param timeout: patience in seconds for connect, write, read and pool, each, above 0; or
        `Timeouts`, which names them.
    :param api_key: default: ``LANGSMITH_API_KEY`` (or ``LANGCHAIN_API_KEY``).
    :param max_retries: how often a request is repeated; 0 disables it.
    :param headers: sent with every request and every WebSocket upgrade.
    :param retry: how requests are repeated, in detail; wins over `max_retries`.
    :param limits: bounds of the connection pool.
    :param exec_timeouts: patience on exec streams.
    :param exec_transport: how commands are spoken to: ``websocket``; ``sse``, an event stream,
        which carries output only (and bytes: ``text=False``); ``http``, one request that waits
        for the end; ``auto``: a WebSocket, else what the server knows and the command can do with.
    :param prewarm: for each sandbox in which a command began within the last minute, this many
        WebSockets (0 to 16, 64 altogether) are kept open, for 15 s each, so that the next command
        takes one round trip, whatever it needs. They are opened while the client's block runs,
        and never when a trace is made or played; a server that does not want them costs nothing.
    :param verify: True: the system's trust store (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are
        honoured); False: no verification; or an `ssl.SSLContext`.
    :param proxy: an HTTP proxy's URL for everything; default: ``HTTP_PROXY``, ``HTTPS_PROXY``,
        ``ALL_PROXY`` and ``NO_PROXY``, if `trust_env`.
    :param trust_env: whether the proxy variables count.
    :param network: where connections, time and chance come from; for tests and simulations.
    :param record: a file to which all that is said and heard is written, without its secrets;
        or a `Recording`, which says more. Default: what ``SANDBOX_RECORD`` names, if anything.
    :param replay: a file that `record` wrote: it answers in the server's stead, in no time; or
        a `Replay`. Then no socket is opened, and `api_endpoint` is that of the recording.
    :raises ValueError: an argument is out of range; the message names it.
    """

    @cached_property
    def registries(self) -> AsyncRegistries:
        """Image registries that snapshots can be built from."""
        from .registries import AsyncRegistries

        return AsyncRegistries(self)

    def to_sync(self) -> SandboxClient:
        """A synchronous client with the same settings and connections of its own.

        Close both.
        """
        from .blocking.client import SandboxClient

        return SandboxClient(**self.settings())
