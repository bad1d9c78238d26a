"""The tree of an incremental set: what its archive would hold, in its order, and in which pack the content lies.

One line of fields between tabs for each entry, for awk as well as for us:

    kind mode uid gid mtime path target attributes
    … size pack offset stored regions member state          of a file besides

`kind` is f, d, l (symbolic link) or h (hard link), `mode` octal, `mtime` in ns. A file's content lies in the pack from
byte `offset` on, `stored` bytes long, in `regions` (start+length,…) where it has holes, as the member `member` (empty:
as `path`). `state` is what tells that a file was not touched: device:inode:ctime, and the day of its last reading. At
the end there is a line for each pack, of its entry points: `m pack plain+stored,…`.
"""

from __future__ import annotations

import base64
import binascii
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from backup.errors import IntegrityError
from backup.media.tar_writer import NO_ATTRIBUTES, DataRegion

# Where a reader may enter a pack: byte of its content, byte of the file.
EntryPoint = tuple[int, int]
_KINDS: Final = {tarfile.REGTYPE: b"f", tarfile.DIRTYPE: b"d", tarfile.SYMTYPE: b"l", tarfile.LNKTYPE: b"h"}
_OF_KIND: Final = {letter: kind for kind, letter in _KINDS.items()}
_MARKS: Final = b"m"
# How many fields a line has.
COMMON, OF_A_FILE = 8, 15
_SPECIAL: Final = re.compile(rb"[\\\n\r\t]")
_ESCAPES: Final = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_PLAIN: Final = {escape: plain for plain, escape in _ESCAPES.items()}
_DAMAGED: Final = "the tree is damaged"


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


def tree_line(entry: TreeEntry) -> bytes:
    """The line of an entry."""
    fields = [
        b"%s\t%o\t%d\t%d\t%d" % (_KINDS[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime_ns),
        escaped(entry.path),
        escaped(entry.target),
        _attributes(entry.attributes) if entry.attributes else b"",
    ]
    if (place := entry.place) and (state := entry.state):
        regions = b"" if place.regions is None else b",".join(b"%d+%d" % each for each in place.regions) or b"-"
        member = b"" if place.member == entry.path else escaped(place.member)
        fields += [
            b"%d\t%s\t%d\t%d\t%s\t%s" % (entry.size, place.pack.encode(), *place[1:3], regions, member),
            b"%d:%d:%d:%d" % state,
        ]
    return b"\t".join(fields) + b"\n"


def marks_line(pack: str, marks: Sequence[EntryPoint]) -> bytes:
    """The line of a pack's entry points."""
    return b"%s\t%s\t%s\n" % (_MARKS, pack.encode(), b",".join(b"%d+%d" % each for each in marks))


def parse_marks(lines: Iterable[bytes]) -> dict[str, list[EntryPoint]]:
    """The entry points of each pack. IntegrityError for a damaged line of them."""
    found: dict[str, list[EntryPoint]] = {}
    for line in lines:
        if line.startswith(b"m\t"):
            try:
                _, pack, marks = line.rstrip(b"\n").split(b"\t")
                found[pack.decode("ascii")] = list(_pairs(marks))
            except ValueError as error:
                raise IntegrityError(_DAMAGED, "Run `verify` on this set.") from error
    return found


def parse_tree(lines: Iterable[bytes]) -> Iterator[TreeEntry]:
    """The entries. IntegrityError for the first line that `tree_line` and `marks_line` cannot have written."""
    for number, line in enumerate(lines, start=1):
        if line.startswith(b"m\t"):
            continue
        try:
            yield parse_entry(line)
        except (ValueError, KeyError, binascii.Error) as error:
            raise IntegrityError(f"line {number} of the tree is damaged", "Run `verify` on this set.") from error


def parse_entry(line: bytes) -> TreeEntry:
    """One line. ValueError, KeyError or binascii.Error for a damaged one."""
    if not line.endswith(b"\n"):
        raise ValueError(_DAMAGED)
    fields = line[:-1].split(b"\t")
    kind = _OF_KIND[fields[0]]
    if len(fields) != (OF_A_FILE if kind == tarfile.REGTYPE else COMMON):
        raise ValueError(_DAMAGED)
    path = _unescaped(fields[5])
    mode, uid, gid, mtime_ns = int(fields[1], 8), *map(int, fields[2:5])
    entry = TreeEntry(kind, mode, uid, gid, mtime_ns, path, _unescaped(fields[6]), _attributes_of(fields[7]))
    if kind != tarfile.REGTYPE:
        return entry
    regions = None if not fields[12] else () if fields[12] == b"-" else tuple(_pairs(fields[12]))
    place = Location(
        fields[9].decode("ascii"), int(fields[10]), int(fields[11]), regions, _unescaped(fields[13]) or path
    )
    device, inode, ctime, day = map(int, fields[14].split(b":"))
    if min(place.offset, place.stored, size := int(fields[8])) < 0 or not _fits(place, size):
        raise ValueError(_DAMAGED)
    return entry._replace(size=size, place=place, state=InodeState(device, inode, ctime, day))


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
    return b",".join(
        base64.b64encode(name) + b":" + base64.b64encode(value) for name, value in sorted(attributes.items())
    )


def _attributes_of(text: bytes) -> Mapping[bytes, bytes]:
    if not text:
        return NO_ATTRIBUTES
    pairs = (each.split(b":") for each in text.split(b","))
    return {base64.b64decode(name, validate=True): base64.b64decode(value, validate=True) for name, value in pairs}
