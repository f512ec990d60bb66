"""Finding files in a sandbox: by name, by content, by directory."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandbox_proto.flows.search import glob_files, grep_files
from sandbox_proto.wire.file_models import GlobResult, GrepResult

from .sandbox_base import SandboxBase


@attrs.define
class SearchMethods(SandboxBase):
    """See `AsyncSandbox`."""

    async def glob(
        self,
        pattern: str,
        path: str,
        *,
        limit: int | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> GlobResult:
        """Find files and directories by their names.

        :param pattern: for paths relative to `path`: ``**`` is any number of segments, ``*``,
            ``?`` and ``[...]`` stay within one.
        :param path: the directory to search, absolute.
        :param limit: how many matches at most; by default as many as the server gives.
        :param timeout: patience in seconds for each step.
        :raises ResourceNotFoundError: there is no such directory.
        :raises SandboxClientError: the pattern or the limit makes no sense.
        """
        base = self._dataplane()
        return await self._client.drive(
            lambda context: glob_files(
                context, base, pattern, path, limit=limit, timeout=timeout, headers=headers
            )
        )

    async def ls(
        self,
        path: str,
        *,
        limit: int | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> GlobResult:
        """What is in a directory, in order; hidden files, too.

        :param path: absolute.
        :param limit: how many entries at most.
        :param timeout: patience in seconds for each step.
        :raises ResourceNotFoundError: there is no such directory.
        """
        return await self.glob("*", path, limit=limit, timeout=timeout, headers=headers)

    async def grep(
        self,
        pattern: str,
        path: str,
        *,
        glob: str | None = None,
        limit: int | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> GrepResult:
        """Find lines by a text in them.

        :param pattern: the text as it is; no regular expression.
        :param path: the directory to search, absolute.
        :param glob: which files to look into: without ``/`` and ``**`` by their name, at any
            depth (``*.py``); else by their path relative to `path`.
        :param limit: how many lines at most; by default as many as the server gives.
        :param timeout: patience in seconds for each step.
        :raises ResourceNotFoundError: there is no such directory.
        :raises SandboxClientError: a pattern or the limit makes no sense.
        """
        base = self._dataplane()
        return await self._client.drive(
            lambda context: grep_files(
                context,
                base,
                pattern,
                path,
                glob=glob,
                limit=limit,
                timeout=timeout,
                headers=headers,
            )
        )
