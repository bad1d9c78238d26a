"""A PAX tar stream that GNU tar, bsdtar and Python's tarfile all extract, and the file index beside it.

Who walks and reads the tree is `archive_tree`. tarfile packs the 512-byte blocks. The extended records are ours:
tarfile marks a whole header as binary for one binary attribute (GNU tar then warns), does not escape `=` in attribute
names, fails on those that are not UTF-8, and writes a size record that readers of sparse files take for the logical
size.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from backup.errors import IntegrityError
from backup.media.tar_header import checksum
from backup.pipeline.chunks import Sink

BLOCK = tarfile.BLOCKSIZE
DataRegion = tuple[int, int]  # offset and length of data in a sparse file

ZEROS = bytes(1 << 20)
NO_ATTRIBUTES: Final[Mapping[bytes, bytes]] = MappingProxyType({})
# Name; mode, owners, size and time; checksum; kind, target, magic. What follows is zeros.
_USTAR = struct.Struct("100s48s8sc100s8s247x")
_COALESCE = 32 << 10
_OCTAL_7, _OCTAL_11 = 8**7, 8**11
_NAME = 100
# A longer map is made coarser: it is held in memory, here and by whoever extracts.
_MOST_REGIONS = 1 << 16
_INDEX_LINE = re.compile(rb"(\\?)([0-9a-f]{64})  (0|[1-9][0-9]*)  ([^\n\r]+)\n")
_ESCAPED = re.compile(rb"(?:[^\\]|\\[\\nr])+")
_UNESCAPE = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


class Member(NamedTuple):
    """One archive entry. `size` is the content's logical size in bytes; `regions` the data of a sparse file, ascending,
    in multiples of 512 except at the end, or None; `attributes` extended attributes by name."""

    path: bytes
    kind: bytes
    stat: os.stat_result
    size: int = 0
    target: bytes = b""
    attributes: Mapping[bytes, bytes] = NO_ATTRIBUTES
    regions: tuple[DataRegion, ...] | None = None


class IndexEntry(NamedTuple):
    """One line of the file index: SHA-256 in hex, size in bytes, raw path with the archive's root name."""

    sha256: str
    size: int
    path: bytes


class Gathered:
    """Small writes gathered into ones of at least 32 KiB. A large one goes through as it is: copying it costs more."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pending: list[bytes] = []
        self._held = 0
        self.count = 0

    def write(self, data: bytes) -> None:
        """Pass `data` on, now or later; `count` is the bytes given so far."""
        size = len(data)
        self.count += size
        held = self._held = self._held + size
        self._pending.append(data)
        if held >= _COALESCE:
            self._pass_on(size)

    def flush(self) -> None:
        """Pass on what is held back."""
        if self._held:
            self._sink.write(b"".join(self._pending))
        self._pending, self._held = [], 0

    def _pass_on(self, last: int) -> None:
        if last < _COALESCE:
            self.flush()
            return
        data = self._pending.pop()
        self._held -= last
        self.flush()
        self._sink.write(data)


def header(member: Member) -> bytes:
    """Everything that precedes a member's content: extended records, ustar block, sparse map."""
    sparse_map = b"" if member.regions is None else _sparse_map(member.regions, member.size)
    stored = member.size if member.regions is None else len(sparse_map) + sum(length for _, length in member.regions)
    records = b"".join(_record(key, value) for key, value in _records(member, stored))
    return b"".join((_extended(records), _ustar(member, stored), sparse_map))


def data_regions(fd: int, size: int) -> tuple[DataRegion, ...]:
    """Where the first `size` bytes of an open file hold data, in multiples of 512; `((0, size),)` if everywhere.

    Small holes count as data when there are more than 65536. Raises OSError.
    """
    regions: list[DataRegion] = []
    gap = end = 0
    while (found := _next_data(fd, end)) is not None and found[0] < size:
        start, end = whole_blocks(*found, size)
        _extend(regions, start, end, gap)
        while len(regions) > _MOST_REGIONS:
            gap = max(BLOCK, 2 * gap)
            fine, regions = regions, []
            for start, length in fine:
                _extend(regions, start, start + length, gap)
    return tuple(regions)


