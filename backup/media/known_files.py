"""What the set before tells of the files of a volume: which were not touched since, and where content lies.

It lists its files in the order in which they are met now, so each is compared with the next one there. What is asked of
the others is looked up in eight bytes for each, which are gathered when the first question comes.
"""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, Final, NamedTuple

from backup.media.tar_writer import parse_index
from backup.media.tree import Before, FileLine, Location, PackMarks, TreeEntry, TreeParser, file_lines, parse_marks
from backup.storage.filesystem import storing

# All bytes are read within so many days, a share of them each day.
REREAD_DAYS: Final = 7
# File systems whose inodes and times of inodes are known to be what they should.
_STABLE: Final = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "overlay", "aufs")
)
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_TOGETHER, _AT_HAND = 256, 8
# Files between two places from which the set before can be read on.
_STEP: Final = 2048
_LARGE: Final = 1 << 20
_SIZE: Final = re.compile(rb"\\?[0-9a-f]+  ([0-9]+)  ")
# Of eight bytes, those of a position and those of a key. A table has so many slots at first.
_BITS: Final = 24
_MOST: Final = (1 << _BITS) - 1
_KEYS: Final = (1 << 40) - 1
_SLOTS: Final = 1 << 10
# Of files that are alike so many are known: each is passed by the next, and a million of them would never end.
_ALIKE: Final = 8

# The lines of a file, but for so many.
Lines = Callable[[int], Generator[bytes, None, None]]


def _none(skip: int) -> Generator[bytes, None, None]:
    yield from ()


@dataclass(frozen=True)
class TreeFiles:
    """The tree of a set and its file index. `packs` are those of its packs that are good, `ended` when it was made,
    in ns: no file that it knows changed after that."""

    tree: Lines = _none
    index: Lines = _none
    packs: Collection[str] = ()
    ended: int = 0


