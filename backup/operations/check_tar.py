"""A tar stream read strictly, member by member, to its very end.

tarfile takes a damaged header for the end of the archive and never looks at what follows. This reader takes nothing
on trust, knows what `tarstream` writes and what GNU tar and bsdtar write, and holds one block of the stream.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from backup.errors import IntegrityError
from backup.sources.tarstream import BLOCK, Region

REGULAR: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
_WITHOUT_CONTENT: Final = (
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
)  # fmt: skip
# Names, targets and attributes of one member, or its sparse map: far above what any file system can hold.
_LONGEST_RECORDS: Final = 64 << 20
_ZEROS: Final = bytes(1 << 20)


class Stream:
    """Exact numbers of bytes out of chunks of any size. IntegrityError where they end too early.

    `alive` is called where work goes on that takes no chunk.
    """

    def __init__(self, chunks: Iterable[bytes], alive: Callable[[], None]) -> None:
        self.position, self.alive = 0, alive
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def more(self) -> bool:
        """Whether anything is left."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes, as they come."""
        while count:
            if not self.more():
                raise IntegrityError(f"the archive is cut off after {self.position:,} bytes")
            piece, self._rest = self._rest[:count], self._rest[count:]
            self.position += len(piece)
            count -= len(piece)
            yield piece

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes in one."""
        if len(self._rest) >= count:
            piece, self._rest = bytes(self._rest[:count]), self._rest[count:]
            self.position += count
            return piece
        return b"".join(self.pieces(count))


class Member:
    """One entry. `size` is its content's logical length, `stored` what the archive holds of it, `kind` tar's type."""

    def __init__(self, stream: Stream, block: bytes, records: dict[bytes, bytes]) -> None:
        self.kind = block[156:157]
        self.path = records.get(b"GNU.sparse.name") or records.get(b"path") or _name(block)
        self.target = records.get(b"linkpath") or _text(block[157:257])
        self._stream = stream
        length = _decimal(records[b"size"]) if b"size" in records else _number(block[124:136])
        self._left = 0 if self.kind in _WITHOUT_CONTENT else length
        self._padding = -self._left % BLOCK
        if self.kind == tarfile.GNUTYPE_SPARSE and block[482]:
            while stream.exactly(BLOCK)[504]:
                pass
        self._regions: list[Region] | None = None
        self.size = self._left
        if b"GNU.sparse.realsize" in records and records.get(b"GNU.sparse.major") == b"1":
            self.size = _decimal(records[b"GNU.sparse.realsize"])
            self._regions = self._map()
        self.stored = self._left

    def sha256(self) -> str:
        """SHA-256 of the content in hex, holes as zeros. Once."""
        digest = hashlib.sha256()
        for piece in self.content():
            digest.update(piece)
        return digest.hexdigest()

    def content(self) -> Iterator[bytes | memoryview]:
        """The content, holes as zeros. Once."""
        position = 0
        for start, length in self._regions if self._regions is not None else [(0, self._left)]:
            yield from self._zeros(start - position)
            yield from self._take(length)
            position = start + length
        yield from self._zeros(self.size - position)

    def skip(self) -> None:
        """Read over what is left of it. IntegrityError unless zeros fill its last block."""
        for _ in self._take(self._left):
            pass
        if self._padding and self._stream.exactly(self._padding).strip(b"\0"):
            raise _damaged(self._stream)

    def _take(self, count: int) -> Iterator[memoryview]:
        if count > self._left:
            raise _damaged(self._stream)
        for piece in self._stream.pieces(count):
            self._left -= len(piece)
            yield piece

    def _zeros(self, count: int) -> Iterator[memoryview]:
        while count > 0:
            yield memoryview(_ZEROS)[:count]
            count -= len(_ZEROS)
            self._stream.alive()

    def _map(self) -> list[Region]:
        """The data regions of a sparse file, from the lines that precede its data."""
        lines: list[bytes] = []
        text, wanted, read = b"", 1, 0
        while len(lines) < wanted:
            text += b"".join(self._take(BLOCK))
            read += BLOCK
            *new, text = text.split(b"\n")
            lines += new
            wanted = 1 + 2 * _decimal(lines[0]) if lines else 1
            if read > _LONGEST_RECORDS:
                raise _damaged(self._stream)
        numbers = [_decimal(line) for line in lines[1:wanted]]
        regions = list(zip(numbers[::2], numbers[1::2], strict=True))
        ends = [0, *(start + length for start, length in regions)]
        if any(start < end for (start, _), end in zip(regions, ends, strict=False)) or ends[-1] > self.size:
            raise _damaged(self._stream)
        if sum(length for _, length in regions) != self._left:
            raise _damaged(self._stream)
        return regions


def members(chunks: Iterable[bytes], alive: Callable[[], None] = lambda: None) -> Iterator[Member]:
    """The entries of an archive, each to be read before the next. IntegrityError unless it is whole to its end.

    `alive` is called within the holes of sparse files, which may take longer than all that is stored.
    """
    stream = Stream(chunks, alive)
    records: dict[bytes, bytes] = {}
    while (block := _header(stream)).strip(b"\0"):
        kind = block[156:157]
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records |= _records(_extended(stream, block), stream)
        elif kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = b"path" if kind == tarfile.GNUTYPE_LONGNAME else b"linkpath"
            records[key] = _extended(stream, block).split(b"\0")[0]
        elif kind == tarfile.XGLTYPE:
            _extended(stream, block)
        else:
            member = Member(stream, block, records)
            yield member
            member.skip()
            records = {}
    _only_zeros(stream)


def _header(stream: Stream) -> bytes:
    block = stream.exactly(BLOCK)
    if block.strip(b"\0") and _number(block[148:156]) not in tarfile.calc_chksums(block):  # type: ignore[attr-defined]
        raise _damaged(stream)
    return block


def _only_zeros(stream: Stream) -> None:
    """The second zero block, and nothing but zeros to the end of a block after it."""
    if stream.exactly(BLOCK).strip(b"\0"):
        raise _damaged(stream)
    while stream.more():
        if any(bytes(piece).strip(b"\0") for piece in stream.pieces(BLOCK)):
            raise IntegrityError(f"something follows the end of the archive, at byte {stream.position:,}")


def _extended(stream: Stream, block: bytes) -> bytes:
    size = _number(block[124:136])
    if size > _LONGEST_RECORDS:
        raise _damaged(stream)
    return stream.exactly(size + -size % BLOCK)[:size]


def _records(data: bytes, stream: Stream) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while data:
        length = _decimal(data.split(b" ", 1)[0])
        key, equals, value = data[:length].partition(b" ")[2].partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(data):
            raise _damaged(stream)
        found[key] = value[:-1]
        data = data[length:]
    return found


def _name(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    # GNU's own format keeps times where `ustar` keeps the beginning of a long name.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _text(data: bytes) -> bytes:
    return data.split(b"\0", 1)[0]


def _number(data: bytes) -> int:
    try:
        return _natural(tarfile.nti(data))  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        return _natural(-1)


def _decimal(data: bytes) -> int:
    return _natural(int(data) if data.isdigit() and len(data) < 20 else -1)


def _natural(number: int) -> int:
    if number < 0:
        raise IntegrityError("a number in the archive is damaged")
    return number


def _damaged(stream: Stream) -> IntegrityError:
    return IntegrityError(f"the archive is damaged before byte {stream.position:,}")
