"""What a set's dump builds behind its rows, read ahead of the load of the same dump."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from backup.model.backup_set import StoredSet
from backup.operations.parallel_load import LEAST, Foreseen
from backup.operations.set_artifacts import open_file
from backup.operations.verify.stored_bytes import Stored
from backup.postgres.dump.adaptation import Adaptation
from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.load_script import foreseen


@contextlib.contextmanager
def foreseeing(stored: StoredSet, how: Adaptation, *, least: int = LEAST) -> Iterator[Foreseen | None]:
    """Read in a thread, for as long as the body runs. None for a dump that is too small, or unknown, to be worth it.

    `how` it is loaded.

    What cannot be read is never known: whoever loads the dump reads all of it, and says what is wrong.
    """
    artifact = stored.manifest.artifact("database")
    if artifact is None or artifact.plain_size < least:
        yield None
        return
    stopped = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="foresee") as pool:
        try:
            reading = pool.submit(_read, stored, artifact.file, how, stopped)
            yield lambda: _known(reading)
        finally:
            stopped.set()


def _known(reading: Future[list[Entry]]) -> list[Entry] | None:
    return reading.result() if reading.done() and reading.exception() is None else None


def _read(stored: StoredSet, file: str, how: Adaptation, stopped: threading.Event) -> list[Entry]:
    def pieces(source: Stored) -> Generator[bytes, None, None]:
        for piece in source.content():
            if stopped.is_set():
                raise EOFError("no longer needed")
            yield piece

    with open_file(stored, file) as source:
        return foreseen(pieces(source), how)
