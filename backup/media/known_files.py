"""What earlier sets tell of the files of a volume: which were not touched since, and which content lies in a pack."""

from __future__ import annotations

import marshal
import os
import re
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from backup.errors import IntegrityError
from backup.media.tar_writer import IndexEntry
from backup.media.tree import COMMON, OF_A_FILE, EntryPoint, Location, TreeEntry, escaped, parse_entry

# All bytes are read within so many days, a share of them each day.
REREAD_DAYS: Final = 7
# File systems whose inodes and times of inodes are known to be what they should.
_STABLE: Final = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "overlay", "aufs")
)
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
# Device, inode, size, mtime, ctime, day of the last reading, bytes stored, number of the pack, SHA-256.
_HEAD: Final = struct.Struct("<QQqqqqqI32s")
_TOGETHER, _AT_HAND, _SORTED, _PAGE = 256, 8, 1 << 16, 12
# Of eight bytes, those of a position and those of a key.
_BITS: Final = 24
_KEYS: Final = (1 << 40) - 1


class KnownFile(NamedTuple):
    """A file of an earlier set, and what its content was."""

    sha256: str
    entry: TreeEntry


class Untouched(NamedTuple):
    """A file that is as it was when it was read: its content, in which pack, and its `line` in the tree."""

    sha256: str
    size: int
    stored: int
    pack: str
    day: int
    line: bytes

    @property
    def entry(self) -> TreeEntry:
        """Its line, taken apart."""
        return parse_entry(self.line)


class KnownFiles:
    """The files of the set before, if they lie in packs that are good. `marks` are the packs' entry points.

    There may be a million: their lines are kept packed, in the order of the tree, in which most are asked for.
    """

    def __init__(self, marks: Mapping[str, Sequence[EntryPoint]] | None = None, *, stable: bool = True) -> None:
        self.marks: dict[str, Sequence[EntryPoint]] = dict(marks or {})
        self._stable = stable
        self._packs: list[str] = []
        self._records = _Records()
        self._inodes, self._contents = _Positions(), _Positions()
        # In whole pages: one too many costs a second reading.
        self._sizes: set[int] = set()
        self._forgotten: set[bytes] = set()

    def add(self, sha256: str, line: bytes, *, touched: bool = False) -> None:
        """A file by its line; `touched`: its inode was read already, and tells nothing new."""
        fields = line.split(b"\t")
        pack, size, stored = fields[9].decode("ascii"), int(fields[8]), int(fields[11])
        device, inode, ctime, day = map(int, fields[14].split(b":"))
        if pack not in self._packs:
            self._packs.append(pack)
        number, digest = self._packs.index(pack), bytes.fromhex(sha256)
        head = _HEAD.pack(device, inode, size, int(fields[4]), ctime, day, stored, number, digest)
        position = self._records.add(head + line)
        self._contents.add(_content_key(digest), position)
        self._forgotten.discard(digest)
        self._sizes.add(size >> _PAGE)
        if not touched:
            self._inodes.add(_inode_key(device, inode), position)

    def untouched(self, found: os.stat_result) -> Untouched | None:
        """The file that this is, if inode, size and times are as they were when it was read."""
        now = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        for position in self._inodes.find(_inode_key(found.st_dev, found.st_ino)) if self._stable else ():
            known = self._records.get(position)
            *then, day, stored, number, digest = _HEAD.unpack_from(known)
            if tuple(then) == now:
                line = known[_HEAD.size :]
                return Untouched(digest.hex(), found.st_size, stored, self._packs[number], day, line)
        return None

    def unread(self, found: os.stat_result, day: int) -> Untouched | None:
        """The same, if it need not be read today."""
        known = self.untouched(found)
        return known if known and not is_due(known.day, day, found.st_ino) else None

    def holds_size(self, size: int) -> bool:
        """Whether the content of any file may have that many bytes."""
        return size >> _PAGE in self._sizes

    def content(self, sha256: str, size: int) -> Location | None:
        """Where that content should lie: whoever trusts it compares it before."""
        digest = bytes.fromhex(sha256)
        for position in self._contents.find(_content_key(digest)) if digest not in self._forgotten else ():
            known = self._records.get(position)
            if _HEAD.unpack_from(known)[-1] == digest:
                entry = parse_entry(known[_HEAD.size :])
                return entry.place if entry.size == size else None
        return None

    def forget(self, sha256: str) -> None:
        """It does not lie where it should."""
        self._forgotten.add(bytes.fromhex(sha256))


