"""What is in ``sandbox_anyio/sandbox.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..base import BlockingSandbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sandbox_proto.wire.models import DownloadURL, RunConfig, Snapshot
    from sandbox_proto.wire.typed_dicts import DownloadContentDisposition

    from ..service import ServiceURL


@attrs.define
class LifecycleMethods(BlockingSandbox):
    """See `Sandbox`."""

    def start(self, *, timeout: int = 120, headers: Mapping[str, str] | None = None) -> None:
        """Start the sandbox and wait until it is ready; updates this object's status and URL.

        :param timeout: in seconds.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        """
        self._call(lambda it: it.start(timeout=timeout, headers=headers))

    def stop(self, *, headers: Mapping[str, str] | None = None) -> None:
        """Stop the sandbox: its processes end, its files stay if it is persistent.

        :raises ResourceNotFoundError: it is gone.
        """
        self._call(lambda it: it.stop(headers=headers))

    def delete(self, *, headers: Mapping[str, str] | None = None) -> None:
        """Delete the sandbox and everything in it.

        :raises ResourceNotFoundError: it is gone already.
        """
        self._call(lambda it: it.delete(headers=headers))

    def capture_snapshot(
        self,
        name: str,
        *,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Make a snapshot of the sandbox's files, and wait until it is ready.

        :param name: the snapshot's name; its tag is ``latest``.
        :param run_config: over that of the sandbox.
        :param timeout: how long it may take, in seconds.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        """
        return self._call(
            lambda it: it.capture_snapshot(
                name, run_config=run_config, timeout=timeout, headers=headers
            )
        )

    def service(
        self,
        port: int,
        *,
        expires_in_seconds: int = 600,
        embed_origins: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ServiceURL:
        """An address for what listens on a port inside the sandbox.

        :param port: 1 to 65535.
        :param expires_in_seconds: how long a token is valid, 1 to 86400; it is renewed by itself.
        :param embed_origins: sites that may show it in a frame, at most 5.
        :raises ValueError: an argument is out of range.
        """
        made = self._call(
            lambda it: it.service(
                port,
                expires_in_seconds=expires_in_seconds,
                embed_origins=embed_origins,
                headers=headers,
            )
        )
        return self._service_url(made)

    def generate_download_url(
        self,
        path: str,
        *,
        expires_in_seconds: int | None = None,
        content_type: str | None = None,
        content_disposition: DownloadContentDisposition | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> DownloadURL:
        """A link by which anybody can fetch one file of the sandbox.

        :param path: the file.
        :param expires_in_seconds: at least 1; default: it never expires.
        :param content_type: what the answer says the file is.
        :param content_disposition: whether a browser saves or shows it.
        :raises ValueError: an argument is out of range.
        """
        return self._call(
            lambda it: it.generate_download_url(
                path,
                expires_in_seconds=expires_in_seconds,
                content_type=content_type,
                content_disposition=content_disposition,
                headers=headers,
            )
        )
