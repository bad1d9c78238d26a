"""A volume's archive against its file index and against what the manifest says of it."""

from __future__ import annotations

import hashlib
import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from backup.formatting import printable
from backup.media.archive_rules import judged
from backup.media.pack_reader import TreeReader
from backup.media.tar_reader import Member, TarReader
from backup.media.tar_writer import IndexEntry, parse_index
from backup.media.tree import Location, TreeEntry
from backup.model.backup_set import StoredSet
from backup.model.manifest import VolumePart
from backup.operations.set_artifacts import open_file
from backup.pipeline.chunks import split_lines

Reader = TarReader | TreeReader
# What is said of a place in a pack that need not be read again.
UNREAD: Final = ""
_LISTED: Final = 20
_COUNTED: Final = {tarfile.DIRTYPE: "directories", tarfile.SYMTYPE: "links", tarfile.LNKTYPE: "hard_links"}


@dataclass
class Walked:
    """What an archive was found to hold, by VolumePart's field names, and what is wrong with it."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def walk(chunks: Iterable[bytes], root: bytes, *, trusted: bool) -> Walked:
    """An archive that has no index. IntegrityError where it is not whole, or no restore takes it."""
    walked = Walked()
    reader = TarReader(chunks, root=b"" if trusted else root)
    for found in judged(reader, root, trusted=trusted, indexed=False):
        count(found, walked.counts)
    return walked


def read_index(chunks: Iterable[bytes]) -> None:
    """An index that has no archive. IntegrityError where it is damaged."""
    for _ in parse_index(split_lines(chunks)):
        pass


def compare(
    chunks: Iterable[bytes],
    index: Iterable[bytes],
    again: Callable[[], Iterable[bytes]],
    root: bytes,
    alive: Callable[[], None] = lambda: None,
    *,
    trusted: bool = True,
) -> Walked:
    """An archive whose every file is hashed and held against the index, `index` and `again` being its plain bytes.

    The file index names regular files and hard links in the archive's order. What does not fit is in `problems`;
    IntegrityError where the archive is not whole, or no restore takes it. A damaged index raises whatever reading it
    raises. `alive` is called where work goes on that takes no chunk.
    """
    reader = TarReader(chunks, root=b"" if trusted else root)
    return _Comparison(parse_index(split_lines(index)), alive).run(reader, root, trusted, again)


def compare_tree(
    pairs: Iterable[tuple[TreeEntry, IndexEntry | None]],
    again: Callable[[], Iterable[bytes]],
    root: bytes,
    digest: Callable[[Location, int], str | None],
    alive: Callable[[], None] = lambda: None,
) -> Walked:
    """The same of a tree, whose files are held against the SHA-256 of what lies in their places and has their size."""
    ours, theirs = itertools.tee(pairs)
    reader = TreeReader(entry for entry, _ in ours)
    listed = (entry for _, entry in theirs if entry)
    return _TreeComparison(listed, alive, digest).run(reader, root, True, again)


class _Comparison:
    def __init__(self, entries: Iterator[IndexEntry], alive: Callable[[], None]) -> None:
        self._entries, self._alive = entries, alive
        self._walked = Walked()
        self._aligned = True
        # Hard links hold no content: they must be listed with that of the name they point to.
        self._links: dict[bytes, list[IndexEntry]] = {}

    def run(self, reader: Reader, root: bytes, trusted: bool, again: Callable[[], Iterable[bytes]]) -> Walked:
        for found in judged(reader, root, trusted=trusted, indexed=True):
            count(found, self._walked.counts)
            if found.kind in (tarfile.REGTYPE, tarfile.LNKTYPE):
                self._judge(found, reader)
        if self._aligned and (entry := next(self._entries, None)):
            self._add(f"{_shown(entry.path)} is in the file index, but not in the archive")
        for _ in self._entries:
            pass
        if self._links and not self._walked.problems:
            self._judge_links(parse_index(split_lines(again())))
        return self._walked

    def _judge(self, member: Member, reader: Reader) -> None:
        entry = next(self._entries, None) if self._aligned else None
        if not self._aligned:
            return
        if entry is None or entry.path != member.path:
            self._aligned = False
            expected = _shown(entry.path) if entry else "its end"
            self._add(f"the archive holds {_shown(member.path)} where the file index has {expected}")
        elif member.kind == tarfile.LNKTYPE:
            self._links.setdefault(member.target, []).append(entry)
        elif member.size != entry.size:
            self._add(f"{_shown(entry.path)} has {member.size:,} bytes instead of {entry.size:,}")
        elif not self._holds(member, reader, entry.sha256):
            self._add(f"{_shown(entry.path)} has other content than when it was stored")

    def _holds(self, found: Member, reader: Reader, sha256: str) -> bool:
        return content_sha256(reader, found, self._alive) == sha256

    def _judge_links(self, entries: Iterator[IndexEntry]) -> None:
        for first in entries:
            self._alive()
            for link in self._links.pop(first.path, ()):
                if (link.sha256, link.size) != (first.sha256, first.size):
                    self._add(f"{_shown(link.path)} is listed with other content than {_shown(first.path)}")
        for target, links in self._links.items():
            self._add(f"{_shown(links[0].path)} is a link to {_shown(target)}, which is not in the archive")

    def _add(self, problem: str) -> None:
        if len(self._walked.problems) < _LISTED:
            self._walked.problems.append(problem)


class _TreeComparison(_Comparison):
    def __init__(
        self,
        entries: Iterator[IndexEntry],
        alive: Callable[[], None],
        digest: Callable[[Location, int], str | None],
    ) -> None:
        super().__init__(entries, alive)
        self._digest = digest

    def _holds(self, found: Member, reader: Reader, sha256: str) -> bool:
        place = reader.place if isinstance(reader, TreeReader) else None
        if place is None or not place.pack:
            return found.stored == 0 and hashlib.sha256(bytes(found.size)).hexdigest() == sha256
        return self._digest(place, found.size) in (UNREAD, sha256)


def wrong_counts(part: VolumePart, walked: Walked) -> list[str]:
    """Where the manifest says otherwise of a volume than its archive."""
    problems = []
    for name in ("files", "directories", "links", "hard_links", "bytes", "others"):
        expected, found = getattr(part, name, 0), walked.counts[name]
        if expected != found:
            what = name.replace("_", " ")
            problems.append(f"the archive of {printable(part.name)} holds {found:,} {what} instead of {expected:,}")
    return problems


def content_sha256(reader: Reader, member: Member, alive: Callable[[], None] = lambda: None) -> str:
    """SHA-256 in hex of the present member's content."""
    digest = hashlib.sha256()
    # Holes aside, what is stored is what it holds.
    for piece in reader.content(member.size) if member.stored == member.size else reader.unpacked(member, alive):
        digest.update(piece)
    return digest.hexdigest()


def count(member: Member, counts: Counter[str]) -> None:
    """Add a member to what its archive holds."""
    if member.kind == tarfile.REGTYPE:
        counts["files"] += 1
        counts["bytes"] += member.stored
    else:
        counts[_COUNTED.get(member.kind, "others")] += 1


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))


def archived(stored: StoredSet) -> Iterator[bytes]:
    """The paths of all archived files of a set, below their volumes."""
    for artifact in stored.manifest.artifacts:
        if artifact.kind == "index":
            with open_file(stored, artifact.file) as source:
                for entry in parse_index(split_lines(source.content())):
                    yield entry.path.partition(b"/")[2]
