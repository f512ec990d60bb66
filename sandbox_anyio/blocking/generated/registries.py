"""What is in ``sandbox_anyio/registries.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registries import AsyncRegistries
from ..base import Blocking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_proto.wire.models import Registry

    from ...registries import Extra, RegistryPage


class RegistryMethods(Blocking[AsyncRegistries]):
    """See `Registries`."""

    def create(
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
        return self._call(
            lambda it: it.create(
                name=name,
                url=url,
                auth_type=auth_type,
                aws_role_arn=aws_role_arn,
                password=password,
                username=username,
                extra_headers=extra_headers,
                extra_query=extra_query,
                extra_body=extra_body,
                timeout=timeout,
            )
        )

    def retrieve(
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
        return self._call(
            lambda it: it.retrieve(
                name,
                extra_headers=extra_headers,
                extra_query=extra_query,
                extra_body=extra_body,
                timeout=timeout,
            )
        )

    def update(
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
        return self._call(
            lambda it: it.update(
                path_name,
                auth_type=auth_type,
                aws_role_arn=aws_role_arn,
                body_name=body_name,
                password=password,
                url=url,
                username=username,
                extra_headers=extra_headers,
                extra_query=extra_query,
                extra_body=extra_body,
                timeout=timeout,
            )
        )

    def list(
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
        return self._call(
            lambda it: it.list(
                cursor=cursor,
                limit=limit,
                name_contains=name_contains,
                offset=offset,
                page_size=page_size,
                extra_headers=extra_headers,
                extra_query=extra_query,
                extra_body=extra_body,
                timeout=timeout,
            )
        )

    def delete(
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
        self._call(
            lambda it: it.delete(
                name,
                extra_headers=extra_headers,
                extra_query=extra_query,
                extra_body=extra_body,
                timeout=timeout,
            )
        )
