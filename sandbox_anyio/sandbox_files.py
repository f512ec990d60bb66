"""Files in a sandbox: read, write."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandbox_proto.flows.files import read_file, write_file

from .sandbox_base import SandboxBase


@attrs.define
class FileMethods(SandboxBase):
    """See `AsyncSandbox`."""

    async def write(
        self,
        path: str,
        content: str | bytes,
        *,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Write a file, replacing what was there; missing parent directories are made.

        :param path: absolute, or relative to the sandbox's home.
        :param content: the whole content; text is encoded as UTF-8.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises SandboxOperationError: it cannot be written (``operation`` is ``write``).
        """
        data = content.encode() if isinstance(content, str) else content
        base = self._dataplane()
        await self._client.drive(
            lambda context: write_file(context, base, path, data, timeout=timeout, headers=headers)
        )

    async def read(
        self, path: str, *, timeout: int = 60, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Read a whole file into memory.

        :param path: absolute, or relative to the sandbox's home.
        :param timeout: patience in seconds for each step; a large file may take longer.
        :raises ResourceNotFoundError: there is no such file (``resource_type`` is ``file``).
        :raises SandboxOperationError: it cannot be read.
        """
        base = self._dataplane()
        return await self._client.drive(
            lambda context: read_file(context, base, path, timeout=timeout, headers=headers)
        )
