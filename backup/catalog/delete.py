"""How a set leaves: its manifest takes a hidden name first, so that it is a set no more, then its files go.

The hidden manifest names the files that are still to go, so that whoever comes after a kill can finish. To rename it
needs no room, so a full disk can be made emptier. Only regular files that the manifest names are removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable
from typing import Final

from backup.errors import BackupError, StoreError
from backup.model.backup_set import manifest_name, verdict_name
from backup.model.manifest import Manifest, file_name, from_json, parse_file_name
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing, sync_directory

_SUFFIX: Final = ".removing"


def mark_name(identifier: str) -> str:
    """The name that the manifest of a set has while the set is being removed."""
    return f".{manifest_name(identifier)}{_SUFFIX}"


def leaving(names: Collection[str]) -> set[str]:
    """The ids of the sets whose removal has begun, from the names in their directory."""
    # A manifest that is there again was put there by somebody: the set is to stay.
    return {found for name in names if (found := _marked(name)) and manifest_name(found) not in names}


def remove_set(store: LocalStore, manifest: Manifest, pinned: Callable[[], bool]) -> bool:
    """Remove a set; False if `pinned` says, once it is unlisted, that somebody wants it after all.

    A set whose first file cannot be removed is listed again, and the StoreError says why.
    """
    identifier = manifest.id
    _rename(store, manifest_name(identifier), mark_name(identifier))
    if pinned():
        _rename(store, mark_name(identifier), manifest_name(identifier))
        return False
    names = _files(manifest)
    try:
        unlink(store, names[:1])
    except StoreError:
        _rename(store, mark_name(identifier), manifest_name(identifier))
        raise
    _finish(store, identifier, names[1:])
    return True


def finish(store: LocalStore) -> None:
    """Finish the removals that were begun here; StoreError, after all the others, when one cannot be finished."""
    failed: BackupError | None = None
    for name in store.names():
        identifier = _marked(name)
        try:
            if identifier and (store.directory / manifest_name(identifier)).exists():
                store.remove(name)
            elif identifier:
                _finish(store, identifier, _files(from_json(store.read(name), name)))
        except BackupError as error:
            failed = error
    if failed:
        raise StoreError(f"what is left of a removed set cannot be removed: {failed.message}", failed.hint)


def is_gone(store: LocalStore, identifier: str, files: Iterable[str]) -> bool:
    """Whether a set that was just listed with these files has been removed since, or begun to be."""
    there = {name for name in (mark_name(identifier), *files) if os.path.lexists(store.directory / name)}
    return not there or (mark_name(identifier) in there and manifest_name(identifier) not in there)


def unlink(store: LocalStore, names: Iterable[str]) -> None:
    """Remove those that are regular files; what else has such a name is not ours."""
    for name in names:
        path = store.directory / name
        with storing(path):
            try:
                regular = stat.S_ISREG(path.lstat().st_mode)
            except FileNotFoundError:
                continue
        if regular:
            store.remove(name)


def _finish(store: LocalStore, identifier: str, names: Iterable[str]) -> None:
    unlink(store, names)
    # The mark goes only when what it names has gone for good.
    sync_directory(store.directory)
    store.remove(mark_name(identifier))
    sync_directory(store.directory)


def _files(manifest: Manifest) -> list[str]:
    """The files of a set but for its manifest. A name that is not of this set is not ours to remove."""
    names = [artifact.file for artifact in manifest.artifacts]
    named = [name for name in names if (parsed := parse_file_name(name)) and parsed.set_id == manifest.id]
    return [*named, file_name("set", manifest.id, "sha256"), verdict_name(manifest.id)]


def _marked(name: str) -> str:
    """The id of the set whose mark this is; nothing for any other name."""
    if not name.endswith(_SUFFIX):
        return ""
    parsed = parse_file_name(name.removeprefix(".").removesuffix(_SUFFIX))
    return parsed.set_id if parsed and name == mark_name(parsed.set_id) else ""


def _rename(store: LocalStore, old: str, new: str) -> None:
    path = store.directory / old
    with storing(path):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise StoreError(f"{path} is not a regular file; nothing of its set was removed")
        path.rename(store.directory / new)
    sync_directory(store.directory)
