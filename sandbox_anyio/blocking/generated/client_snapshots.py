"""What is in ``sandbox_anyio/client_snapshots.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import BlockingClient
from ..callers import callback_in_caller

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from sandbox_proto.wire.models import RunConfig, Snapshot, SnapshotTag


class SnapshotMethods(BlockingClient):
    """See `SandboxClient`."""

    def create_snapshot(
        self,
        name: str,
        docker_image: str,
        fs_capacity_bytes: int,
        *,
        tag: str | None = None,
        registry_id: str | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Build a snapshot from an image, and wait until it is ready.

        :param name: lower-case components separated by ``/``, at most 255 characters.
        :param docker_image: the image's reference.
        :param fs_capacity_bytes: disk of sandboxes made from it, in bytes.
        :param tag: points at the snapshot once it is ready; default: the image's, or ``latest``.
        :param registry_id: the registry to pull with, for private images.
        :param run_config: over that of the image.
        :param timeout: how long it may take, in seconds.
        :param description: what the snapshot is good for, at most 1024 characters.
        :param labels: over those of the image.
        :raises ResourceCreationError: the build failed.
        :raises ResourceTimeoutError: it was not ready in time.
        """
        return self._call(
            lambda it: it.create_snapshot(
                name,
                docker_image,
                fs_capacity_bytes,
                tag=tag,
                registry_id=registry_id,
                run_config=run_config,
                timeout=timeout,
                headers=headers,
                description=description,
                labels=labels,
            )
        )

    def capture_snapshot(
        self,
        sandbox_name: str,
        name: str,
        *,
        tag: str | None = None,
        docker_image: str | None = None,
        fs_capacity_bytes: int | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
        checkpoint: str | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        include: Sequence[str] | None = None,
        include_memory: bool | None = None,
        image_config: Mapping[str, Any] | None = None,
        confirm_allow_snapshot_secret_values: bool | None = None,
    ) -> Snapshot:
        """Make a snapshot of a sandbox's files, and wait until it is ready.

        ``/tmp``, processes and memory are not part of it.

        :param sandbox_name: the sandbox, by name or id.
        :param name: the snapshot's name.
        :param tag: points at the snapshot once it is ready; default ``latest``.
        :param docker_image: export this image of the sandbox's Docker daemon instead.
        :param fs_capacity_bytes: disk of sandboxes made from it, in bytes.
        :param run_config: over that of the sandbox.
        :param timeout: how long it may take, in seconds.
        :param checkpoint: promote an existing checkpoint.
        :param description: what the snapshot is good for, at most 1024 characters.
        :param labels: seed labels of sandboxes made from it.
        :param include: settings carried along: ``all``, ``mounts``, ``proxy_config``,
            ``env_vars``, ``resources``, ``lifecycle``, ``labels``.
        :param include_memory: keep the memory too.
        :param image_config: ``entrypoint``, ``cmd``, ``exposed_ports``.
        :param confirm_allow_snapshot_secret_values: carry literal secrets along knowingly.
        :raises ResourceNotFoundError: there is no such sandbox.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        """
        return self._call(
            lambda it: it.capture_snapshot(
                sandbox_name,
                name,
                tag=tag,
                docker_image=docker_image,
                fs_capacity_bytes=fs_capacity_bytes,
                run_config=run_config,
                timeout=timeout,
                headers=headers,
                checkpoint=checkpoint,
                description=description,
                labels=labels,
                include=include,
                include_memory=include_memory,
                image_config=image_config,
                confirm_allow_snapshot_secret_values=confirm_allow_snapshot_secret_values,
            )
        )

    def create_snapshot_from_dockerfile(
        self,
        name: str,
        dockerfile: str | os.PathLike[str],
        fs_capacity_bytes: int | None = None,
        *,
        context: str | os.PathLike[str] = ".",
        build_args: Mapping[str, str] | None = None,
        target: str | None = None,
        on_build_log: Callable[[str], Any] | None = None,
        vcpus: int | None = None,
        mem_bytes: int | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Build an image inside a sandbox, and make a snapshot of it.

        The sandbox comes from the default snapshot, which must have ``buildkitd``, ``buildctl``
        and a Docker daemon; it is deleted afterwards.

        :param name: the snapshot's name.
        :param dockerfile: its path; it must lie inside `context`.
        :param fs_capacity_bytes: disk of the build, and of sandboxes made from it, in bytes.
        :param context: the directory that the build sees; its ``.git`` is left out.
        :param build_args: values for ``ARG``.
        :param target: the stage to build; default: the last.
        :param on_build_log: called with each piece of the build's log.
        :param vcpus: number of virtual CPUs of the build.
        :param mem_bytes: memory of the build in bytes.
        :param timeout: how long each step may take, in seconds.
        :raises ValueError: the context or Dockerfile is not there, or not inside.
        :raises ResourceCreationError: the build failed.
        """
        return self._call(
            lambda it: it.create_snapshot_from_dockerfile(
                name,
                dockerfile,
                fs_capacity_bytes,
                context=context,
                build_args=build_args,
                target=target,
                on_build_log=callback_in_caller(on_build_log),
                vcpus=vcpus,
                mem_bytes=mem_bytes,
                timeout=timeout,
                headers=headers,
            )
        )

    def get_snapshot(
        self, snapshot_id: str, *, headers: Mapping[str, str] | None = None
    ) -> Snapshot:
        """A snapshot by id, ``name:tag`` or name.

        :raises ResourceNotFoundError: there is none.
        """
        return self._call(lambda it: it.get_snapshot(snapshot_id, headers=headers))

    def list_snapshots(
        self,
        *,
        name_contains: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Snapshot]:
        """One page of snapshots; `iter_snapshots` gives all.

        :param name_contains: part of the name, in any case.
        :param limit: 1 to 500; default 50.
        :param offset: how many to skip.
        :raises SandboxAPIError: the endpoint is no Sandbox API (404), or it failed.
        """
        return self._call(
            lambda it: it.list_snapshots(
                name_contains=name_contains, limit=limit, offset=offset, headers=headers
            )
        )

    def iter_snapshots(
        self,
        *,
        name_contains: str | None = None,
        status: str | None = None,
        created_by: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        page_size: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Snapshot]:
        """All snapshots, page by page, with the server's filters.

        :param name_contains: part of the name, in any case.
        :param status: ``building``, ``ready``, ``failed`` or ``deleting``.
        :param created_by: ``me``.
        :param labels: all must match; a value of None asks for the label's mere presence.
        :param sort_by: ``name``, ``status`` or ``created_at`` (default).
        :param sort_order: ``asc`` or ``desc`` (default).
        :param page_size: how many to ask for at a time.
        """
        return self._iterate(
            lambda it: it.iter_snapshots(
                name_contains=name_contains,
                status=status,
                created_by=created_by,
                labels=labels,
                sort_by=sort_by,
                sort_order=sort_order,
                page_size=page_size,
                headers=headers,
            )
        )

    def list_snapshot_tags(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> list[SnapshotTag]:
        """The tags of a snapshot's name, and where they point.

        :raises ResourceNotFoundError: nobody published under this name.
        """
        return self._call(lambda it: it.list_snapshot_tags(name, headers=headers))

    def delete_snapshot(
        self, snapshot_id: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Delete a snapshot. Sandboxes made from it go on.

        :raises ResourceNotFoundError: there is none.
        """
        self._call(lambda it: it.delete_snapshot(snapshot_id, headers=headers))

    def wait_for_snapshot(
        self,
        snapshot_id: str,
        *,
        timeout: int = 300,
        poll_interval: float = 2.0,
        headers: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Wait until a snapshot is ready.

        :param timeout: in seconds; 0 asks once.
        :param poll_interval: seconds between two requests.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        :raises ResourceNotFoundError: there is none.
        """
        return self._call(
            lambda it: it.wait_for_snapshot(
                snapshot_id, timeout=timeout, poll_interval=poll_interval, headers=headers
            )
        )
