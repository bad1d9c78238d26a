"""Encrypted archives for the helper that unpacks them: decrypted here, through pipes in the spool.

So the key stays in this process: not in another container, not in an argument, not in a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from backup.errors import BackupError
from backup.model.backup_set import StoredSet
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Silent
from backup.storage.directory import LocalStore

_GLANCE: Final = 0.02


@contextlib.contextmanager
def decrypted(stored: StoredSet, file: str, path: Path) -> Iterator[Path]:
    """Where a file of the set can be read once, decrypted but not unpacked. A failure here is raised at the end."""
    if not stored.encrypted:
        yield stored.directory / file
        return
    ended, failures = threading.Event(), list[BackupError]()
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    source = Stored(LocalStore(stored.directory), file, Silent(), stored.identity)
    work = threading.Thread(target=_feed, args=(source, path, ended.is_set, failures), name="piped", daemon=True)
    work.start()
    try:
        yield path
    except BackupError as error:
        # The reader sees only that it ends too early; why is known here.
        ended.set()
        work.join()
        if failures:
            raise failures[0] from error
        raise
    finally:
        ended.set()
        work.join()
        path.unlink(missing_ok=True)
    if failures:
        raise failures[0]


def _feed(source: Stored, path: Path, ended: Callable[[], bool], failures: list[BackupError]) -> None:
    try:
        with contextlib.closing(source):
            descriptor = _reader_there(path, ended)
            if descriptor is None:
                return
            with open(descriptor, "wb", buffering=0) as pipe, contextlib.closing(source.decrypted()) as pieces:
                for piece in pieces:
                    view = memoryview(piece)
                    while view:
                        view = view[pipe.write(view) :]
    except BackupError as error:
        failures.append(error)
    except BrokenPipeError:
        pass  # the reader says itself why it has gone


def _reader_there(path: Path, ended: Callable[[], bool]) -> int | None:
    """The pipe's writing end, once somebody reads: to open it before would block for ever if nobody came."""
    while not ended():
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(_GLANCE)
        else:
            os.set_blocking(descriptor, True)
            return descriptor
    return None
