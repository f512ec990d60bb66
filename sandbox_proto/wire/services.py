"""What gives access to a service in a sandbox, for a while (protocol/10 sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import attrs

from .converters import structure
from .times import parse_timestamp

REFRESH_MARGIN = 30.0


@attrs.define
class ServiceGrant:
    """Addresses and a token, as minted.

    :ivar browser_url: opens in a browser: signs in, sets a cookie, redirects.
    :ivar service_url: base for programs, which send the token in a header.
    :ivar expires_at: ISO 8601.
    :ivar embed_url: for a frame; possibly empty.
    """

    browser_url: str = attrs.field(repr=False)  # it holds the token, as `embed_url` does
    service_url: str
    token: str = attrs.field(repr=False)
    expires_at: str
    embed_url: str = attrs.field(default="", repr=False)
    embed_origins: list[str] = attrs.field(factory=list)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of ``POST /boxes/{name}/service-url``.

        :raises SandboxProtocolError: a field is missing; the text names it.
        """
        return structure(data, cls, what="a service's URL")

    def seconds_left(self, *, wall: float) -> float:
        """How long the token is still valid; for ever, if its end cannot be read.

        :param wall: seconds since the epoch.
        """
        end = parse_timestamp(self.expires_at)
        return float("inf") if end is None else end - wall

    def wants_refresh(self, *, wall: float) -> bool:
        """Whether it is time for a new one."""
        return self.seconds_left(wall=wall) <= REFRESH_MARGIN


@attrs.define
class ServiceAccessEntry:
    """How a port of a sandbox can be reached from outside at present.

    :ivar access: ``token``, ``restricted`` or ``workspace``.
    :ivar expires_at: when the last token ends, as ISO 8601; None for login grants.
    """

    port: int
    access: str
    created_at: str | None = None
    created_by: str | None = None
    embed_origins: list[str] = attrs.field(factory=list)
    expires_at: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From an item of ``GET /boxes/{name}/service-urls``."""
        return structure(data, cls, what="an entry of a sandbox's service URLs")
