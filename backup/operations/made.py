"""A set that has just been made is verified as any other: what is called good has been read."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from backup.catalog import Catalog
from backup.errors import IntegrityError, Interrupted, StoreError
from backup.log import logger
from backup.operations import runs
from backup.operations.verify import verify
from backup.progress import Progress
from backup.records import Records, Run
from backup.restorepage import PAGE, page
from backup.sets import StoredSet
from backup.stores.local import LocalStore
from backup.stores.notes import replace
from backup.text import printable


def verify_made(
    catalog: Catalog, records: Records, done: Run, progress: Progress, clock: Callable[[], datetime]
) -> Run:
    """Read the set of a run whole and keep the verdict; the run, with how long that took.

    IntegrityError for a damaged set, after the run was recorded as failed. The set is published by now: whoever ends
    the verification leaves a good run and a set that says it was not verified.
    """
    started = time.monotonic()
    stored = catalog.find(done.set)
    _write_page(stored)
    if runs.told_to_end():
        logger.warning("{} was not verified: the run was told to end", done.set)
        return done
    try:
        verdict = verify(catalog, stored, progress, clock())
    except Interrupted as signalled:
        logger.warning("{} is published, but was not verified: signal {}", done.set, signalled.exit_code - 128)
        return done
    seconds = {**done.seconds, "verify": round(time.monotonic() - started, 3)}
    if verdict.problems:
        error = IntegrityError(
            f"{done.set} was written, but is damaged: {printable('; '.join(verdict.problems))}",
            "Is the disk failing? Its kernel log may say so. Earlier sets were not touched; `create` tries again.",
        )
        runs.record(records, runs.failed(done, error, clock(), seconds))
        raise error
    done = done.model_copy(update={"seconds": seconds})
    runs.record(records, done)
    return done


def _write_page(stored: StoredSet) -> None:
    """How to restore by hand, for the newest set of its directory. The set is good without it."""
    if stored.manifest is None:
        return
    try:
        replace(LocalStore(stored.directory), PAGE, page(stored.manifest).encode())
    except StoreError as error:
        logger.warning("{} could not be written: {}", PAGE, error.message)
