"""What earlier sets tell of the files of a volume: which were not touched since, and which content lies in a pack."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from backup.errors import IntegrityError
from backup.media.tar_writer import IndexEntry
from backup.media.tree import Mark, Place, TreeEntry, parse_entry, parse_tree, tree_line

# All bytes are read within so many days, a share of them each day.
REREAD_DAYS: Final = 7
# File systems whose inodes and times of inodes are known to be what they should.
_STABLE: Final = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "overlay", "aufs")
)
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_DIGEST: Final = 32


class KnownFile(NamedTuple):
    """A file of an earlier set, and what its content was."""

    sha256: str
    entry: TreeEntry


class KnownFiles:
    """The files of the set before, if they lie in packs that are good. `marks` are the packs' entry points.

    Kept as lines: what is asked of them is asked of few.
    """

    def __init__(self, marks: Mapping[str, Sequence[Mark]] | None = None, *, stable: bool = True) -> None:
        self.marks: dict[str, Sequence[Mark]] = dict(marks or {})
        self._stable = stable
        self._by_inode: dict[int, bytes] = {}
        self._by_content: dict[bytes, bytes] = {}
        self._large: set[int] = set()

    def add(self, sha256: str, entry: TreeEntry, *, touched: bool = False) -> None:
        """A file whose content lies at its place; `touched`: its inode was read already, and tells nothing new."""
        if entry.place is None or entry.state is None:
            return
        line = bytes.fromhex(sha256) + tree_line(entry)
        self._by_content[line[:_DIGEST]] = line
        self._large.add(entry.size)
        if entry.state.inode and not touched:
            self._by_inode[_number(entry.state.device, entry.state.inode)] = line

    def untouched(self, found: os.stat_result) -> KnownFile | None:
        """The file that this is, if inode, size and times are as they were when it was read."""
        line = self._by_inode.get(_number(found.st_dev, found.st_ino)) if self._stable else None
        if line is None:
            return None
        entry = parse_entry(line[_DIGEST:])
        seen = (entry.size, entry.mtime_ns, entry.state.ctime_ns if entry.state else -1)
        if seen != (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
            return None
        return KnownFile(line[:_DIGEST].hex(), entry)

    def unread(self, found: os.stat_result, day: int) -> KnownFile | None:
        """The same, if it need not be read today."""
        known = self.untouched(found)
        if known and known.entry.state and not is_due(known.entry.state.day, day, found.st_ino):
            return known
        return None

    def holds_size(self, size: int) -> bool:
        """Whether the content of any file has that many bytes."""
        return size in self._large

    def content(self, sha256: str, size: int) -> Place | None:
        """Where that content should lie: whoever trusts it compares it before."""
        line = self._by_content.get(bytes.fromhex(sha256))
        entry = parse_entry(line[_DIGEST:]) if line else None
        return entry.place if entry and entry.size == size else None

    def forget(self, sha256: str) -> None:
        """It does not lie where it should."""
        self._by_content.pop(bytes.fromhex(sha256), None)


def is_due(read: int, today: int, number: int) -> bool:
    """Whether a file that was last read on the day `read` is read again `today`; by its `number`, a share each day."""
    age = today - read
    return not 0 <= age < REREAD_DAYS or (age > 0 and number % REREAD_DAYS == today % REREAD_DAYS)


def with_digests(lines: Iterable[bytes], index: Iterable[IndexEntry]) -> Iterator[KnownFile]:
    """The files and hard links of a tree, each with what its file index says. IntegrityError where they differ."""
    listed = iter(index)
    for entry in parse_tree(lines):
        if entry.kind in (b"0", b"1"):
            indexed = next(listed, None)
            linked = entry.place is None
            if indexed is None or indexed.path != entry.path or not (linked or indexed.size == entry.size):
                raise IntegrityError("the tree does not list what the file index lists", "Run `verify` on this set.")
            yield KnownFile(indexed.sha256, entry)
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


def _number(device: int, inode: int) -> int:
    return device << 64 | inode
