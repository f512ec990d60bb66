"""Image registries on the control plane of a host (protocol/02 section 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .effects import HostFlow, Record, Save
from .lifecycle import Lifecycle
from .listing import Query, Sorting, list_page
from .messages import HostError, HostRequest, HostResponse

_FIELDS = ("name", "url", "username", "password", "auth_type", "aws_role_arn")
_AUTH_TYPES = ("DOCKER_CONFIG", "AWS_ROLE")
_SECRET = ("username", "password")

_SORTING: Sorting[dict[str, Any]] = Sorting(
    {"created_at": lambda registry: registry["created_at"]},
    "created_at",
    lambda registry: registry["id"],
)


class RegistryRoutes(Lifecycle):
    """See the module's text. Each public method is the flow of one route."""

    def create_registry(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        body = request.json()
        fields = _checked(body)
        for required in ("name", "url"):
            if not fields.get(required):
                raise HostError.invalid(required, f"{required} is required")
        self._refuse_taken(fields["name"])
        at = self.stamp(now)
        name = fields["name"]
        registry: dict[str, Any] = {
            "id": self.new_id(),
            **dict.fromkeys(_FIELDS),
            "auth_type": "DOCKER_CONFIG",
            **fields,
            "provider": _provider(fields["url"]),
            "repository_search_mode": "NONE",
            "created_at": at,
            "created_by": None,
            "updated_at": at,
            "updated_by": None,
        }
        self.registries[name] = registry
        yield Save((Record("registry", name, registry),))
        return HostResponse(201, _public(registry))

    def list_registries(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        yield from ()
        query = Query.parse(request.query)
        part = (query.get("name_contains") or "").lower()
        found = [registry for name, registry in self.registries.items() if part in name.lower()]
        page = list_page(found, query, _SORTING)
        return HostResponse(200, page.payload("registries", _public))

    def get_registry(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        yield from ()
        return HostResponse(200, _public(self._find(name)))

    def update_registry(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        registry = self._find(name)
        fields = _checked(request.json())
        new_name = fields.get("name") or name
        if new_name != name:
            self._refuse_taken(new_name)
        changed = {**registry, **fields, "updated_at": self.stamp(now)}
        changed["provider"] = _provider(changed["url"])
        del self.registries[name]
        self.registries[new_name] = changed
        forget = (Record("registry", name, None),) if new_name != name else ()
        yield Save((*forget, Record("registry", new_name, changed)))
        return HostResponse(200, _public(changed))

    def delete_registry(
        self, request: HostRequest, name: str, *, now: float
    ) -> HostFlow[HostResponse]:
        self._find(name)
        del self.registries[name]
        yield Save((Record("registry", name, None),))
        return HostResponse(204)

    def _find(self, name: str) -> dict[str, Any]:
        if (registry := self.registries.get(name)) is None:
            raise HostError(404, "NotFound", f"there is no registry {name!r:.80}")
        return registry

    def _refuse_taken(self, name: str) -> None:
        if name in self.registries:
            raise HostError(
                409,
                "Conflict",
                f"there is a registry {name!r:.80} already",
                headers={"x-should-retry": "false"},  # else the generated clients ask again
            )


def _checked(body: Mapping[str, Any]) -> dict[str, str]:
    fields = {}
    for field in _FIELDS:
        value = body.get(field)
        if value is None:
            continue
        if not isinstance(value, str):
            raise HostError.invalid(field, f"{field} must be a string")
        fields[field] = value
    if fields.get("auth_type", _AUTH_TYPES[0]) not in _AUTH_TYPES:
        raise HostError.invalid("auth_type", f"auth_type must be one of {', '.join(_AUTH_TYPES)}")
    return fields


def _public(registry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in registry.items() if name not in _SECRET}


def _provider(url: str) -> str:
    providers = {
        "docker.io": "DOCKER_HUB",
        "ghcr.io": "GHCR",
        ".amazonaws.com": "ECR",
        "-docker.pkg.dev": "GAR",
    }
    return next((name for part, name in providers.items() if part in url), "DOCKER_REGISTRY")
