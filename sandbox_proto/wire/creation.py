"""The body of ``POST /boxes``: checked before anything is sent (protocol/02 section 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .models import RunConfig

_DELEGATION_MODE = "EXPLICIT"


def check_ttl(name: str, seconds: object) -> None:
    """A lifetime: None, 0 (never) or a positive multiple of 60 seconds.

    :raises ValueError: it is none of these; the message says what would be.
    """
    if seconds is None:
        return
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise ValueError(f"{name} must be a whole number of seconds, not {seconds!r}")
    if seconds < 0 or seconds % 60:
        raise ValueError(f"{name} must be 0 (never) or a multiple of 60 seconds, not {seconds}")


def check_delegation(delegation: object) -> dict[str, Any] | None:
    """An access delegation reduced to its two keys (protocol/02 section 11).

    :raises ValueError: it is not of the form the API takes.
    """
    if delegation is None:
        return None
    if not isinstance(delegation, Mapping):
        raise ValueError(f"access_delegation must be a mapping, not {delegation!r}")
    if delegation.get("mode") != _DELEGATION_MODE:
        raise ValueError(f"access_delegation's mode must be {_DELEGATION_MODE!r}")
    permissions = delegation.get("permissions")
    if not isinstance(permissions, Sequence) or isinstance(permissions, str) or not permissions:
        raise ValueError("access_delegation's permissions must be a non-empty list of strings")
    return {"mode": _DELEGATION_MODE, "permissions": list(permissions)}


def run_config_payload(run_config: RunConfig | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A run_config as the API wants it; mappings pass through as they are."""
    if isinstance(run_config, RunConfig):
        return run_config.to_payload()
    return None if run_config is None else dict(run_config)


@attrs.frozen(kw_only=True)
class CreationSpec:
    """The settings of a sandbox to be made; field names and meanings are the API's."""

    snapshot_id: str | None = None
    snapshot: str | None = None
    snapshot_name: str | None = None
    name: str | None = None
    idle_ttl_seconds: int | None = None
    delete_after_stop_seconds: int | None = None
    persistent: bool | None = None
    preserve_memory_on_stop: bool | None = None
    restore_memory: bool | None = None
    vcpus: int | None = None
    mem_bytes: int | None = None
    fs_capacity_bytes: int | None = None
    labels: Mapping[str, str] | None = None
    tag_value_ids: Sequence[str] | None = None
    mount_config: Mapping[str, Any] | None = None
    proxy_config: Mapping[str, Any] | None = None
    run_config: RunConfig | Mapping[str, Any] | None = None
    access_delegation: Mapping[str, Any] | None = None
    cpu_millicores: int | None = None
    env_vars: Mapping[str, str] | None = None
    volumes: Sequence[Mapping[str, Any]] | None = None

    def payload(self, name: str) -> dict[str, Any]:
        """The JSON fields, without the two that say how long to wait.

        :param name: the sandbox's name, chosen by the user or for them.
        :raises ValueError: settings contradict each other or are out of range.
        """
        self._check()
        fields: dict[str, Any] = {}
        if self.snapshot_id:
            fields["snapshot_id"] = self.snapshot_id
        if self.snapshot:
            fields["snapshot"] = self.snapshot
        elif self.snapshot_name:
            fields["snapshot_name"] = self.snapshot_name
        fields["name"] = name
        for field in (
            "idle_ttl_seconds",
            "delete_after_stop_seconds",
            "persistent",
            "preserve_memory_on_stop",
            "restore_memory",
            "vcpus",
            "mem_bytes",
            "fs_capacity_bytes",
            "labels",
            "tag_value_ids",
            "mount_config",
            "proxy_config",
            "cpu_millicores",
            "env_vars",
            "volumes",
        ):
            if (value := getattr(self, field)) is not None:
                fields[field] = _plain(value)
        if (run_config := run_config_payload(self.run_config)) is not None:
            fields["run_config"] = run_config
        if (delegation := check_delegation(self.access_delegation)) is not None:
            fields["access_delegation"] = delegation
        return fields

    def _check(self) -> None:
        if self.snapshot_id and (self.snapshot or self.snapshot_name):
            raise ValueError("give snapshot_id or a snapshot's name, not both")
        if self.snapshot and self.snapshot_name and self.snapshot != self.snapshot_name:
            raise ValueError(
                f"snapshot {self.snapshot!r} and snapshot_name {self.snapshot_name!r} differ: "
                "give one of them"
            )
        check_ttl("idle_ttl_seconds", self.idle_ttl_seconds)
        check_ttl("delete_after_stop_seconds", self.delete_after_stop_seconds)
        if self.mount_config is not None:
            from .mounts import check_provider_conflict  # few sandboxes have mounts

            check_provider_conflict(self.mount_config, self.proxy_config)


def _plain(value: object) -> object:
    """What JSON can say: whatever kind of mapping or sequence the caller used."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def changes_to_sandbox(
    *,
    new_name: str | None,
    idle_ttl_seconds: int | None,
    delete_after_stop_seconds: int | None,
    run_config: RunConfig | Mapping[str, Any] | None,
    **others: object,
) -> dict[str, Any]:
    """The body of ``PATCH /boxes/{name}``: only what is set.

    :raises ValueError: a lifetime is out of range.
    """
    check_ttl("idle_ttl_seconds", idle_ttl_seconds)
    check_ttl("delete_after_stop_seconds", delete_after_stop_seconds)
    fields = {
        "name": new_name,
        "idle_ttl_seconds": idle_ttl_seconds,
        "delete_after_stop_seconds": delete_after_stop_seconds,
        "run_config": run_config_payload(run_config),
        **others,
    }
    return {name: _plain(value) for name, value in fields.items() if value is not None}
