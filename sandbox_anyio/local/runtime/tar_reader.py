"""Reading tar archives that may be hostile: one entry after the other, in bounded memory.

The formats that image builders and tar programs write are understood: ustar, GNU (long
names, numbers in base 256, sparse files) and pax (paths, sizes, times, extended attributes,
sparse files of version 1.0). What is not understood is an error, never a guess.

Names and values are bytes; what they may be used for is the caller's business.

Standard library only: this also runs in a child of the zygote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

BLOCK: Final = 512
_MAX_NAME: Final = 64 * 1024
_MAX_RECORDS: Final = 1024 * 1024
_MAX_EXTENSIONS: Final = 16  # headers before the one that an entry is
_MAX_SPARSE_PARTS: Final = 64 * 1024
_MAX_SIZE: Final = 1 << 62
_RECORD: Final = re.compile(rb"([0-9]{1,9}) ([^=]{1,1000})=")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,11})(?:\.([0-9]*))?")

# What of the pax records is used. The rest is not even kept.
_USED: Final = frozenset(
    {b"path", b"linkpath", b"size", b"mtime", b"GNU.sparse.name", b"GNU.sparse.realsize"}
    | {b"GNU.sparse.major", b"GNU.sparse.minor"}
)
_ATTRIBUTE: Final = b"SCHILY.xattr."

# Entries of these kinds have no content, whatever size their header tells.
_WITHOUT_CONTENT: Final = b"123456"


class TarError(Exception):
    """The archive is damaged, hostile, or of a kind that is not understood."""


class Source(Protocol):
    """Where an archive comes from."""

    def read(self, count: int) -> bytes:
        """The next bytes: up to `count` of them, and none only at the end."""

    def skip(self, count: int) -> int:
        """Pass over up to `count` bytes. Returns how many: none only at the end."""


class Entry(NamedTuple):
    """One member of an archive.

    :ivar kind: its type as in the header: ``b"0"`` is a file, ``b"5"`` a directory, ...
    :ivar size: the bytes of content that follow in the archive.
    :ivar sparse: (offset, length) of each part of a sparse file that is not a hole, else None.
    :ivar file_size: the size of the file, which for sparse ones is more than `size`.
    :ivar modified: nanoseconds since the epoch.
    :ivar attributes: extended attributes.
    """

    name: bytes
    kind: bytes
    mode: int
    size: int
    modified: int
    link: bytes
    attributes: dict[bytes, bytes]
    sparse: tuple[tuple[int, int], ...] | None
    file_size: int


class TarReader:
    """The entries of one archive. Read each one's content, or it is skipped."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unread = 0  # content of the current entry
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        while True:
            self.skip()
            entry = self._next()
            if entry is None:
                return
            yield entry

    def read(self, count: int) -> bytes:
        """The next bytes of the current entry's content; none at its end.

        :raises TarError: the archive ends before the content does.
        """
        wanted = min(count, self._unread)
        if not wanted:
            return b""
        data = self._source.read(wanted)
        if not data:
            raise TarError("the archive is cut off in the middle of a file")
        self._unread -= len(data)
        return data

    def skip(self) -> None:
        """Pass over what is left of the current entry."""
        while self._unread:
            skipped = self._source.skip(self._unread)
            if not skipped:
                raise TarError("the archive is cut off in the middle of a file")
            self._unread -= skipped
        if self._padding:
            self._read_exactly(self._padding)
            self._padding = 0

    def _next(self) -> Entry | None:
        records = dict(self._global)
        name: bytes | None = None
        link: bytes | None = None
        for _ in range(_MAX_EXTENSIONS):
            header = self._read_header()
            if header is None:
                return None
            kind = header[156:157]
            size = _number(header, 124, 12)
            if kind in b"xXg":
                found = _parse_records(self._read_small(size, _MAX_RECORDS))
                records |= found
                if kind == b"g":
                    self._global |= {key: found[key] for key in found.keys() & _USED}
            elif kind == b"L":
                name = self._read_small(size, _MAX_NAME).partition(b"\0")[0]
            elif kind == b"K":
                link = self._read_small(size, _MAX_NAME).partition(b"\0")[0]
            else:
                return self._entry(header, kind, size, records, name, link)
        raise TarError("an entry of the archive has too many headers")

    def _entry(
        self,
        header: bytes,
        kind: bytes,
        size: int,
        records: dict[bytes, bytes],
        name: bytes | None,
        link: bytes | None,
    ) -> Entry:
        if name is None:
            name = _name_of(header)
        if link is None:
            link = _text(header, 157, 100)
        name = records.get(b"path", name)
        link = records.get(b"linkpath", link)
        if b"size" in records:
            size = _decimal(records[b"size"], "size")
        if kind in _WITHOUT_CONTENT:
            size = 0
        elif kind in (b"0", b"\0", b"7") and name.endswith(b"/"):
            kind = b"5"  # as archives older than directories have it
        self._begin_content(size)
        sparse: tuple[tuple[int, int], ...] | None = None
        file_size = size
        if kind == b"S":
            kind = b"0"
            sparse = self._old_sparse_map(header, size)
            file_size = _number(header, 483, 12)
        elif b"GNU.sparse.major" in records:
            version = (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor"))
            if version != (b"1", b"0"):
                raise TarError("the archive holds sparse files of a version that is not understood")
            sparse = self._sparse_map()
            name = records.get(b"GNU.sparse.name", name)
            file_size = _decimal(records.get(b"GNU.sparse.realsize", b""), "size")
        elif any(record.startswith(b"GNU.sparse.") for record in records):
            raise TarError("the archive holds sparse files of a version that is not understood")
        if sparse is not None:
            _check_sparse(sparse, self._unread, file_size)
        mtime = records.get(b"mtime")
        return Entry(
            name=name,
            kind=b"0" if kind in (b"\0", b"7") else kind,
            mode=_number(header, 100, 8) & 0o7777,
            size=self._unread,
            modified=_number(header, 136, 12) * 10**9 if mtime is None else _nanoseconds(mtime),
            link=link,
            attributes={
                key[len(_ATTRIBUTE) :]: value
                for key, value in records.items()
                if key.startswith(_ATTRIBUTE)
            },
            sparse=sparse,
            file_size=file_size,
        )

    # --- Sparse files --------------------------------------------------------------

    def _old_sparse_map(self, header: bytes, size: int) -> tuple[tuple[int, int], ...]:
        """GNU's older way: the map is in the header, and in blocks that follow it."""
        parts = _sparse_parts(header, 386, 4)
        more = header[482]
        while more:
            if len(parts) > _MAX_SPARSE_PARTS:
                raise TarError("a sparse file has too many parts")
            block = self._read_exactly(BLOCK)
            parts += _sparse_parts(block, 0, 21)
            more = block[504]
        return tuple(parts)

    def _sparse_map(self) -> tuple[tuple[int, int], ...]:
        """Version 1.0: decimal numbers, a line each, in whole blocks before the content."""
        data = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            line, newline, rest = data.partition(b"\n")
            if newline:
                numbers.append(_decimal(line, "sparse map"))
                data = rest
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > _MAX_SPARSE_PARTS:
                    raise TarError("a sparse file has too many parts")
                continue
            if len(data) > BLOCK or self._unread < BLOCK:
                raise TarError("the map of a sparse file is damaged")
            data += self._read_exactly(BLOCK)
            self._unread -= BLOCK
        return tuple(zip(numbers[1::2], numbers[2::2], strict=True))

    # --- Reading -------------------------------------------------------------------

    def _begin_content(self, size: int) -> None:
        self._unread = size
        self._padding = -size % BLOCK

    def _read_header(self) -> bytes | None:
        """The next header; None at the end of the archive, marked or not."""
        header = self._source.read(BLOCK)
        if not header:
            return None
        if len(header) < BLOCK:
            header += self._read_exactly(BLOCK - len(header))
        if not header.strip(b"\0"):
            return None
        unsigned = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
        # Some old programs added the bytes up as signed ones.
        signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
        if _octal(header[148:156]) not in (unsigned, signed):
            raise TarError("not a tar archive, or a damaged one: a header's checksum is wrong")
        return header

    def _read_small(self, size: int, limit: int) -> bytes:
        if size > limit:
            raise TarError("a header of the archive is too large")
        data = self._read_exactly(size)
        self._read_exactly(-size % BLOCK)
        return data

    def _read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._source.read(count - len(data))
            if not more:
                raise TarError("the archive is cut off")
            data += more
        return data


# --- Fields ------------------------------------------------------------------------


def _text(header: bytes, start: int, length: int) -> bytes:
    return header[start : start + length].partition(b"\0")[0]


def _name_of(header: bytes) -> bytes:
    name = _text(header, 0, 100)
    # GNU's own format has other things in the prefix's place.
    if header[257:263] == b"ustar\0" and (prefix := _text(header, 345, 155)):
        return prefix + b"/" + name
    return name


def _octal(field: bytes) -> int | None:
    digits = field.partition(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _number(header: bytes, start: int, length: int) -> int:
    field = header[start : start + length]
    if field[0] in (0x80, 0xFF):  # GNU: base 256, for what octal digits cannot hold
        number = int.from_bytes(field[1:], "big")
        if field[0] == 0xFF:
            number -= 256 ** (length - 1)
    else:
        octal = _octal(field)
        if octal is None:
            raise TarError("a header of the archive holds what is no number")
        number = octal
    if not -_MAX_SIZE < number < _MAX_SIZE or (number < 0 and start != 136):
        raise TarError("a header of the archive holds an impossible number")
    return number


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise TarError(f"the {what} of an entry is no number")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise TarError("the time of an entry is no number")
    fraction = ((match[3] or b"") + b"000000000")[:9]
    number = int(match[2]) * 10**9 + int(fraction)
    return -number if match[1] else number


def _parse_records(data: bytes) -> dict[bytes, bytes]:
    records = {}
    position = 0
    while position < len(data):
        match = _RECORD.match(data, position)
        if match is None:
            if not data[position:].strip(b"\0"):
                break
            raise TarError("a pax header of the archive is damaged")
        end = position + int(match[1])
        if end > len(data) or end <= match.end() or data[end - 1 : end] != b"\n":
            raise TarError("a pax header of the archive is damaged")
        keyword = match[2]
        if keyword in _USED or keyword.startswith((_ATTRIBUTE, b"GNU.sparse.")):
            records[keyword] = data[match.end() : end - 1]
        position = end
    return records


def _sparse_parts(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    parts = []
    for index in range(count):
        place = start + 24 * index
        if not block[place]:
            break
        parts.append((_number(block, place, 12), _number(block, place + 12, 12)))
    return parts


def _check_sparse(parts: tuple[tuple[int, int], ...], size: int, file_size: int) -> None:
    end = 0
    for offset, length in parts:
        if offset < end or offset + length > file_size:
            raise TarError("the map of a sparse file is damaged")
        end = offset + length
    if sum(length for _, length in parts) != size:
        raise TarError("the map of a sparse file is damaged")
