"""Whole directories, in and out of a sandbox, each as one archive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.flows.uploads import upload_file
from sandbox_proto.plans.archives import (
    archive_in,
    archive_name,
    check_unpacked,
    holder_beside,
    pack_command,
    packed_archive,
    remove_command,
    remove_packed_command,
    unpack_command,
)
from sandbox_proto.wire.command_models import ExecutionResult

from .directory_report import DirectoryReport, SymlinkPolicy
from .log import client_log
from .sandbox_commands import CommandMethods
from .sandbox_transfers import TransferMethods
from .sources import Progress, UploadContent

if TYPE_CHECKING:
    from .archives import Unpacker

# How long cleaning up in the sandbox may take, in seconds.
_CLEANING_SECONDS = 15


@attrs.define
class DirectoryMethods(CommandMethods, TransferMethods):
    """See `AsyncSandbox`."""

    async def upload_dir(
        self,
        source: str | PathLike[str],
        path: str,
        *,
        ignore: Iterable[str] = (),
        symlinks: SymlinkPolicy = "keep",
        progress: Progress | None = None,
        timeout: int = 60,
        command_timeout: int = 3600,
        headers: Mapping[str, str] | None = None,
    ) -> DirectoryReport:
        """Put what is in a directory of this machine into one of the sandbox.

        It travels as one archive, which the sandbox's ``tar`` unpacks: for many small files
        far faster than one `write` for each. Modes and times are kept, owners are not. Files
        that are in the way are replaced, others stay.

        :param source: the directory here.
        :param path: POSIX, absolute: the directory there, made if it is missing.
        :param ignore: what to leave out, with all that is in it: patterns without ``/`` and
            ``**`` are for names at any depth (``__pycache__``, ``*.pyc``), others for paths
            relative to `source`.
        :param symlinks: ``keep`` them as they are; ``follow`` them to what they lead to; or
            ``skip`` them.
        :param progress: called with the bytes of the archive sent, and in all.
        :param timeout: patience in seconds for each step of the transfer.
        :param command_timeout: how long unpacking may take, in seconds.
        :raises OSError: something cannot be read.
        :raises SandboxOperationError: it cannot be written or unpacked there; half of it may
            be.
        """
        import anyio.to_thread

        from .archives import DirectoryArchive, ignore_rules

        rules = ignore_rules(ignore, symlinks)
        archive = await anyio.to_thread.run_sync(
            DirectoryArchive, Path(source), rules, symlinks, abandon_on_cancel=True
        )
        content = UploadContent(
            archive.begin, length=archive.length, repeatable=True, progress=progress
        )
        base = self._dataplane()
        holder = holder_beside(path, self._client.network.entropy)
        place = archive_in(holder)
        done = False
        try:
            await self._client.drive(
                lambda context: upload_file(
                    context, base, place, content, timeout=timeout, headers=headers
                )
            )
            command = unpack_command(holder, path)
            result = await self._shell(command, command_timeout, headers)
            done = True
        finally:
            if not done:
                await self._clean(remove_command(holder), headers)
        check_unpacked(result, path)
        return archive.report

    async def download_dir(
        self,
        path: str,
        to: str | PathLike[str],
        *,
        ignore: Iterable[str] = (),
        symlinks: SymlinkPolicy = "keep",
        progress: Progress | None = None,
        timeout: int = 60,
        command_timeout: int = 3600,
        headers: Mapping[str, str] | None = None,
    ) -> DirectoryReport:
        """Put what is in a directory of the sandbox into one of this machine.

        It travels as one archive, which the sandbox's ``tar`` packs, and which is unpacked
        here without trust: nothing is written outside of `to`, nothing through a link; links
        that lead outside, and devices, are left out (the report names them); nobody but you
        may write to what was unpacked. Files that are in the way are replaced, others stay.

        :param path: POSIX, absolute: the directory there.
        :param to: the directory here, made if it is missing.
        :param ignore: as in `upload_dir`; what is ignored still travels.
        :param symlinks: as in `upload_dir`.
        :param progress: called with the bytes of the archive fetched, and in all.
        :param timeout: patience in seconds for each step of the transfer.
        :param command_timeout: how long packing may take, in seconds.
        :raises SandboxOperationError: there is no such directory, or it cannot be packed.
        :raises SandboxClientError: the archive tries to reach outside.
        :raises OSError: something cannot be written.
        """
        import tempfile

        import anyio.to_thread

        from .archives import Unpacker, ignore_rules

        rules = ignore_rules(ignore, symlinks)
        target = Path(to)
        name = archive_name(self._client.network.entropy)
        command = pack_command(path, name, follow_links=symlinks == "follow")
        place = None
        try:
            result = await self._shell(command, command_timeout, headers)
            place = packed_archive(result, path)
            unpacker = Unpacker(target, rules, symlinks)
            with tempfile.TemporaryDirectory(prefix=".sandbox-", dir=target) as directory:
                local = Path(directory, "archive.tar")
                await self.download(
                    place, local, progress, resume=False, timeout=timeout, headers=headers
                )
                await anyio.to_thread.run_sync(_unpack, unpacker, local)
        finally:
            cleaning = remove_packed_command(name) if place is None else remove_command(place)
            await self._clean(cleaning, headers)
        return unpacker.report

    async def _shell(
        self, command: str, timeout: int, headers: Mapping[str, str] | None
    ) -> ExecutionResult:
        return await self.run(command, timeout=timeout, shell="/bin/sh", headers=headers)

    async def _clean(self, command: str, headers: Mapping[str, str] | None) -> None:
        """Remove an archive in the sandbox, whatever happens here."""
        with self._client.network.shielded(_CLEANING_SECONDS):
            try:
                await self._shell(command, _CLEANING_SECONDS, headers)
            except SandboxClientError as error:
                client_log.warning("an archive may be left in the sandbox: %s", error)


def _unpack(unpacker: Unpacker, archive: Path) -> None:
    import anyio.from_thread

    with archive.open("rb") as file:
        unpacker.unpack(file, anyio.from_thread.check_cancelled)
