"""Packs read and judged, each once however many sets need it, and what each of its files holds."""

from __future__ import annotations

import hashlib
import tarfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from backup.catalog.packs import FileIdentity, PackFolder
from backup.errors import BackupError, IntegrityError, StoreError
from backup.logging import logger
from backup.media.tar_reader import TarReader
from backup.media.tar_writer import DataRegion
from backup.media.tree import Judged, Location
from backup.model.pack import Pack
from backup.operations.verify.stored_bytes import Stored
from backup.operations.verify.volume_archive import UNREAD
from backup.pipeline import gzip
from backup.progress import Progress

# How long it counts that a pack was read, where a set that needs it is made.
READ_LATELY: Final = timedelta(days=7)
# Lines of files that were judged, some hundred bytes each.
_REMEMBERED: Final = 1_000_000
# Contents of one piece.
_TOGETHER: Final = 1 << 14


@dataclass
class _Piece:
    """Some thousand contents: where each begins, ascending, hashes of its size and layout, and its SHA-256."""

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    layouts: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)


@dataclass
class PackContents:
    """What a pack holds, in pieces that begin at `starts`: what grew to many MB would be copied again and again, and
    leave as much room behind that nobody takes. `plain_size`: what it unpacked to."""

    problems: list[str] = field(default_factory=list)
    plain_size: int = 0
    pieces: list[_Piece] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, offset: int, layout: int, digest: bytes) -> None:
        """The next content."""
        if not self.pieces or len(self.pieces[-1].offsets) == _TOGETHER:
            self.pieces.append(_Piece())
            self.starts.append(offset)
        piece = self.pieces[-1]
        piece.offsets.append(offset)
        piece.layouts.append(layout)
        piece.digests += digest

    def read(self, pieces: Iterable[bytes]) -> None:
        """Take what a pack unpacks to, up to where it is damaged. StoreError when the disk fails."""
        try:
            for offset, _, layout, digest in contents(self._counted(pieces)):
                self.add(offset, layout, digest)
        except IntegrityError as error:
            self.problems.append(error.message)

    def take(self, packed: Iterable[memoryview]) -> None:
        """As `read`, of the pack as it is stored."""
        # The library takes either.
        self.read(gzip.unpack(cast(Iterable[bytes], packed), single=True))

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.plain_size += len(piece)
            yield piece

    def sha256(self, offset: int, layout: int) -> str | None:
        """That of the content which begins there, in hex; None where none of that layout does."""
        number = bisect_right(self.starts, offset) - 1
        if number < 0:
            return None
        piece = self.pieces[number]
        at = bisect_left(piece.offsets, offset)
        if at == len(piece.offsets) or piece.offsets[at] != offset or piece.layouts[at] != layout:
            return None
        return piece.digests[32 * at : 32 * at + 32].hex()


# By its name, which file a pack is that was just made, and what the disk returned.
Made = Mapping[str, tuple[FileIdentity, PackContents]]


