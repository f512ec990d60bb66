"""What the records of sandboxes and of snapshots have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import attrs

GIB = 1024**3
DEFAULT_DISK = 16 * GIB


@attrs.define(kw_only=True)
class LayeredRecord:
    """The record of something that is made of layers; what is stored, and what clients see.

    :ivar layers: names of the layers, topmost first; of a sandbox, those below what was written
        in it.
    :ivar system: where the system comes from: the ``host``'s view, or its own ``layers``.
    """

    id: str
    name: str
    created_at: str
    updated_at: str
    status_message: str | None = None
    fs_capacity_bytes: int = DEFAULT_DISK
    run_config: dict[str, Any] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    layers: list[str] = attrs.field(factory=list)
    system: str = "host"

    def document(self) -> dict[str, Any]:
        """What is stored."""
        return attrs.asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From what was stored, by this version or an older one."""
        known = {field.name for field in attrs.fields(cls)}
        return cls(**{key: value for key, value in document.items() if key in known})
