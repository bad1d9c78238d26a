"""A drill ends when a restore wants to begin: it touches nothing live, and whoever restores has an emergency.

Asked by a file in the state, since the two may be in different containers, and neither sees the other's processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backup.errors import Interrupted, StoreError
from backup.log import logger
from backup.stores import notes
from backup.stores.local import LocalStore

_NAME: Final = "restore-first"
_LOOK: Final = 1.0


def ask(root: Path, who: str) -> None:
    """Ask the drill that runs to end. One that cannot be asked is waited for."""
    try:
        notes.replace(LocalStore(root / "state"), _NAME, f"{who}\n{os.urandom(8).hex()}\n".encode())
    except StoreError as error:
        logger.warning("the drill could not be asked to end: {}", error.message)


@contextlib.contextmanager
def giving_way(root: Path) -> Iterator[None]:
    """The body is ended by SIGTERM when somebody asks, or has asked since the lock was taken. Only under the lock."""
    store, over, asked = LocalStore(root / "state"), threading.Event(), threading.Event()
    before = b"" if _since_locked(root / "state") else _read(store)

    def watch() -> None:
        while not over.wait(_LOOK):
            if _read(store) not in (before, b""):
                asked.set()
                logger.warning("a restore is to go first: this drill ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, name="giving way", daemon=True)
    thread.start()
    try:
        yield
    except Interrupted as error:
        if asked.is_set():
            error.message = "ended, because a restore was to go first; nothing was found out about the set"
            error.hint = "`drill` proves it when the restore has ended."
        raise
    finally:
        over.set()


def _since_locked(state: Path) -> bool:
    """Whether the last question came when the lock had been taken, and so is not an earlier drill's."""
    with contextlib.suppress(OSError):
        return (state / _NAME).stat().st_mtime_ns >= (state / "lock").stat().st_mtime_ns
    return False


def _read(store: LocalStore) -> bytes:
    with contextlib.suppress(StoreError):
        return store.read(_NAME)
    return b""
