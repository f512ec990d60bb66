"""Carrying out a `DownloadPlan`: parts of a file, several at a time, into one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sandbox_proto.errors import FileChangedError
from sandbox_proto.flows.effects import Flow, FlowContext
from sandbox_proto.flows.file_ranges import stat_file
from sandbox_proto.plans.download import DownloadPlan
from sandbox_proto.plans.ranged_read import RangedRead
from sandbox_proto.wire.file_models import FileStat

from .file_streams import RangeReader
from .partial_file import PartialFile
from .sources import Progress, report

if TYPE_CHECKING:
    from .base import ClientBase


# How long a failed download may take to bring to disk what it has.
_LEAVE_SECONDS = 10.0


class Download:
    """One file on its way. See `AsyncSandbox.download`."""

    def __init__(
        self,
        client: ClientBase,
        base: str,
        path: str,
        *,
        progress: Progress | None,
        timeout: float,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._client = client
        self._base, self._path = base, path
        self._progress = progress
        self._timeout, self._headers = timeout, headers

    async def run(self, target: Path, *, resume: bool, parallel: int) -> int:
        """Fetch the file. Returns its size."""
        if parallel < 1:
            raise ValueError(f"parallel must be at least 1, not {parallel!r}")
        file = PartialFile(target, f"{self._base}\0{self._path}", resume=resume)
        context = self._client.flow_context()
        plan = DownloadPlan(
            self._path,
            context.config.retry,
            context.random,
            parallel=parallel,
            saved=file.saved,
        )
        try:
            size = await self._fetch(plan, file)
            file.commit(size)
        except BaseException:
            import anyio.to_thread

            with self._client.network.shielded(_LEAVE_SECONDS):
                await anyio.to_thread.run_sync(file.leave, plan.progress(), abandon_on_cancel=True)
            raise
        return size

    async def _fetch(self, plan: DownloadPlan, file: PartialFile) -> int:
        while True:
            try:
                await self._fetch_parts(plan, file)
                if plan.is_doubtful:
                    plan.confirm(await self._client.drive(self._stat))
            except FileChangedError as error:
                plan.restart(error)
                file.clear()
                await report(self._progress, 0, None)
            else:
                return plan.fetched

    def _stat(self, context: FlowContext) -> Flow[FileStat]:
        return stat_file(
            context, self._base, self._path, timeout=self._timeout, headers=self._headers
        )

    async def _fetch_parts(self, plan: DownloadPlan, file: PartialFile) -> None:
        read = plan.next_read()
        if read is None:
            return  # an earlier attempt has left it all
        reader = self._reader(read)
        try:
            if plan.total is None:
                await reader.open()
                plan.learned(read)
        except BaseException:
            reader.close()
            raise
        if plan.parallel == 1 or not plan.has_more:
            await self._work(plan, file, reader)
        else:
            await self._work_together(plan, file, reader)

    async def _work(
        self, plan: DownloadPlan, file: PartialFile, reader: RangeReader | None = None
    ) -> None:
        """Fetch one part after the other, until none is left."""
        while True:
            if reader is None:
                read = plan.next_read()
                if read is None:
                    return
                reader = self._reader(read)
            try:
                while (chunk := await reader.next_chunk()) is not None:
                    file.write(reader.read.position - len(chunk), chunk)
                    await report(self._progress, plan.fetched, plan.total)
            finally:
                reader.close()
            reader = None

    async def _work_together(
        self, plan: DownloadPlan, file: PartialFile, reader: RangeReader
    ) -> None:
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:

            async def work(begun: RangeReader | None) -> None:
                try:
                    await self._work(plan, file, begun)
                except Exception as error:
                    errors.append(error)
                    tasks.cancel_scope.cancel()

            for number in range(plan.parallel):
                tasks.start_soon(work, None if number else reader)
        if errors:
            # That it has changed may show itself in several ways at once.
            changed = (error for error in errors if isinstance(error, FileChangedError))
            raise next(changed, errors[0])

    def _reader(self, read: RangedRead) -> RangeReader:
        return RangeReader(
            self._client,
            self._base,
            self._path,
            read,
            timeout=self._timeout,
            headers=self._headers,
        )
