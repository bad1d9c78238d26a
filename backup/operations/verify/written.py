"""What the disk gave back of files while they were written: a set that was just made is judged by it.

Nothing is read twice for that. A file that is not the very one that was sealed (see FileIdentity), or of which
anything is not as it should be, is read again, and that reading tells what is wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import tarfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import eq
from typing import Final, TypeVar, cast

from backup.errors import IntegrityError
from backup.media.archive_rules import judged
from backup.media.tar_reader import TarReader
from backup.media.tar_writer import DataRegion, parse_index
from backup.model.manifest import Artifact
from backup.model.pack import Pack
from backup.operations.verify.volume_archive import Walked, content_sha256, count
from backup.pipeline import gzip
from backup.pipeline.chunks import split_lines
from backup.storage.directory import LocalStore
from backup.storage.staged_file import FileIdentity, StagedFile

# A mean size below which hashing a file is little beside what the interpreter does for it, and how much tells.
_SMALL: Final = 64 << 10
_ENOUGH: Final = 16 << 20
# Contents of one piece.
_TOGETHER: Final = 1 << 14


@dataclass
class _Archive:
    """What is told of an archive while the disk gives it; `whole`: all of it was taken, and is an archive.

    `plain_size`: what it unpacked to, in bytes; `files`: how many were hashed.
    """

    plain_size: int = 0
    files: int = 0
    whole: bool = False

    def take(self, packed: Iterable[memoryview]) -> None:
        """Take what is stored. One of small files alone is left: hashing each would keep the archiver waiting."""
        with contextlib.suppress(IntegrityError):
            # The library takes either.
            self.read(self._worth(gzip.unpack(cast(Iterable[bytes], packed), single=True)))
            self.whole = True

    def read(self, pieces: Iterable[bytes]) -> None:
        """Take what it unpacks to. IntegrityError where it is damaged, StoreError when the disk fails."""
        raise NotImplementedError

    def _worth(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.plain_size += len(piece)
            if _ENOUGH < self.plain_size < self.files * _SMALL:
                raise IntegrityError("left")  # what just ended might look whole
            yield piece


_A = TypeVar("_A", bound=_Archive)


@dataclass
class _Piece:
    """Some thousand contents: where each begins, ascending, hashes of its size and layout, and its SHA-256."""

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    layouts: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)


@dataclass
class PackContents(_Archive):
    """What a pack holds, in pieces that begin at `starts`: what grew to many MB would be copied again and again, and
    leave as much room behind that nobody takes."""

    problems: list[str] = field(default_factory=list)
    pieces: list[_Piece] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, offset: int, layout: int, digest: bytes) -> None:
        """The next content."""
        self.files += 1
        if not self.pieces or len(self.pieces[-1].offsets) == _TOGETHER:
            self.pieces.append(_Piece())
            self.starts.append(offset)
        piece = self.pieces[-1]
        piece.offsets.append(offset)
        piece.layouts.append(layout)
        piece.digests += digest

    def read(self, pieces: Iterable[bytes]) -> None:
        """See _Archive."""
        for offset, _, layout, digest in contents(pieces):
            self.add(offset, layout, digest)

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


def contents(pieces: Iterable[bytes]) -> Iterator[tuple[int, int, int, bytes]]:
    """Of each file where it begins, its size, a hash of that and of where its data belong, and its SHA-256."""
    reader = TarReader(pieces)
    for found in reader.members():
        if found.kind != tarfile.REGTYPE:
            raise reader.refused("is no file: a pack holds nothing else")
        offset = reader.position
        yield offset, found.size, layout(found.size, found.regions), bytes.fromhex(content_sha256(reader, found))


def layout(size: int, regions: Iterable[DataRegion]) -> int:
    """A hash of a file's size and of where its data belong."""
    # What a file with holes ends with is written as a region of nothing.
    return hash((size, *(each for each in regions if each[1])))


class ArchiveMembers(_Archive):
    """What an archive of ours holds, `root` being its folder, to be held against its file index: eight bytes a file."""

    def __init__(self, root: bytes) -> None:
        super().__init__()
        self.walked = Walked()
        self._root, self._hashes = root, array("q")

    def read(self, pieces: Iterable[bytes]) -> None:
        """See _Archive. One with hard links is not taken: what they lead to would have to be looked for."""
        reader = TarReader(pieces)
        for found in judged(reader, self._root, trusted=True, indexed=True):
            if found.kind == tarfile.LNKTYPE:
                raise reader.refused("is a hard link")
            count(found, self.walked.counts)
            if found.kind == tarfile.REGTYPE:
                self.files += 1
                self._hashes.append(hash((found.path, found.size, content_sha256(reader, found))))

    def agrees(self, index: Iterable[bytes]) -> bool:
        """Whether an index, plain, lists exactly these files. IntegrityError for a damaged one."""
        listed = (hash((each.path, each.size, each.sha256)) for each in parse_index(split_lines(index)))
        return all(itertools.starmap(eq, itertools.zip_longest(self._hashes, listed)))


@dataclass
class Written:
    """By their names, which files were sealed, with their SHA-256, and what those hold that are archives."""

    sealed: dict[str, tuple[FileIdentity, str]] = field(default_factory=dict)
    packs: dict[str, PackContents] = field(default_factory=dict)
    archives: dict[str, ArchiveMembers] = field(default_factory=dict)

    def note(self, staged: StagedFile) -> None:
        """A file that was sealed."""
        self.sealed[staged.name] = staged.identity, staged.sha256

    def is_in(self, store: LocalStore, file: Artifact | Pack) -> bool:
        """Whether what lies in a folder under the name of a file is the one that was sealed, and of its SHA-256."""
        return self.sealed.get(file.file) == (store.identity(file.file), file.stored_sha256)

    def held(self, archives: Mapping[str, _A], store: LocalStore, file: Artifact | Pack) -> _A | None:
        """What was taken of one of `archives`, if that was all of it, and the very file is there."""
        found = archives.get(file.file)
        whole = found and found.whole and found.plain_size == file.plain_size
        return found if whole and self.is_in(store, file) else None