class KnownFiles:
    """The files of the set before; those alone count whose packs are good. `stable`: inodes and their times tell.

    `earlier`: the files of a set whose content is there again. What does not fit into memory goes into a file without
    a name in `directory`. `marks` are the packs' entry points, `numbers` what they are called in the tree. Close it.
    """

    def __init__(
        self,
        files: TreeFiles = TreeFiles(),  # noqa: B008 - frozen
        *,
        stable: bool = True,
        earlier: KnownFiles | None = None,
        directory: Path | None = None,
    ) -> None:
        self._files, self._earlier = files, earlier
        self._parser = TreeParser()
        self.marks: Mapping[str, PackMarks] = {
            **(earlier.marks if earlier else {}),
            **parse_marks(files.tree(0), self._parser),
        }
        self.numbers = {name: int(number) for number, name in self._parser.names.items() if name}
        self._good = {number for number, name in self._parser.names.items() if name in files.packs or not name}
        # The packs of files whose inodes and times tell whether they were touched.
        self._stable = self._good if stable else set()
        self._next = self._read_on(_Entrance(0, 0, Before()))
        self._head = next(self._next, None)
        # Made when the first question comes: most nights there is none.
        self._inodes: _Positions | None = None
        self._contents: _Positions | None = None
        self._entrances: list[_Entrance] = []
        self._reached, self._following = sys.maxsize, self._next
        self._sizes: set[int] | None = None
        self._new, self._new_contents = _Records(directory), _Positions()
        self._new_sizes: set[int] = set()
        self._forgotten: set[bytes] = set()

    def holds_size(self, size: int) -> bool:
        """Whether the content of any file may have that many bytes: told of large ones, which take long to read."""
        if size < _LARGE:
            return True
        if self._sizes is None:
            sizes = (int(_SIZE.match(line)[1]) for line in self._files.index(0))  # type: ignore[index]
            self._sizes = {each for each in sizes if each >= _LARGE}
        if size in self._sizes or size in self._new_sizes:
            return True
        return self._earlier is not None and self._earlier.holds_size(size)

    def at(self, path: bytes) -> FileLine | None:
        """The file that had this path, if paths are asked for in their order."""
        while (head := self._head) and head.path != path:
            if head.path.split(b"/") > path.split(b"/"):
                return None
            self._head = next(self._next, None)
        self._head = next(self._next, None) if head else None
        return head

    def is_untouched(self, known: FileLine, found: os.stat_result) -> bool:
        """Whether inode, size and times of a file are as they were when it was read."""
        fields = known.fields
        return (
            known.inode == found.st_ino
            and known.size == found.st_size
            and int(fields[4]) == found.st_mtime_ns
            and int(fields[13]) == found.st_ctime_ns - found.st_mtime_ns
            and int(fields[11]) == found.st_dev
            and known.pack in self._stable
        )

    def moved(self, found: os.stat_result) -> FileLine | None:
        """The untouched file that this is, whatever its path was."""
        if not self._stable or found.st_ctime_ns > self._files.ended:
            return None
        if self._inodes is None:
            self._inodes = _Positions(self._look_over())
        for position in self._inodes.find(hash((found.st_dev, found.st_ino))):
            if (known := self._file(position)) and self.is_untouched(known, found):
                return known
        return None

    def entry(self, known: FileLine) -> TreeEntry:
        """What a line says."""
        self._parser.before = known.before
        (listed,) = parse_index([known.listed])
        return self._parser.entry(known.line, listed)

    def content(self, sha256: str, size: int, beside: FileLine | None) -> Location | None:
        """Where that content should lie, `beside` it perhaps: whoever trusts it compares it before."""
        digest = bytes.fromhex(sha256)
        if digest in self._forgotten:
            return None
        for position in self._new_contents.find(hash(sha256)):
            known, *place = self._new.get(position)
            if known == digest:
                return Location(*place)
        if beside and beside.pack in self._good and listed_sha256(beside) == sha256:
            return self.entry(beside).place
        found = self._old_content(sha256, size)
        return found or (self._earlier.content(sha256, size, None) if self._earlier else None)

    def add(self, sha256: str, size: int, place: Location) -> None:
        """Content that was packed just now."""
        digest = bytes.fromhex(sha256)
        if size >= _LARGE:
            self._new_sizes.add(size)
        self._new_contents.add(hash(sha256), self._new.add((digest, *place)))
        self._forgotten.discard(digest)

    def close(self) -> None:
        """Let go of what is in memory, and of what did not fit into it."""
        self._new.close()
        self._inodes = self._contents = None
        self._new_contents = _Positions()
        # They hold this, and so all that it holds, until somebody looks for cycles.
        self._next = self._following = iter(())

    def forget(self, sha256: str) -> None:
        """It does not lie where it should."""
        self._forgotten.add(bytes.fromhex(sha256))

    def _old_content(self, sha256: str, size: int) -> Location | None:
        if self._contents is None:
            listed = enumerate(itertools.islice(self._files.index(0), _MOST))
            self._contents = _Positions((hash(_sha256_of(line)), number) for number, line in listed)
        for position in self._contents.find(hash(sha256)):
            known = self._file(position)
            if known and known.pack in self._good and (listed_sha256(known), known.size) == (sha256, size):
                return self.entry(known).place
        return None

    def _file(self, number: int) -> FileLine | None:
        """The file of that line of the file index; None for a further name of one."""
        if not self._entrances:
            for _ in self._look_over():
                pass
        if not self._reached <= number <= self._reached + _STEP:
            entrance = self._entrances[bisect_right(self._entrances, number, key=lambda each: each.number) - 1]
            self._following = self._read_on(entrance)
        for known in self._following:
            self._reached = known.number + 1
            if known.number >= number:
                return known if known.number == number else None
        return None

    def _look_over(self) -> Iterator[tuple[int, int]]:
        """The keys of all inodes, each with where the line of its file is. Notes on its way where one may enter."""
        count, self._entrances = 0, []

        def counted() -> Iterator[bytes]:
            nonlocal count
            for line in self._files.tree(0):
                yield line
                count += 1

        parser = TreeParser()
        for known in file_lines(counted(), self._files.index(0), parser):
            if known.number >= _MOST:
                return
            if not self._entrances or known.number >= self._entrances[-1].number + _STEP:
                self._entrances.append(_Entrance(known.number, count, known.before))
            yield hash((int(known.fields[11]), known.inode)), known.number

    def _read_on(self, entrance: _Entrance) -> Iterator[FileLine]:
        parser = TreeParser()
        parser.names, parser.before = self._parser.names, entrance.before
        tree, index = self._files.tree(entrance.line), self._files.index(entrance.number)
        return file_lines(tree, index, parser, entrance.number)


