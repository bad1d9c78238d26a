"""The files of a damaged set, kept aside until a good copy of it has been verified in its place.

    <root>/damaged/<id>/…     under their own names: no set, in no listing, removed by nobody else

One rule for success, failure and kill: `settle` puts them back where no set of that id is, and removes them where a
good one is that was verified. Only for the holder of the volume's lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from backup.errors import StoreError
from backup.model.backup_set import StoredSet, manifest_name, verdict_name
from backup.model.manifest import Tier, parse_file_name
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing, sync_directory
from backup.storage.rename import rename_new

_FOLDER: Final = "damaged"


def put_aside(root: Path, stored: StoredSet) -> Path:
    """Move all files of a set aside, its manifest first; where they are now. Its pin stays: it is a person's wish."""
    store, folder = LocalStore(stored.directory), root / _FOLDER / stored.id
    listed = manifest_name(stored.id)
    names = sorted({*stored.files, verdict_name(stored.id)} & set(store.names()), key=lambda name: name != listed)
    with storing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(root / _FOLDER)
    for name in names:
        _move(store.directory / name, folder / name)
    sync_directory(folder)
    sync_directory(store.directory)
    return folder


def holds(root: Path, identifier: str) -> Path | None:
    """Where files of a set are kept aside; None if none are."""
    folder = root / _FOLDER / identifier
    return folder if LocalStore(folder).names() else None


def forget_damaged(root: Path, identifier: str) -> None:
    """Remove what is kept aside for a copy that is removed. What the disk refuses stays aside."""
    with contextlib.suppress(StoreError, OSError):
        kept = LocalStore(root / _FOLDER / identifier)
        kept.remove_all(kept.names())
        kept.directory.rmdir()


def settle_damaged(root: Path, find: Callable[[Tier, str], StoredSet | None]) -> list[str]:
    """Put back what was kept aside, or remove it; the ids of those that were put back.

    What the disk refuses stays aside for the next time.
    """
    back: list[str] = []
    for identifier, tier in _kept(root).items():
        kept, there = LocalStore(root / _FOLDER / identifier), find(tier, identifier)
        with contextlib.suppress(StoreError, OSError):
            if there is None or there.derived:
                _put_back(kept, root / tier, identifier)
                back.append(identifier)
            elif there.verified:
                kept.remove_all(kept.names())
            kept.directory.rmdir()
    return back


def _put_back(kept: LocalStore, directory: Path, identifier: str) -> None:
    listed = manifest_name(identifier)
    for name in sorted(kept.names(), key=lambda each: each == listed):
        if not os.path.lexists(directory / name):
            _move(kept.directory / name, directory / name)
    sync_directory(directory)


def _kept(root: Path) -> dict[str, Tier]:
    """The sets whose files are kept aside. A folder of another name is not ours."""
    try:
        with os.scandir(root / _FOLDER) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return {}
    found = {name: parse_file_name(manifest_name(name)) for name in sorted(names)}
    return {name: parsed.tier for name, parsed in found.items() if parsed}


def _move(old: Path, new: Path) -> None:
    with storing(new):
        try:
            rename_new(old, new)
        except FileExistsError:
            raise StoreError(f"{new} exists already and was not overwritten; {old} stays where it is") from None
