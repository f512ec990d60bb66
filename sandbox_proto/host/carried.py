"""Settings of a sandbox that a capture carries into its snapshot (protocol/02 section 9).

They are kept as fields of a create request, and lie under those of later ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .boxes import Box
from .messages import HostError

GROUPS = ("mounts", "proxy_config", "env_vars", "resources", "lifecycle", "labels")
_RESERVED_LABELS = "com.langchain."
_SIZES = ("vcpus", "cpu_millicores", "mem_bytes")


def included_groups(body: Mapping[str, Any]) -> list[str]:
    """Which groups of settings a capture request asks to carry along.

    :raises HostError: it names one that there is not.
    """
    wanted = body.get("include") or []
    if not isinstance(wanted, list) or not {"all", *GROUPS}.issuperset(map(str, wanted)):
        raise HostError.invalid("include", f"include must be a list of all, {', '.join(GROUPS)}")
    return [group for group in GROUPS if group in wanted or "all" in wanted]


def carried_settings(box: Box, body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a sandbox that a capture request asks to carry along.

    Mounts and proxy rules are none that a sandbox of this host could have.

    :raises HostError: there are values among them that need to be confirmed.
    """
    groups = included_groups(body)
    settings: dict[str, Any] = {}
    if "env_vars" in groups and box.env_vars:
        if body.get("confirm_allow_snapshot_secret_values") is not True:
            message = "values of env_vars would be kept in the snapshot; confirm that they may"
            raise HostError.invalid("confirm_allow_snapshot_secret_values", message)
        settings["env_vars"] = dict(box.env_vars)
    if "resources" in groups:
        settings["cpu_millicores"] = round(box.vcpus * 1000)
        settings["mem_bytes"] = box.mem_bytes
    if "lifecycle" in groups:
        settings["idle_ttl_seconds"] = box.idle_ttl_seconds
        settings["delete_after_stop_seconds"] = box.delete_after_stop_seconds
    if "labels" in groups:
        settings["labels"] = {
            name: text for name, text in box.labels.items() if not name.startswith(_RESERVED_LABELS)
        }
    return settings


def over_carried(settings: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """A create request with a snapshot's settings where it says nothing of its own."""
    own = {field: value for field, value in body.items() if value is not None}
    if any(field in own for field in _SIZES):
        # CPU and memory depend on each other: half of one pair would not fit the other.
        settings = {field: value for field, value in settings.items() if field not in _SIZES}
    return {**settings, **own}
