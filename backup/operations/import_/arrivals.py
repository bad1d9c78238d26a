"""What is to be imported, copied into the backup volume's hidden folder: from a folder, from files, or from a tar."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final
from zoneinfo import ZoneInfo

from backup.catalog import staging
from backup.catalog.catalog import Catalog
from backup.errors import IntegrityError, NotFound, StoreError
from backup.formatting import printable
from backup.media.tar_reader import Found, TarReader
from backup.model.backup_set import StoredSet
from backup.model.manifest import STAMP, Tier, file_name, parse_file_name
from backup.operations.verify.stored_bytes import Stored
from backup.pipeline import age, gzip
from backup.pipeline.chunks import Chunks
from backup.pipeline.file_type import HEAD, Kind, recognise
from backup.progress import Progress
from backup.storage.directory import LocalStore
from backup.storage.errors import storing

_BLOCK: Final = 1 << 20
_STAMP: Final = re.compile(r"(?<!\d)([12]\d{3})-?(\d\d)-?(\d\d)[_T-](\d\d)[-:]?(\d\d)[-:]?(\d\d)(?!\d)")
_MANY: Final = 100_000


@dataclass
class Arrivals:
    """What folders and files hold: sets, archives that can only be `export`'s, and lone dumps."""

    sets: list[StoredSet]
    archives: list[Path]
    dumps: list[Path]


def in_places(catalog: Catalog, paths: Sequence[Path]) -> Arrivals:
    """What these folders and files hold. NotFound, IntegrityError."""
    found: dict[tuple[Path, str], StoredSet] = {}
    archives: list[Path] = []
    dumps: list[Path] = []
    for path in paths:
        with storing(path):
            path = path.resolve(strict=True)
        if any(path.is_relative_to(catalog.store(tier).directory.resolve()) for tier in Tier):
            raise NotFound(f"{path} lies in this backup volume: what is there is listed already", "`list` shows it.")
        sets = _sets(catalog, path)
        if not sets and path.is_dir():
            raise NotFound(f"{path} holds no set and no file of the old scripts", "`restore PATH` takes any dump.")
        if not sets:
            (dumps if _is_dump(path, catalog) else archives).append(path)
        found |= {(stored.directory, stored.id): stored for stored in sets}
    return Arrivals(list(found.values()), archives, dumps)


def _is_dump(path: Path, catalog: Catalog) -> bool:
    """Whether a file is a dump, whatever it is called; what is neither is no archive of `export` either."""
    with open(LocalStore(path.parent).open(path.name), "rb") as file:
        head, _ = age.head(file, catalog.identity, HEAD)
    try:
        return recognise(head).kind is not Kind.TAR
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}; nothing was imported", error.hint) from None


def dump_name(path: Path, zone: ZoneInfo) -> str:
    """What a lone dump is called as a file of a set: by the time in its name, or else of its last change."""
    match = _STAMP.search(path.name)
    with contextlib.suppress(ValueError):
        if match:
            # As the name has it, by whatever clock.
            return _named(datetime.strptime("".join(match.groups()), "%Y%m%d%H%M%S"))  # noqa: DTZ007
    return _named(datetime.fromtimestamp(path.stat().st_mtime, zone))


def _named(moment: datetime) -> str:
    return file_name("backup", f"{Tier.MANUAL}_{moment.strftime(STAMP)}", "sql.gz")


def _sets(catalog: Catalog, path: Path) -> list[StoredSet]:
    if path.is_dir():
        below = [path / tier for tier in Tier if (path / tier).is_dir()]
        return [stored for folder in (path, *below) for stored in catalog.sets_in(folder)]
    if parse_file_name(path.name, Tier.MANUAL) is None:
        return []
    return [stored for stored in catalog.sets_in(path.parent) if path.name in stored.files]


def copy(stored: StoredSet, root: Path, progress: Progress) -> None:
    """Copy the files of a set into the hidden folder, durably."""
    store = LocalStore(staging.folder(root))
    for name in stored.files:
        source = Stored(LocalStore(stored.directory), name, progress)
        with contextlib.closing(source):
            _put(store, name, source.raw())


def copy_dump(path: Path, root: Path, name: str, progress: Progress) -> None:
    """Copy a lone dump into the hidden folder, under this name."""
    source = Stored(LocalStore(path.parent), path.name, progress)
    with contextlib.closing(source):
        _put(LocalStore(staging.folder(root)), name, source.raw())


def unpack(stream: BinaryIO, root: Path, progress: Progress) -> None:
    """Put the files of an archive of `export` into the hidden folder. IntegrityError for any other archive."""
    store = LocalStore(staging.folder(root))
    seen: set[str] = set()
    try:
        reader = TarReader(Chunks(_plain(stream, progress)))
        for member in reader.members():
            if len(seen) > _MANY:
                raise _refused(member, "is one of too many")
            if member.kind == tarfile.DIRTYPE:
                continue
            name = _name(member, seen)
            seen.add(name)
            _put(store, name, reader.unpacked(member))
    except gzip.DAMAGED as error:
        raise IntegrityError(f"the archive cannot be unpacked: {error}; nothing was imported") from error
    except IntegrityError as error:
        message = error.message if "nothing was imported" in error.message else f"{error.message}; nothing was imported"
        raise IntegrityError(message, error.hint or "Copy it again: `export ID - > set.tar`.") from None
    if not seen:
        raise IntegrityError("the archive is empty; nothing was imported", "Was `export` told to write it?")


def _name(member: Found, seen: set[str]) -> str:
    """The file's name. IntegrityError for all that `export` writes no archive of."""
    path = member.path.removeprefix(b"./")
    above, _, last = path.rpartition(b"/")
    name = last.decode("ascii", "replace")
    if member.kind != tarfile.REGTYPE or member.stored != member.size:
        raise _refused(member, "is no ordinary file")
    if above in (b".", b"..") or b"/" in above or path.startswith(b"/") or parse_file_name(name) is None:
        raise _refused(member, "is not the name of a file of a set")
    if name in seen:
        raise _refused(member, "is in it twice")
    return name


def _refused(member: Found, why: str) -> IntegrityError:
    name = printable(member.path[-200:].decode(errors="surrogateescape"))
    return IntegrityError(f"the archive was refused: {name!r} {why}; nothing was imported", "`export` writes archives.")


def _plain(stream: BinaryIO, progress: Progress) -> Iterator[bytes]:
    blocks = _blocks(stream, progress)
    first = next(blocks, b"")
    if not first:
        raise IntegrityError("there is nothing to read; nothing was imported", "Name a file, or pipe an archive in.")
    whole = _again(first, blocks)
    return gzip.unpack(whole, single=False) if first.startswith(gzip.MAGIC) else whole


def _again(first: bytes, rest: Iterable[bytes]) -> Generator[bytes, None, None]:
    yield first
    yield from rest


def _blocks(stream: BinaryIO, progress: Progress) -> Iterator[bytes]:
    while True:
        try:
            block = stream.read(_BLOCK)
        except OSError as error:
            raise StoreError(f"the archive cannot be read: {error.strerror or error}; nothing was imported") from error
        if not block:
            return
        progress.advance(len(block))
        yield block


def _put(store: LocalStore, name: str, pieces: Iterable[bytes]) -> None:
    with store.stage(name) as staged:
        for piece in pieces:
            staged.write(piece)
        staged.seal()
        store.publish([staged])
