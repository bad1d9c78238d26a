"""The tree of an incremental set: what its archive would hold, in its order, and in which pack the content lies.

One line of fields between tabs for each entry, for awk as well as for us:

    d mode uid gid mtime attributes path
    l mode uid gid mtime attributes path target         a symbolic link
    h mode uid gid mtime attributes target              a hard link
    f mode uid gid mtime attributes pack gap stored regions member device step lag day
    p pack name                                         before the first line that says `pack`
    m pack bytes plain+stored,…                         at the end: the entry points of a pack of so many bytes

`mode` is octal, `mtime` in ns. Size and path of a file or a hard link are those of the next line of the file index,
which is of nothing else: what stands there need not stand here. A file's content lies in `pack`, a number (empty: it
has none), `gap` bytes behind the end of the content of the file before if that lies in the same pack, else behind the
pack's beginning. It is `stored` bytes long (empty: its size), in `regions` (start+length,…) where it has holes, as the
member `member` (empty: as its path). Of its inode the number is the last file's and `step`, the ctime is `lag` behind
mtime, and `day` is that of its last reading.
"""

from __future__ import annotations

import base64
import binascii
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from backup.errors import IntegrityError
from backup.media.tar_writer import BLOCK, NO_ATTRIBUTES, DataRegion, IndexEntry, parse_index

# Where a reader may enter a pack: byte of its content, byte of the file.
EntryPoint = tuple[int, int]


class PackMarks(NamedTuple):
    """The entry points of a pack, if its file has that size."""

    size: int = 0
    points: Sequence[EntryPoint] = ()


_KINDS: Final = {tarfile.REGTYPE: b"f", tarfile.DIRTYPE: b"d", tarfile.SYMTYPE: b"l", tarfile.LNKTYPE: b"h"}
_OF_KIND: Final = {letter: kind for kind, letter in _KINDS.items()}
_FIELDS: Final = {tarfile.REGTYPE: 15, tarfile.DIRTYPE: 7, tarfile.SYMTYPE: 8, tarfile.LNKTYPE: 7}
_FILES: Final = (b"f\t", b"h\t")
_FILE, _made = ord("f"), tuple.__new__
_SHA256: Final = 66  # in hex, and two spaces
_SPECIAL: Final = re.compile(rb"[\\\n\r\t]")
_ESCAPES: Final = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_PLAIN: Final = {escape: plain for plain, escape in _ESCAPES.items()}
_DAMAGED: Final = "the tree is damaged"
# What parsing says of lines that nobody wrote.
WRONG: Final = (ValueError, KeyError, IndexError, binascii.Error)


class InodeState(NamedTuple):
    """What a file looked like before its content was read, which was on that `day` since 1970."""

    device: int
    inode: int
    ctime_ns: int
    day: int


class Location(NamedTuple):
    """Where content lies: in the pack of that name, as which member, `stored` bytes from `offset` of what it unpacks
    to; `regions` of a file with holes."""

    pack: str
    offset: int
    stored: int
    regions: tuple[DataRegion, ...] | None
    member: bytes


