"""A snapshot from a Dockerfile: build in a sandbox, capture, delete the sandbox."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_proto.errors import ResourceCreationError
from sandbox_proto.wire.image_build import ImageBuild
from sandbox_proto.wire.models import Snapshot

if TYPE_CHECKING:
    from .client import AsyncSandboxClient


async def build_from_dockerfile(
    client: AsyncSandboxClient,
    name: str,
    dockerfile: str | os.PathLike[str],
    fs_capacity_bytes: int | None,
    *,
    context: str | os.PathLike[str],
    build_args: Mapping[str, str] | None,
    target: str | None,
    on_build_log: Callable[[str], Any] | None,
    vcpus: int | None,
    mem_bytes: int | None,
    timeout: int,
    headers: Mapping[str, str] | None,
) -> Snapshot:
    """See `AsyncSandboxClient.create_snapshot_from_dockerfile`."""
    archive, relative = pack_context(Path(context), Path(dockerfile))
    build = ImageBuild.new(client.network.entropy)
    opening = client.sandbox(
        name=build.sandbox_name,
        timeout=timeout,
        vcpus=vcpus,
        mem_bytes=mem_bytes,
        fs_capacity_bytes=fs_capacity_bytes,
        headers=headers,
    )
    async with opening as sandbox:
        await sandbox.write(build.archive, archive, timeout=timeout, headers=headers)
        commands = [
            build.unpack_command,
            build.build_command(relative, build_args or {}, target),
        ]
        for command in commands:
            result = await sandbox.run(
                command,
                timeout=timeout,
                on_stdout=on_build_log,
                on_stderr=on_build_log,
                headers=headers,
            )
            if not result.success:
                reason = (result.stderr or result.stdout).strip()[-2000:]
                raise ResourceCreationError(
                    f"the build ended with exit code {result.exit_code}: {reason}", "snapshot"
                )
        return await client.capture_snapshot(
            sandbox.name,
            name,
            docker_image=build.image,
            fs_capacity_bytes=fs_capacity_bytes,
            timeout=timeout,
            headers=headers,
        )


def pack_context(context: Path, dockerfile: Path) -> tuple[bytes, str]:
    """The context as a tar, and the Dockerfile's path in it.

    :raises ValueError: the context or the Dockerfile is not there, or not inside.
    """
    if not context.is_dir():
        raise ValueError(f"the build context {str(context)!r} is not a directory")
    if not dockerfile.is_file():
        raise ValueError(f"there is no Dockerfile at {str(dockerfile)!r}")
    root = context.resolve()
    try:
        relative = dockerfile.resolve().relative_to(root)
    except ValueError:
        message = f"the Dockerfile {str(dockerfile)!r} is not inside {str(context)!r}"
        raise ValueError(message) from None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in sorted(root.iterdir()):
            if entry.name != ".git":
                archive.add(entry, arcname=entry.name)
    return buffer.getvalue(), relative.as_posix()
