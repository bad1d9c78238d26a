"""A directory tree as a PAX tar stream in one sequential pass, with every file's SHA-256 from the same read.

The tree may be in use. What changes under the reader is read again when small, else listed in the report; what cannot
be read fails the run. What came into a directory after that was listed is found by a second look and archived last.
Memory holds one directory's names per level, the inodes with several names, and eight bytes for each entry.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import stat
import tarfile
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from backup.media.directories import Inode, identity
from backup.media.tar_writer import BLOCK, Gathered, Member, ending, hash_hole, header, index_line, padding
from backup.media.walk import (
    OPEN_FILE,
    REPLACED,
    SWAPPED,
    Change,
    EntryLost,
    Listed,
    OpenFile,
    Scope,
    Walk,
    WalkEntry,
    is_recent,
    open_below,
    reading,
    unreadable,
)
from backup.pipeline.chunks import Sink

DEFAULT_EXCLUDES: tuple[str, ...] = ("*.pyc", "__pycache__", ".DS_Store")
_WHOLE = 4 << 20
_ATTEMPTS = 3
_SORTED = 1 << 16
# What is noted of a directory that others lie in.
_ABOVE = "above"
_DIRECTORY_CHANGED, _CAME = "changed while read", "came while read"
_NOT_STORED = {stat.S_IFSOCK: "socket skipped", stat.S_IFIFO: "FIFO skipped"}


@dataclass(frozen=True)
class TreeSize:
    """Regular files, each inode once, and the bytes of content an archive of them stores."""

    files: int
    bytes: int


@dataclass(frozen=True)
class MediaReport:
    """What an archive holds. `files` have content, `hard_links` are further names of those, `links` are symbolic;
    `bytes` is stored content. `changed` and `skipped` are the first 1000; their totals count all."""

    files: int
    directories: int
    links: int
    hard_links: int
    bytes: int
    changed: tuple[Change, ...]
    skipped: tuple[Change, ...]
    changed_total: int
    skipped_total: int


class MakeArchiver(Protocol):
    """How an Archiver, or what is to take its place, is made."""

    def __call__(
        self, name: str, walk: Walk, seen: MetEntries, sink: Sink, index: Sink, progress: Callable[[int], None]
    ) -> Archiver:
        """Make one."""


def measure_tree(
    root: Path, excludes: Sequence[str], forbidden: frozenset[tuple[int, int]] = frozenset(), since: int = 0
) -> TreeSize:
    """What `archive` would store, from a walk that opens no file. Raises MediaFailed as `archive` does.

    With `since`, in ns, bytes of files that did not change after that do not count, and files in directories that did
    not are not looked at: of those one stands for all. What was written anew in its place there is missed.
    """
    seen: set[Inode] = set()
    files = size = 0

    def wanted(path: bytes, found: os.stat_result) -> Scope:
        if not files or max(found.st_mtime_ns, found.st_ctime_ns) >= since:
            return "all"
        # Most file systems count a directory's name, its own `.`, and a `..` in each directory that lies in it.
        return "none" if found.st_nlink == 2 else "directories"

    with contextlib.closing(Walk(root, excludes, forbidden, Listed(), wanted).entries()) as entries:
        for found in (entry.stat for entry in entries if stat.S_ISREG(entry.stat.st_mode)):
            if found.st_nlink > 1 and identity(found) in seen:
                continue
            if found.st_nlink > 1:
                seen.add(identity(found))
            files += 1
            if found.st_ctime_ns >= since:
                size += min(found.st_size, found.st_blocks * BLOCK)
    return TreeSize(files, size)


def archive(
    root: Path,
    name: str,
    sink: Sink,
    index: Sink,
    *,
    excludes: Sequence[str] = DEFAULT_EXCLUDES,
    forbidden: frozenset[tuple[int, int]] = frozenset(),
    progress: Callable[[int], None] = lambda count: None,
    kind: MakeArchiver | None = None,
) -> MediaReport:
    """Write the tree at `root` to `sink` as a tar stream rooted at `<name>/`, and a line per file to `index`.

    `excludes` are fnmatch patterns for base names or, with a `/`, for paths relative to the root; nothing below an
    excluded directory is looked at. What is left out is in the report, also what a restore keeps in the root.
    `forbidden` names directories, as (st_dev, st_ino), that must not be met.
    `progress` gets the bytes of content read since its last call, 0 as a sign of life: in holes and behind each entry.
    `kind` makes what archives, where that is no ordinary Archiver.
    Raises MediaFailed if the root or anything in it cannot be read, and whatever the sinks raise.
    """
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"not a folder's name: {name!r}")
    changed, seen = Listed(), MetEntries()
    first = Walk(root, excludes, forbidden, changed)

    def wanted(path: bytes, found: os.stat_result) -> Scope:
        return "all" if path in first.unfinished else seen.wanted(path, found)

    second = Walk(root, excludes, forbidden, changed, wanted)
    return (kind or Archiver)(name, first, seen, sink, index, progress).run(second)


class StoredFile(NamedTuple):
    """A file that is in the archive, for its further names."""

    path: bytes
    sha256: str
    size: int
    mtime_ns: int


class MetEntries:
    """What a walk has met: hashes of paths, and of directories with their time stamps. First all is added."""

    def __init__(self) -> None:
        # Nothing is asked of files unless a directory has changed meanwhile.
        self._directories, self._others = _Hashes(), _Hashes()

    def add(self, entry: WalkEntry) -> None:
        """It is in the archive, or was left out with a word."""
        path = entry.path
        if not stat.S_ISDIR(entry.stat.st_mode):
            self._others.add(hash(path))
            return
        self._directories.add(hash(path))
        self._directories.add(_state(path, entry.stat, recent=is_recent(entry.stat)))
        self._directories.add(hash((_ABOVE, path.rpartition(b"/")[0])))

    def wanted(self, path: bytes, found: os.stat_result) -> Scope:
        """What a second look has to look at of a directory."""
        if self._directories.has(_state(path, found, recent=False)):
            return "directories" if self._directories.has(hash((_ABOVE, path))) else "none"
        # Below what the archive has as a file nothing can be put.
        return "none" if self.met(path) and not self._directories.has(hash(path)) else "all"

    def met(self, path: bytes) -> bool:
        """Whether it was met."""
        return self._directories.has(hash(path)) or self._others.has(hash(path))

    def is_as_it_was(self, path: bytes, found: os.stat_result) -> bool:
        """Whether a directory has the time stamps that it had when it was listed."""
        return any(self._directories.has(_state(path, found, recent=recent)) for recent in (False, True))


class _Hashes:
    """Hashes in eight bytes each, sorted a piece at a time when one is looked for: all at once take five times that."""

    def __init__(self) -> None:
        self._pieces, self._sorted = [array("q")], 0

    def add(self, value: int) -> None:
        piece = self._pieces[-1]
        piece.append(value)
        if len(piece) == _SORTED:
            self._pieces.append(array("q"))

    def has(self, wanted: int) -> bool:
        for number in range(self._sorted, len(self._pieces)):
            self._pieces[number] = array("q", sorted(self._pieces[number]))
        self._sorted = len(self._pieces)
        places = ((hashes, bisect.bisect_left(hashes, wanted)) for hashes in self._pieces)
        return any(place < len(hashes) and hashes[place] == wanted for hashes, place in places)


def _state(path: bytes, found: os.stat_result, *, recent: bool) -> int:
    return hash((path, found.st_mtime_ns, found.st_ctime_ns, recent))


class Archiver:
    """Writes one archive; `run` does it all."""

    def __init__(
        self, name: str, walk: Walk, seen: MetEntries, sink: Sink, index: Sink, progress: Callable[[int], None]
    ) -> None:
        self._name, self._walk, self._seen, self._progress = os.fsencode(name), walk, seen, progress
        self._tar, self._index = Gathered(sink), Gathered(index)
        self._changed, self._skipped = walk.changed, walk.skipped
        self._counts: Counter[bytes] = Counter()
        self._bytes = 0
        self._linked: dict[Inode, StoredFile] = {}

    def run(self, second: Walk) -> MediaReport:
        """Archive all; `second` is the walk that looks for what came meanwhile."""
        with contextlib.closing(self._walk.entries()) as entries:
            take, add = self._take, self._seen.add
            for entry in entries:
                if take(entry):
                    add(entry)
        with contextlib.closing(second.entries()) as entries:
            for entry in entries:
                self._again(entry)
        self._tar.write(ending(self._tar.count))
        self._tar.flush()
        self._index.flush()
        return self._report()

    def _take(self, entry: WalkEntry) -> bool:
        try:
            self._add(entry, self._name + b"/" + entry.path)
        except EntryLost as lost:
            self._changed.add(entry.path, str(lost))
            return False
        finally:
            self._progress(0)
        return True

    def _again(self, entry: WalkEntry) -> None:
        """Archive what the first look has not met, and say which directories are not as they were."""
        if not self._seen.met(entry.path):
            above = entry.path.rpartition(b"/")[0]
            if self._take(entry) and self._seen.met(above):
                self._changed.add(entry.path, _CAME)
        elif stat.S_ISDIR(entry.stat.st_mode):
            self._progress(0)
            if not self._seen.is_as_it_was(entry.path, entry.stat):
                self._changed.add(entry.path, _DIRECTORY_CHANGED)

    def _report(self) -> MediaReport:
        return MediaReport(
            files=self._counts[tarfile.REGTYPE],
            directories=self._counts[tarfile.DIRTYPE],
            links=self._counts[tarfile.SYMTYPE],
            hard_links=self._counts[tarfile.LNKTYPE],
            bytes=self._bytes,
            changed=tuple(self._changed.first),
            skipped=tuple(self._skipped.first),
            changed_total=self._changed.total,
            skipped_total=self._skipped.total,
        )

    def _add(self, entry: WalkEntry, path: bytes) -> None:
        mode = entry.stat.st_mode
        if stat.S_ISREG(mode):
            self._add_file(entry, path)
        elif stat.S_ISDIR(mode):
            attributes = self._opened(entry.folder, entry).attributes()
            self._begin(Member(path.rstrip(b"/") + b"/", tarfile.DIRTYPE, entry.stat, attributes=attributes))
        elif stat.S_ISLNK(mode):
            with reading(self._walk.full(entry.path), SWAPPED):
                target = os.readlink(entry.name, dir_fd=entry.folder)
            self._begin(Member(path, tarfile.SYMTYPE, entry.stat, target=target))
        else:
            self._skipped.add(entry.path, _NOT_STORED.get(stat.S_IFMT(mode), "device skipped"))

    def _opened(self, fd: int, entry: WalkEntry) -> OpenFile:
        return OpenFile(fd, self._walk.full(entry.path), self._progress)

    def _begin(self, member: Member) -> None:
        self._counts[member.kind] += 1
        self._tar.write(header(member))

    def _add_file(self, entry: WalkEntry, path: bytes) -> None:
        first = self._linked.get(identity(entry.stat)) if entry.stat.st_nlink > 1 else None
        if first and (first.size, first.mtime_ns) == (entry.stat.st_size, entry.stat.st_mtime_ns):
            self._begin(Member(path, tarfile.LNKTYPE, entry.stat, target=first.path))
            self._index.write(index_line(first.sha256, first.size, path))
            return
        if first:  # changed between its names, or its number was given to a new file
            self._changed.add(entry.path, "rewritten while read")
        if self._left_unread(entry, path):
            return
        try:
            fd = open_below(entry.name, entry.folder, OPEN_FILE)
        except OSError as error:
            raise unreadable(error, self._walk.full(entry.path), SWAPPED) from error
        try:
            self._add_content(self._opened(fd, entry), entry, path)
        finally:
            os.close(fd)

    def _left_unread(self, entry: WalkEntry, path: bytes) -> bool:
        """Whether a file is done with: all of it is known, without opening it."""
        return False

    def _add_content(self, source: OpenFile, entry: WalkEntry, path: bytes) -> None:
        before = source.settled()
        if not stat.S_ISREG(before.st_mode):
            raise EntryLost(REPLACED)
        if identity(before) != identity(entry.stat):
            self._changed.add(entry.path, REPLACED)
        member = Member(path, tarfile.REGTYPE, before, before.st_size, attributes=source.attributes())
        sparse = before.st_blocks * BLOCK < before.st_size
        store = self._stream if sparse or before.st_size > _WHOLE else self._store_whole
        stored, what = store(source, member)
        if what:
            self._changed.add(entry.path, what)
        if before.st_nlink > 1:
            self._linked[identity(before)] = stored
        self._list(stored, what)

    def _list(self, stored: StoredFile, what: str) -> None:
        """Note a file that is in the archive; `what` happened to it meanwhile."""
        self._index.write(index_line(stored.sha256, stored.size, stored.path))

    def _store_whole(self, source: OpenFile, member: Member) -> tuple[StoredFile, str]:
        before, attempt = member.stat, 1
        while True:
            data = source.whole(before.st_size)
            what = source.difference(before)
            if not what or attempt == _ATTEMPTS:
                break
            before, attempt = source.settled(), attempt + 1
            if before.st_size > _WHOLE:
                return self._stream(source, member._replace(stat=before, size=before.st_size))
        member = member if before is member.stat else member._replace(stat=before, size=len(data))
        return self._put(member, data, hashlib.sha256(data).hexdigest()), what

    def _put(self, member: Member, data: bytes, sha256: str) -> StoredFile:
        self._begin(member)
        self._tar.write(data)
        self._tar.write(padding(len(data)))
        self._bytes += len(data)
        return StoredFile(member.path, sha256, len(data), member.stat.st_mtime_ns)

    def _stream(self, source: OpenFile, member: Member) -> tuple[StoredFile, str]:
        everywhere = ((0, member.size),)
        regions = source.regions(member.size) if member.stat.st_blocks * BLOCK < member.size else everywhere
        self._begin(member if regions == everywhere else member._replace(regions=regions))
        digest, position = hashlib.sha256(), 0
        for start, length in (*regions, (member.size, 0)):
            hash_hole(digest, start - position, self._progress)
            for chunk in source.chunks(start, length):
                digest.update(chunk)
                self._tar.write(chunk)
            position = start + length
        stored = sum(length for _, length in regions)
        self._tar.write(padding(stored))
        self._bytes += stored
        what = source.difference(member.stat)
        return StoredFile(member.path, digest.hexdigest(), member.size, member.stat.st_mtime_ns), what
