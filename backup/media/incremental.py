"""A tree of which only what is new is archived, into a pack; the tree beside it says where the rest lies.

Content is new if no good pack holds it. A file that has the inode, size and times of its last reading is not read, but
for the share of each day: its line goes from one tree to the next as it is. Where a pack should hold a content, that is
read there and compared before it is trusted.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.media.archive_tree import Archiver, MediaReport, MetEntries, StoredFile
from backup.media.directories import identity
from backup.media.known_files import KnownFiles, Rereading, listed_sha256
from backup.media.pack_reader import PackFiles, read_content
from backup.media.rewritten_packs import APART, PackSink
from backup.media.tar_writer import Gathered, Member, hash_hole
from backup.media.tree import FileLine, InodeState, Location, PackMarks, TreeEntry, TreeWriter
from backup.media.walk import OpenFile, Walk, WalkEntry
from backup.pipeline.chunks import Sink

# So many files that are not read take some milliseconds.
_ALIVE: Final = 512
ROTTEN: Final = "has other content although its times are as they were: bit rot, or a trick"


class Increment:
    """What one run makes of a volume: give `archiver` to `archive_tree.archive`.

    `name` is the file that `pack`, new content, becomes; `day` is today's, since 1970. Without `rereading`, the share
    of the day is left to others. Afterwards `used` are the packs that the tree names, and `new` how many files are in
    the new one.
    """

    def __init__(
        self,
        name: str,
        pack: PackSink,
        tree: Sink,
        known: KnownFiles,
        packs: PackFiles,
        day: int,
        *,
        rereading: bool = True,
    ) -> None:
        self.name, self.pack, self.tree = name, pack, tree
        self.known, self.packs, self.day = known, packs, day
        self.is_due = Rereading(day, rereading=rereading)
        self.lines = TreeWriter(known.numbers)
        self.new = 0
        # Bytes of content in the new pack.
        self.content = 0
        # Where entry points are in what is packed.
        self.marks: list[int] = []

    @property
    def named(self) -> dict[str, int]:
        """Bytes of content of each pack that the tree names."""
        return {pack: self.lines.content[b"%d" % self.lines.numbers[pack]] for pack in self.used}

    @property
    def used(self) -> list[str]:
        """The packs that the tree names."""
        return self.lines.named

    def archiver(
        self, name: str, walk: Walk, seen: MetEntries, sink: Sink, index: Sink, progress: Callable[[int], None]
    ) -> Archiver:
        """See MakeArchiver."""
        return _Incremental(self, name, walk, seen, sink, index, progress)

    def entry_points(self, stored: Iterable[int], size: int) -> bytes:
        """The lines of those of all packs that are used; of the new one, `stored` is where they lie in its file."""
        marks = {**self.known.marks, self.name: PackMarks(size, list(zip(self.marks, stored, strict=True)))}
        return b"".join(self.lines.marks_line(pack, marks.get(pack, PackMarks())) for pack in self.used)


class _Incremental(Archiver):
    def __init__(
        self,
        run: Increment,
        name: str,
        walk: Walk,
        seen: MetEntries,
        sink: Sink,
        index: Sink,
        progress: Callable[[int], None],
    ) -> None:
        super().__init__(name, walk, seen, sink, index, progress)
        self._increment, self._known, self._lines, self._is_due = run, run.known, run.lines, run.is_due
        self._prefix = self._name + b"/"
        self._tree = Gathered(run.tree)
        self._compared: set[tuple[str, str, int]] = set()
        self._repeated = 0
        # What the set before has under the path at hand.
        self._before: FileLine | None = None
        # Of the member at hand: as it was begun, where its content begins, and what the tree says of it.
        self._began: Member | None = None
        self._offset = 0
        self._entry: TreeEntry | None = None

    def run(self, second: Walk) -> MediaReport:
        report = super().run(second)
        self._tree.flush()
        return replace(report, files=report.files + self._repeated)

    def _take(self, entry: WalkEntry) -> bool:
        found, self._before = entry.stat, None
        if not stat.S_ISREG(found.st_mode):
            return super()._take(entry)
        before = self._before = self._known.at(self._prefix + entry.path)
        if before is None or found.st_nlink > 1 or not self._need_not_be_read(before, found):
            return super()._take(entry)
        self._repeat(before)
        return True

    def _begin(self, member: Member) -> None:
        if member.kind != tarfile.REGTYPE:
            self._counts[member.kind] += 1
            self._tree.write(self._lines.line(_entry(member)))
            return
        marks = self._increment.marks
        if not marks or self._tar.count - marks[-1] >= APART:
            self._tar.flush()
            self._increment.pack.mark()
            marks.append(self._tar.count)
        super()._begin(member)
        self._began, self._offset = member, self._tar.count
        self._increment.new += 1

    def _left_unread(self, entry: WalkEntry, path: bytes) -> bool:
        found, before = entry.stat, self._before
        if before and self._need_not_be_read(before, found):
            stored = StoredFile(path, listed_sha256(before), before.size, found.st_mtime_ns)
            self._repeat(before)
        elif before is None and (moved := self._known.moved(found)) and self._need_not_be_read(moved, found):
            known = self._known.entry(moved)
            member = Member(path, tarfile.REGTYPE, found, moved.size, attributes=known.attributes)
            stored = self._refer(member, listed_sha256(moved), known.place, known.state)
            self._list(stored, "")
        else:
            return False
        if found.st_nlink > 1:
            self._linked[identity(found)] = stored
        return True

    def _need_not_be_read(self, known: FileLine, found: os.stat_result) -> bool:
        return self._known.is_untouched(known, found) and not self._is_due(known.fields[14], known.inode)

    def _repeat(self, before: FileLine) -> None:
        """Let the lines of a file stand in this set, too."""
        stored = int(before.fields[8] or before.size)
        self._bytes += stored
        self._lines.content[before.pack] += stored
        self._index.write(before.listed)
        self._tree.write(self._lines.again(before))
        self._repeated += 1
        # Signs of life cost more than the files.
        if not self._repeated % _ALIVE:
            self._progress(0)

    def _put(self, member: Member, data: bytes, sha256: str) -> StoredFile:
        place = self._place(member, sha256) if data else _nowhere(member)
        if place:
            return self._refer(member, sha256, place)
        return self._stored_anew(member, super()._put(member, data, sha256))

    def _stream(self, source: OpenFile, member: Member) -> tuple[StoredFile, str]:
        # Its content is new for certain where none has its size; else it is read once to know.
        if self._known.holds_size(member.size):
            sha256 = self._digest(source, member)
            if place := self._place(member, sha256):
                return self._refer(member, sha256, place), source.difference(member.stat)
        stored, what = super()._stream(source, member)
        return self._stored_anew(member, stored), what

    def _list(self, stored: StoredFile, what: str) -> None:
        super()._list(stored, what)
        # What changed while it was read has other times by now than those that are noted.
        entry, self._entry = self._entry, None
        if entry is None:
            return
        self._tree.write(self._lines.line(entry))
        if entry.place and entry.place.pack == self._increment.name:
            self._known.add(stored.sha256, stored.size, entry.place)

    def _digest(self, source: OpenFile, member: Member) -> str:
        """The SHA-256 of a file that is not held in memory."""
        digest, position = hashlib.sha256(), 0
        for start, length in (*source.regions(member.size), (member.size, 0)):
            hash_hole(digest, start - position, self._progress)
            for chunk in source.chunks(start, length):
                digest.update(chunk)
            position = start + length
        return digest.hexdigest()

    def _place(self, member: Member, sha256: str) -> Location | None:
        """Where content lies that was just read; None if it is new."""
        before = self._before
        if before and self._known.is_untouched(before, member.stat):
            if listed_sha256(before) == sha256:
                return self._known.entry(before).place
            self._changed.add(member.path.partition(b"/")[2], ROTTEN)
        place = self._known.content(sha256, member.size, before)
        if place and place.pack and place.pack != self._increment.name and (sha256, *place[:2]) not in self._compared:
            if not self._holds(place, member.size, sha256):
                self._known.forget(sha256)
                return None
            self._compared.add((sha256, *place[:2]))
        return place

    def _holds(self, place: Location, size: int, sha256: str) -> bool:
        """Whether the content lies where an index claims."""
        digest = hashlib.sha256()
        try:
            for piece in read_content(self._increment.packs, place, size):
                digest.update(piece)
                self._progress(0)
        except BackupError as error:
            logger.warning("{}: what it should hold is stored anew. {}", error.message, error.hint)
            return False
        if digest.hexdigest() != sha256:
            logger.warning("{} does not hold what an index says: that is stored anew; `verify` the sets", place.pack)
        return digest.hexdigest() == sha256

    def _refer(
        self, member: Member, sha256: str, place: Location | None, state: InodeState | None = None
    ) -> StoredFile:
        """A file whose content lies in a pack."""
        self._counts[tarfile.REGTYPE] += 1
        self._bytes += place.stored if place else 0
        self._entry = _entry(member, place, state or _state(member, self._increment.day))
        return StoredFile(member.path, sha256, member.size, member.stat.st_mtime_ns)

    def _stored_anew(self, member: Member, stored: StoredFile) -> StoredFile:
        regions = self._began.regions if self._began else None
        count = member.size if regions is None else sum(length for _, length in regions)
        self._increment.content += count
        place = Location(self._increment.name, self._offset, count, regions, member.path)
        self._entry = _entry(member, place, _state(member, self._increment.day))
        return stored


def _nowhere(member: Member) -> Location:
    return Location("", 0, 0, None, member.path)


def _state(member: Member, day: int) -> InodeState:
    return InodeState(member.stat.st_dev, member.stat.st_ino, member.stat.st_ctime_ns, day)


def _entry(member: Member, place: Location | None = None, state: InodeState | None = None) -> TreeEntry:
    found = member.stat
    return TreeEntry(
        member.kind,
        found.st_mode & 0o7777,
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        member.path,
        member.target,
        member.attributes,
        member.size if place else 0,
        place,
        state,
    )
