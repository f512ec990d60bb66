"""The records of sandboxes: how they come to be, and how they look from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from .layered import GIB, LayeredRecord
from .messages import HostError
from .snapshots import SnapshotRecord

DEFAULT_IDLE_TTL = 600
DEFAULT_DELETE_AFTER_STOP = 14 * 24 * 3600
MAX_MEMORY = 64 * GIB
MAX_CPUS = 16
MAX_FLEETING_DISK = 256 * GIB
FLEETING_DISK_PER_CPU = 16 * GIB
MEMORY_PER_CPU = 4 * GIB
_MEMORY_TOLERANCE = 0.5

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


def timestamp(unix_seconds: float) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@attrs.define(kw_only=True)
class Box(LayeredRecord):
    """One sandbox's record.

    :ivar status: ``provisioning``, ``ready``, ``failed`` or ``stopped``.
    :ivar generated_name: the host chose the name, so nobody can know it but its creator.
    :ivar pending_layer: the name under which its written files are being made a layer.
    """

    status: str = "provisioning"
    generated_name: bool = False
    stopped_at: str | None = None
    idle_ttl_seconds: int = DEFAULT_IDLE_TTL
    delete_after_stop_seconds: int = DEFAULT_DELETE_AFTER_STOP
    persistent: bool = True
    vcpus: float = 1
    mem_bytes: int = MEMORY_PER_CPU
    env_vars: dict[str, str] = attrs.field(factory=dict)
    access_delegation: dict[str, Any] | None = None
    tag_value_ids: list[str] = attrs.field(factory=list)
    snapshot_id: str | None = None
    pending_layer: str | None = None

    def public(self, origin: str) -> dict[str, Any]:
        """The Sandbox object of protocol/02 section 1.3.

        :param origin: scheme and authority by which this client reaches the host.
        """
        vcpus = int(self.vcpus) if self.vcpus == int(self.vcpus) else self.vcpus
        view = self.document()
        for internal in ("generated_name", "env_vars", "layers", "system", "pending_layer"):
            view.pop(internal)
        if self.access_delegation is None:
            view.pop("access_delegation")
        return view | {
            "dataplane_url": f"{origin}/v2/sandboxes/{self.id}",
            "vcpus": vcpus,
            "cpu_millicores": int(self.vcpus * 1000),
            "preserve_memory_on_stop": False,
            "size_class": None,
            "created_by": None,
            "updated_by": None,
        }

    @property
    def public_status(self) -> dict[str, Any]:
        """The answer of the status endpoint."""
        return {"status": self.status, "status_message": self.status_message}


def check_name(name: object) -> str:
    """A sandbox name that a user chose (protocol/13 number 9).

    :raises HostError: it is not one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _UUID.fullmatch(name):
        raise HostError.invalid(
            "name",
            "a name has 1 to 63 lower-case letters, digits, '-', '_' and '.', begins with a "
            f"letter or digit and is no UUID; {name!r:.80} is not one",
        )
    return name


def new_box(
    body: Mapping[str, Any],
    snapshot: SnapshotRecord,
    *,
    id: str,
    name: str,
    generated: bool,
    at: str,
) -> Box:
    """The record that a create request asks for (protocol/02 sections 1.1 to 1.4).

    :param snapshot: what it boots from; its labels and run_config lie underneath.

    :raises HostError: a field is out of range, or asks for what this host cannot do.
    """
    _refuse_unsupported(body)
    persistent = _boolean(body, "persistent", True)
    vcpus, memory = _resources(body if persistent else _with_cpus_for_disk(body))
    return Box(
        id=id,
        name=name,
        generated_name=generated,
        created_at=at,
        updated_at=at,
        idle_ttl_seconds=_ttl(body, "idle_ttl_seconds", DEFAULT_IDLE_TTL),
        delete_after_stop_seconds=_ttl(
            body, "delete_after_stop_seconds", DEFAULT_DELETE_AFTER_STOP
        ),
        persistent=persistent,
        vcpus=vcpus,
        mem_bytes=memory,
        fs_capacity_bytes=_disk(body, snapshot.fs_capacity_bytes),
        labels=snapshot.labels | _text_map(body, "labels"),
        run_config=lay_run_config(snapshot.run_config, check_run_config(body.get("run_config"))),
        env_vars=_text_map(body, "env_vars"),
        access_delegation=_delegation(body),
        tag_value_ids=_texts(body, "tag_value_ids"),
        snapshot_id=snapshot.id,
        layers=list(snapshot.layers),
        system=snapshot.system,
    )


