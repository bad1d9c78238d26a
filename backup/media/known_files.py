"""What earlier sets tell of the files of a volume: which were not touched since, and which content lies in a pack."""

from __future__ import annotations

import os
import re
import struct
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
# Size, mtime, ctime, day of the last reading, bytes stored, number of the pack, SHA-256.
_HEAD: Final = struct.Struct("<qqqqqI32s")


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

    Kept as bytes, for there may be a million; what is asked of each is in front of its line.
    """

    def __init__(self, marks: Mapping[str, Sequence[EntryPoint]] | None = None, *, stable: bool = True) -> None:
        self.marks: dict[str, Sequence[EntryPoint]] = dict(marks or {})
        self._stable = stable
        self._packs: list[str] = []
        self._by_inode: dict[int, bytes] = {}
        self._by_content: dict[bytes, bytes] = {}
        self._sizes: set[int] = set()

    def add(self, sha256: str, line: bytes, *, touched: bool = False) -> None:
        """A file by its line; `touched`: its inode was read already, and tells nothing new."""
        fields = line.split(b"\t")
        pack, size, stored = fields[9].decode("ascii"), int(fields[8]), int(fields[11])
        device, inode, ctime, day = map(int, fields[14].split(b":"))
        if pack not in self._packs:
            self._packs.append(pack)
        number, digest = self._packs.index(pack), bytes.fromhex(sha256)
        known = _HEAD.pack(size, int(fields[4]), ctime, day, stored, number, digest) + line
        self._by_content[digest] = known
        self._sizes.add(size)
        if inode and not touched:
            self._by_inode[device << 64 | inode] = known

    def untouched(self, found: os.stat_result) -> Untouched | None:
        """The file that this is, if inode, size and times are as they were when it was read."""
        known = self._by_inode.get(found.st_dev << 64 | found.st_ino) if self._stable else None
        if known is None:
            return None
        size, mtime, ctime, day, stored, number, digest = _HEAD.unpack_from(known)
        if (size, mtime, ctime) != (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
            return None
        return Untouched(digest.hex(), size, stored, self._packs[number], day, known[_HEAD.size :])

    def unread(self, found: os.stat_result, day: int) -> Untouched | None:
        """The same, if it need not be read today."""
        known = self.untouched(found)
        return known if known and not is_due(known.day, day, found.st_ino) else None

    def holds_size(self, size: int) -> bool:
        """Whether the content of any file has that many bytes."""
        return size in self._sizes

    def content(self, sha256: str, size: int) -> Location | None:
        """Where that content should lie: whoever trusts it compares it before."""
        known = self._by_content.get(bytes.fromhex(sha256))
        entry = parse_entry(known[_HEAD.size :]) if known else None
        return entry.place if entry and entry.size == size else None

    def forget(self, sha256: str) -> None:
        """It does not lie where it should."""
        self._by_content.pop(bytes.fromhex(sha256), None)


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
