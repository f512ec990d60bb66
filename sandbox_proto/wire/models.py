"""The objects of the API, as users see them (protocol/12 section 5, protocol/02).

Field names, order and defaults are the vendor's; ``raw`` (ours) keeps the JSON an
object was made from, so that fields and values this version does not know survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import attrs

from .converters import structure


@attrs.define
class ResourceStatus:
    """The lifecycle status of a sandbox.

    :ivar status: ``provisioning``, ``ready``, ``failed``, ``stopped``, or one newer than this
        client.
    :ivar status_message: why, when it failed.
    """

    status: str = "provisioning"
    status_message: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of ``GET /boxes/{name}/status``."""
        return structure(data, cls, what="a sandbox's status")


@attrs.frozen
class MissingOutput:
    """Bytes of output that were lost before they could be read.

    :ivar stream: ``stdout`` or ``stderr``.
    :ivar start: offset of the first lost byte.
    :ivar end: offset of the first byte after the gap.
    """

    stream: str
    start: int
    end: int


@attrs.define
class ExecutionResult:
    """What a finished command left behind.

    :ivar stdout: all of its standard output, as text.
    :ivar stderr: all of its standard error, as text.
    :ivar exit_code: 0 is success; 128 + n means ended by signal n.
    :ivar missing: the gaps in the output, in order; empty when it is complete.
    """

    stdout: str
    stderr: str
    exit_code: int
    missing: tuple[MissingOutput, ...] = ()

    @property
    def success(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def complete(self) -> bool:
        """Whether no byte of the output was lost."""
        return not self.missing


@attrs.define
class OutputChunk:
    """A piece of a command's output.

    :ivar stream: ``stdout`` or ``stderr``.
    :ivar data: the text.
    :ivar offset: byte offset of its first byte in the stream.
    """

    stream: str
    data: str
    offset: int


@attrs.define
class RunConfig:
    """Who runs a command, where and with what environment (protocol/02 section 10).

    :ivar user: ``name``, ``uid``, ``name:group`` or ``uid:gid``.
    :ivar work_dir: absolute path.
    :ivar env_vars: variables laid over those of the sandbox.
    """

    user: str | None = None
    work_dir: str | None = None
    env_vars: dict[str, str] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON object the API uses."""
        return structure(data, cls, what="a run_config")

    def to_payload(self) -> dict[str, Any]:
        """The JSON object the API wants: only what is set."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}


@attrs.define
class SandboxRecord:
    """A sandbox as the control plane describes it (protocol/02 section 1.3).

    :ivar name: display name, unique in the workspace.
    :ivar dataplane_url: where commands and files of this sandbox are served.
    :ivar id: stable across renames.
    :ivar status: ``provisioning``, ``ready``, ``failed``, ``stopped``, or a newer one.
    :ivar idle_ttl_seconds: seconds without activity until it stops; 0 is never.
    :ivar delete_after_stop_seconds: seconds from stop to deletion; 0 is never.
    :ivar mem_bytes: memory in bytes.
    :ivar fs_capacity_bytes: disk in bytes.
    :ivar raw: the JSON this was made from.
    """

    name: str = ""
    dataplane_url: str | None = None
    id: str | None = None
    status: str = "ready"
    status_message: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    idle_ttl_seconds: int | None = None
    delete_after_stop_seconds: int | None = None
    stopped_at: str | None = None
    snapshot_id: str | None = None
    vcpus: int | float | None = None
    mem_bytes: int | None = None
    fs_capacity_bytes: int | None = None
    run_config: RunConfig | None = None
    access_delegation: dict[str, Any] | None = None
    preserve_memory_on_stop: bool | None = None
    labels: dict[str, str] | None = None
    raw: dict[str, Any] = attrs.field(factory=dict, repr=False, eq=False, kw_only=True)

    @classmethod
    def parse(cls, data: object) -> Self:
        """From the JSON of a sandbox.

        :raises SandboxProtocolError: it is not a sandbox object; the text names the field.
        """
        if isinstance(data, Mapping):
            data = {**data, "raw": dict(data)}
            if not _is_explicit_delegation(data.get("access_delegation")):
                data.pop("access_delegation", None)
        return structure(data, cls, what="a sandbox")


def _is_explicit_delegation(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and value.get("mode") == "EXPLICIT"
        and isinstance(value.get("permissions"), list)
        and bool(value["permissions"])
    )