def change_box(box: Box, body: Mapping[str, Any], *, at: str) -> None:
    """Change a record as a PATCH asks (protocol/02 section 4): all of it, or nothing.

    :raises HostError: a field is out of range, or asks for what this host cannot do.
    """
    _refuse_unsupported(body)
    changed = attrs.evolve(box)
    if body.get("name"):
        changed.name = body["name"]
    changed.idle_ttl_seconds = _ttl(body, "idle_ttl_seconds", box.idle_ttl_seconds)
    changed.delete_after_stop_seconds = _ttl(
        body, "delete_after_stop_seconds", box.delete_after_stop_seconds
    )
    changed.run_config = lay_run_config(box.run_config, check_run_config(body.get("run_config")))
    changed.vcpus = _cpus(body) or box.vcpus
    changed.mem_bytes = _memory(body) or box.mem_bytes
    if body.get("fs_capacity_bytes") is not None:
        changed.fs_capacity_bytes = _disk(body, box.fs_capacity_bytes)
    if body.get("tag_value_ids") is not None:
        changed.tag_value_ids = _texts(body, "tag_value_ids")
    changed.updated_at = at
    for field in attrs.fields(Box):
        setattr(box, field.name, getattr(changed, field.name))


def lay_run_config(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """One run_config over another: variables merge, the rest replaces."""
    merged = {**lower, **upper}
    if env_vars := {**lower.get("env_vars", {}), **upper.get("env_vars", {})}:
        merged["env_vars"] = env_vars
    return merged


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for field in ("mount_config", "proxy_config", "volumes"):
        value = body.get(field)
        asks = any(value.values()) if isinstance(value, dict) else value
        if asks:  # empty rules are no rules; others must not be taken for enforced
            raise HostError.invalid(field, f"this host does not support {field}")
    for field in ("preserve_memory_on_stop", "restore_memory"):
        if body.get(field):
            raise HostError.invalid(field, "this host cannot keep the memory of a sandbox")


def check_run_config(value: object) -> dict[str, Any]:
    """A run_config (protocol/02 section 10).

    :raises HostError: it is not one.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HostError.invalid("run_config", "run_config must be an object")
    checked: dict[str, Any] = {}
    for field in ("user", "work_dir"):
        text = value.get(field)
        if text is None:
            continue
        if not isinstance(text, str) or "\0" in text:
            raise HostError.invalid("run_config", f"run_config.{field} must be a string")
        checked[field] = text
    if not checked.get("work_dir", "/").startswith("/"):
        raise HostError.invalid("run_config", "run_config.work_dir must be an absolute path")
    if env_vars := _text_map(value, "env_vars"):
        checked["env_vars"] = env_vars
    return checked


def _resources(body: Mapping[str, Any]) -> tuple[float, int]:
    """CPU and memory, each derived from the other where one is missing (protocol/02 §1.4)."""
    cpus, memory = _cpus(body), _memory(body)
    if memory is None:
        cpus = cpus or 1
        return cpus, int(cpus * MEMORY_PER_CPU)
    if cpus is None:
        return memory / MEMORY_PER_CPU, memory
    usual = cpus * MEMORY_PER_CPU
    if abs(memory - usual) > usual * _MEMORY_TOLERANCE:
        raise HostError.invalid("mem_bytes", "mem_bytes must be 2 to 6 GiB for each vCPU")
    return cpus, memory


def _cpus(body: Mapping[str, Any]) -> float | None:
    if body.get("cpu_millicores") is not None:
        cpus = _count(body, "cpu_millicores", 0) / 1000
        if cpus > MAX_CPUS:
            raise HostError.invalid("cpu_millicores", f"at most {MAX_CPUS} vCPUs can be had")
        return cpus
    value = body.get("vcpus")
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_CPUS:
        limit = f"above 0 and at most {MAX_CPUS}"
        raise HostError.invalid("vcpus", f"vcpus must be {limit}, not {value!r}")
    return float(value)


def _memory(body: Mapping[str, Any]) -> int | None:
    if body.get("mem_bytes") is None:
        return None
    memory = _count(body, "mem_bytes", 0)
    if memory > MAX_MEMORY:
        raise HostError.invalid("mem_bytes", "mem_bytes can be at most 64 GiB")
    return memory


def _disk(body: Mapping[str, Any], least: int) -> int:
    disk = _count(body, "fs_capacity_bytes", least)
    if disk < least:
        message = f"fs_capacity_bytes cannot be below what it was made with, {least}"
        raise HostError.invalid("fs_capacity_bytes", message)
    return disk


def _texts(body: Mapping[str, Any], field: str) -> list[str]:
    value = body.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise HostError.invalid(field, f"{field} must be a list of strings")
    return value


def _with_cpus_for_disk(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``persistent=false`` allows: 16 GiB of disk for each vCPU (protocol/02 §1.4)."""
    if body.get("fs_capacity_bytes") is None:
        return body
    disk = _count(body, "fs_capacity_bytes", 0)
    if disk > MAX_FLEETING_DISK:
        raise HostError.invalid(
            "fs_capacity_bytes", "a sandbox that is not persistent has at most 256 GiB of disk"
        )
    if all(body.get(field) is None for field in ("vcpus", "cpu_millicores", "mem_bytes")):
        return {**body, "vcpus": max(1, -(-disk // FLEETING_DISK_PER_CPU))}
    cpus, _ = _resources(body)
    if disk > cpus * FLEETING_DISK_PER_CPU:
        raise HostError.invalid(
            "fs_capacity_bytes", "without persistent, a vCPU allows at most 16 GiB of disk"
        )
    return body


def _delegation(body: Mapping[str, Any]) -> dict[str, Any] | None:
    value = body.get("access_delegation")
    if value is None:
        return None
    mode = value.get("mode") if isinstance(value, dict) else None
    permissions = value.get("permissions") if isinstance(value, dict) else None
    named = isinstance(permissions, list) and all(isinstance(each, str) for each in permissions)
    if (mode == "EXPLICIT" and named and permissions) or (mode == "INHERIT" and not permissions):
        return dict(value)
    raise HostError.invalid(
        "access_delegation", "it must be EXPLICIT with a non-empty list of permissions, or INHERIT"
    )


def _ttl(body: Mapping[str, Any], field: str, default: int) -> int:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or value % 60:
        raise HostError.invalid(field, f"{field} must be 0 or a multiple of 60, not {value!r:.40}")
    return value


def _count(body: Mapping[str, Any], field: str, default: int) -> int:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise HostError.invalid(field, f"{field} must be a positive integer, not {value!r:.40}")
    return value


def _boolean(body: Mapping[str, Any], field: str, default: bool) -> bool:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise HostError.invalid(field, f"{field} must be true or false, not {value!r:.40}")
    return value


def _text_map(body: Mapping[str, Any], field: str) -> dict[str, str]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise HostError.invalid(field, f"{field} must be an object with string values")
    if any("\0" in key + text or "=" in key for key, text in value.items()):
        raise HostError.invalid(field, f"{field} holds a name or value that no environment can")
    return value
