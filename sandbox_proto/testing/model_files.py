"""Files of a model host's sandboxes: a mapping of paths, read and searched as a disk would be."""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

from ..host.file_ranges import FileFacts, answer_file
from ..host.files import entity_tag
from ..host.messages import HostRequest, HostResponse
from ..host.search import MAX_TEXT, Search, SearchResults, search_error

_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"
_BINARY_BYTES = 8192


# What was written above other layers, by absolute path; None is a file that was deleted.
Layer = dict[str, bytes | None]


class ModelFiles(MutableMapping[str, bytes]):
    """The files of a sandbox: what was written in it, above its layers.

    :param cwd: where relative paths begin.
    """

    def __init__(
        self, written: Layer, layers: Sequence[Mapping[str, bytes | None]], cwd: str
    ) -> None:
        self._written, self._layers, self._cwd = written, layers, cwd

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._cwd.rstrip('/')}/{path}"

    def __getitem__(self, path: str) -> bytes:
        absolute = self._absolute(path)
        for view in (self._written, *self._layers):
            if absolute in view:
                content = view[absolute]
                if content is not None:
                    return content
                break
        raise KeyError(path)

    def __setitem__(self, path: str, content: bytes) -> None:
        self._written[self._absolute(path)] = content

    def __delitem__(self, path: str) -> None:
        self[path]  # which raises where there is none
        self._written[self._absolute(path)] = None

    def __iter__(self) -> Iterator[str]:
        merged: Layer = {}
        for view in reversed((self._written, *self._layers)):
            merged |= view
        return (path for path, content in merged.items() if content is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def answer_download(request: HostRequest, content: bytes) -> HostResponse:
    """The answer to ``GET`` or ``HEAD`` of a file. The content stands for its own version.

    :raises HostError: the range lies behind the file's end.
    """
    etag = entity_tag(zlib.crc32(content), len(content), 0)
    facts = FileFacts(len(content), etag, _MODIFIED)
    answer = answer_file(request.method, request.headers, facts)
    headers = {"content-type": "application/octet-stream", **dict(answer.headers)}
    body = content[answer.first : answer.first + (answer.count or 0)]
    return HostResponse(answer.status, body, headers)


def answer_search(search: Search, files: Mapping[str, bytes]) -> HostResponse:
    """The answer to a search, in words that a walk through a disk would use.

    :raises HostError: there is no such directory.
    """
    top = search.path.rstrip("/") + "/"
    below = {path[len(top) :]: files[path] for path in files if path.startswith(top)}
    if search.kind == "grep" and search.path in files:
        found = _lines_in("", files[search.path], search.text)
    elif not below and search.path != "/":
        raise search_error(errno.ENOENT, search.path)
    else:
        found = _glob(search, below) if search.kind == "glob" else _grep(search, below)
    results = SearchResults(search)
    for number, facts in enumerate(found):
        if number == search.limit:
            results.receive(_line("end", True))
            break
        results.receive(_line("found", *facts))
    else:
        results.receive(_line("end", False))
    return results.response(in_time=True)


def _line(*words: object) -> bytes:
    return json.dumps(words).encode() + b"\n"


def _glob(search: Search, files: Mapping[str, bytes]) -> Iterator[tuple[object, ...]]:
    parts = [path.split("/") for path in files]
    directories = {"/".join(each[:depth]) for each in parts for depth in range(1, len(each))}
    for path in sorted({*files, *directories}):
        is_dir = path in directories
        if search.pattern is None or search.pattern.matches(path, is_dir=is_dir):
            yield path, is_dir, 0 if is_dir else len(files[path]), 0


def _grep(search: Search, files: Mapping[str, bytes]) -> Iterator[tuple[object, ...]]:
    for path in sorted(files):
        if search.pattern is None or search.pattern.matches(path, is_dir=False):
            yield from _lines_in(path, files[path], search.text)


def _lines_in(path: str, content: bytes, text: str) -> Iterator[tuple[object, ...]]:
    if b"\0" in content[:_BINARY_BYTES]:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if text.encode() in line:
            yield path, number, line.removesuffix(b"\r").decode("utf-8", "replace")[:MAX_TEXT]
