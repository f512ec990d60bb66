"""What is in ``sandbox_anyio/sandbox_directories.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..base import BlockingSandbox
from ..callers import callback_in_caller

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from os import PathLike

    from ...directory_report import DirectoryReport, SymlinkPolicy
    from ...sources import Progress


@attrs.define
class DirectoryMethods(BlockingSandbox):
    """See `Sandbox`."""

    def upload_dir(
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
        return self._call(
            lambda it: it.upload_dir(
                source,
                path,
                ignore=ignore,
                symlinks=symlinks,
                progress=callback_in_caller(progress),
                timeout=timeout,
                command_timeout=command_timeout,
                headers=headers,
            )
        )

    def download_dir(
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
        return self._call(
            lambda it: it.download_dir(
                path,
                to,
                ignore=ignore,
                symlinks=symlinks,
                progress=callback_in_caller(progress),
                timeout=timeout,
                command_timeout=command_timeout,
                headers=headers,
            )
        )