class TreeEntry(NamedTuple):
    """One entry, its path with the name of the archive's root. Only files have a size, a place and a state."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    path: bytes
    target: bytes = b""
    attributes: Mapping[bytes, bytes] = NO_ATTRIBUTES
    size: int = 0
    place: Location | None = None
    state: InodeState | None = None


class Before(NamedTuple):
    """What a file's line refers to: of the file before it the pack's number, the end of its content, its inode."""

    pack: bytes = b""
    end: int = 0
    inode: int = 0


class FileLine(NamedTuple):
    """A file's `line` and its line of the file index, `listed`, the `number`th of that, with what is asked of them for
    each of a million."""

    number: int
    path: bytes
    size: int
    pack: bytes
    offset: int
    inode: int
    fields: list[bytes]
    before: Before
    after: Before
    line: bytes
    listed: bytes


class TreeWriter:
    """The lines of one tree. `numbers` are those of packs by name, if they are to be the ones of another tree."""

    def __init__(self, numbers: Mapping[str, int] | None = None) -> None:
        self.numbers = dict(numbers or {})
        self.before = Before()
        # Bytes of content that lines name of each pack, by its number.
        self.content: Counter[bytes] = Counter()
        self._said = {b""}

    @property
    def named(self) -> list[str]:
        """The packs that lines name."""
        return sorted(name for name, number in self.numbers.items() if b"%d" % number in self._said)

    def line(self, entry: TreeEntry) -> bytes:
        """The line of an entry, and one that says which pack a new number is."""
        fields = [
            b"%s\t%o\t%d\t%d\t%d" % (_KINDS[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime_ns),
            _attributes(entry.attributes) if entry.attributes else b"",
        ]
        if entry.kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            fields.append(escaped(entry.path))
        if entry.target:
            fields.append(escaped(entry.target))
        if not ((place := entry.place) and (state := entry.state)):
            return b"\t".join(fields) + b"\n"
        number, said = self._number(place.pack)
        start = self.before.end if number == self.before.pack else 0
        regions = b"" if place.regions is None else b",".join(b"%d+%d" % each for each in place.regions) or b"-"
        fields += [
            b"%s\t%d" % (number, place.offset - start),
            b"" if place.stored == entry.size else b"%d" % place.stored,
            regions,
            b"" if place.member == entry.path else escaped(place.member),
            b"%d\t%d" % (state.device, state.inode - self.before.inode),
            b"%d\t%d" % (state.ctime_ns - entry.mtime_ns, state.day),
        ]
        self.content[number] += place.stored
        self.before = Before(number, _end(place.offset, place.stored), state.inode)
        return said + b"\t".join(fields) + b"\n"

    def again(self, file: FileLine) -> bytes:
        """The line of a file that is as it was in the tree whose `numbers` these are."""
        line, before = file.line, self.before
        if before is not file.before and before != file.before:
            start, fields = before.end if file.pack == before.pack else 0, list(file.fields)
            fields[7], fields[12] = b"%d" % (file.offset - start), b"%d" % (file.inode - before.inode)
            line = b"\t".join(fields)
        self.before = file.after
        if file.pack in self._said:
            return line
        return self._says(file.pack) + line

    def _number(self, pack: str) -> tuple[bytes, bytes]:
        """The number of a pack, and the line that says so where none has; nothing for no pack."""
        number = b"%d" % self.numbers.setdefault(pack, max(self.numbers.values(), default=0) + 1) if pack else b""
        return number, b"" if number in self._said else self._says(number)

    def _says(self, number: bytes) -> bytes:
        self._said.add(number)
        name = next(name for name, each in self.numbers.items() if each == int(number))
        return b"p\t%s\t%s\n" % (number, name.encode())

    def marks_line(self, pack: str, marks: PackMarks) -> bytes:
        """The line of a pack's entry points."""
        points = b",".join(b"%d+%d" % each for each in marks.points)
        return b"m\t%d\t%d\t%s\n" % (self.numbers[pack], marks.size, points)


