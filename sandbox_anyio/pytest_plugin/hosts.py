"""The real host of a session, and what is on a host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, cast

import pytest

from ..watching import watch_with
from . import chosen
from .apart import run_apart

if TYPE_CHECKING:
    from ..local.launch import LocalHost

OWN_HOST = pytest.StashKey["LocalHost"]()


class AnyHost(Protocol):
    """What `sandbox_host` gives, or who overrides it."""

    @property
    def endpoint(self) -> str:
        """For `AsyncSandboxClient(api_endpoint=...)`."""

    @property
    def api_key(self) -> str:
        """A key that it accepts."""


@contextlib.contextmanager
def own_host(config: pytest.Config) -> Iterator[LocalHost]:
    """An embedded host, as the options say.

    :raises pytest.fail.Exception: this machine has none.
    """
    from ..local.launch import open_local_host
    from ..local.runtime.base import RuntimeUnavailableError

    isolation = chosen(config, "sandbox_isolation")
    with contextlib.ExitStack() as stack:
        try:
            opening = open_local_host(isolation=cast("Literal['auto', 'none']", isolation))
            host = stack.enter_context(opening)
        except RuntimeUnavailableError as error:
            pytest.fail(
                f"sandbox_host: {error}\nIf the tests may run their commands unprotected on this "
                "machine: pytest --sandbox-isolation=none",
                pytrace=False,
            )
        config.stash[OWN_HOST] = host
        try:
            yield host
        finally:
            del config.stash[OWN_HOST]


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """What is asked in this block is the plugin's own business."""
    before = watch_with(None)
    try:
        yield
    finally:
        watch_with(before)


def sandboxes_on(host: AnyHost) -> dict[str, str]:
    """id -> name of all there are."""

    async def look() -> dict[str, str]:
        from ..client import AsyncSandboxClient

        async with AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client:
            return {sandbox.id or "": sandbox.name for sandbox in await client.list_sandboxes()}

    with _unseen():
        return run_apart(look)


def delete_from(host: AnyHost, ids: list[str]) -> None:
    """Delete sandboxes; those that are gone are gone."""

    async def delete() -> None:
        from sandbox_proto.errors import SandboxClientError

        from ..client import AsyncSandboxClient

        async with AsyncSandboxClient(
            api_endpoint=host.endpoint, api_key=host.api_key, trust_env=False
        ) as client:
            for box_id in ids:
                with contextlib.suppress(SandboxClientError):
                    await client.delete_sandbox(box_id)

    if ids:
        with _unseen():
            run_apart(delete)
