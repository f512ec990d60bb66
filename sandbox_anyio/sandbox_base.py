"""What every part of a sandbox object stands on: its record and its client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from sandbox_proto.flows.files import dataplane
from sandbox_proto.wire.models import SandboxRecord

if TYPE_CHECKING:
    from .client import AsyncSandboxClient


@attrs.define
class SandboxBase(SandboxRecord):
    """A sandbox's record, with the client it came from."""

    _client: AsyncSandboxClient = attrs.field(repr=False, eq=False, kw_only=True)
    _auto_delete: bool = attrs.field(default=True, repr=False, eq=False, kw_only=True)

    def _dataplane(self) -> str:
        """Where commands and files of this sandbox are served.

        :raises DataplaneNotConfiguredError: nowhere, yet.
        """
        return dataplane(self.dataplane_url, self.name)