class _Records:
    """Many bytes, packed some hundred at a time; those that were asked for last are at hand."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._last: list[bytes] = []
        self._open: dict[int, list[bytes]] = {}

    def add(self, record: bytes) -> int:
        if len(self._last) == _TOGETHER:
            self._blocks.append(zlib.compress(marshal.dumps(self._last), 1))
            self._last = []
        self._last.append(record)
        return len(self._blocks) * _TOGETHER + len(self._last) - 1

    def get(self, position: int) -> bytes:
        block, at = divmod(position, _TOGETHER)
        if block == len(self._blocks):
            return self._last[at]
        if block not in self._open:
            if len(self._open) >= _AT_HAND:
                del self._open[next(iter(self._open))]
            self._open[block] = marshal.loads(zlib.decompress(self._blocks[block]))  # noqa: S302 - our own
        return self._open[block][at]


class _Positions:
    """Where what has a key is: sorted pieces of eight bytes each, and what came since the last one."""

    def __init__(self) -> None:
        self._pieces: list[array[int]] = []
        self._recent: dict[int, list[int]] = {}
        self._count = 0

    def add(self, key: int, position: int) -> None:
        if position >> _BITS:  # of such many files the last are read each time
            return
        self._recent.setdefault(key, []).append(position)
        self._count += 1
        if self._count == _SORTED:
            keyed = (key << _BITS | each for key, positions in self._recent.items() for each in positions)
            self._pieces.append(array("Q", sorted(keyed)))
            self._recent, self._count = {}, 0

    def find(self, key: int) -> Iterator[int]:
        yield from reversed(self._recent.get(key, ()))
        for piece in self._pieces:
            at = bisect_left(piece, key << _BITS)
            while at < len(piece) and piece[at] >> _BITS == key:
                yield piece[at] & (1 << _BITS) - 1
                at += 1


def _inode_key(device: int, inode: int) -> int:
    return hash((device, inode)) & _KEYS


def _content_key(digest: bytes) -> int:
    return int.from_bytes(digest[:5], "big")


def is_due(read: int, today: int, number: int) -> bool:
    """Whether a file that was last read on the day `read` is read again `today`; by its `number`, a share each day."""
    age = today - read
    return not 0 <= age < REREAD_DAYS or (age > 0 and number % REREAD_DAYS == today % REREAD_DAYS)


def with_digests(lines: Iterable[bytes], index: Iterable[IndexEntry]) -> Iterator[tuple[str, bytes]]:
    """The lines of a tree's files, each with the SHA-256 of its file index. IntegrityError where they differ."""
    listed = iter(index)
    for line in lines:
        if line[:2] not in (b"f\t", b"h\t"):
            continue
        fields, entry = line.split(b"\t"), next(listed, None)
        whole = line.endswith(b"\n") and len(fields) == (OF_A_FILE if line[:1] == b"f" else COMMON)
        if not whole or entry is None or escaped(entry.path) != fields[5].rstrip(b"\n"):
            raise IntegrityError("the tree does not list what the file index lists", "Run `verify` on this set.")
        if line[:1] == b"f":
            yield entry.sha256, line
    if next(listed, None):
        raise IntegrityError("the file index lists more than the tree", "Run `verify` on this set.")


def is_stable(path: Path, mounts: bytes) -> bool:
    """Whether the file system of `path` keeps inodes and their times; `mounts` is /proc/self/mountinfo."""
    best, kind = b"", b""
    wanted = os.fsencode(os.path.realpath(path)) + b"/"
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), before.split(b" ")[4]).rstrip(b"/") + b"/"
        if wanted.startswith(point) and len(point) >= len(best):
            best, kind = point, after.split(b" ")[0]
    return kind.decode("ascii", "replace") in _STABLE
