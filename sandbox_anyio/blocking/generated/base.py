"""What is in ``sandbox_anyio/base.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...client import AsyncSandboxClient
from ..base import BlockingClient

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Mapping

    from sandbox_proto.config import ExecTimeouts, ExecTransport
    from sandbox_proto.plans.pool import PoolLimits
    from sandbox_proto.plans.retry import RetryPolicy
    from sandbox_proto.plans.timeouts import Timeouts

    from ...network import Network
    from ...recording import Recording
    from ...replaying import Replay


class Construction(BlockingClient):
    """See `SandboxClient`."""

    def __init__(
        self,
        *,
        api_endpoint: str | None = None,
        timeout: float | Timeouts = 10.0,
        api_key: str | None = None,
        max_retries: int = 3,
        headers: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
        limits: PoolLimits | None = None,
        exec_timeouts: ExecTimeouts | None = None,
        exec_transport: ExecTransport = "auto",
        prewarm: int = 0,
        verify: bool | ssl.SSLContext = True,
        proxy: str | None = None,
        trust_env: bool = True,
        network: Network | None = None,
        record: str | os.PathLike[str] | Recording | None = None,
        replay: str | os.PathLike[str] | Replay | None = None,
    ) -> None:
        """
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
            for the end; ``auto``: a WebSocket, else what the server knows and the command can do
            with.
        :param prewarm: for each sandbox in which a command began within the last minute, this many
            WebSockets (0 to 16, 64 altogether) are kept open, for 15 s each, so that the next
            command     takes one round trip, whatever it needs. They are opened while the client's
            block runs,     and never when a trace is made or played; a server that does not want
            them costs nothing.
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
        self._begin(
            AsyncSandboxClient(
                api_endpoint=api_endpoint,
                timeout=timeout,
                api_key=api_key,
                max_retries=max_retries,
                headers=headers,
                retry=retry,
                limits=limits,
                exec_timeouts=exec_timeouts,
                exec_transport=exec_transport,
                prewarm=prewarm,
                verify=verify,
                proxy=proxy,
                trust_env=trust_env,
                network=network,
                record=record,
                replay=replay,
            )
        )
