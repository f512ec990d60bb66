"""The registries resource: keyword-only calls, as the generated client has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from sandbox_proto.flows.paging import filters
from sandbox_proto.flows.registries import call_registries, parse_registries
from sandbox_proto.wire.models import Registry

if TYPE_CHECKING:
    from .base import ClientBase

Extra = Mapping[str, Any] | None


@attrs.define
class RegistryPage:
    """One page of registries.

    :ivar registries: an older word for `items`.
    :ivar next_cursor: where the next page begins; None: there is none.
    """

    items: list[Registry]
    next_cursor: str | None = None
    offset: int = 0

    @property
    def registries(self) -> list[Registry]:
        """The same as `items`."""
        return self.items


class AsyncRegistries:
    """Image registries. Passwords go in and never come out."""

    def __init__(self, client: ClientBase) -> None:
        self._client = client

    async def create(
        self,
        *,
        name: str,
        url: str,
        auth_type: str | None = None,
        aws_role_arn: str | None = None,
        password: str | None = None,
        username: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Extra = None,
        timeout: float | None = None,
    ) -> Registry:
        """Add a registry.

        :raises ResourceNameConflictError: there is one of this name.
        """
        body = _body(
            extra_body,
            name=name,
            url=url,
            auth_type=auth_type,
            aws_role_arn=aws_role_arn,
            password=password,
            username=username,
        )
        answer = await self._call(
            "POST", None, body, extra_query, extra_headers=extra_headers, timeout=timeout
        )
        return Registry.from_dict(answer)

    async def retrieve(
        self,
        name: str,
        *,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Extra = None,
        timeout: float | None = None,
    ) -> Registry:
        """A registry by name.

        :raises ResourceNotFoundError: there is none.
        """
        answer = await self._call(
            "GET", name, extra_body, extra_query, extra_headers=extra_headers, timeout=timeout
        )
        return Registry.from_dict(answer)

    async def update(
        self,
        path_name: str,
        *,
        auth_type: str | None = None,
        aws_role_arn: str | None = None,
        body_name: str | None = None,
        password: str | None = None,
        url: str | None = None,
        username: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Extra = None,
        timeout: float | None = None,
    ) -> Registry:
        """Change a registry; what is not given stays.

        :param path_name: the registry.
        :param body_name: its new name.
        :raises ResourceNotFoundError: there is none.
        :raises ResourceNameConflictError: the new name is taken.
        """
        body = _body(
            extra_body,
            auth_type=auth_type,
            aws_role_arn=aws_role_arn,
            name=body_name,
            password=password,
            url=url,
            username=username,
        )
        answer = await self._call(
            "PATCH", path_name, body, extra_query, extra_headers=extra_headers, timeout=timeout
        )
        return Registry.from_dict(answer)

    async def list(
        self,
        *,
        cursor: str | None = None,
        limit: int | None = None,
        name_contains: str | None = None,
        offset: int | None = None,
        page_size: int | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Extra = None,
        timeout: float | None = None,
    ) -> RegistryPage:
        """One page of registries, newest first."""
        query = {
            **filters(
                cursor=cursor,
                limit=limit,
                name_contains=name_contains,
                offset=offset,
                page_size=page_size,
            ),
            **(extra_query or {}),
        }
        answer = await self._call(
            "GET", None, extra_body, query, extra_headers=extra_headers, timeout=timeout
        )
        return RegistryPage(
            parse_registries(answer), answer.get("next_cursor"), answer.get("offset") or 0
        )

    async def delete(
        self,
        name: str,
        *,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Extra = None,
        timeout: float | None = None,
    ) -> None:
        """Remove a registry.

        :raises ResourceNotFoundError: there is none.
        """
        await self._call(
            "DELETE", name, extra_body, extra_query, extra_headers=extra_headers, timeout=timeout
        )

    async def _call(
        self,
        method: str,
        name: str | None,
        body: Extra,
        query: Mapping[str, Any] | None,
        *,
        extra_headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> Any:
        return await self._client.drive(
            lambda context: call_registries(
                context,
                method,
                name,
                body=body,
                query=query,
                headers=extra_headers,
                timeout=timeout,
            )
        )


def _body(extra: Extra, **fields: object) -> dict[str, Any]:
    given = {name: value for name, value in fields.items() if value is not None}
    return {**given, **(extra or {})}
