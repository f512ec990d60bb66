"""From a raw path to a route (protocol/01 sections 3 and 9).

The path is split before it is decoded, so an encoded slash stays part of its name.
The same routes stand under both prefixes of the API, and at the root for tests.
"""

from __future__ import annotations

from urllib.parse import unquote

import attrs

from .messages import HostError

PREFIXES = ("/api/v2/sandboxes", "/v2/sandboxes", "")

# (method, path, name); `{}` takes one segment, decoded. The name is that of the host's method.
_CONTROL_ROUTES = (
    ("POST", "boxes", "create_box"),
    ("GET", "boxes", "list_boxes"),
    ("POST", "boxes/batch-delete", "delete_boxes"),
    ("GET", "boxes/{}", "get_box"),
    ("PATCH", "boxes/{}", "update_box"),
    ("DELETE", "boxes/{}", "delete_box"),
    ("GET", "boxes/{}/status", "get_status"),
    ("POST", "boxes/{}/start", "start_box"),
    ("POST", "boxes/{}/stop", "stop_box"),
    ("POST", "boxes/{}/snapshot", "capture_box"),
    ("POST", "boxes/{}/service-url", "mint_service"),
    ("GET", "boxes/{}/service-urls", "list_services"),
    ("DELETE", "boxes/{}/service-urls", "delete_services"),
    ("POST", "boxes/{}/download-url", "mint_download"),
    ("POST", "snapshots", "create_snapshot"),
    ("GET", "snapshots", "list_snapshots"),
    ("GET", "snapshots/{}", "get_snapshot"),
    ("DELETE", "snapshots/{}", "delete_snapshot"),
    ("GET", "snapshots-by-name/{}", "list_tags"),
    ("POST", "registries", "create_registry"),
    ("GET", "registries", "list_registries"),
    ("GET", "registries/{}", "get_registry"),
    ("PATCH", "registries/{}", "update_registry"),
    ("DELETE", "registries/{}", "delete_registry"),
    ("GET", "usage", "usage"),
    ("GET", "usage/costs", "usage_costs"),
)
# The data plane of a sandbox stands beside the control plane: /v2/sandboxes/{id}/...
_DATA_ROUTES = (
    ("GET", "{}/execute/ws", "exec_socket"),
    ("GET", "{}/tunnel", "tunnel"),
    ("POST", "{}/execute/stream/start", "start_stream"),
    ("POST", "{}/execute/stream/resume", "resume_stream"),
    ("POST", "{}/execute", "execute"),
    ("POST", "{}/upload", "upload"),
    ("GET", "{}/download", "download"),
    ("HEAD", "{}/download", "download"),
    ("POST", "{}/glob", "glob"),
    ("POST", "{}/grep", "grep"),
)
_PATTERNS = [
    (method, tuple(path.split("/")), name)
    for method, path, name in (*_CONTROL_ROUTES, *_DATA_ROUTES)
]
CONTROL_PLANE = frozenset(name for _, _, name in _CONTROL_ROUTES)
DATA_PLANE = frozenset(name for _, _, name in _DATA_ROUTES)


@attrs.frozen
class Match:
    """A route and the names found in its path."""

    name: str
    names: tuple[str, ...]


def find_route(method: str, path: str) -> Match:
    """The route of a request.

    :raises HostError: there is none (404), or not for this method (405).
    """
    for prefix in PREFIXES:
        if not path.startswith(prefix + "/"):
            continue
        segments = path[len(prefix) + 1 :].split("/")
        found = [
            (route_method, Match(name, names))
            for route_method, pattern, name in _PATTERNS
            if (names := _names(pattern, segments)) is not None
        ]
        for route_method, match in found:
            if route_method == method:
                return match
        if found:
            raise HostError(405, "MethodNotAllowed", f"{method} is not possible here")
        break  # a prefix that fits is the prefix; the root is only for what has none
    raise HostError(404, "NotFound", f"there is nothing at {path}")


def _names(pattern: tuple[str, ...], segments: list[str]) -> tuple[str, ...] | None:
    if len(pattern) != len(segments):
        return None
    names = []
    for wanted, segment in zip(pattern, segments, strict=True):
        if wanted == "{}":
            names.append(unquote(segment))
        elif wanted != segment:
            return None
    return tuple(names)
