"""The registries resource, for code that blocks."""

from __future__ import annotations

from .generated.registries import RegistryMethods


class Registries(RegistryMethods):
    """Image registries. Passwords go in and never come out."""
