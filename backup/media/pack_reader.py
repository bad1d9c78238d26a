"""Content out of packs: each is entered where it lies, and read on from there as long as what is wanted follows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final

from backup.errors import IntegrityError
from backup.media import tar_writer
from backup.media.rewritten_packs import read_note
from backup.media.tar_reader import Member, refused_member
from backup.media.tar_writer import BLOCK, IndexEntry, ending, header, padding
from backup.media.tree import EntryPoint, Location, PackMarks, TreeEntry
from backup.pipeline import gzip
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

_BLOCK: Final = 256 << 10
# Packs that are open at once, each with some MB of what it is unpacked to.
_OPEN: Final = 48
# So much is rather read over than entered anew.
_NEAR: Final = 1 << 20
_FIRST_MARK: Final = (0, 10)  # behind the header of gzip


class PackFiles:
    """The packs of one folder. `marks` are their entry points; without any, one is read from its beginning.

    `progress` gets the bytes read since its last call. Close it.
    """

    def __init__(
        self,
        store: LocalStore,
        marks: Mapping[str, PackMarks],
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._store, self._marks, self._progress = store, marks, progress
        self._open: OrderedDict[str, _OpenPack] = OrderedDict()

    def read(self, pack: str, offset: int, count: int) -> Iterator[bytes]:
        """`count` bytes of what a pack holds, from `offset`. IntegrityError, StoreError."""
        if not count:
            return
        if pack not in self._open:
            if len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[pack] = _OpenPack(self._store, pack, self._marks.get(pack, PackMarks()), self._progress)
        self._open.move_to_end(pack)
        try:
            yield from self._open[pack].read(offset, count)
        except gzip.DAMAGED as error:
            raise IntegrityError(
                f"the pack {pack} cannot be unpacked: {error}",
                "`verify` judges the sets that need it; `create` stores anew what it held.",
            ) from error

    def close(self) -> None:
        """Close all."""
        for each in self._open.values():
            each.close()
        self._open.clear()


class _OpenPack:
    """One pack. The file is the one that was opened, whatever takes its name meanwhile."""

    def __init__(self, store: LocalStore, name: str, marks: PackMarks, progress: Callable[[int], None]) -> None:
        self._path, self._progress = store.directory / name, progress
        self._fd = store.open(name)
        size = os.fstat(self._fd).st_size
        rewritten = None if size == marks.size else read_note(store, name).file(size)
        points = marks.points if size == marks.size else rewritten.marks if rewritten else ()
        self._marks: Sequence[EntryPoint] = sorted(points)
        self._pieces: Generator[bytes, None, None] | None = None
        self._at, self._rest = 0, b""

    def read(self, offset: int, count: int) -> Iterator[bytes]:
        self._enter(offset)
        self._skip(offset - self._at)
        while count:
            piece = self._next()
            piece, self._rest = piece[:count], piece[count:]
            self._at += len(piece)
            count -= len(piece)
            yield piece

    def close(self) -> None:
        self._leave()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _leave(self) -> None:
        if self._pieces:
            self._pieces.close()
        self._pieces = None

    def _enter(self, offset: int) -> None:
        """Go to the nearest entry point before `offset`, unless what was read last is nearer."""
        plain, stored = max((mark for mark in self._marks if mark[0] <= offset), default=_FIRST_MARK)
        if self._pieces is None or self._at > offset or plain > self._at + _NEAR:
            self._leave()
            self._at, self._rest = plain, b""
            self._pieces = self._unpacked(stored)

    def _unpacked(self, stored: int) -> Generator[bytes, None, None]:
        with contextlib.closing(self._blocks(stored)) as blocks:
            yield from gzip.unpack_from(blocks)

    def _blocks(self, stored: int) -> Generator[bytes, None, None]:
        while True:
            with storing(self._path):
                block = os.pread(self._fd, _BLOCK, stored)
            if not block:
                return
            stored += len(block)
            self._progress(len(block))
            yield block

    def _skip(self, count: int) -> None:
        while count:
            piece = self._next()
            taken = min(count, len(piece))
            self._rest = piece[taken:]
            self._at += taken
            count -= taken

    def _next(self) -> bytes:
        piece = self._rest or (next(self._pieces, b"") if self._pieces else b"")
        if not piece:
            raise EOFError("it ends too early")
        return piece


class TreeReader:
    """The members of a set whose content lies in `packs`, as far as it is asked for; satisfies `Members`.

    `limit` is the most bytes of content that all members together may have.
    """

    def __init__(self, entries: Iterable[TreeEntry], packs: PackFiles | None = None, limit: int = sys.maxsize) -> None:
        self._entries, self._packs, self._left = entries, packs, limit
        self.place: Location | None = None
        self._done = 0
        self.path = b"."

    def members(self) -> Iterator[Member]:
        """The members, in the archive's order; what is not read of one is not looked at."""
        for entry in self._entries:
            self.path, self.place, self._done = entry.path, entry.place, 0
            self._left -= entry.place.stored if entry.place else 0
            if self._left < 0:
                raise self.refused("makes the set larger than it may be")
            yield _member(entry)

    def content(self, count: int) -> Iterator[bytes]:
        """The next `count` bytes of this member's content in chunks."""
        if not count:
            return
        if self.place is None or self._packs is None or self._done + count > self.place.stored:
            raise self.refused("has less content than is asked for")
        for piece in self._packs.read(self.place.pack, self.place.offset + self._done, count):
            self._done += len(piece)
            yield piece

    def unpacked(self, found: Member, alive: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """All content of the present member, holes as zeros. `alive` is called within those."""
        return tar_writer.with_holes(found.regions, found.size, self.content, alive)

    def refused(self, what: str) -> IntegrityError:
        """The error about the present member."""
        return refused_member(self.path, what)


def assembled(reader: TreeReader, index: Iterable[IndexEntry]) -> Iterator[bytes]:
    """The archive that a full set would have: headers from the tree, content from the packs.

    IntegrityError, at the latest at its end, unless its files are those of `index`.
    """
    count, listed = 0, iter(index)
    for found in reader.members():
        head = header(_written(found, reader.place))
        count += len(head) + found.stored + -found.stored % BLOCK
        yield head
        if found.kind not in (tarfile.REGTYPE, tarfile.LNKTYPE):
            continue
        entry = next(listed, None)
        if entry is None or entry.path != found.path:
            raise reader.refused("is not what the file index lists next")
        if found.kind == tarfile.REGTYPE:
            yield from _checked(reader, found, entry.sha256)
            yield padding(found.stored)
    if entry := next(listed, None):
        raise refused_member(entry.path, "is in the file index, but not in the tree")
    yield ending(count)


def _checked(reader: TreeReader, found: Member, sha256: str) -> Iterator[bytes]:
    """The stored content of a member, whose SHA-256 is that of all of it, holes too."""
    digest, position = hashlib.sha256(), 0
    for start, length in (*found.regions, (found.size, 0)):
        tar_writer.hash_hole(digest, start - position, lambda count: None)
        for piece in reader.content(length):
            digest.update(piece)
            yield piece
        position = start + length
    if digest.hexdigest() != sha256:
        raise reader.refused("has other content than the file index says")


def read_content(packs: PackFiles, place: Location, size: int) -> Iterator[bytes]:
    """The content of a file that lies there, holes as zeros. IntegrityError, StoreError."""
    done = place.offset

    def content(count: int) -> Iterator[bytes]:
        nonlocal done
        yield from packs.read(place.pack, done, count)
        done += count

    regions = place.regions if place.regions is not None else ((0, place.stored),)
    return tar_writer.with_holes(regions, size, content)


def _member(entry: TreeEntry) -> Member:
    place = entry.place
    regions = () if place is None else ((0, place.stored),) if place.regions is None else place.regions
    return Member(
        path=entry.path,
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        size=entry.size,
        target=entry.target,
        attributes=entry.attributes,
        regions=regions,
        stored=place.stored if place else 0,
    )


def _written(found: Member, place: Location | None) -> tar_writer.Member:
    regions = place.regions if place and found.kind == tarfile.REGTYPE else None
    status = os.stat_result(
        (found.mode, 0, 0, 1, found.uid, found.gid, found.size, 0, found.mtime_ns // 10**9, 0),
        {"st_mtime_ns": found.mtime_ns},
    )
    return tar_writer.Member(found.path, found.kind, status, found.size, found.target, found.attributes, regions)