class _Entrance(NamedTuple):
    """Where the set before can be read on: a line of its file index, one of its tree, and what that refers to."""

    number: int
    line: int
    before: Before


class _Records:
    """Many small tuples, packed some hundred at a time into a file without a name; those asked for last are at hand."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._starts = array("Q", [0])
        self._last: list[tuple[Any, ...]] = []
        self._open: dict[int, list[tuple[Any, ...]]] = {}

    def add(self, record: tuple[Any, ...]) -> int:
        if len(self._last) == _TOGETHER:
            with storing(self._directory or Path(gettempdir())):
                self._file = self._file or TemporaryFile(dir=self._directory)
                size = self._file.write(marshal.dumps(self._last))
            self._starts.append(self._starts[-1] + size)
            self._last = []
        self._last.append(record)
        return (len(self._starts) - 1) * _TOGETHER + len(self._last) - 1

    def get(self, position: int) -> tuple[Any, ...]:
        block, at = divmod(position, _TOGETHER)
        if self._file is None or block == len(self._starts) - 1:
            return self._last[at]
        if block not in self._open:
            if len(self._open) >= _AT_HAND:
                del self._open[next(iter(self._open))]
            start, end = self._starts[block : block + 2]
            with storing(self._directory or Path(gettempdir())):
                self._file.flush()
                data = os.pread(self._file.fileno(), end - start, start)
            self._open[block] = marshal.loads(data)  # noqa: S302 - our own
        return self._open[block][at]

    def close(self) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # of what is buffered yet: nobody reads it any more
                self._file.close()


class _Positions:
    """Where what has a key is: a table with open addressing, eight bytes a slot, two thirds full at most.

    Of more than 16 million, and of more than 8 with one key, the last are not found: what they alone hold is taken for
    new.
    """

    def __init__(self, keyed: Iterable[tuple[int, int]] = ()) -> None:
        self._slots, self._count = array("Q", [0]) * _SLOTS, 0
        for key, position in keyed:
            self.add(key, position)

    def add(self, key: int, position: int) -> None:
        if position >= _MOST:
            return
        slots = self._slots
        if 3 * self._count > 2 * len(slots):
            slots = self._slots = _doubled(slots)
        mask = len(slots) - 1
        at, wanted, alike = key & mask, key & _KEYS, 0
        while slot := slots[at]:
            if slot >> _BITS == wanted and (alike := alike + 1) == _ALIKE:
                return
            at = at + 1 & mask
        # No slot that is taken is 0.
        slots[at] = wanted << _BITS | position + 1
        self._count += 1

    def find(self, key: int) -> Iterator[int]:
        slots, wanted = self._slots, key & _KEYS
        mask = len(slots) - 1
        at = key & mask
        while slot := slots[at]:
            if slot >> _BITS == wanted:
                yield (slot & _MOST) - 1
            at = at + 1 & mask


def _doubled(slots: array[int]) -> array[int]:
    larger = array("Q", [0]) * (2 * len(slots))
    mask = len(larger) - 1
    for slot in slots:
        if slot:
            at = slot >> _BITS & mask
            while larger[at]:
                at = at + 1 & mask
            larger[at] = slot
    return larger


def listed_sha256(known: FileLine) -> str:
    """The SHA-256 of a file's content, in hex."""
    return _sha256_of(known.listed)


def _sha256_of(line: bytes) -> str:
    return (line[:64] if line[:1] != b"\\" else line[1:65]).decode()


class Rereading:
    """Which files are read again `today`: a share each day of those that were read within a week, by their numbers.

    Without `rereading`, none is.
    """

    def __init__(self, today: int, *, rereading: bool = True) -> None:
        self._today, self._rereading = today, rereading
        # By the day, as lines say it: the share that is due; of all of them one is, or none.
        self._shares: dict[bytes, range | tuple[int]] = {}

    def __call__(self, read: bytes, number: int) -> bool:
        """Whether a file is due that was last read on that day."""
        shares = self._shares.get(read)
        if shares is None:
            shares = self._shares[read] = self._of(int(read))
        return number % REREAD_DAYS in shares

    def _of(self, read: int) -> range | tuple[int]:
        age = self._today - read
        if not self._rereading or age == 0:
            return range(0)
        return (self._today % REREAD_DAYS,) if 0 < age < REREAD_DAYS else range(REREAD_DAYS)


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
