"""Where files from elsewhere lie until they have been judged: a folder of the backup volume that lists nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing, sync_directory

_FOLDER: Final = ("state", "import")


@dataclass(frozen=True)
class Arrived:
    """A file there, whole and synced; satisfies Sealed."""

    path: Path
    inode: int

    @property
    def name(self) -> str:
        """See Sealed."""
        return self.path.name


def folder(root: Path) -> Path:
    """The folder, which only the holder of the lock uses."""
    return root.joinpath(*_FOLDER)


def arrived(root: Path, names: list[str]) -> list[Arrived]:
    """These files of it. StoreError."""
    found = []
    for name in names:
        path = folder(root) / name
        with storing(path):
            found.append(Arrived(path, path.lstat().st_ino))
    return found


def clear(root: Path) -> list[str]:
    """Remove it with all that is in it; the names. Only for the holder of the lock."""
    store = LocalStore(folder(root))
    names = store.names()
    store.remove_all(names)
    if os.path.lexists(store.directory):
        with storing(store.directory):
            store.directory.rmdir()
        sync_directory(store.directory.parent)
    return names