class TreeParser:
    """What the lines of one tree say, read in their order; `names` are the packs by the numbers read so far."""

    def __init__(self) -> None:
        self.names: dict[bytes, str] = {b"": ""}
        self.before = Before()

    def note(self, line: bytes) -> tuple[bytes, str]:
        """A line that names a pack: its number and its name. One of WRONG for any other."""
        _, number, name = line[:-1].split(b"\t")
        self.names[number] = name.decode("ascii")
        return number, self.names[number]

    def entry(self, line: bytes, listed: IndexEntry | None) -> TreeEntry:
        """One entry; `listed` is what the file index says of it, if it does. One of WRONG for a damaged line."""
        fields = line.split(b"\t")
        kind = _OF_KIND[fields[0]]
        if line[-1:] != b"\n" or len(fields) != _FIELDS[kind]:
            raise ValueError(_DAMAGED)
        fields[-1] = fields[-1][:-1]
        common = kind, int(fields[1], 8), int(fields[2]), int(fields[3]), int(fields[4])
        attributes = _attributes_of(fields[5])
        if listed is None:
            target = _unescaped(fields[7]) if kind == tarfile.SYMTYPE else b""
            return TreeEntry(*common, _unescaped(fields[6]), target, attributes)
        if kind == tarfile.LNKTYPE:
            return TreeEntry(*common, listed.path, _unescaped(fields[6]), attributes)
        _, size, path = listed
        offset, inode = self.follow(fields, size)
        stored = int(fields[8]) if fields[8] else size
        regions = None if not fields[9] else () if fields[9] == b"-" else tuple(_pairs(fields[9]))
        place = Location(self.names[fields[6]], offset, stored, regions, _unescaped(fields[10]) or path)
        if min(offset, stored, size) < 0 or not _fits(place, size):
            raise ValueError(_DAMAGED)
        state = InodeState(int(fields[11]), inode, common[4] + int(fields[13]), int(fields[14]))
        return TreeEntry(*common, path, b"", attributes, size, place, state)

    def follow(self, fields: Sequence[bytes], size: int) -> tuple[int, int]:
        """Where the content of a file lies, and its inode, by the fields of its line. ValueError."""
        pack, end, inode = self.before
        offset = int(fields[7]) + (end if fields[6] == pack else 0)
        inode += int(fields[12])
        stored = int(fields[8]) if fields[8] else size
        self.before = Before(fields[6], offset + stored + -stored % BLOCK, inode)
        return offset, inode


@dataclass
class Judged:
    """Files that need not be judged again: those in `packs`, and those in `whole` packs whose line is among `lines`.

    `files` and `stored` bytes of theirs are counted; `met` gets the lines of the others, if it is there.
    """

    packs: Collection[str] = ()
    lines: Collection[int] = ()
    whole: Collection[str] = ()
    files: int = 0
    stored: int = 0
    met: list[int] | None = None

    def passes(self, parser: TreeParser, line: bytes, listed: bytes) -> bool:
        """Whether a file is one of them. One of WRONG for a damaged line."""
        *_, pack, _, stored, _ = line.split(b"\t", 9)
        if (name := parser.names[pack]) in self.packs:
            # What follows in another pack does not refer to it.
            if parser.before.pack != pack:
                parser.before = Before(pack)
        elif not self._was_met(name, parser, line, listed):
            return False
        self.files, self.stored = self.files + 1, self.stored + int(stored or listed.split(b"  ", 2)[1])
        return True

    def _was_met(self, name: str, parser: TreeParser, line: bytes, listed: bytes) -> bool:
        fields, before = line.split(b"\t"), parser.before
        offset, _ = parser.follow(fields, int(listed.split(b"  ", 2)[1]))
        judged = hash((listed, name, offset, b"\t".join(fields[:7]), b"\t".join(fields[8:11])))
        is_whole = not name or name in self.whole
        if is_whole and judged in self.lines:
            return True
        if is_whole and self.met is not None:
            self.met.append(judged)
        parser.before = before
        return False


def parse_tree(lines: Iterable[bytes], index: Iterable[bytes]) -> Iterator[TreeEntry]:
    """The entries. IntegrityError for the first line that TreeWriter cannot have written, or is not of that index."""
    return (entry for entry, _ in parse_pairs(lines, index))


def parse_pairs(
    lines: Iterable[bytes], index: Iterable[bytes], judged: Judged | None = None
) -> Iterator[tuple[TreeEntry, IndexEntry | None]]:
    """The same, each with what the index says of it, if it does; but not files that are `judged`."""
    parser, listed = TreeParser(), iter(index)
    for number, line in enumerate(lines, start=1):
        try:
            if line[:2] in _FILES:
                said = next(listed)
                if not (judged and line[0] == _FILE and judged.passes(parser, line, said)):
                    (entry,) = parse_index([said])
                    yield parser.entry(line, entry), entry
            elif line[:2] == b"p\t":
                parser.note(line)
            elif line[:2] != b"m\t":
                yield parser.entry(line, None), None
        except StopIteration:
            raise differ() from None
        except WRONG as error:
            raise IntegrityError(f"line {number} of the tree is damaged", "Run `verify` on this set.") from error
    if next(listed, None):
        raise differ()


