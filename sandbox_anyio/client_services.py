"""Services of a sandbox, and links to its files, on the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sandbox_proto.wire.models import DownloadURL, ServiceLoginURL

from .base import ClientBase

if TYPE_CHECKING:
    from sandbox_proto.wire.services import ServiceAccessEntry, ServiceGrant
    from sandbox_proto.wire.typed_dicts import DownloadContentDisposition, ServiceAccess

    from .service import AsyncServiceURL


class ServiceMethods(ClientBase):
    """See `AsyncSandboxClient`."""

    async def service(
        self,
        name: str,
        port: int,
        *,
        expires_in_seconds: int = 600,
        access: ServiceAccess | None = None,
        embed_origins: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncServiceURL | ServiceLoginURL:
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
        from sandbox_proto.flows.services import service_request

        body = service_request(
            port,
            expires_in_seconds=expires_in_seconds,
            access=access,
            embed_origins=embed_origins,
        )
        return await self._service_url(name, body, dict(headers or {}))

    async def list_service_urls(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> list[ServiceAccessEntry]:
        """Which ports of a sandbox can be reached from outside at present, and how.

        :param name: the sandbox, by name or id.
        :raises ResourceNotFoundError: there is no such sandbox.
        """
        from sandbox_proto.flows.services import list_service_urls

        return await self.drive(lambda context: list_service_urls(context, name, headers))

    async def delete_service_urls(
        self, name: str, *, port: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Take access back. Login URLs stop at once; tokens that were minted run out by themselves.

        :param name: the sandbox, by name or id.
        :param port: only of this port; default: of all.
        :raises ResourceNotFoundError: there is no such sandbox.
        """
        from sandbox_proto.flows.services import delete_service_urls

        await self.drive(lambda context: delete_service_urls(context, name, port, headers))

    async def _service_url(
        self, name: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncServiceURL | ServiceLoginURL:
        from sandbox_proto.flows.services import mint_service_url

        minted = await self.drive(lambda context: mint_service_url(context, name, body, headers))
        if isinstance(minted, ServiceLoginURL):
            return minted

        from .service import AsyncServiceURL

        async def mint_again() -> ServiceGrant:
            again = await self.drive(lambda context: mint_service_url(context, name, body, headers))
            return cast("ServiceGrant", again)

        return AsyncServiceURL.of_grant(minted, self, mint_again)

    async def generate_download_url(
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
        from sandbox_proto.flows.services import mint_download_url

        return await self.drive(
            lambda context: mint_download_url(
                context,
                name,
                path,
                expires_in_seconds=expires_in_seconds,
                content_type=content_type,
                content_disposition=content_disposition,
                headers=headers,
            )
        )
