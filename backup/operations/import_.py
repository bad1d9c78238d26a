"""Sets from elsewhere made sets of this volume: copied aside, judged in full, and only then given their names.

They come from a folder, from files, or from a tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final
from zoneinfo import ZoneInfo

from backup.catalog import import_staging
from backup.catalog.catalog import Catalog
from backup.catalog.retention import identity_of
from backup.errors import BackupError, IntegrityError, NoSpace, NotFound, StoreError
from backup.formatting import listed, plural, printable, size
from backup.logging import logger
from backup.media.tar_reader import Member, TarReader
from backup.model.backup_set import StoredSet, Verdict, manifest_name, newest_good, verdict_name
from backup.model.manifest import STAMP, Manifest, Tier, file_name, parse_file_name
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.offsite.layout import sums
from backup.operations.verify.run import Checked, check_set
from backup.operations.verify.stored_bytes import Stored
from backup.pipeline import age, gzip
from backup.pipeline.file_type import HEAD, FileKind, recognise
from backup.progress import Progress
from backup.storage.directory import LocalStore
from backup.storage.filesystem import free_space, storing

IMPORT: Final = "import"
# What a run of ours needs besides, such as its record.
_SPARE: Final = 1 << 20
_BLOCK: Final = 1 << 20
_STAMP: Final = re.compile(r"(?<!\d)([12]\d{3})-?(\d\d)-?(\d\d)[_T-](\d\d)[-:]?(\d\d)[-:]?(\d\d)(?!\d)")
_MANY: Final = 100_000


@dataclass
class Adopted:
    """What has become of it: ids of the sets that are new here, and of those that were here before; the `newest` good
    one of all that are here."""

    new: list[str]
    known: list[str]
    newest: StoredSet | None = None


def adopt(paths: Sequence[Path], stream: BinaryIO | None, context: Context, wait: float = 0.0) -> Adopted:
    """Import all sets in these folders and files, and those of the archive that `stream` is. One that is damaged, or
    whose id has another content here, is not; the others are, and the error is raised at the end."""
    run = runs.Request().run(IMPORT, context.clock())
    done = Adopted([], [])
    with runs.locked(context, run, wait), runs.recorded(context, run) as recording:
        arrived, done.newest = _in_places(context.catalog, paths), newest_good(context.catalog.sets())
        errors: list[BackupError] = []
        for stored in sorted(arrived.sets, key=lambda each: each.time):
            with _apart(context.catalog.root, errors):
                _from_folder(stored, context, done)
        for path in arrived.dumps:
            with _apart(context.catalog.root, errors):
                _from_dump(path, context, done)
        for path in arrived.archives:
            with _apart(context.catalog.root, errors), open(LocalStore(path.parent).open(path.name), "rb") as file:
                _from_archive(file, context, done)
        if stream is not None:
            with _apart(context.catalog.root, errors):
                _from_archive(stream, context, done)
        recording.success = {"set": ", ".join(done.new[:10])}
        _raise(errors, done)
    return done


@contextlib.contextmanager
def _apart(root: Path, errors: list[BackupError]) -> Iterator[None]:
    """Take one by itself: the hidden folder is empty before, gone after, and what goes wrong keeps no other one out."""
    try:
        import_staging.clear(root)
        try:
            yield
        finally:
            import_staging.clear(root)
    except NoSpace:
        # Nor is there any for the others.
        raise
    except BackupError as error:
        errors.append(error)


def _raise(errors: list[BackupError], done: Adopted) -> None:
    if len(errors) == 1 and not (done.new or done.known):
        raise errors[0]
    if errors:
        for each in errors[1:]:
            logger.error("{}", each.message)
        first = errors[0]
        count = plural(len(errors), "set or archive", "sets or archives")
        error = type(first)(f"{count} could not be imported; the first error: {first.message}", first.hint)
        raise error


def _from_folder(stored: StoredSet, context: Context, done: Adopted) -> None:
    if _known(stored, context.catalog):
        _tell_known(stored.id, done)
        return
    _require_room(stored.id, stored.size, context)
    for name in stored.files:
        _copy(stored.directory / name, name, context)
    _judged(context, done, stored.tier)


def _from_dump(path: Path, context: Context, done: Adopted) -> None:
    name = _dump_name(path, context.catalog.zone)
    _require_room(printable(path.name), path.stat().st_size, context)
    _copy(path, name, context)
    _judged(context, done)


def _require_room(name: str, count: int, context: Context) -> None:
    if count + _SPARE > free_space(context.catalog.root):
        raise NoSpace(
            f"{name} ({size(count)}) does not fit into the backup volume; nothing of it was imported",
            NoSpace.remedy,
        )
    context.progress.phase(f"copying {name}", count)


def _from_archive(stream: BinaryIO, context: Context, done: Adopted) -> None:
    context.progress.phase("unpacking the archive")
    _unpack(stream, context.catalog.root, context.progress)
    _judged(context, done)


def _judged(context: Context, done: Adopted, tier: Tier | None = None) -> None:
    """Judge what lies in the hidden folder (all of one tier), and give all of it its names if all of it is right."""
    folder = import_staging.folder(context.catalog.root)
    checked: list[tuple[StoredSet, Checked]] = []
    for stored in context.catalog.sets_in(folder, tier):
        if _known(stored, context.catalog):
            _tell_known(stored.id, done)
            continue
        if stored.summary.packs:
            raise IntegrityError(
                f"{stored.id} is incremental, and the packs that it needs are no part of it; it was not imported",
                "Where it was made, `export` copies it as a set that needs none.",
            )
        stored = _with_sums(stored, context.catalog)
        found = check_set(stored, context.progress)
        if found.problems:
            said = listed(found.problems, mark="; ")
            raise IntegrityError(
                f"{stored.id} is damaged and was not imported: {said}", "Copy it again from its origin."
            )
        checked.append((stored, found))
    for stored, found in checked:
        _tell_identity(stored, done.newest)
        _list(stored, found, context)
        done.new.append(stored.id)
        done.newest = newest_good(filter(None, (done.newest, stored)))


def _list(stored: StoredSet, found: Checked, context: Context) -> None:
    last = manifest_name(stored.id)
    names = sorted(name for name in stored.files if name != last)
    names += [last] if last in stored.files else []
    directory = context.catalog.store(stored.tier).directory
    with storing(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with runs.undisturbed():
        context.catalog.give_names(stored.tier, import_staging.arrived(context.catalog.root, names))
    verdict = Verdict(checked=context.clock(), unchecked=tuple(found.unchecked))
    context.catalog.record_verdict(stored, verdict, locked=True)
    if found.unchecked:
        logger.warning("{}: not checked: {}", stored.id, "; ".join(found.unchecked))
    what = f"{plural(len(names), 'file')}, {size(stored.size)}"
    logger.success("{} is imported ({}); `pin {}` keeps it whatever its age", stored.id, what, stored.id)


def _with_sums(stored: StoredSet, catalog: Catalog) -> StoredSet:
    """Write the list for `sha256sum -c` of a set again that came without it."""
    name = file_name("set", stored.id, "sha256")
    if stored.derived or name in stored.files:
        return stored
    store = LocalStore(stored.directory)
    store.put(name, sums(stored.manifest))
    return next(each for each in catalog.sets_in(stored.directory) if each.id == stored.id)


def _known(stored: StoredSet, catalog: Catalog) -> bool:
    """Tell whether this very set is here. StoreError when something else has its id."""
    store = catalog.store(stored.tier)
    here = [name for name in store.names(foreign=True) if _belongs(name, stored.id) or name in stored.files]
    manifest = manifest_name(stored.id)
    # What was found of files that somebody removed is void.
    void = [] if manifest in stored.files else [verdict_name(stored.id)]
    if not set(here).difference(void):
        return False
    names = [manifest] if manifest in stored.files else list(stored.files)
    theirs = LocalStore(stored.directory)
    if set(names) <= set(here) and all(_sum(theirs, name) == _sum(store, name) for name in names):
        return True
    raise StoreError(
        f"another set called {stored.id} is here already; it was not overwritten",
        f"`show {stored.id}` says what is here.",
    )


def _belongs(name: str, identifier: str) -> bool:
    bare = name.removeprefix(".").removesuffix(".partial").removesuffix(".removing")
    parsed = parse_file_name(bare) or parse_file_name(bare.removesuffix(".verdict").removesuffix(".pin") + ".json")
    return parsed is not None and parsed.set_id == identifier


def _sum(store: LocalStore, name: str) -> str:
    with open(store.open(name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tell_known(identifier: str, done: Adopted) -> None:
    logger.info("{} is here already, and is the same", identifier)
    done.known.append(identifier)


def _tell_identity(stored: StoredSet, newest: StoredSet | None) -> None:
    """Warn of a set of another database: it is welcome, but whoever imports it should know."""
    theirs, ours = identity_of(stored), identity_of(newest) if newest else None
    if theirs and ours and theirs != ours:
        logger.warning(
            "{} is of another database: {}; the sets here are of {}",
            *(stored.id, _identity(stored.manifest), _identity(newest.manifest) if newest else "none"),
        )


def _identity(manifest: Manifest) -> str:
    part = manifest.database
    return printable(f"{part.name} on the server {part.system_identifier}") if part else "none"


@dataclass
class _Arrivals:
    """What folders and files hold: sets, archives that can only be `export`'s, and lone dumps."""

    sets: list[StoredSet]
    archives: list[Path]
    dumps: list[Path]