def file_lines(
    lines: Iterable[bytes], index: Iterator[bytes], parser: TreeParser, number: int = 0
) -> Iterator[FileLine]:
    """The lines of files alone, each with that of the index, from its `number`th on. IntegrityError where they differ.

    `parser` knows what came before. For a million of them, `follow` is written out, and tuples are made at once.
    """
    pack, end, inode = before = parser.before
    try:
        for line in lines:
            if line[0] == _FILE:
                listed, fields = next(index, b""), line.split(b"\t")
                if listed[:1] == b"\\":
                    _, size, path = next(parse_index([listed]))
                else:
                    at = listed.index(b"  ", _SHA256)
                    size, path = int(listed[_SHA256:at]), listed[at + 2 : -1]
                offset = int(fields[7]) + (end if fields[6] == pack else 0)
                stored = int(fields[8]) if fields[8] else size
                pack, end, inode = fields[6], offset + stored + -stored % BLOCK, inode + int(fields[12])
                after = _made(Before, (pack, end, inode))
                yield _made(FileLine, (number, path, size, pack, offset, inode, fields, before, after, line, listed))
                before = after
                number += 1
            elif line[:2] == b"h\t":
                next(index, b"")
                number += 1
            elif line[:2] == b"p\t":
                parser.note(line)
    except WRONG as error:
        raise differ() from error


def parse_marks(lines: Iterable[bytes], parser: TreeParser | None = None) -> dict[str, PackMarks]:
    """The entry points of each pack; `parser` knows all packs then. IntegrityError for a damaged line of them."""
    found, parser = dict[str, PackMarks](), parser or TreeParser()
    try:
        for line in lines:
            if line[:2] == b"p\t":
                parser.note(line)
            elif line[:2] == b"m\t":
                _, pack, size, marks = line.rstrip(b"\n").split(b"\t")
                found[parser.names[pack]] = PackMarks(int(size), list(_pairs(marks)) if marks else [])
    except WRONG as error:
        raise IntegrityError(_DAMAGED, "Run `verify` on this set.") from error
    return found


def differ() -> IntegrityError:
    """The error of a tree that does not list what its file index lists."""
    return IntegrityError("the tree does not list what the file index lists", "Run `verify` on this set.")


def _end(offset: int, stored: int) -> int:
    """Where what follows some content in an archive begins."""
    return offset + stored + -stored % BLOCK


def _fits(place: Location, size: int) -> bool:
    if place.regions is None:
        return place.stored == size
    end = 0
    for start, count in place.regions:
        if count < 0 or start < end:
            return False
        end = start + count
    return end <= size and sum(count for _, count in place.regions) == place.stored


def _pairs(text: bytes) -> Iterator[tuple[int, int]]:
    for pair in text.split(b","):
        first, second = pair.split(b"+")
        yield int(first), int(second)


def escaped(path: bytes) -> bytes:
    """A path as a field."""
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], path) if _SPECIAL.search(path) else path


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\.?", lambda match: _PLAIN[match[0]], text) if b"\\" in text else text


def _attributes(attributes: Mapping[bytes, bytes]) -> bytes:
    pairs = sorted(attributes.items())
    return b",".join(base64.b64encode(name) + b":" + base64.b64encode(value) for name, value in pairs)


def _attributes_of(text: bytes) -> Mapping[bytes, bytes]:
    if not text:
        return NO_ATTRIBUTES
    pairs = (each.split(b":") for each in text.split(b","))
    return {base64.b64decode(name, validate=True): base64.b64decode(value, validate=True) for name, value in pairs}
