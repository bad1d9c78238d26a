"""Folders of the backup volume in which a command works for a while: <root>/temp/<name>, locked by `<name>.lock`.

What a kill leaves goes with the next one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backup.errors import BackupError, LockHeld
from backup.storage import lock
from backup.storage.directory import LocalStore

_TEMPORARY: Final = "temp"


@contextlib.contextmanager
def temporary_folder(root: Path, name: str, what: str) -> Iterator[Path]:
    """The name of a folder that is made by whoever uses it, and is gone after the body; `what` is done there."""
    sweep_temporary(root)
    folder, guard = root / _TEMPORARY / name, root / _TEMPORARY / f"{name}.lock"
    try:
        with lock.hold(guard, what, name):
            yield folder
    finally:
        _remove(folder, guard)


def sweep_temporary(root: Path) -> None:
    """Remove temporary folders whose user has died."""
    store = LocalStore(root / _TEMPORARY)
    with contextlib.suppress(BackupError):
        for name in store.names(foreign=True):
            folder, guard = store.directory / name.removesuffix(".lock"), store.directory / f"{name}.lock"
            guard = store.directory / name if name.endswith(".lock") else guard
            with contextlib.suppress(LockHeld, OSError), lock.hold(guard, "sweep", "-"):
                _remove(folder, guard)


def _remove(folder: Path, guard: Path) -> None:
    with contextlib.suppress(OSError):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        guard.unlink(missing_ok=True)