def whole_blocks(start: int, end: int, size: int) -> tuple[int, int]:
    """The data from `start` to `end` widened to whole blocks within `size`: GNU tar reads a region block by block."""
    return start - start % BLOCK, min(size, end + -end % BLOCK)


def hash_hole(digest: hashlib._Hash, length: int, progress: Callable[[int], None]) -> None:
    """Hash the zeros of a hole; `progress` gets 0 as a sign of life within long ones."""
    while length:
        count = min(length, len(ZEROS))
        digest.update(ZEROS[:count])
        progress(0)
        length -= count


def with_holes(
    regions: Iterable[DataRegion],
    size: int,
    content: Callable[[int], Iterator[bytes]],
    alive: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """All `size` bytes of a file of which `content` gives those in `regions`, and zeros; `alive` is called in holes."""
    position = 0
    for start, length in (*regions, (size, 0)):
        while position < start:
            hole = ZEROS[: start - position]
            yield hole
            position += len(hole)
            alive()
        yield from content(length)
        position = start + length


def _next_data(fd: int, position: int) -> DataRegion | None:
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return start, os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data after `position`
            return None
        raise


def _extend(regions: list[DataRegion], start: int, end: int, gap: int) -> None:
    if regions and start <= sum(regions[-1]) + gap:
        start = regions.pop()[0]
    regions.append((start, end - start))


def padding(size: int) -> bytes:
    """The zeros that fill `size` bytes of content up to a whole block."""
    return bytes(-size % BLOCK)


def ending(count: int) -> bytes:
    """The two zero blocks that end an archive of `count` bytes, filled up to a whole record of 10240 bytes."""
    return bytes(2 * BLOCK + -(count + 2 * BLOCK) % tarfile.RECORDSIZE)


def _records(member: Member, stored: int) -> list[tuple[bytes, bytes]]:
    path, _, found, _, target, attributes, regions = member
    uid, gid, mtime_ns = found.st_uid, found.st_gid, found.st_mtime_ns
    records: list[tuple[bytes, bytes]] = []
    if regions is not None or len(path) > _NAME or len(target) > _NAME or not (path.isascii() and target.isascii()):
        records += _names(member)
    if uid >= _OCTAL_7:
        records.append((b"uid", b"%d" % uid))
    if gid >= _OCTAL_7:
        records.append((b"gid", b"%d" % gid))
    # Readers take a size record for the logical size of a sparse file; see _ustar for those.
    if stored >= _OCTAL_11 and regions is None:
        records.append((b"size", b"%d" % stored))
    if mtime_ns % 10**9 or not 0 <= mtime_ns < _OCTAL_11 * 10**9:
        records.append((b"mtime", _decimal(mtime_ns)))
    for key, value in sorted(attributes.items()) if attributes else ():
        records.append((b"SCHILY.xattr." + key.replace(b"%", b"%25").replace(b"=", b"%3D"), value))
    return records


def _names(member: Member) -> Iterator[tuple[bytes, bytes]]:
    path_key = b"path" if member.regions is None else b"GNU.sparse.name"
    names = {path_key: member.path, b"linkpath": member.target}
    if not all(_is_utf8(name) for name in names.values()):
        yield b"hdrcharset", b"BINARY"
    if member.regions is not None:
        yield from ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"))
        yield b"GNU.sparse.realsize", b"%d" % member.size
    for key, name in names.items():
        if len(name) > _NAME or not name.isascii() or key == b"GNU.sparse.name":
            yield key, name


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decimal(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return b"%s%d.%09d" % (b"-" if nanoseconds < 0 else b"", seconds, rest)


def _record(key: bytes, value: bytes) -> bytes:
    # The length counts its own digits.
    body = b" %s=%s\n" % (key, value)
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return b"%d%s" % (length, body)


def _extended(records: bytes) -> bytes:
    return b"".join((_extended_block(len(records)), records, padding(len(records)))) if records else b""


@functools.lru_cache(256)  # most members have records of the same length
def _extended_block(length: int) -> bytes:
    return _block(b"././@PaxHeader", (0o644, 0, 0, length, 0), tarfile.XHDTYPE)


def _block(name: bytes, numbers: tuple[int, int, int, int, int], kind: bytes, target: bytes = b"") -> bytes:
    """A header of `name`, at most 100 bytes long. `numbers`: mode, owner, group, size, seconds."""
    octal = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
    return _summed(_USTAR.pack(name, octal, b"", kind, target, b"ustar\x0000"))


def _summed(block: bytes) -> bytes:
    return b"%s%06o\0 %s" % (block[:148], checksum(block), block[156:])


def _ustar(member: Member, stored: int) -> bytes:
    path = member.path if member.regions is None else b"GNUSparseFile.0/" + member.path.rpartition(b"/")[2]
    found = member.stat
    owners = _or_zero(found.st_uid, _OCTAL_7), _or_zero(found.st_gid, _OCTAL_7)
    seconds = _or_zero(found.st_mtime_ns // 10**9, _OCTAL_11)
    numbers = (found.st_mode & 0o7777, *owners, _or_zero(stored, _OCTAL_11), seconds)
    block = _block(_short(path, member.kind), numbers, member.kind, _short(member.target, member.kind))
    return block if stored < _OCTAL_11 or member.regions is None else _with_binary_size(block, stored)


def _or_zero(value: int, limit: int) -> int:
    return value if 0 <= value < limit else 0


def _short(name: bytes, kind: bytes) -> bytes:
    if len(name) <= _NAME and name.isascii():
        return name
    # Only a reader without PAX sees this. A cut that leaves a slash at the end would make a file a directory.
    short = name.decode("ascii", "replace").encode("ascii", "replace")[:_NAME].rstrip(b"/")
    return short[: _NAME - 1] + b"/" if kind == tarfile.DIRTYPE else short


def _with_binary_size(block: bytes, size: int) -> bytes:
    # GNU's base-256 number, which all three readers know: the only form of 8 GiB and more that Python's tarfile
    # does not mistake for the logical size of a sparse file.
    return _summed(block[:124] + b"\x80" + size.to_bytes(11, "big") + block[136:])


def _sparse_map(regions: tuple[DataRegion, ...], size: int) -> bytes:
    # The empty last entry makes readers give the file its length when it ends in a hole.
    entries = (*regions, (size, 0))
    text = b"%d\n" % len(entries) + b"".join(b"%d\n%d\n" % entry for entry in entries)
    return text + padding(len(text))


def index_line(sha256: str, size: int, path: bytes) -> bytes:
    """`<sha256>  <size>  <path>` and a newline, escaped as GNU sha256sum escapes."""
    if b"\\" in path or b"\n" in path or b"\r" in path:
        path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        sha256 = "\\" + sha256
    return b"%s  %d  %s\n" % (sha256.encode(), size, path)


def parse_index(lines: Iterable[bytes]) -> Iterator[IndexEntry]:
    """Entries of an index from its lines, newline included, as iterating over a binary file gives them.

    Raises IntegrityError for the first line that is not one `index_line` can have written, a cut one included.
    """
    for number, line in enumerate(lines, start=1):
        match = _INDEX_LINE.fullmatch(line)
        if match is None or (b"\\" in match[4]) != bool(match[1]) or (match[1] and not _ESCAPED.fullmatch(match[4])):
            raise IntegrityError(f"line {number} of the file index is damaged", "Run `verify` on this set.")
        _, sha256, size, path = match.groups()
        if match[1]:
            path = re.sub(rb"\\.", lambda escape: _UNESCAPE[escape[0]], path)
        yield IndexEntry(sha256.decode(), int(size), path)
