"""Small files that are written anew at any time, without the lock: replaced whole, also when two do it at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from typing import Final

from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing, sync_directory
from backup.storage.staged_file import STAGED_SUFFIX, staged_name

_STAGED: Final = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{8}}{re.escape(STAGED_SUFFIX)}")
# Between its first byte and its name a note takes moments.
_FORGOTTEN: Final = 3600.0


@contextlib.contextmanager
def alone(store: LocalStore) -> Iterator[None]:
    """No other writer of notes in this directory reads and replaces one meanwhile: moments, so each waits its turn."""
    with storing(store.directory):
        descriptor = os.open(store.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # where directories cannot be locked, two at once are unlikely enough
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace(store: LocalStore, name: str, data: bytes, *, locked: bool = False) -> None:
    """Give `name` this content, durably. Each writer stages under a name of its own: none waits for a dead one.

    `locked`: the caller holds the lock, so there is no other writer, and what is staged was left by one that was killed
    or interrupted.
    """
    if locked:
        store.remove(staged_name(name))
    with store.stage(name if locked else f"{name}.{secrets.token_hex(4)}") as staged:
        staged.write(data)
        staged.seal()
        with storing(staged.path):
            staged.path.replace(store.directory / name)
    sync_directory(store.directory)


def forgotten(store: LocalStore, staged: str) -> str:
    """The name that a file which is staged here was meant to get, when its writer must be dead; else nothing."""
    match = _STAGED.fullmatch(staged)
    if match is None:
        return ""
    with storing(store.directory):
        try:
            age = time.time() - (store.directory / staged).lstat().st_mtime
        except FileNotFoundError:  # it has got its name just now
            return ""
    return match["name"] if age > _FORGOTTEN else ""
