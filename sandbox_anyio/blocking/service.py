"""Talking to a service inside a sandbox, for code that blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import attrs

from ..service import AsyncServiceURL, ServiceAnswer, ServiceResponse
from .generated.service import ServiceURLMethods
from .portal import Portal


@attrs.define(kw_only=True)
class BlockingServiceResponse(ServiceAnswer):
    """What a service answered, as `ServiceURL` gives it."""

    _asynchronous: ServiceResponse = attrs.field(repr=False, eq=False)
    _portal: Portal = attrs.field(repr=False, eq=False)

    @classmethod
    def of(cls, answer: ServiceResponse, portal: Portal) -> Self:
        """The same answer."""
        fields = {each.name: getattr(answer, each.name) for each in attrs.fields(ServiceAnswer)}
        return cls(**fields, asynchronous=answer, portal=portal)

    def iter_bytes(self) -> Iterator[bytes]:
        """The body piece by piece, as it comes (with ``stream=True``).

        :raises SandboxConnectionError: the connection failed before the end.
        """
        return self._portal.iterate(self._asynchronous.aiter_bytes)

    def read(self) -> bytes:
        """The whole body, however it comes."""
        self.content = self._portal.call(self._asynchronous.read)
        return self.content

    def close(self) -> None:
        """Stop reading a streamed body."""
        self._portal.call(self._asynchronous.aclose)


class ServiceURL(ServiceURLMethods):
    """The address of a service in a sandbox, with a token that renews itself.

    Its properties are renewed first when less than 30 s are left, which waits for the server.
    Obtained from `Sandbox.service`.
    """

    def __init__(
        self,
        browser_url: str,
        service_url: str,
        token: str,
        expires_at: str,
        *,
        embed_url: str = "",
        embed_origins: list[str] | None = None,
    ) -> None:
        self._begin(
            AsyncServiceURL(
                browser_url,
                service_url,
                token,
                expires_at,
                embed_url=embed_url,
                embed_origins=embed_origins,
            )
        )

    @classmethod
    def of(cls, asynchronous: AsyncServiceURL, portal: Portal) -> Self:
        """The same address, with its client."""
        made = cls.__new__(cls)
        made._begin(asynchronous, portal)
        return made

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of a service-url answer; it does not renew itself.

        :raises SandboxProtocolError: a field is missing; the text names it.
        """
        made = cls.__new__(cls)
        made._begin(AsyncServiceURL.from_dict(data))
        return made

    def _begin(self, asynchronous: AsyncServiceURL, portal: Portal | None = None) -> None:
        self._owns_portal = portal is None
        super().__init__(asynchronous, portal or Portal(asynchronous.aclose))

    def __repr__(self) -> str:
        return repr(self._async).replace(type(self._async).__name__, type(self).__name__, 1)

    @property
    def token(self) -> str:
        """A token with at least some 30 s left."""
        return self._call(lambda it: it.get_token())

    @property
    def service_url(self) -> str:
        """The base URL for programs."""
        return self._call(lambda it: it.get_service_url())

    @property
    def browser_url(self) -> str:
        """The URL to open in a browser."""
        return self._call(lambda it: it.get_browser_url())

    @property
    def expires_at(self) -> str:
        """When the present token ends, as ISO 8601."""
        return self._call(lambda it: it.get_expires_at())

    @property
    def embed_url(self) -> str:
        """The URL for a frame; possibly empty."""
        return self._call(lambda it: it.get_embed_url())

    @property
    def embed_origins(self) -> list[str]:
        """Sites that may show it in a frame."""
        return self._async.embed_origins

    def close(self) -> None:
        """Close the connections of an object that has no client (`from_dict`). Idempotent."""
        if self._owns_portal:
            self._portal.close()
