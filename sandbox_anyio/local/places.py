"""Where a host keeps what: sandboxes, layers, and the secret its tokens are signed with."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import attrs

_SECRET_BYTES = 32


@attrs.frozen
class Places:
    """Directories below one state directory.

    :ivar state: the state directory itself.
    """

    state: Path

    @property
    def sandboxes(self) -> Path:
        """One directory per sandbox."""
        return self.state / "sandboxes"

    @property
    def layers(self) -> Path:
        """One directory per layer that was captured or merged."""
        return self.state / "layers"

    @property
    def images(self) -> Path:
        """Layers of images."""
        return self.state / "images"

    def sandbox(self, box_id: str) -> Path:
        """Everything of one sandbox."""
        return self.sandboxes / box_id

    def upper(self, box_id: str) -> Path:
        """What is written in a sandbox."""
        return self.sandbox(box_id) / "upper"

    def work(self, box_id: str) -> Path:
        """The file system's own scratch directory beside it."""
        return self.sandbox(box_id) / "work"

    def secret(self) -> bytes:
        """The secret that tokens are signed with; made when first asked for, and kept."""
        path = self.state / "token-secret"
        with contextlib.suppress(FileNotFoundError):
            kept = path.read_bytes()
            if len(kept) == _SECRET_BYTES:  # who knew that it is empty could sign tokens
                return kept
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        return path.read_bytes()
