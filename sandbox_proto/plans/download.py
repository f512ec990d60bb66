"""Which parts of a file to fetch, and whether what was fetched is one file.

The first part is asked for before anything is known; its answer says how large the file is,
and which version. The rest is then cut into parts for several connections. What was fetched
can be written down (`DownloadPlan.progress`) and gone on with later, if the file is still
the same. When it is not, everything begins again, a few times at most.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Self

import attrs

from ..errors import FileChangedError, SandboxProtocolError
from ..wire.file_models import FileStat
from .ranged_read import FileVersion, RangedRead
from .retry import Random, RetryPolicy

PART_BYTES = 16 * 1024 * 1024
MAX_RESTARTS = 5
READ_AT_ONE_GO = 64 * 1024
_FORMAT = 1

Stretch = tuple[int, int]
"""First byte, and the byte after the last."""


@attrs.frozen
class DownloadProgress:
    """What was fetched of a file, for going on later.

    :ivar done: the stretches that are there, in order, none touching another.
    """

    path: str
    etag: str
    total: int
    done: tuple[Stretch, ...]

    def to_data(self) -> dict[str, Any]:
        """As JSON."""
        return {"format": _FORMAT, **attrs.asdict(self), "done": [list(part) for part in self.done]}

    @classmethod
    def parse(cls, data: object) -> Self | None:
        """From JSON; None if it is none of ours."""
        match data:
            case {
                "format": 1,
                "path": str(path),
                "etag": str(etag),
                "total": int(total),
                "done": list(done),
            } if etag and FileVersion(etag, total).resumable:
                pass
            case _:
                return None
        stretches = []
        end = 0
        for part in done:
            match part:
                case [int(first), int(after)] if end <= first < after <= total:
                    stretches.append((first, after))
                    end = after
                case _:
                    return None
        return cls(path, etag, total, tuple(stretches))


class DownloadPlan:
    """See the module's text.

    :param parallel: how many parts to fetch at a time.
    :param saved: what an earlier attempt has left.
    :ivar restarts: how often everything began again.
    """

    def __init__(
        self,
        path: str,
        policy: RetryPolicy,
        random: Random,
        *,
        parallel: int,
        part_bytes: int = PART_BYTES,
        saved: DownloadProgress | None = None,
    ) -> None:
        if parallel < 1:
            raise ValueError(f"parallel must be at least 1, not {parallel!r}")
        self._path = path
        self._policy, self._random = policy, random
        self.parallel = parallel
        self._part_bytes = part_bytes
        self.restarts = 0
        self._version: FileVersion | None = None
        self._kept: list[Stretch] = []
        self._reads: list[RangedRead] = []
        self._to_do: deque[Stretch] = deque()
        self._resumed = False
        if saved is not None and saved.path == path:
            self._version = FileVersion(saved.etag, saved.total)
            self._kept = list(saved.done)
            self._resumed = True
            self._cut(self._missing())

    def _begin(self) -> None:
        self._version = None
        self._kept, self._reads = [], []
        self._to_do = deque()
        self._resumed = False

    # --- what to do -------------------------------------------------------------------

    def next_read(self) -> RangedRead | None:
        """The next part to fetch; None: all are being fetched.

        The first one must have been answered (`learned`) before there is a second.
        """
        if self._version is None:
            last = None if self.parallel == 1 else self._part_bytes - 1
            return self._read(0, last)
        if not self._to_do:
            return None
        first, after = self._to_do.popleft()
        return self._read(first, after - 1)

    @property
    def has_more(self) -> bool:
        """Whether there are parts that nobody fetches yet."""
        return bool(self._to_do)

    def _read(self, first: int, last: int | None) -> RangedRead:
        read = RangedRead(
            self._path, self._policy, self._random, first=first, last=last, version=self._version
        )
        self._reads.append(read)
        return read

    def learned(self, read: RangedRead) -> None:
        """The first part was answered: what the file is, is known.

        :raises SandboxProtocolError: it is not.
        """
        if self._version is None and read.version is not None:
            self._version = read.version
            if read.last is None:
                return  # the one answer has it all
            if read.version.total is None:
                raise SandboxProtocolError(f"the server does not tell how large {self._path!r} is")
            self._cut([(read.last + 1, read.version.total)])

    def _missing(self) -> list[Stretch]:
        gaps, place = [], 0
        assert self._version is not None and self._version.total is not None
        for first, after in (*self._kept, (self._version.total, self._version.total)):
            if first > place:
                gaps.append((place, first))
            place = after
        return gaps

    def _cut(self, stretches: list[Stretch]) -> None:
        # One connection needs no parts: it just goes on.
        size = self._part_bytes if self.parallel > 1 else None
        for first, after in stretches:
            while first < after:
                end = after if size is None else min(first + size, after)
                self._to_do.append((first, end))
                first = end

    # --- how far it is ----------------------------------------------------------------

    @property
    def total(self) -> int | None:
        """The size of the file, once it is known."""
        return None if self._version is None else self._version.total

    @property
    def fetched(self) -> int:
        """How many bytes are there."""
        kept = sum(after - first for first, after in self._kept)
        return kept + sum(read.position - read.first for read in self._reads)

    @property
    def is_doubtful(self) -> bool:
        """Whether the file may have changed while its bytes came.

        A file that is written in place changes under an answer that has begun. So its version
        is to be asked once more (`confirm`), but for a file that a server reads at one go.
        """
        answers = sum(read.answers for read in self._reads)
        return self._resumed or answers > 1 or self.fetched > READ_AT_ONE_GO

    def confirm(self, stat: FileStat) -> None:
        """What the file is after the last byte came.

        :raises FileChangedError: not what it was.
        """
        if self._version is None or stat.etag != self._version.etag:
            raise FileChangedError(f"{self._path!r} was changed while it was read")

    def restart(self, error: FileChangedError) -> None:
        """The file has changed: forget what was fetched.

        :raises FileChangedError: it does so all the time.
        """
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            message = f"{self._path!r} changes faster than it can be read"
            raise FileChangedError(message) from error
        self._begin()

    def progress(self) -> DownloadProgress | None:
        """What to write down for going on later; None: that is not possible."""
        version = self._version
        if version is None or version.total is None or not version.resumable:
            return None
        there = [*self._kept, *((read.first, read.position) for read in self._reads)]
        done: list[Stretch] = []
        for first, after in sorted(there):
            if first == after:
                continue
            if done and done[-1][1] == first:
                done[-1] = (done[-1][0], after)
            else:
                done.append((first, after))
        return DownloadProgress(self._path, str(version.etag), version.total, tuple(done))
