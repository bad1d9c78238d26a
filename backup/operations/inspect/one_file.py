"""One file of the media: its content out of an archive, and what became of it from set to set."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backup.errors import BackupError, NotFound
from backup.log import logger
from backup.operations.check_tar import REGULAR, Member, members
from backup.operations.inspect.index import archive_and_root, index_of, locate, no_such_file, spellings, volumes
from backup.operations.inspect.opening import HeldBack, damaged, opened
from backup.progress import Progress
from backup.sets import StoredSet
from backup.sources.tarstream import IndexEntry
from backup.text import printable


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
            at = locate(stored, path)
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
    at = locate(stored, path)
    if at:
        volume, entry = at
        _copy(stored, volume, {entry.path}, entry, held.write, progress)
    else:
        _unlisted(stored, path, held.write, progress)
    held.release()


def _unlisted(stored: StoredSet, path: str, write: Callable[[bytes], object], progress: Progress) -> None:
    """From an archive without an index: gzip's own checksum, at the archive's end, is all there is to judge by."""
    for volume in volumes(stored):
        if index_of(stored, volume):
            continue
        with contextlib.suppress(NotFound):
            _, root = archive_and_root(stored, volume)
            names = spellings(root, path) | {b"./" + name for name in spellings(root, path)}
            _copy(stored, volume, names, None, write, progress)
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
        raise damaged(f"the archive of {volume} has other content of the file than its index says")


def _pieces(stored: StoredSet, volume: str, names: set[bytes], *, whole: bool, progress: Progress) -> Iterator[bytes]:
    """The content of the first regular member of one of these names; `whole`: read the archive to its end after."""
    name, _ = archive_and_root(stored, volume)
    target = b""
    progress.phase(f"reading {name}")
    with opened(stored, name, progress) as source:
        with contextlib.closing(source.content(packed=_packed(stored, name), single=not stored.loose)) as chunks:
            for member in members(chunks):
                if member.path not in names or target:
                    continue
                if member.kind == tarfile.LNKTYPE:
                    # A second name of a file that has gone by.
                    target = member.target
                    break
                yield from _regular(member)
                if not whole:
                    return
                names = set()
    if target:
        yield from _pieces(stored, volume, {target}, whole=whole, progress=progress)
    elif names:
        raise NotFound(f"the archive of {printable(volume)} does not hold the file", "`verify` judges the set.")


def _regular(member: Member) -> Iterator[bytes]:
    if member.kind not in REGULAR:
        raise NotFound("that is no regular file, so it has no content", "Name a file.")
    # Old GNU sparse files have their map in the header, which is not read here.
    if member.kind == tarfile.GNUTYPE_SPARSE:
        raise NotFound("that is a sparse file in GNU tar's old form", "Take it out with `tar -xzf`.")
    yield from (bytes(piece) for piece in member.content())


def _packed(stored: StoredSet, name: str) -> bool:
    return next((each.packed for each in stored.loose if each.name == name), True)
