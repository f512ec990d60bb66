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

    @classmethod
    def _parse_plain(cls, data: dict[str, Any]) -> Self:
        """The same without judging.

        :raises TypeError: something is not as it nearly always is.
        """
        get = data.get
        user, work_dir, env_vars = get("user"), get("work_dir"), get("env_vars")
        if env_vars is not None:
            if type(env_vars) is not dict:
                raise TypeError
            "".join(env_vars.values())  # only `str` can be joined
        if type(user) is not str and user is not None:
            raise TypeError
        if type(work_dir) is not str and work_dir is not None:
            raise TypeError
        return cls(user, work_dir, env_vars)

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

        The object goes over to the record, as its `raw`.

        :raises SandboxProtocolError: it is not a sandbox object; the text names the field.
        """
        record = cls.parse_plain(data) if type(data) is dict else None
        return cls._parse_judging(data) if record is None else record

    @classmethod
    def _parse_judging(cls, data: object) -> Self:
        if isinstance(data, Mapping) and not _is_explicit_delegation(data.get("access_delegation")):
            known = {key: value for key, value in data.items() if key != "access_delegation"}
            return structure({**known, "raw": dict(data)}, cls, what="a sandbox")
        return structure(_with_raw(data), cls, what="a sandbox")

    @classmethod
    def parse_plain(cls, data: dict[str, Any], **further: Any) -> Self | None:
        """The same for what lists are made of, at a fifth of the cost.

        The types of all fields are looked up at once: whether they are as they should be is
        known from the first sandbox of a list for all others. Whatever is not plainly right is
        for `parse` to judge.

        :param further: what a subclass has beyond the record.
        :returns: None if it has to be judged.
        """
        values: tuple[Any, ...] = (*map(data.get, _RECORD_FIELDS),)
        if (*map(type, values),) not in _plain_shapes and not _is_plain(values):
            return None
        record = cls(*values, raw=data, **further)
        try:
            # Only `str` can be joined.
            if (labels := record.labels) is not None:
                "".join(labels.values())
            if (config := record.run_config) is not None:
                record.run_config = RunConfig._parse_plain(config)  # type: ignore[arg-type]  # it is a dict until now
        except TypeError:
            return None
        return record


_RECORD_FIELDS = tuple(field.name for field in attrs.fields(SandboxRecord) if not field.kw_only)
_NULL = type(None)
# What has to be there, what may be null, and what is looked at further; all else is text or null.
_PLAIN_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "status": (str,),
    "access_delegation": (_NULL,),
    "preserve_memory_on_stop": (bool, _NULL),
    "run_config": (dict, _NULL),
    "labels": (dict, _NULL),
    "vcpus": (int, float, _NULL),
    **dict.fromkeys(
        ("idle_ttl_seconds", "delete_after_stop_seconds", "mem_bytes", "fs_capacity_bytes"),
        (int, _NULL),
    ),
}
# Servers have few kinds of sandboxes; more than this are looked at one by one.
_MAX_SHAPES = 256
_plain_shapes: set[tuple[type, ...]] = set()


def _is_plain(values: tuple[object, ...]) -> bool:
    """Whether the fields of a sandbox are of the types that they have nearly always."""
    shape = tuple(map(type, values))
    for name, kind in zip(_RECORD_FIELDS, shape, strict=True):
        if kind not in _PLAIN_TYPES.get(name, (str, _NULL)):
            return False
    if len(_plain_shapes) < _MAX_SHAPES:
        _plain_shapes.add(shape)
    return True


def _is_explicit_delegation(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and value.get("mode") == "EXPLICIT"
        and isinstance(value.get("permissions"), list)
        and bool(value["permissions"])
    )


@attrs.define
class Snapshot:
    """A snapshot as the control plane describes it (protocol/02 section 12.1).

    :ivar status: ``building``, ``ready``, ``failed``, ``deleting``, or a newer one.
    :ivar fs_capacity_bytes: disk of sandboxes made from it, in bytes.
    :ivar tags: the tags that point at it now; none: it can only be had by id.
    :ivar description: (ours) what it is good for.
    :ivar labels: (ours) labels of sandboxes made from it, under their own.
    :ivar raw: (ours) the JSON this was made from.
    """

    id: str
    name: str
    status: str = "building"
    fs_capacity_bytes: int = 0
    docker_image: str | None = None
    image_digest: str | None = None
    source_sandbox_id: str | None = None
    status_message: str | None = None
    fs_used_bytes: int | None = None
    created_by: str | None = None
    registry_id: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    tags: list[str] = attrs.field(factory=list)
    run_config: RunConfig | None = None
    description: str | None = attrs.field(default=None, kw_only=True)
    labels: dict[str, str] = attrs.field(factory=dict, kw_only=True)
    raw: dict[str, Any] = attrs.field(factory=dict, repr=False, eq=False, kw_only=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of a snapshot.

        :raises SandboxProtocolError: it is not a snapshot object; the text names the field.
        """
        return structure(_with_raw(data), cls, what="a snapshot")


@attrs.define
class SnapshotTag:
    """A name within a snapshot's name, and the snapshot it points at now."""

    tag: str
    snapshot_id: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of one entry of ``GET /snapshots-by-name/{name}``."""
        return structure(data, cls, what="a snapshot's tag")


@attrs.define
class DownloadURL:
    """A link by which anybody can fetch one file of a sandbox.

    :ivar expires_at: when it ends; None is never.
    """

    download_url: str
    token: str
    expires_at: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of ``POST /boxes/{name}/download-url``."""
        return structure(data, cls, what="a download link")


@attrs.define
class ServiceLoginURL:
    """A service's address for people who are signed in.

    :ivar access: ``restricted`` or ``workspace``.
    :ivar embed_origins: which sites may show it in a frame.
    """

    url: str
    access: str
    embed_origins: list[str] = attrs.field(factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of ``POST /boxes/{name}/service-url`` in login mode."""
        url = data.get("browser_url") or data.get("service_url") or ""
        return structure({**data, "url": url}, cls, what="a service's login URL")


@attrs.define
class Registry:
    """An image registry that snapshots can be built from (protocol/02 section 14).

    Its password is never told. ``raw`` (ours) is the JSON this was made from.
    """

    id: str
    name: str
    url: str
    auth_type: str | None = None
    aws_role_arn: str | None = None
    provider: str | None = None
    repository_search_mode: str | None = None
    created_at: str | None = None
    created_by: str | None = None
    updated_at: str | None = None
    updated_by: str | None = None
    raw: dict[str, Any] = attrs.field(factory=dict, repr=False, eq=False, kw_only=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of a registry."""
        return structure(_with_raw(data), cls, what="a registry")


def _with_raw(data: object) -> object:
    return {**data, "raw": dict(data)} if isinstance(data, Mapping) else data
