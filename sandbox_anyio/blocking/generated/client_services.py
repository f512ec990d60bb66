"""What is in ``sandbox_anyio/client_services.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import BlockingClient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_proto.wire.models import DownloadURL, ServiceLoginURL
    from sandbox_proto.wire.services import ServiceAccessEntry
    from sandbox_proto.wire.typed_dicts import DownloadContentDisposition, ServiceAccess

    from ..service import ServiceURL


class ServiceMethods(BlockingClient):
    """See `SandboxClient`."""

    def service(
        self,
        name: str,
        port: int,
        *,
        expires_in_seconds: int = 600,
        access: ServiceAccess | None = None,
        embed_origins: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ServiceURL | ServiceLoginURL:
        """An address for what listens on a port inside a sandbox.

        :param name: the sandbox, by name or id.
        :param port: 1 to 65535.
        :param expires_in_seconds: how long a token is valid, 1 to 86400; it is renewed by itself.
        :param access: None: whoever has the token. ``restricted`` or ``workspace``: people who
            are signed in, by browser only, for as long as the grant stands.
        :param embed_origins: sites that may show it in a frame, at most 5.
        :raises ValueError: an argument is out of range.
        :raises ResourceNotFoundError: there is no such sandbox.
        """
        made = self._call(
            lambda it: it.service(
                name,
                port,
                expires_in_seconds=expires_in_seconds,
                access=access,
                embed_origins=embed_origins,
                headers=headers,
            )
        )
        return self._service_url(made)

    def list_service_urls(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> list[ServiceAccessEntry]:
        """Which ports of a sandbox can be reached from outside at present, and how.

        :param name: the sandbox, by name or id.
        :raises ResourceNotFoundError: there is no such sandbox.
        """
        return self._call(lambda it: it.list_service_urls(name, headers=headers))

    def delete_service_urls(
        self, name: str, *, port: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Take access back. Login URLs stop at once; tokens that were minted run out by themselves.

        :param name: the sandbox, by name or id.
        :param port: only of this port; default: of all.
        :raises ResourceNotFoundError: there is no such sandbox.
        """
        self._call(lambda it: it.delete_service_urls(name, port=port, headers=headers))

    def generate_download_url(
        self,
        name: str,
        path: str,
        *,
        expires_in_seconds: int | None = None,
        content_type: str | None = None,
        content_disposition: DownloadContentDisposition | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> DownloadURL:
        """A link by which anybody can fetch one file of a sandbox.

        :param name: the sandbox, by name or id.
        :param path: the file.
        :param expires_in_seconds: at least 1; default: it never expires.
        :param content_type: what the answer says the file is.
        :param content_disposition: whether a browser saves or shows it.
        :raises ValueError: an argument is out of range.
        :raises ResourceNotFoundError: there is no such sandbox.
        """
        return self._call(
            lambda it: it.generate_download_url(
                name,
                path,
                expires_in_seconds=expires_in_seconds,
                content_type=content_type,
                content_disposition=content_disposition,
                headers=headers,
            )
        )