def _in_places(catalog: Catalog, paths: Sequence[Path]) -> _Arrivals:
    """Look what these folders and files hold. NotFound, IntegrityError."""
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
    return _Arrivals(list(found.values()), archives, dumps)


def _is_dump(path: Path, catalog: Catalog) -> bool:
    """Tell whether a file is a dump, whatever it is called; what is neither is no archive of `export` either."""
    with open(LocalStore(path.parent).open(path.name), "rb") as file:
        head, _ = age.read_head(file, catalog.identity, HEAD)
    try:
        return recognise(head).kind is not FileKind.TAR
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}; nothing was imported", error.hint) from None


def _dump_name(path: Path, zone: ZoneInfo) -> str:
    """Name a lone dump as a file of a set: by the time in its name, or else of its last change."""
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


def _copy(path: Path, name: str, context: Context) -> None:
    """Copy a file into the hidden folder under this name, durably."""
    with contextlib.closing(Stored(LocalStore(path.parent), path.name, context.progress)) as source:
        _put(LocalStore(import_staging.folder(context.catalog.root)), name, source.raw())


def _unpack(stream: BinaryIO, root: Path, progress: Progress) -> None:
    """Put the files of an archive of `export` into the hidden folder. IntegrityError for any other archive."""
    store = LocalStore(import_staging.folder(root))
    seen: set[str] = set()
    try:
        reader = TarReader(_plain(stream, progress))
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
        raise IntegrityError("the archive is empty; nothing was imported", "Did `export` write it?")


