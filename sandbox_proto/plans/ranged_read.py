"""Reading one stretch of a file over as many answers as it takes (protocol/05 section 4).

A connection may be lost at any byte; the next request then asks for the rest, on condition
(``If-Range``) that the file is still the same. So the bytes of two versions of a file never
come together: either the answer goes on where the last one ended, or it says that the file
has changed.
"""

from __future__ import annotations

import attrs

from ..errors import FileChangedError, SandboxClientError, SandboxProtocolError
from ..faults import Fault, FaultKind, Phase
from ..wire.file_models import content_range
from ..wire.http import Response
from .retry import Random, Repeatability, RetryPolicy, retry_delay

# A connection that brought this much was worth making: the next one is tried afresh.
WORTHWHILE_BYTES = 64 * 1024


@attrs.frozen
class FileVersion:
    """Which file it is that is read.

    :ivar etag: its validator; None: the server has none, and nothing can be resumed.
    :ivar total: its size in bytes; None if the server does not tell.
    """

    etag: str | None
    total: int | None

    @property
    def resumable(self) -> bool:
        """Whether a later request can be tied to this version."""
        return bool(self.etag) and not str(self.etag).startswith("W/")


@attrs.frozen
class RangeQuestion:
    """What to ask for: from `first` to `last` (None: the end), on condition of an ETag."""

    first: int
    last: int | None
    if_range: str | None


class RangedRead:
    """See the module's text.

    :ivar first: the first byte of the stretch.
    :ivar last: its last byte; None until it is known, where the end of the file is meant.
    :ivar position: the next byte that is wanted.
    :ivar version: the file, once it is known.
    :ivar answers: how many answers brought something.
    """

    def __init__(
        self,
        path: str,
        policy: RetryPolicy,
        random: Random,
        *,
        first: int = 0,
        last: int | None = None,
        version: FileVersion | None = None,
    ) -> None:
        self.first = self.position = first
        self.last = last
        self.version = version
        self.answers = 0
        self._path = path
        self._policy, self._random = policy, random
        self._skip = 0
        self._ended = False
        self._failures = 0
        self._worthwhile_from = first

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self._ended or (self.last is not None and self.position > self.last)

    def question(self) -> RangeQuestion:
        """What to ask next."""
        resumable = self.version is not None and self.version.resumable
        etag = self.version.etag if self.version is not None and resumable else None
        return RangeQuestion(self.position, self.last, etag)

    def answered(self, response: Response) -> None:
        """The head of an answer arrived.

        :raises FileChangedError: it is of another version of the file.
        :raises SandboxProtocolError: it answers another question.
        """
        etag = response.header("etag")
        extent = content_range(response)
        self._skip = 0
        match response.status:
            case 206 if extent.first != self.position:
                raise SandboxProtocolError(
                    f"asked for byte {self.position} of {self._path!r}, the server sent "
                    f"{response.header('content-range')!r}"
                )
            case 206:
                self._is_of(FileVersion(etag, extent.total))
            case 416:
                if self.version is not None:
                    raise self._changed()
                self.version = FileVersion(etag, extent.total)
                self.last = self.first - 1  # there is no such byte, nor one after it
            case _:
                if self.version is None:
                    self.last = None  # a server without ranges gives all there is
                length = response.header("content-length")
                self._is_of(FileVersion(etag, int(length) if length is not None else None))
                self._skip = self.position  # a server without ranges: the beginning is known
        self.answers += 1

    def _is_of(self, version: FileVersion) -> None:
        if self.version is None:
            self.version = version
            if version.total is not None:
                end = version.total - 1
                self.last = end if self.last is None else min(self.last, end)
        elif version.etag != self.version.etag or not version.resumable:
            raise self._changed()

    def received(self, data: bytes) -> bytes:
        """A piece of the answer's body arrived. Returns what of it belongs to the stretch."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self.last is not None:
            data = data[: self.last + 1 - self.position]
        self.position += len(data)
        if self.position - self._worthwhile_from >= WORTHWHILE_BYTES:
            self._worthwhile_from = self.position
            self._failures = 0
        return data

    def body_ended(self) -> None:
        """The answer's body is complete. The stretch may not be: servers may send less."""
        if self.last is None:
            self._ended = True

    def failed(self, error: SandboxClientError, *, now: float) -> float | None:
        """The connection was lost. Returns when to ask for the rest; None: the error is final."""
        begun = self.position > self.first
        if isinstance(error, SandboxProtocolError):
            return None
        if begun and (self.version is None or not self.version.resumable):
            return None
        lost = Fault(FaultKind.DISCONNECTED, str(error), Phase.RESPONSE_BEGUN)
        delay = retry_delay(
            lost,
            Repeatability.SAFE,
            attempt=self._failures,
            policy=self._policy,
            random=self._random,
        )
        self._failures += 1
        self._worthwhile_from = self.position
        return None if delay is None else now + delay

    def _changed(self) -> FileChangedError:
        return FileChangedError(f"{self._path!r} was changed while it was read")
