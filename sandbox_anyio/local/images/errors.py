"""What goes wrong with images."""

from __future__ import annotations


class ImageError(Exception):
    """An image cannot be had. The message is a sentence for the one who asked for it."""
