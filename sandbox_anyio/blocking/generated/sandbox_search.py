"""What is in ``sandbox_anyio/sandbox_search.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..base import BlockingSandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_proto.wire.file_models import GlobResult, GrepResult


@attrs.define
class SearchMethods(BlockingSandbox):
    """See `Sandbox`."""

    def glob(
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
        return self._call(
            lambda it: it.glob(pattern, path, limit=limit, timeout=timeout, headers=headers)
        )

    def ls(
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
        return self.glob("*", path, limit=limit, timeout=timeout, headers=headers)

    def grep(
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
        return self._call(
            lambda it: it.grep(
                pattern, path, glob=glob, limit=limit, timeout=timeout, headers=headers
            )
        )
