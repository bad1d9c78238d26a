"""Sets from elsewhere made sets of this volume: copied aside, judged in full, and only then given their names."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from backup.catalog import staging
from backup.catalog.catalog import Catalog
from backup.catalog.retention import identity_of
from backup.errors import BackupError, IntegrityError, NoSpace, StoreError
from backup.formatting import listed, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import StoredSet, Verdict, manifest_name, newest_good
from backup.model.manifest import Manifest, Tier, file_name, parse_file_name
from backup.model.run import Run, new_run_id
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.import_ import arrivals
from backup.operations.verify.run import Checked, check
from backup.storage.directory import LocalStore
from backup.storage.errors import free_space, storing

IMPORT: Final = "import"
# What a run of ours needs besides, such as its record.
_SPARE: Final = 1 << 20


@dataclass
class Adopted:
    """What has become of it: ids of the sets that are new here, and of those that were here before."""

    new: list[str]
    known: list[str]


def adopt(paths: Sequence[Path], stream: BinaryIO | None, context: Context, wait: float = 0.0) -> Adopted:
    """Import all sets in these folders and files, and those of the archive that `stream` is. One that is damaged, or
    whose id has another content here, is not; the others are, and the error is raised at the end."""
    started = context.clock()
    run = Run(id=new_run_id(started), operation=IMPORT, started=started)
    done = Adopted([], [])
    with runs.locked(context, run, wait), runs.recorded(context, run) as recording:
        arrived = arrivals.in_places(context.catalog, paths)
        errors: list[BackupError] = []
        for stored in sorted(arrived.sets, key=lambda each: each.time):
            with _noting(errors), _clean(context.catalog.root):
                _from_folder(stored, context, done)
        for path in arrived.dumps:
            with _noting(errors), _clean(context.catalog.root):
                _from_dump(path, context, done)
        for path in arrived.archives:
            with _noting(errors), _clean(context.catalog.root), _opened(path) as file:
                _from_archive(file, context, done)
        if stream is not None:
            with _noting(errors), _clean(context.catalog.root):
                _from_archive(stream, context, done)
        recording.success = {"set": ", ".join(done.new[:10])}
        _raise(errors, done)
    return done


@contextlib.contextmanager
def _noting(errors: list[BackupError]) -> Iterator[None]:
    try:
        yield
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
        count = plural(len(errors), "set or archive")
        error = type(first)(f"{count} could not be imported; the first: {first.message}", first.hint)
        raise error


@contextlib.contextmanager
def _clean(root: Path) -> Iterator[None]:
    """The hidden folder is empty before, and gone after."""
    staging.clear(root)
    try:
        yield
    finally:
        staging.clear(root)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(LocalStore(path.parent).open(path.name), "rb") as file:
        yield file


def _from_folder(stored: StoredSet, context: Context, done: Adopted) -> None:
    if _known(stored, context.catalog):
        _tell_known(stored.id, done)
        return
    _require_room(stored.id, stored.size, context)
    arrivals.copy(stored, context.catalog.root, context.progress)
    _judged(context, done, stored.tier)


def _from_dump(path: Path, context: Context, done: Adopted) -> None:
    name = arrivals.dump_name(path, context.catalog.zone)
    _require_room(printable(path.name), path.stat().st_size, context)
    arrivals.copy_dump(path, context.catalog.root, name, context.progress)
    _judged(context, done)


def _require_room(name: str, count: int, context: Context) -> None:
    if count + _SPARE > free_space(context.catalog.root):
        raise NoSpace(
            f"{name} has {size(count)}, which do not fit into the backup volume; nothing of it was imported",
            NoSpace.remedy,
        )
    context.progress.phase(f"copying {name}", count)


def _from_archive(stream: BinaryIO, context: Context, done: Adopted) -> None:
    context.progress.phase("unpacking the archive")
    arrivals.unpack(stream, context.catalog.root, context.progress)
    _judged(context, done)


def _judged(context: Context, done: Adopted, tier: Tier | None = None) -> None:
    """Judge what lies in the hidden folder (all of one tier), and give all of it its names if all of it is right."""
    folder = staging.folder(context.catalog.root)
    checked: list[tuple[StoredSet, Checked]] = []
    for stored in context.catalog.sets_in(folder, tier):
        if _known(stored, context.catalog):
            _tell_known(stored.id, done)
            continue
        stored = _with_sums(stored, context.catalog)
        found = check(stored, context.progress)
        if found.problems or (stored.manifest is None and stored.state != "old script"):
            said = listed(found.problems, mark="; ") or stored.problem
            raise IntegrityError(
                f"{stored.id} is damaged and was not imported: {said}", "Copy it again from its origin."
            )
        checked.append((stored, found))
    for stored, found in checked:
        _list(stored, found, context)
        done.new.append(stored.id)


def _list(stored: StoredSet, found: Checked, context: Context) -> None:
    _tell_identity(stored, context.catalog)
    last = manifest_name(stored.id)
    names = sorted(name for name in stored.files if name != last)
    names += [last] if last in stored.files else []
    directory = context.catalog.store(stored.tier).directory
    with storing(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with runs.undisturbed():
        context.catalog.give_names(stored.tier, staging.arrived(context.catalog.root, names))
    verdict = Verdict(checked=context.clock(), unchecked=tuple(found.unchecked))
    context.catalog.record_verdict(stored, verdict, locked=True)
    if not stored.manifest:
        logger.warning("{}: not checked: {}", stored.id, "; ".join(found.unchecked))
    what = f"{plural(len(names), 'file')}, {size(stored.size)}"
    logger.success("{} is imported ({}); `pin {}` keeps it whatever its age", stored.id, what, stored.id)


def _with_sums(stored: StoredSet, catalog: Catalog) -> StoredSet:
    """A set whose list for `sha256sum -c` was not copied along gets it again."""
    name = file_name("set", stored.id, "sha256")
    if stored.manifest is None or name in stored.files:
        return stored
    store = LocalStore(stored.directory)
    store.put(name, "".join(f"{a.stored_sha256}  {a.file}\n" for a in stored.manifest.artifacts).encode())
    return next(each for each in catalog.sets_in(stored.directory) if each.id == stored.id)


def _known(stored: StoredSet, catalog: Catalog) -> bool:
    """Whether this very set is here. StoreError when something else has its id."""
    store = catalog.store(stored.tier)
    here = [name for name in store.names(foreign=True) if _belongs(name, stored.id) or name in stored.files]
    if not here:
        return False
    manifest = manifest_name(stored.id)
    names = [manifest] if manifest in stored.files else list(stored.files)
    theirs = LocalStore(stored.directory)
    if set(names) <= set(here) and all(_sum(theirs, name) == _sum(store, name) for name in names):
        return True
    raise StoreError(
        f"something called {stored.id} is here already, and it is not the same; it was not overwritten",
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
    logger.info("{} is here already, and it is the same", identifier)
    done.known.append(identifier)


def _tell_identity(stored: StoredSet, catalog: Catalog) -> None:
    """A set of another database is welcome, but whoever imports it should know."""
    theirs, newest = identity_of(stored), newest_good(catalog.sets())
    ours = identity_of(newest) if newest else None
    if theirs and ours and theirs != ours:
        logger.warning(
            "{} is of another database: {}; the sets here are of {}",
            *(stored.id, _identity(stored.manifest), _identity(newest.manifest if newest else None)),
        )


def _identity(manifest: Manifest | None) -> str:
    part = manifest.database if manifest else None
    return printable(f"{part.name} on the server {part.system_identifier}") if part else "none"
