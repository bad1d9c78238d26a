"""A set that has just been made is verified as any other: what is called good has been read."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from backup.catalog import Catalog
from backup.errors import BackupError, IntegrityError, Interrupted
from backup.log import logger
from backup.operations import runs
from backup.operations.verify import check
from backup.progress import Progress
from backup.records import Records, Run
from backup.restorepage import PAGE, page
from backup.sets import Verdict
from backup.stores.local import LocalStore
from backup.stores.notes import replace
from backup.text import printable


def verify_made(
    catalog: Catalog, records: Records, done: Run, progress: Progress, clock: Callable[[], datetime]
) -> Run:
    """Read the set of a run whole, keep the verdict, and write how to restore it by hand; the run, with the time taken.

    IntegrityError for a damaged set, StoreError when the volume fails, after the run was recorded as failed. The set is
    published by now: whoever ends the verification leaves a good run and a set that says it was not verified.
    """
    started = time.monotonic()
    stored = catalog.find(done.set)
    try:
        if stored.manifest:
            replace(LocalStore(stored.directory), PAGE, page(stored.manifest).encode(), locked=True)
        if runs.told_to_end():
            logger.warning("{} was not verified: the run was told to end", done.set)
            return done
        # Without the key, what lies there can be compared, and the verdict says what that leaves open.
        sealed = stored.encrypted and stored.identity is None
        problems, unchecked, _ = check(stored, progress, quick=sealed)
        verdict = Verdict(checked=clock(), problems=tuple(problems), unchecked=tuple(unchecked))
        catalog.record_verdict(stored, verdict, locked=True)
        _judge(done.set, problems)
    except Interrupted as signalled:
        logger.warning("{} is published, but was not verified: signal {}", done.set, signalled.exit_code - 128)
        return done
    except BackupError as error:
        runs.record(records, runs.failed(done, error, clock(), done.seconds))
        raise
    done = done.model_copy(update={"seconds": {**done.seconds, "verify": round(time.monotonic() - started, 3)}})
    runs.record(records, done)
    return done


def _judge(identifier: str, problems: list[str]) -> None:
    if problems:
        raise IntegrityError(
            f"{identifier} was written, but is damaged: {printable('; '.join(problems))}",
            "Is the disk failing? Its kernel log may say so. Earlier sets were not touched; `create` tries again.",
        )
