"""A restore or an undo, from its first note to its last: what fails before all is exchanged is rolled back."""

from __future__ import annotations

from collections.abc import Callable

from backup.errors import AfterRestore, BackupError, Interrupted, RestoreFailed, RestoreUnfinished
from backup.logging import logger
from backup.operations import runs
from backup.operations.restore import application, commit_rollback
from backup.operations.restore.context import Work
from backup.operations.restore.journal import RestoreStep, unfinished_refusal


def half(work: Work, why: str, more: str = "") -> RestoreUnfinished:
    """Why it stands half way, and how things are: not only what went wrong. `more` is to be done first."""
    half = unfinished_refusal(work.journal, work.context.clock())
    return RestoreUnfinished(f"{half.message} It failed with: {why}", f"{more} {half.hint}".strip())


def guarded(work: Work, prepare: Callable[[], None]) -> None:
    """Note that it begins, prepare, stop, exchange, start. What fails before all is exchanged is rolled back."""
    begun = False
    try:
        with runs.undisturbed():
            # From here on whoever comes rolls back or finishes.
            work.file.begin(work.journal)
            begun = True
        runs.end_if_told()
        prepare()
        application.stop_application(work)
        commit_rollback.forward(work)
    except AfterRestore:
        raise
    except BaseException as error:
        if not begun:
            raise
        with runs.undisturbed():
            if work.journal.step.number >= RestoreStep.SWAPPED.number:
                # It is restored; the application must not stay stopped for what failed after that.
                _end_after(work, error)
                raise
            _roll_back(work, error)
        if isinstance(error, BackupError) and not isinstance(error, RestoreFailed):
            raise RestoreFailed(f"nothing was restored, all is as before: {error.message}", error.hint) from error
        raise


def _end_after(work: Work, error: BaseException) -> None:
    """End what is restored, and say how things are, not only what went wrong."""
    try:
        commit_rollback.start_again(work)
    except BackupError as second:
        raise half(work, second.message) from error
    if isinstance(error, Interrupted):
        told = commit_rollback.after(work, f"stopped by signal {error.exit_code - 128}")
        error.message, error.hint = told.message, told.hint
    elif isinstance(error, BackupError) and not isinstance(error, RestoreUnfinished):
        raise commit_rollback.after(work, error.message) from error


def _roll_back(work: Work, error: BaseException) -> None:
    why = error.message if isinstance(error, (BackupError, Interrupted)) else str(error)
    logger.warning("rolling back: {}", why)
    try:
        commit_rollback.back(work)
    except BackupError as second:
        if work.file.read() is None:
            raise RestoreFailed(f"{why}; then: {second.message}", second.hint) from error
        raise half(work, f"{why}; and putting things back failed with: {second.message}") from error
