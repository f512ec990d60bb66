"""Container images as the layers of sandboxes: from registries, files and directories."""

from __future__ import annotations

from .challenges import Credentials
from .errors import ImageError
from .fetch import FetchSettings, Image, fetch_image
from .manifests import ImageConfig, Platform
from .registry import Patience
from .store import ImageStore, StoredLayer

__all__ = [
    "Credentials",
    "FetchSettings",
    "Image",
    "ImageConfig",
    "ImageError",
    "ImageStore",
    "Patience",
    "Platform",
    "StoredLayer",
    "fetch_image",
]
