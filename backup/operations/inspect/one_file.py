"""One file of the media: its content out of an archive, and what became of it from set to set."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backup.errors import BackupError, NotFound
from backup.formatting import printable
from backup.logging import logger
from backup.media.archive_rules import LEFT_OUT
from backup.media.pack_reader import PackFiles, TreeReader
from backup.media.tar_reader import TarReader
from backup.media.tar_writer import IndexEntry
from backup.media.tree import parse_marks, parse_tree
from backup.model.backup_set import StoredSet
from backup.operations.inspect.file_index import (
    Near,
    index_of,
    locate_file,
    no_such_file,
    spellings,
    volumes,
)
from backup.operations.set_artifacts import HeldBack, archive_of, content_of, damaged, open_file, packs_of
from backup.pipeline.chunks import split_lines
from backup.progress import Progress
from backup.storage.directory import LocalStore


@dataclass(frozen=True)
class Seen:
    """One file in one set. `what`: first, same, changed, absent, back, or that it cannot be told."""

    stored: StoredSet
    what: str
    entry: IndexEntry | None = None


def history(sets: list[StoredSet], path: str) -> list[Seen]:
    """The file in every set that has an index, newest first; `what` compares with the set before."""
    found: list[Seen] = []
    last: IndexEntry | None = None
    absent = False
    for stored in sorted(sets, key=lambda each: each.time):
        if not any(index_of(stored, volume) for volume in volumes(stored)):
            continue
        try:
            at = locate_file(stored, path)
        except BackupError as error:
            found.append(Seen(stored, f"not known: {error.message}"))
            continue
        entry = at[1] if at else None
        found.append(Seen(stored, _what(entry, last, absent), entry))
        last, absent = entry or last, entry is None
    return found[::-1]


def _what(entry: IndexEntry | None, last: IndexEntry | None, absent: bool) -> str:
    if entry is None:
        return "absent"
    if last is None:
        return "first"
    back = "back, " if absent else ""
    return back + ("same" if (entry.sha256, entry.size) == (last.sha256, last.size) else "changed")


def content(stored: StoredSet, path: str, write: Callable[[bytes], object], progress: Progress) -> None:
    """Give the content of a file to `write`, its end only when all of it is right. NotFound, IntegrityError."""
    held = HeldBack(write)
    at = locate_file(stored, path)
    if at:
        volume, entry = at
        _copy(stored, volume, {entry.path}, entry, held.write, progress)
    else:
        _unlisted(stored, path, held.write, progress)
    held.release()


def found(stored: StoredSet, volume: str, path: str, near: Near, progress: Progress) -> bytes | None:
    """The path below a volume at which its archive has what a person calls `path`, of whatever kind; `near` is told.

    Nothing is proven of the archive: who takes it out reads it again.
    """
    name, _, root = archive_of(stored, volume)
    wanted = spellings(volume, path, root)
    best = len(wanted)
    progress.phase(f"looking for it in {name}")
    with open_archive(stored, volume, name, root, progress) as reader:
        for member in reader.members():
            bare = member.path.removesuffix(b"/")
            near.add(bare)
            if bare in wanted[:best] and member.kind not in LEFT_OUT:
                best = wanted.index(bare)
            if not best:
                break
    return wanted[best].removeprefix(os.fsencode(root) + b"/") if best < len(wanted) else None


def _unlisted(stored: StoredSet, path: str, write: Callable[[bytes], object], progress: Progress) -> None:
    """From an archive without an index: gzip's own checksum, at the archive's end, is all there is to judge by."""
    for volume in volumes(stored):
        if index_of(stored, volume):
            continue
        for name in spellings(volume, path, archive_of(stored, volume)[2]):
            with contextlib.suppress(NotFound):
                _copy(stored, volume, {name}, None, write, progress)
                logger.warning("{} has no file index: the file could not be compared with anything", stored.id)
                return
    raise no_such_file(stored, path)


def _copy(
    stored: StoredSet,
    volume: str,
    names: set[bytes],
    entry: IndexEntry | None,
    write: Callable[[bytes], object],
    progress: Progress,
) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(stored, volume, names, whole=entry is None, progress=progress):
        digest.update(piece)
        size += len(piece)
        write(piece)
    if entry and (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise damaged(f"the file in the archive of {volume} differs from the file index")


def _pieces(stored: StoredSet, volume: str, names: set[bytes], *, whole: bool, progress: Progress) -> Iterator[bytes]:
    """The content of the first regular member of one of these names; `whole`: read the archive to its end after."""
    name, _, root = archive_of(stored, volume)
    target = b""
    progress.phase(f"reading {name}")
    with open_archive(stored, volume, name, root, progress) as reader:
        for member in reader.members():
            if member.path not in names or target:
                continue
            if member.kind == tarfile.LNKTYPE:
                # A second name of a file that has gone by.
                target = member.target
                break
            if member.kind != tarfile.REGTYPE:
                raise NotFound("that is not a regular file, so it has no content", "Name a file.")
            yield from reader.unpacked(member)
            if not whole:
                return
            names = set()
    if target:
        yield from _pieces(stored, volume, {target}, whole=whole, progress=progress)
    elif names:
        raise NotFound(f"the archive of {printable(volume)} does not hold the file", "`verify` judges the set.")


@contextlib.contextmanager
def open_archive(
    stored: StoredSet, volume: str, name: str, root: str, progress: Progress
) -> Iterator[TarReader | TreeReader]:
    """An archive of the folder `root`, or a tree, for the body to read."""
    if folder := packs_of(stored):
        with open_file(stored, name) as source:
            marks = parse_marks(split_lines(source.content()))
        with (
            contextlib.closing(PackFiles(LocalStore(folder), marks, progress.advance)) as packs,
            open_file(stored, name) as source,
            contextlib.closing(source.content()) as pieces,
            open_file(stored, index_of(stored, volume)) as listing,
            contextlib.closing(listing.content()) as listed,
        ):
            yield TreeReader(parse_tree(split_lines(pieces), split_lines(listed)), packs)
        return
    with open_file(stored, name, progress) as source, contextlib.closing(content_of(stored, source)) as chunks:
        yield TarReader(chunks, root=os.fsencode(root) if stored.derived else b"")