def _name(member: Member, seen: set[str]) -> str:
    """Name the file. IntegrityError for all that `export` writes no archive of."""
    path = member.path.removeprefix(b"./")
    above, _, last = path.rpartition(b"/")
    name = last.decode("ascii", "replace")
    if member.kind != tarfile.REGTYPE or member.stored != member.size:
        raise _refused(member, "is not a regular file")
    if above in (b".", b"..") or b"/" in above or path.startswith(b"/") or parse_file_name(name) is None:
        raise _refused(member, "is not the name of a set's file")
    if name in seen:
        raise _refused(member, "is in it twice")
    return name


def _refused(member: Member, why: str) -> IntegrityError:
    name = printable(member.path[-200:].decode(errors="surrogateescape"))
    return IntegrityError(f"the archive was refused: {name!r} {why}; nothing was imported", "`export` writes archives.")


def _plain(stream: BinaryIO, progress: Progress) -> Iterator[bytes]:
    blocks = _blocks(stream, progress)
    first = next(blocks, b"")
    if not first:
        raise IntegrityError("there is nothing to read; nothing was imported", "Name a file, or pipe an archive in.")
    whole = itertools.chain([first], blocks)
    return gzip.unpack(whole, single=False) if first.startswith(gzip.MAGIC) else whole


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
