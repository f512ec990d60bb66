"""Places that only `skopeo` can read, a Docker daemon's above all: it makes a layout of them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio

from .errors import ImageError
from .manifests import Platform
from .references import SkopeoReference

_TAG: Final = "image"


@contextlib.asynccontextmanager
async def copied_layout(
    reference: SkopeoReference, platform: Platform
) -> AsyncIterator[tuple[Path, str]]:
    """A layout with the image, and the image's tag in it, for the length of the block.

    :raises ImageError: `skopeo` is not installed, or cannot do it.
    """
    program = shutil.which("skopeo")
    if program is None:
        raise ImageError(
            f"{reference.text!r} can only be read with skopeo, which is not installed: "
            "install it, or push the image to a registry"
        )
    with tempfile.TemporaryDirectory(prefix="sandbox-image-") as directory:
        layout = Path(directory) / "layout"
        await _run(
            [
                program,
                *("--override-os", platform.os, "--override-arch", platform.architecture),
                "copy",
                "--quiet",
                *("--", reference.text, f"oci:{layout}:{_TAG}"),
            ],
            reference.text,
        )
        yield layout, _TAG


async def _run(command: list[str], what: str) -> None:
    try:
        done = await anyio.run_process(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise ImageError(f"skopeo cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or b"").decode(errors="replace").split())
        raise ImageError(f"skopeo cannot read {what!r}: {said[-400:]}")
