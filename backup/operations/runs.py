"""What every run leaves behind: how it ended, and nothing of what it did not finish."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime

from backup.catalog import Catalog
from backup.errors import BackupError, Interrupted, MediaFailed, StoreError
from backup.log import logger, redacted
from backup.records import Outcome, Records, Run


def recover(catalog: Catalog, records: Records, now: datetime) -> None:
    """Remove what dead runs left in the volume and record them as crashed. Only under the lock."""
    for name in catalog.sweep():
        logger.warning("removed {}: a run that died had not published it", name)
    try:
        crashed = records.mark_crashed(now)
    except StoreError as error:
        # Health is red for it; a damaged record must not also cost the next backup.
        logger.error("{} {}", error.message, error.hint)
        return
    for run in crashed:
        logger.warning("run {} ({} {}) was recorded as crashed", run.id, run.operation, run.tier)


def failed(run: Run, error: BaseException, now: datetime, seconds: Mapping[str, float]) -> Run:
    """`run` as it ended by `error`; anything but a BackupError is a bug and says so."""
    known = error if isinstance(error, (BackupError, Interrupted)) else None
    if isinstance(error, KeyboardInterrupt):
        known = Interrupted(signal.SIGINT)
    return run.model_copy(
        update={
            "outcome": Outcome.INTERRUPTED if isinstance(known, Interrupted) else Outcome.FAILED,
            "ended": now,
            "seconds": dict(seconds),
            "message": redacted(known.message if known else f"{type(error).__name__}: {error}"),
            "hint": redacted(known.hint) if known else "This is a bug: the log has its traceback.",
            "exit_code": known.exit_code if known else 1,
        }
    )


def stuck(idle: float) -> MediaFailed:
    """The error of a run whose volume or backup disk stands still: it can only be told, then the run is killed."""
    error = MediaFailed(
        f"no byte came from the volume or went to the backup disk for {idle:.0f} s; the run was killed,"
        " nothing of it was published",
        "Does one of them lie on a network mount that hangs? Twice BACKUP_STALL_TIMEOUT is the patience.",
    )
    error.exit_code = 128 + signal.SIGKILL
    logger.error("{} {}", error.message, error.hint)
    return error


_unheard: list[int] = []


def deaf(number: int, _frame: object) -> None:
    """A handler that only remembers. Unlike SIG_IGN it is not inherited by programs that are started meanwhile."""
    _unheard.append(number)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No signal ends the body, which takes moments and must not be half told. `told_to_end` says whether one came."""
    _unheard.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, deaf) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def told_to_end() -> bool:
    """Whether a signal came while none could be heard."""
    return bool(_unheard)


def record(records: Records, run: Run) -> None:
    """Record the end of a run. A record that cannot be written must not hide the run's own error."""
    try:
        records.end(run)
    except BackupError as error:
        logger.warning("the end of run {} could not be recorded: {}", run.id, error.message)
        if run.exit_code == 0:
            raise
