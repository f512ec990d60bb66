"""One sandbox, for code that blocks."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.wire.models import SandboxRecord

from ..log import client_log
from ..sandbox import AsyncSandbox
from .generated.sandbox import LifecycleMethods
from .generated.sandbox_commands import CommandMethods
from .generated.sandbox_directories import DirectoryMethods
from .generated.sandbox_files import FileMethods
from .generated.sandbox_search import SearchMethods
from .generated.sandbox_transfers import TransferMethods
from .generated.sandbox_tunnels import TunnelMethods

if TYPE_CHECKING:
    from ..client import AsyncSandboxClient
    from .client import SandboxClient


@attrs.define
class Sandbox(
    LifecycleMethods,
    CommandMethods,
    DirectoryMethods,
    FileMethods,
    SearchMethods,
    TransferMethods,
    TunnelMethods,
):
    """A sandbox and what can be done in it.

    As a context manager it deletes the sandbox on exit if it was made by
    `SandboxClient.sandbox`, and does nothing if it came from elsewhere.
    """

    @classmethod
    def from_record(
        cls, record: SandboxRecord, client: SandboxClient, *, auto_delete: bool
    ) -> Self:
        """Give a record its client."""
        fields = {field.name: getattr(record, field.name) for field in attrs.fields(SandboxRecord)}
        return cls(**fields, client=client, auto_delete=auto_delete)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], client: SandboxClient, auto_delete: bool = True
    ) -> Self:
        """From the JSON of a sandbox.

        :raises SandboxProtocolError: it is not a sandbox object.
        """
        return cls.from_record(SandboxRecord.parse({**data}), client, auto_delete=auto_delete)

    def to_async(self, *, client: AsyncSandboxClient | None = None) -> AsyncSandbox:
        """The same sandbox for asynchronous code. Leaving its block does not delete it.

        :param client: what it uses; default: a new one like this one's, which is yours to close.
        """
        client = client or self._client.to_async()
        return AsyncSandbox.from_record(self, client, auto_delete=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._auto_delete or self._portal.forked:
            return  # a forked child that ends takes nothing from its parent
        try:
            self._call(lambda it: it.__aexit__(exc_type, exc, traceback))
        except SandboxClientError as error:
            client_log.warning("sandbox %s was not deleted: %s", self.name, error)
