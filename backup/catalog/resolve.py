"""What a person names to be verified or restored: a set of the catalogue, or a path to a set or to files elsewhere.

A directory or a file outside of the backup volume is taken as it lies: a set by its manifest, an old script's files by
their names, anything else by its bytes. Nothing is copied and nothing is written there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.catalog import Catalog
from backup.errors import BackupError, IntegrityError, KeyMissing, NotFound
from backup.formatting import plural, printable
from backup.media.archive_rules import root_of
from backup.model.backup_set import StoredSet, parsed_files
from backup.model.derived_manifest import DUMP, BareFile, derive
from backup.model.manifest import Tier, parse_file_name, stamp_time
from backup.pipeline import age
from backup.pipeline.file_type import HEAD, FileKind, beginning, recognise
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

_MOUNT: Final = "A file of the host must be mounted: `docker compose run --rm -v /its/folder:/restore:ro backup …`."
_DUMPED: Final = re.compile(rb"^-- Dumped from database version (\d[ -~]{0,60})$", re.MULTILINE)
_LISTED: Final = 10
# What the folder is called of an archive that does not say it, where several volumes could be it.
_ROOTLESS: Final = "files"


def find_set(catalog: Catalog, query: str, volumes: Sequence[str]) -> StoredSet:
    """The set that `query` names: `latest`, an id, a file's name, or a path. NotFound, IntegrityError.

    `volumes` are the names of the volumes here, to one of which an archive of media belongs.
    """
    path = Path(query)
    if "/" not in query or not path.exists():
        try:
            return catalog.find(query)
        except NotFound as error:
            if not {"/", "."} & set(query):
                raise
            raise NotFound(error.message, f"{error.hint} {_MOUNT}") from None
    with storing(path):
        path = path.resolve(strict=True)
        is_folder, is_file = path.is_dir(), path.is_file()
    folder = path if is_folder else path.parent
    if is_file and any(folder == catalog.store(tier).directory.resolve() for tier in Tier):
        return catalog.find(path.name)
    if not (is_folder or is_file):
        raise NotFound(f"{printable(query)} is neither a file nor a folder", "Name a dump, an archive, or a set.")
    sets = [each for each in catalog.sets_in(folder) if is_folder or path.name in each.files]
    if len(sets) > 1:
        names = ", ".join(str(folder / each.files[0]) for each in sets[:_LISTED])
        raise NotFound(f"{printable(query)} holds {plural(len(sets), 'set')}", f"Name a file of one: {names}")
    # A folder with one dump of an older name: what lies beside it may be called anything.
    loose = not sets or (is_folder and all(part.older for part in parsed_files(sets[0]).values()))
    found = sets[0] if not loose else _loose([path], _names(path) if is_folder else [path.name], volumes, catalog)
    return replace(found, paths=(str(path),))


def together(catalog: Catalog, queries: Sequence[str], volumes: Sequence[str]) -> StoredSet:
    """What one query names, or several: files of one set, or a dump and archives of one folder. NotFound otherwise."""
    if len(queries) == 1:
        return find_set(catalog, queries[0], volumes)
    paths = sorted({_file(catalog, query) for query in queries})
    if len(folders := sorted({str(path.parent) for path in paths})) > 1:
        text = f"the files lie in {len(folders)} folders: {printable(', '.join(folders))}"
        raise NotFound(text, "Copy what belongs together into one folder.")
    folder, names = paths[0].parent, [path.name for path in paths]
    own = next((tier for tier in Tier if folder == catalog.store(tier).directory.resolve()), None)
    for stored in catalog.sets_in(folder, own):
        if set(names) <= set(stored.files):
            return find_set(catalog, str(paths[0]), volumes)
        if not stored.derived and (known := [name for name in names if name in stored.files]):
            text = f"{known[0]} belongs to the set {stored.id}, which is restored as it was made, without other files"
            raise NotFound(text, f"Name {stored.query} alone.")
    found = _loose(paths, names, volumes, catalog)
    return replace(found, paths=tuple(map(str, paths)))


def _file(catalog: Catalog, query: str) -> Path:
    """One of several files, named by its path or as a file of a tier. NotFound for what is a set, or nothing."""
    path, shown = Path(query), printable(query)
    if path.is_dir():
        raise NotFound(f"{shown!r} is a folder", "Name one alone; several names are files of one folder.")
    if path.is_file():
        with storing(path):
            return path.resolve(strict=True)
    try:
        stored = catalog.find(query)
    except NotFound as error:
        raise NotFound(f"no file is called {shown!r}", f"Name sets alone. {error.hint} {_MOUNT}") from None
    if path.name not in stored.files:
        raise NotFound(f"{shown!r} is a set", "Name it alone; several names are files of one folder.")
    return stored.directory.resolve() / path.name


def _names(folder: Path) -> list[str]:
    return [name for name in LocalStore(folder).names() if not name.startswith(".")]


def _loose(paths: Sequence[Path], names: Iterable[str], volumes: Sequence[str], catalog: Catalog) -> StoredSet:
    """Files that are recognised by their bytes alone: `names` in a folder, or those of the paths."""
    path = paths[0]
    folder = path if path.is_dir() else path.parent
    store, found, refused = LocalStore(folder), [], list[IntegrityError | KeyMissing]()
    for name in names:
        try:
            found.append(_recognised(store, name, volumes, catalog))
        except (IntegrityError, KeyMissing) as error:
            if len(paths) > 1:
                raise _nothing(folder / name, [error]) from None
            refused.append(error)
    if not found:
        raise _nothing(path, refused)
    for what, same in (
        ("dumps", [each for each in found if each.kind == "database"]),
        ("archives of one volume", [each for each in found if each.kind == "volume" and each.name]),
    ):
        if len(same) > len({each.name for each in same}):
            listed = ", ".join(printable(each.file) for each in same[:_LISTED])
            said = (
                f"{printable(str(path))} holds {len(same)} {what}"
                if len(paths) == 1
                else f"{len(same)} {what} were named"
            )
            raise NotFound(f"{said}: {listed}", "Name the one you mean.")
    identifier = " + ".join(each.name for each in paths) or str(path)
    time = datetime.fromtimestamp(max(each.modified for each in found) / 1e9, UTC)
    return StoredSet(
        directory=folder,
        id=identifier,
        tier=Tier.MANUAL,
        time=time,
        state="old script",
        files=tuple(each.file for each in found),
        size=sum(each.stored_size for each in found),
        manifest=derive(identifier, Tier.MANUAL, time, found),
        identity=catalog.identity,
    )


def _nothing(path: Path, refused: Sequence[IntegrityError | KeyMissing]) -> BackupError:
    if path.is_dir():
        return NotFound(
            f"{printable(str(path))} holds no set, no dump and no archive", "`list` shows the sets there are."
        )
    error = refused[0]
    return type(error)(f"{printable(str(path))} cannot be restored: {error.message}", error.hint)


def _recognised(store: LocalStore, name: str, volumes: Sequence[str], catalog: Catalog) -> BareFile:
    descriptor = store.open(name)
    with open(descriptor, "rb") as file, storing(store.directory / name):
        status = os.fstat(file.fileno())
        head, encrypted = age.read_head(file, catalog.identity, HEAD)
    content, inner = recognise(head), beginning(head)
    plain = BareFile.model_construct(
        kind="volume" if content.kind is FileKind.TAR else "database",
        name=DUMP,
        file=name,
        stored_size=status.st_size,
        modified=status.st_mtime_ns,
        encryption="age" if encrypted else "",
        time=_time(name, catalog.zone),
        content=content.kind.value,
        packed=content.packed,
    )
    if content.kind is FileKind.TAR:
        root = root_of(inner)
        volume = _volume(root, volumes)
        return plain.model_copy(update={"name": volume, "root": root or volume or _ROOTLESS})
    dumped = _DUMPED.search(inner) if content.kind is FileKind.SQL else None
    return plain.model_copy(update={"server_version": dumped[1].decode() if dumped else ""})


def _time(name: str, zone: ZoneInfo) -> datetime | None:
    parsed = parse_file_name(name, Tier.MANUAL)
    return stamp_time(parsed.stamp, zone) if parsed else None


def _volume(root: str, volumes: Sequence[str]) -> str:
    """The volume that an archive belongs to: the one that it is named after, or the only one there is."""
    if root in volumes:
        return root
    return volumes[0] if len(volumes) == 1 else ""