class PackChecks:
    """Checks of the packs of one folder; what was found is noted beside each, so that every set that needs it shows it.

    `fresh`: a pack that was read so short a time ago, and is the same file, is not read again. `made`: those
    that were read when they were written. `locked`: by the holder of the lock. `several` sets are judged: what they
    have in common once.
    """

    def __init__(
        self,
        folder: PackFolder,
        progress: Progress,
        fresh: timedelta | None = None,
        made: Made | None = None,
        *,
        locked: bool = False,
        several: bool = False,
    ) -> None:
        self._folder, self._progress, self._fresh, self._locked = folder, progress, fresh, locked
        self._made = made or {}
        self._held: dict[Pack, PackContents] = {}
        self._whole: set[Pack] = set()
        self._lines: set[int] = set()
        self._several = several

    def problems(self, pack: Pack, *, quick: bool = False) -> list[str]:
        """What is wrong with a pack. Quick: by its size and SHA-256 alone."""
        if pack not in self._held or not (quick or pack in self._whole):
            self._held[pack] = self._judged(pack, quick=quick)
            if not quick:
                self._whole.add(pack)
        return self._held[pack].problems

    def judged(self, packs: Iterable[Pack]) -> Judged:
        """The files that need not be judged: those in packs that were not read, as they need not be, and those of sets
        that were judged before by this one."""
        there = list(packs)
        unread = {pack.file for pack in there if not self._held[pack].pieces}
        return Judged(unread, self._lines, {pack.file for pack in there}, met=[] if self._several else None)

    def note_judged(self, judged: Judged) -> None:
        """Files that are right."""
        if judged.met and len(self._lines) < _REMEMBERED:
            self._lines.update(judged.met)

    def content(self, pack: Pack, place: Location, size: int) -> str | None:
        """SHA-256 of the file of that size whose content lies there; None where there is none, UNREAD."""
        held = self._held[pack]
        if not held.pieces and not held.problems:
            return UNREAD
        regions = place.regions if place.regions is not None else ((0, place.stored),)
        return held.sha256(place.offset, _layout(size, regions))

    def _judged(self, pack: Pack, *, quick: bool) -> PackContents:
        now = datetime.now(UTC)
        if self._fresh and not self._folder.problems([pack]):
            read = self._folder.last_read(pack.file)
            if read and timedelta(0) <= now - read < self._fresh:
                return PackContents()
        missing = [each for each in self._folder.problems([pack]) if not each.endswith("is damaged")]
        if missing:  # which every listing shows
            return PackContents(missing)
        held = self._read_back(pack) or self._read(pack, quick=quick)
        if not quick and not held.problems and held.plain_size != pack.plain_size:
            held.problems.append(f"unpacks to {held.plain_size:,} bytes instead of {pack.plain_size:,}")
        held.problems = [_named(pack, each) for each in held.problems]
        if not quick or held.problems:
            try:
                self._folder.note(pack.file, held.problems, now, locked=self._locked)
            except StoreError as error:  # such as a volume that is read-only
                if held.problems:
                    said = "{} is damaged; that could not be noted, so other sets that need it may look good: {}"
                    logger.warning(said, pack.file, error.message)
        return held

    def _read_back(self, pack: Pack) -> PackContents | None:
        """What was read when it was written, if that very file lies there."""
        file, held = self._made.get(pack.file, (None, None))
        return held if file == self._folder.identity(pack.file) else None

    def _read(self, pack: Pack, *, quick: bool) -> PackContents:
        held = PackContents()
        source = Stored(self._folder.store, pack.file, self._progress)
        try:
            if not quick:
                held.read(source.content())
            source.drain()
            # Asked now: it may have been written anew a moment ago.
            if source.sha256 not in self._folder.digests(pack):
                held.problems.append("has changed since it was written: its SHA-256 differs from the manifest's")
        except BackupError as error:
            held.problems.append(error.message)
        finally:
            source.close()
        return held


def contents(pieces: Iterable[bytes]) -> Iterator[tuple[int, int, int, bytes]]:
    """Of each file where it begins, its size, a hash of that and of where its data belong, and its SHA-256."""
    reader = TarReader(pieces)
    for found in reader.members():
        if found.kind != tarfile.REGTYPE:
            raise reader.refused("is no file: a pack holds nothing else")
        offset, digest = reader.position, hashlib.sha256()
        for piece in reader.content(found.size) if found.stored == found.size else reader.unpacked(found):
            digest.update(piece)
        yield offset, found.size, _layout(found.size, found.regions), digest.digest()


def _layout(size: int, regions: Iterable[DataRegion]) -> int:
    # What a file with holes ends with is written as a region of nothing.
    return hash((size, *(each for each in regions if each[1])))


def _named(pack: Pack, problem: str) -> str:
    return problem if pack.file in problem else f"the pack {pack.file}: {problem}"
