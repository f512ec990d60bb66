"""Sandboxes on the client: make, find, change, start, stop, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from sandbox_proto.flows import sandboxes
from sandbox_proto.flows.creation import Creation
from sandbox_proto.flows.paging import Pages, filters, label_filters
from sandbox_proto.wire.creation import CreationSpec, changes_to_sandbox
from sandbox_proto.wire.models import ResourceStatus, RunConfig, SandboxRecord

from .base import ClientBase
from .log import client_log
from .runner import FlowRun

if TYPE_CHECKING:
    from .client import AsyncSandboxClient
    from .sandbox import AsyncSandbox, SandboxOpening

# How long a cancelled creation may take to make sure that no sandbox stays behind, in seconds.
UNDO_PATIENCE = 10.0


class SandboxMethods(ClientBase):
    """See `AsyncSandboxClient`."""

    def sandbox(
        self,
        snapshot_id: str | None = None,
        *,
        snapshot: str | None = None,
        snapshot_name: str | None = None,
        name: str | None = None,
        timeout: int = 30,
        idle_ttl_seconds: int | None = None,
        delete_after_stop_seconds: int | None = None,
        persistent: bool | None = None,
        vcpus: int | None = None,
        mem_bytes: int | None = None,
        fs_capacity_bytes: int | None = None,
        mount_config: Mapping[str, Any] | None = None,
        proxy_config: Mapping[str, Any] | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SandboxOpening:
        """A new sandbox that is deleted at the end of its block.

        ``async with client.sandbox() as sb`` and ``async with await client.sandbox() as sb``
        are the same. Parameters and errors are those of `create_sandbox`.
        """

        from .sandbox import SandboxOpening

        async def create() -> AsyncSandbox:
            sandbox = await self.create_sandbox(
                snapshot_id,
                snapshot=snapshot,
                snapshot_name=snapshot_name,
                name=name,
                timeout=timeout,
                idle_ttl_seconds=idle_ttl_seconds,
                delete_after_stop_seconds=delete_after_stop_seconds,
                persistent=persistent,
                vcpus=vcpus,
                mem_bytes=mem_bytes,
                fs_capacity_bytes=fs_capacity_bytes,
                mount_config=mount_config,
                proxy_config=proxy_config,
                run_config=run_config,
                headers=headers,
            )
            sandbox._auto_delete = True
            return sandbox

        return SandboxOpening(create)

    async def create_sandbox(
        self,
        snapshot_id: str | None = None,
        *,
        snapshot: str | None = None,
        snapshot_name: str | None = None,
        name: str | None = None,
        timeout: int = 30,
        wait_for_ready: bool = True,
        idle_ttl_seconds: int | None = None,
        delete_after_stop_seconds: int | None = None,
        persistent: bool | None = None,
        preserve_memory_on_stop: bool | None = None,
        restore_memory: bool | None = None,
        vcpus: int | None = None,
        mem_bytes: int | None = None,
        fs_capacity_bytes: int | None = None,
        labels: dict[str, str] | None = None,
        tag_value_ids: Sequence[str] | None = None,
        mount_config: Mapping[str, Any] | None = None,
        proxy_config: Mapping[str, Any] | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        access_delegation: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        cpu_millicores: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        volumes: Sequence[Mapping[str, Any]] | None = None,
    ) -> AsyncSandbox:
        """Make a sandbox that stays until it is deleted.

        A lost answer is reconciled by name, so that one call never makes two sandboxes;
        cancelling the call leaves none.

        :param snapshot_id: id of the snapshot to boot from. At most one of the three.
        :param snapshot: ``name``, ``name:tag`` or id of the snapshot.
        :param snapshot_name: an older word for `snapshot`.
        :param name: unique in the workspace; default: one is invented.
        :param timeout: how long the sandbox may take to become ready, in seconds.
        :param wait_for_ready: wait for it; else it comes back as ``provisioning``.
        :param idle_ttl_seconds: seconds without activity until it stops; 0 or a multiple of 60.
        :param delete_after_stop_seconds: seconds from stop to deletion; 0 or a multiple of 60.
        :param persistent: keep the file system over a stop.
        :param preserve_memory_on_stop: keep the memory too.
        :param restore_memory: whether to start from the snapshot's memory.
        :param vcpus: number of virtual CPUs.
        :param mem_bytes: memory in bytes.
        :param fs_capacity_bytes: disk in bytes.
        :param labels: stored with the sandbox.
        :param tag_value_ids: the workspace's resource tags.
        :param mount_config: what is mounted.
        :param proxy_config: rules of the egress proxy.
        :param run_config: default user, directory and environment of commands.
        :param access_delegation: what code inside may do in the creator's name.
        :param headers: headers for these requests only.
        :param cpu_millicores: thousandths of a CPU; wins over `vcpus`.
        :param env_vars: environment of every command, above that of `run_config`.
        :param volumes: at most 4 of ``{"volume", "mount_path", "read_only"}``.
        :raises ValueError: arguments contradict each other or are out of range.
        :raises ResourceTimeoutError: it was not ready in time.
        :raises ResourceCreationError: it could not be made.
        :raises ValidationError: the server rejected the arguments.
        :raises QuotaExceededError: a quota is used up.
        """
        creation = Creation(
            self.flow_context(),
            CreationSpec(
                snapshot_id=snapshot_id,
                snapshot=snapshot,
                snapshot_name=snapshot_name,
                name=name,
                idle_ttl_seconds=idle_ttl_seconds,
                delete_after_stop_seconds=delete_after_stop_seconds,
                persistent=persistent,
                preserve_memory_on_stop=preserve_memory_on_stop,
                restore_memory=restore_memory,
                vcpus=vcpus,
                mem_bytes=mem_bytes,
                fs_capacity_bytes=fs_capacity_bytes,
                labels=labels,
                tag_value_ids=tag_value_ids,
                mount_config=mount_config,
                proxy_config=proxy_config,
                run_config=run_config,
                access_delegation=access_delegation,
                cpu_millicores=cpu_millicores,
                env_vars=env_vars,
                volumes=volumes,
            ),
            timeout=timeout,
            wait_for_ready=wait_for_ready,
            headers=headers,
        )
        run = self.new_run()
        try:
            record = await run.drive(creation.run())
        except Exception:
            raise
        except BaseException:
            await self._undo(creation, run)
            raise
        return self._sandbox_of(record)

    async def _undo(self, creation: Creation, run: FlowRun[Any]) -> None:
        """A creation was cancelled: see to it that no sandbox stays behind."""
        undo = creation.undo(self.flow_context(), run.progress.phase)
        if undo is None:
            return
        with self.network.shielded(UNDO_PATIENCE) as shield:
            try:
                await run.drive(undo)
            except Exception as error:
                client_log.warning("sandbox %s may have been left: %s", creation.name, error)
        if shield.expired:
            client_log.warning("sandbox %s may have been left: no answer", creation.name)

    async def get_sandbox(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> AsyncSandbox:
        """A sandbox by name or id.

        :raises ResourceNotFoundError: there is none.
        """
        record = await self.drive(lambda context: sandboxes.get_sandbox(context, name, headers))
        return self._sandbox_of(record)

    async def list_sandboxes(
        self, *, headers: Mapping[str, str] | None = None
    ) -> list[AsyncSandbox]:
        """All sandboxes of the workspace, from every page.

        :raises SandboxAPIError: the endpoint is no Sandbox API (404), or it failed.
        """
        from .sandbox import AsyncSandbox

        client = cast("AsyncSandboxClient", self)

        @wraps(SandboxRecord.parse)  # whose work it does, and what a trace calls it
        def parse(data: object) -> AsyncSandbox:
            return AsyncSandbox.from_json(data, client, auto_delete=False)

        return await self.drive(
            lambda context: sandboxes.list_sandboxes_as(context, parse, headers)
        )

    async def delete_sandbox(self, name: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Delete a sandbox by name or id, with everything in it.

        :raises ResourceNotFoundError: there is none.
        """
        await self.drive(lambda context: sandboxes.delete_sandbox(context, name, headers))

    async def get_sandbox_status(
        self, name: str, *, headers: Mapping[str, str] | None = None
    ) -> ResourceStatus:
        """The lifecycle status of a sandbox; cheaper than `get_sandbox`.

        :raises ResourceNotFoundError: there is none.
        """
        return await self.drive(lambda context: sandboxes.get_status(context, name, headers))

    async def wait_for_sandbox(
        self,
        name: str,
        *,
        timeout: int = 120,
        poll_interval: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncSandbox:
        """Wait until a sandbox is ready.

        :param timeout: in seconds; 0 asks once.
        :param poll_interval: seconds between two requests.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time (``last_status`` says what it was).
        :raises ResourceNotFoundError: there is none.
        """
        record = await self.drive(
            lambda context: sandboxes.wait_for_sandbox(
                context, name, timeout=timeout, poll_interval=poll_interval, headers=headers
            )
        )
        return self._sandbox_of(record)

    async def iter_sandboxes(
        self,
        *,
        name_contains: str | None = None,
        status: str | None = None,
        created_by: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        tag_value_ids: Sequence[str] | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        page_size: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncSandbox]:
        """The sandboxes of the workspace, page by page, with the server's filters.

        :param name_contains: part of the name.
        :param status: ``provisioning``, ``ready``, ``failed``, ``stopped`` or ``deleting``.
        :param created_by: ``me``.
        :param labels: all must match; a value of None asks for the label's mere presence.
        :param tag_value_ids: all must match.
        :param sort_by: ``name``, ``status``, ``created_at`` (default), ``stopped_at``,
            ``idle_ttl_seconds`` or ``delete_after_stop_seconds``.
        :param sort_order: ``asc`` or ``desc`` (default).
        :param page_size: how many to ask for at a time.
        """
        query = filters(
            name_contains=name_contains,
            status=status,
            created_by=created_by,
            label=label_filters(labels),
            tag_value_id=list(tag_value_ids) if tag_value_ids else None,
            sort_by=sort_by,
            sort_order=sort_order,
            page_size=page_size,
        )
        pages = Pages(sandboxes.SANDBOXES, query)
        while not pages.finished:
            for record in await self.drive(lambda context: pages.next_page(context, headers)):
                yield self._sandbox_of(record)

    async def update_sandbox(
        self,
        name: str,
        *,
        new_name: str | None = None,
        idle_ttl_seconds: int | None = None,
        delete_after_stop_seconds: int | None = None,
        proxy_config: Mapping[str, Any] | None = None,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        cpu_millicores: int | None = None,
        vcpus: int | None = None,
        mem_bytes: int | None = None,
        fs_capacity_bytes: int | None = None,
        tag_value_ids: Sequence[str] | None = None,
    ) -> AsyncSandbox:
        """Change a sandbox; what is not given stays.

        :param new_name: rename it. Objects that were made before still ask for the old name.
        :param idle_ttl_seconds: seconds without activity until it stops; 0 or a multiple of 60.
        :param delete_after_stop_seconds: seconds from stop to deletion; 0 or a multiple of 60.
        :param proxy_config: replaces all rules of the egress proxy.
        :param run_config: user and directory replace, variables merge; for later commands.
        :param cpu_millicores: thousandths of a CPU.
        :param vcpus: number of virtual CPUs.
        :param mem_bytes: memory in bytes.
        :param fs_capacity_bytes: disk in bytes.
        :param tag_value_ids: the workspace's resource tags.
        :raises ValueError: an argument is out of range.
        :raises ResourceNotFoundError: there is no such sandbox.
        :raises ResourceNameConflictError: the new name is taken.
        :raises SandboxNotReadyError: proxy rules need a sandbox that is ready.
        """
        changes = changes_to_sandbox(
            new_name=new_name,
            idle_ttl_seconds=idle_ttl_seconds,
            delete_after_stop_seconds=delete_after_stop_seconds,
            proxy_config=proxy_config,
            run_config=run_config,
            cpu_millicores=cpu_millicores,
            vcpus=vcpus,
            mem_bytes=mem_bytes,
            fs_capacity_bytes=fs_capacity_bytes,
            tag_value_ids=tag_value_ids,
        )
        record = await self.drive(
            lambda context: sandboxes.update_sandbox(context, name, changes, headers)
        )
        return self._sandbox_of(record)

    async def start_sandbox(
        self, name: str, *, timeout: int = 120, headers: Mapping[str, str] | None = None
    ) -> AsyncSandbox:
        """Start a stopped or failed sandbox and wait until it is ready.

        :param timeout: in seconds.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        :raises ResourceNotFoundError: there is none.
        """
        record = await self.drive(
            lambda context: sandboxes.start_sandbox(context, name, timeout=timeout, headers=headers)
        )
        return self._sandbox_of(record)

    async def stop_sandbox(self, name: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Stop a sandbox: its processes end, its files stay if it is persistent.

        :raises ResourceNotFoundError: there is none.
        """
        await self.drive(lambda context: sandboxes.stop_sandbox(context, name, headers))

    def _sandbox_of(self, record: SandboxRecord) -> AsyncSandbox:
        from .sandbox import AsyncSandbox  # not before there is one: it brings much along

        return AsyncSandbox.from_record(record, cast("AsyncSandboxClient", self), auto_delete=False)
